"""The package as a whole: what an import costs, and what training must not do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "projects" / "ASFF"
PACKAGE = PROJECT / "asff"

# Training steps must not wait for the device.
NO_SYNC = [
    *("backbone/pyramid", "neck/yolov3_neck"),
    *("fusion/asff_fpn", "fusion/operations", "fusion/pyramid_fusion"),
    *("yolov3/adjacent_ignore", "yolov3/anchor_generator", "yolov3/box_regression"),
    *("yolov3/head", "yolov3/losses", "yolov3/matcher", "yolov3/predictions"),
]
SYNCHRONISING = {
    *("item", "tolist", "numpy", "cpu", "nonzero", "argwhere", "unique", "unique_consecutive"),
    *("masked_select", "bincount", "is_nonzero", "equal", "allclose"),
    "prod",  # its backward pass
}

HEAVY = {"matplotlib", "onnx", "onnxruntime", "timm", "tensorboard", "pandas", "sklearn", "scipy"}


def run_python(code: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


TRAIN_NET = f"import runpy; runpy.run_path({str(ROOT / 'train_net.py')!r}, run_name='__main__')"


@pytest.mark.parametrize("missing", ["detectron2", "cv2", "torch"])
@pytest.mark.parametrize("script", ["import asff", TRAIN_NET], ids=["asff", "train_net"])
def test_import_without_a_requirement_says_make_setup(missing, script):
    """Blocked as if it were not installed."""
    code = f"""
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def find_other(name, *args):
    return None if name.split(".")[0] == {missing!r} else find(name, *args)
importlib.machinery.PathFinder.find_spec = find_other
{script}
"""
    run = run_python(code)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith("ImportError: ") and "make setup" in last and f"'{missing}'" in last


def test_import_is_light_and_registers():
    """Nothing heavy, unless Detectron2's own modeling and data bring it."""
    code = f"""
import sys
import detectron2.data, detectron2.modeling
before = set(sys.modules)
import asff
print(sorted({HEAVY!r} & (set(sys.modules) - before)))
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
print("YOLOv3" in META_ARCH_REGISTRY, "build_darknet_backbone" in BACKBONE_REGISTRY)
print("bccd_test" in DatasetCatalog.list(), "asff.engine" in sys.modules)
"""
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["[]", "True True", "True False"]


def fake_training(model, device: str) -> dict:
    """Run a forward pass with losses on tensors of a device that have no values."""
    import torch
    from detectron2.structures import Boxes, ImageList, Instances

    images = ImageList(torch.zeros(2, 3, 64, 64, device=device), [(64, 64)] * 2)
    gt_instances = []
    for count in (0, 3):
        boxes = Boxes(torch.zeros(count, 4, device=device))
        classes = torch.zeros(count, dtype=torch.int64, device=device)
        gt_instances.append(Instances((64, 64), gt_boxes=boxes, gt_classes=classes))
    features = list(model.backbone(images.tensor).values())
    losses = model.forward_training(images, features, model.head(features), gt_instances)
    return {**{f"level {i}": x for i, x in enumerate(features)}, **losses}


MODE = "MODEL.YOLOV3.IGNORE_ADJACENT"


@pytest.mark.parametrize("options", [(), (MODE, "center"), (MODE, "box")], ids=str)
def test_training_runs_without_values(options):
    """Fake tensors have shapes, but no values: whatever needs one on the host fails."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    from asff.modeling import YOLOv3
    from tests.helpers import TINY_DARKNET, detector_cfg

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = YOLOv3(detector_cfg(*TINY_DARKNET, *options))
        found = fake_training(model, "cpu")
        losses = [x for name, x in found.items() if name.startswith("loss")]
        sum(losses).backward()
        with pytest.raises(DataDependentOutputException):
            losses[0].item()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "coco").glob("yolov3_*.yaml")), ids=lambda path: path.stem
)
def test_training_stays_on_a_gpu(path):
    """All variants, on fake tensors of a GPU under autocast: none is made on the CPU."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from asff.config_files import load_config
    from asff.engine.setup import resolve_sync_norm
    from asff.modeling import YOLOv3

    small = ["MODEL.DARKNET.WIDTH", 0.125, "MODEL.DARKNET.DEPTHS", [1] * 5]
    cfg = load_config(str(path), [*small, "MODEL.YOLOV3.NECK.WIDTH", 0.125])
    resolve_sync_norm(cfg, 1)
    # torch.autocast switches itself off where there is no GPU.
    dtype = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode():
            with torch.device("cuda"):
                model = YOLOv3(cfg)
            found = fake_training(model, "cuda")
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", dtype)
    assert {x.device.type for x in found.values()} == {"cuda"}
    dtypes = {name: x.dtype for name, x in found.items()}
    expected = {"loss": torch.float32, "level": torch.bfloat16}
    assert dtypes == {name: expected[name.replace("_", " ").split()[0]] for name in dtypes}


def called_names(path: Path) -> set[str]:
    """Names of the functions and methods a file calls."""
    calls = [x.func for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Call)]
    return {getattr(call, "attr", getattr(call, "id", "")) for call in calls}


@pytest.mark.parametrize("module", NO_SYNC)
def test_training_code_does_not_wait_for_the_device(module):
    assert called_names(PACKAGE / "modeling" / f"{module}.py") & SYNCHRONISING == set()


def test_no_device_is_assumed():
    """Tensors go where the model is: no ``.cuda()``."""
    assert [x for x in sorted(PACKAGE.rglob("*.py")) if "cuda" in called_names(x)] == []
