"""The authors' key names as ours, and the recorded values of their network."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference"
BCCD = SHARED / "data" / "bccd"

needs_reference = pytest.mark.skipif(
    not (REFERENCE.is_dir() and BCCD.is_dir()),
    reason="the recorded values of the authors' network (../shared) are not here",
)

# Index in the authors' DarkNet-53 `module_list` -> our neck; MobileNetV2's indices are 8 larger.
NECK = {
    "11.module_list.0.0": "conv_sets.0.conv1",
    "11.module_list.0.1": "conv_sets.0.conv2",
    "12": "conv_sets.0.conv3",
    "14": "conv_sets.0.spp_conv",
    "15": "conv_sets.0.conv4",
    "17": "conv_sets.0.conv5",
    "18": "laterals.0",
    "20": "conv_sets.1.conv1",
    "21": "conv_sets.1.conv2",
    "23.module_list.0.0": "conv_sets.1.conv3",
    "23.module_list.0.1": "conv_sets.1.conv4",
    "24": "conv_sets.1.conv5",
    "25": "laterals.1",
    "27": "conv_sets.2.conv1",
    "28": "conv_sets.2.conv2",
    "30.module_list.0.0": "conv_sets.2.conv3",
    "30.module_list.0.1": "conv_sets.2.conv4",
    "31": "conv_sets.2.conv5",
    "32": "widen",
}
# Authors' name inside a level -> ours; {0} is the level, the digit the level that is resized to it.
FUSION = r"(?:fusion|conv)\."
RESIZE = FUSION + r"(?:stride|compress)_level_(\d)"
LEVELS = {
    RESIZE + r"\.conv": r"backbone.fusion.resize.{0}.\1.conv",
    RESIZE + r"\.batch_norm": r"backbone.fusion.resize.{0}.\1.conv.norm",
    FUSION + r"weight_level_(\d)\.conv": r"backbone.fusion.fuse.{0}.compress.\1",
    FUSION + r"weight_level_(\d)\.batch_norm": r"backbone.fusion.fuse.{0}.compress.\1.norm",
    FUSION + r"weight_levels": r"backbone.fusion.fuse.{0}.logits",
    FUSION + r"expand\.conv": r"head.levels.{0}.conv",
    FUSION + r"expand\.batch_norm": r"head.levels.{0}.conv.norm",
    r"header\.guide_wh": r"head.levels.{0}.shape",
    r"header\.Feature_adaption\.conv_offset": r"head.levels.{0}.adaption.offset",
    r"header\.Feature_adaption\.dconv": r"head.levels.{0}.adaption.deform",
    r"header\.conv": r"head.levels.{0}.predict",
}


def our_key(key: str, variant: str) -> str:
    """The name in our model of a key of the authors' state dict."""
    module, name = key.rsplit(".", 1)
    level = re.match(r"level_(\d)_(.*)", module)
    if level:
        for pattern, replacement in LEVELS.items():
            if re.fullmatch(pattern, level[2]):
                ours = re.sub(pattern, replacement.format(level[1]), level[2])
                return f"{ours}.{name}"
        raise KeyError(key)
    module = module.removeprefix("module_list.")
    index, _, rest = module.partition(".")
    mobilenet = variant.startswith("mobilenetv2")
    if mobilenet and int(index) <= 18:
        return f"backbone.bottom_up.features.{module}.{name}"
    module = re.sub(r"\.?batch_norm$", ".norm", re.sub(r"\.conv$", "", module))
    index, _, rest = module.partition(".")
    if not mobilenet and int(index) <= 10:
        stage, is_block = (int(index) + 1) // 2, int(index) > 0 and int(index) % 2 == 0
        if not is_block:
            place = "stem" if stage == 0 else f"res{stage}.0"
            return f"backbone.bottom_up.{place}{'.' + rest if rest else ''}.{name}"
        _, block, conv, *norm = rest.split(".")
        place = f"res{stage}.{int(block) + 1}.conv{int(conv) + 1}"
        return ".".join(["backbone.bottom_up", place, *norm, name])
    norm = ".norm" if module.endswith(".norm") else ""
    module = module.removesuffix(".norm")
    index, _, rest = module.partition(".")
    place = NECK[".".join(filter(None, [str(int(index) - 8 * mobilenet), rest]))]
    return f"backbone.neck.{place}{norm}.{name}"


def reference_weights() -> ModuleType:
    """The module that rebuilds weights and images, loaded from its file."""
    spec = importlib.util.spec_from_file_location(
        "reference_weights", REFERENCE / "reference_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded_predictions(variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and their recorded values (cx, cy, w, h, objectness, 80 classes)."""
    recorded = np.load(REFERENCE / f"{variant}_predictions.npz")
    return recorded["rows"], recorded["image10_size416"]


def recorded_losses(variant: str) -> dict[str, dict]:
    """Per case its loss terms and ``grad_norms``, by the authors' names."""
    return json.loads((REFERENCE / f"{variant}_losses.json").read_text())
