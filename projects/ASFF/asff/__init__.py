"""ASFF for Detectron2: adaptively spatial feature fusion (arXiv 1911.09516).

Importing the package registers its backbones, meta-architectures and datasets with Detectron2.
"""

import importlib
import importlib.util
import warnings

for _name in ("torch", "torchvision", "fvcore", "pycocotools", "cv2", "detectron2"):
    if importlib.util.find_spec(_name) is None:
        raise ImportError(
            f"asff needs '{_name}', which is not installed here. Run `make setup` in the "
            "repository and use its .venv (`python tools/doctor.py` shows what else is missing)."
        )

with warnings.catch_warnings():
    # Detectron2 scripts some functions while it is imported, which torch announces to drop.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    try:
        from . import data, modeling  # (registers)
        from .config import add_asff_config
        from .config_files import get_config_file
    except AttributeError as error:
        raise ImportError(
            f"Detectron2 does not work with the other packages here ({error}): asff needs "
            "Detectron2's main since July 2023, which `make setup` installs."
        ) from error

__version__ = "0.1.0"
__all__ = ["OnnxPredictor", "Predictor", "add_asff_config", "data", "get_config_file", "modeling"]


def __getattr__(name: str):
    # Only when asked for: the engine brings much that registering does not need.
    classes = {"Predictor": "Predictor", "OnnxPredictor": "ExportedPredictor"}
    if name in classes:
        return getattr(importlib.import_module(".engine", __name__), classes[name])
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
