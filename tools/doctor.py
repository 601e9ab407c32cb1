"""Check whether this machine can run the project: versions, devices, then each needed part.

    python tools/doctor.py

It imports nothing of the package, and at its start only the standard library, so that it works
without any dependency. Exit code 0 if all parts work, 1 if not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Distributions whose versions are printed: what is imported, in each of its distributions.
DISTRIBUTIONS = """torch torchvision detectron2 sal-detectron2 numpy pillow opencv-python-headless
opencv-python opencv-contrib-python-headless opencv-contrib-python pycocotools fvcore iopath
hotcoco scikit-learn timm setuptools""".split()

SETUP = "make setup"
SHARED_MEMORY = "give the container more shared memory, or set DATALOADER.NUM_WORKERS 0"


def expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise RuntimeError(f"gave {got} instead of {wanted}")


def try_python() -> str:
    version = sys.version_info[:2]
    if version < (3, 9):
        raise RuntimeError(f"Python {platform.python_version()} is older than 3.9")
    return platform.python_version()


def try_import(name: str) -> Callable[[], str]:
    return lambda: str(getattr(importlib.import_module(name), "__version__", "imported"))


def try_nms(device: str = "cpu") -> str:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.8], device=device)
    expect(nms(boxes, scores, 0.5).tolist(), [1, 2])
    return "keeps the better of two boxes"


def try_deform_conv() -> str:
    import torch
    from torchvision.ops import deform_conv2d

    x = torch.rand(1, 2, 5, 5)
    weight = torch.rand(3, 2, 3, 3, requires_grad=True)
    offset = torch.zeros(1, 18, 5, 5, requires_grad=True)
    out = deform_conv2d(x, offset, weight, padding=1)
    expect(torch.allclose(out, torch.nn.functional.conv2d(x, weight, padding=1), atol=1e-4), True)
    out.sum().backward()
    expect(bool(offset.grad.abs().sum() > 0) and bool(weight.grad.abs().sum() > 0), True)
    return "forward and backward on the CPU"


def try_opencv() -> str:
    import cv2
    import numpy as np

    image = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    expect(cv2.resize(image, (16, 16)).tolist()[0][:3], [4, 20, 36])
    return f"{cv2.__version__}, resizes"


def try_pillow() -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(buffer, "JPEG")
    expect(Image.open(buffer).resize((4, 4), Image.Resampling.BILINEAR).size, (4, 4))
    return "writes, reads and resizes a JPEG"


def try_coco_eval() -> str:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}
    gt = COCO()
    gt.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**box, "id": 1, "area": 2500, "iscrowd": 0}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes([{**box, "score": 0.9}]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expect(round(float(evaluation.stats[0]), 3), 1.0)
    return "AP of a perfect box is 1"


def try_detectron2_model() -> str:
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_list(
        """MODEL.DEVICE cpu MODEL.META_ARCHITECTURE RetinaNet
        MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone
        MODEL.RESNETS.OUT_FEATURES ["res3","res4","res5"]
        MODEL.FPN.IN_FEATURES ["res3","res4","res5"]
        MODEL.ANCHOR_GENERATOR.SIZES [[32],[64],[128],[256],[512]]""".split()
    )
    model = build_model(cfg).eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 64)}])
    expect(output["instances"].image_size, (64, 64))
    return "a RetinaNet is built from a config and runs"


def try_workers() -> str:
    from torch.utils.data import DataLoader

    # A batch passes from a worker through shared memory, which containers often keep too small.
    batches = list(DataLoader(range(4), batch_size=4, num_workers=1, timeout=60))
    expect(batches[0].tolist(), [0, 1, 2, 3])
    return "a batch comes from another process"


def try_gloo() -> str:
    import torch
    import torch.distributed as dist

    options = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", timeout=timedelta(seconds=30), **options)
    dist.all_reduce(value := torch.ones(1))
    expect(value.item(), 1.0)
    dist.destroy_process_group()
    return "a process group of one"


def try_cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia").exists():
            raise RuntimeError("there is an NVIDIA driver, but torch finds no device")
        return "none, so the CPU is used"
    for index in range(torch.cuda.device_count()):
        x = torch.rand(64, 64, device=f"cuda:{index}")
        expect(torch.allclose((x @ x).cpu(), x.cpu() @ x.cpu(), rtol=1e-2), True)
        try_nms(f"cuda:{index}")
    return f"matrix product and NMS on {torch.cuda.device_count()} device(s)"


def try_asff() -> str:
    spec = importlib.util.find_spec("asff")
    if spec is None or spec.origin is None:
        raise RuntimeError("asff is not installed")
    here = Path(spec.origin).resolve().parent
    if here != ROOT / "projects" / "ASFF" / "asff":
        raise RuntimeError(f"asff is installed from another folder: {here}")
    return str(here.relative_to(ROOT))


# Name, names of the parts without which it is not tried, function, and the fix where it raises.
PARTS = [
    ("python", "", try_python, "make PYTHON=python3.11 setup"),
    ("torch", "", try_import("torch"), SETUP),
    ("torchvision", "torch", try_import("torchvision"), SETUP),
    ("numpy", "", try_import("numpy"), SETUP),
    ("pillow", "", try_pillow, SETUP),
    ("opencv", "numpy", try_opencv, "make setup, or pip install opencv-python-headless"),
    ("pycocotools", "numpy", try_coco_eval, SETUP),
    ("fvcore", "torch", try_import("fvcore"), SETUP),
    ("iopath", "", try_import("iopath"), SETUP),
    ("detectron2", "torch", try_import("detectron2"), SETUP),
    ("NMS", "torch torchvision", try_nms, SETUP),
    ("deformable convolution", "torch torchvision", try_deform_conv, SETUP),
    ("Detectron2's models", "torch detectron2", try_detectron2_model, SETUP),
    ("Detectron2's engine", "torch detectron2", try_import("detectron2.engine"), SETUP),
    ("Detectron2's evaluation", "torch detectron2", try_import("detectron2.evaluation"), SETUP),
    ("data workers", "torch", try_workers, SHARED_MEMORY),
    ("gloo", "torch", try_gloo, "let the host's name resolve, or set GLOO_SOCKET_IFNAME=lo"),
    ("CUDA", "torch torchvision", try_cuda, "install the torch that fits the driver"),
    ("asff", "", try_asff, "make setup, or pip install -e . in this folder"),
]


def version_lines() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()}  {sys.executable}"
    yield "platform", platform.platform()
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def device_lines() -> Iterator[tuple[str, str]]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "cpu", f"{usable} of {os.cpu_count()} cores usable, {memory:.0f} GiB of memory"
    try:
        import torch
    except Exception:
        yield "cuda", "unknown without torch"
        return
    yield "threads", f"{torch.get_num_threads()} of torch"
    if not torch.cuda.is_available():
        yield "cuda", "none"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}",
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, "
            f"compute capability {gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}",
        )


def try_parts() -> list[str]:
    """Try the parts in turn, print a line for each, and return the fixes of those that fail."""
    failed: dict[str, str] = {}
    for name, needs, attempt, fix in PARTS:
        if absent := [need for need in needs.split() if need in failed]:
            print(f"  --    {name}: not tried without {' and '.join(absent)}")
            continue
        try:
            print(f"  ok    {name}: {attempt()}")
        except (Exception, SystemExit) as error:  # the other parts still count
            words = str(error).strip().splitlines() or [""]
            print(f"  FAIL  {name}: {type(error).__name__}: {words[0]}\n        fix: {fix}")
            failed[name] = fix
    return list(failed.values())


def main() -> int:
    warnings.simplefilter("ignore")  # a deprecation inside Detectron2 is no fault of this machine
    for title, lines in (("Versions", version_lines()), ("\nDevices", device_lines())):
        print(title)
        for name, value in lines:
            print(f"  {name:<24} {value}")
    print("\nParts")
    fixes = try_parts()
    print()
    if not fixes:
        print("All parts work.")
        return 0
    own = ROOT / ".venv"
    if (own / "bin" / "python").exists() and Path(sys.prefix).resolve() != own.resolve():
        print("Not all parts work here; `make setup` has its own: .venv/bin/python tools/doctor.py")
    else:
        print(f"Not all parts work. First: {fixes[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
