"""ASFF for Detectron2: adaptively spatial feature fusion (arXiv 1911.09516).

Importing the package registers its backbones, meta-architectures and datasets with Detectron2.
"""

import importlib.util

for _name in ("torch", "torchvision", "fvcore", "pycocotools", "cv2", "detectron2"):
    if importlib.util.find_spec(_name) is None:
        raise ImportError(
            f"asff needs '{_name}', which is not installed here. Run `make setup` in the repository "
            "and use its .venv (`python tools/doctor.py` shows what else is missing)."
        )

from . import data, modeling  # noqa: E402 (registers)
from .config import add_asff_config  # noqa: E402

__version__ = "0.1.0"
__all__ = ["add_asff_config", "data", "modeling"]
