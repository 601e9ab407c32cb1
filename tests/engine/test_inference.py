"""The copy that is evaluated: equal to the detector up to rounding, which it leaves as it is."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch._dynamo.testing import CompileCounter

from asff.analysis import view_fusion
from asff.engine.inference import InferenceModel, compile_network
from tests.helpers import TINY_DARKNET, detector_cfg
from tests.training import read_checkpoint, run_here

SIZES = [(64 + 32 * i, 64 + 32 * (i % 3)) for i in range(10)]


def make_cfg(*options: object) -> CfgNode:
    all_pass = ("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0, "MODEL.YOLOV3.NMS_THRESH_TEST", 1.0)
    return detector_cfg(*TINY_DARKNET, "MODEL.YOLOV3.RFB", True, *all_pass, *options)


def make_model(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg)
    for norm in (x for x in model.modules() if isinstance(x, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.running_mean, std=0.1)
    return model


def make_inputs(*sizes: tuple[int, int]) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": 255 * torch.rand(3, *size, generator=generator)} for size in sizes]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.3)])
@pytest.mark.usefixtures("one_thread")
def test_detects_as_the_model_does(fuse, dtype, tolerance):
    cfg = make_cfg("TEST.FUSE", fuse, "TEST.DTYPE", dtype)
    model, inputs = make_model(cfg), make_inputs((64, 96), (64, 96), (96, 64))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    run = InferenceModel(cfg, model)
    assert model.training and not run.model.training
    norms = [x for x in run.model.modules() if isinstance(x, nn.BatchNorm2d)]
    assert bool(norms) is not fuse
    entered, dtypes = [], set()
    run.model.register_forward_pre_hook(lambda _, args: entered.append(len(args[0])))
    run.model.head.levels[0].predict.register_forward_hook(lambda *x: dtypes.add(x[2].dtype))
    outputs = run(inputs)
    assert entered == [2, 1] and dtypes == {getattr(torch, dtype)}
    model.eval()
    for x, output in zip(inputs, outputs):
        with torch.no_grad():
            expected = model([x])[0]["instances"].scores[:50]
        scores = output["instances"].scores[:50]
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, rtol=tolerance, atol=0.0)
        assert not torch.equal(scores, expected) or not (fuse or dtype == "bfloat16")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.slow
@torch.no_grad()
def test_compiled_network():
    """Without a graph break; a few graphs serve all sizes; hooks work beside it."""
    model = make_model(detector_cfg(*TINY_DARKNET)).eval()
    counter = CompileCounter()
    compiled = compile_network(model, backend=counter, fullgraph=True)
    for number, size in enumerate(SIZES):
        inputs = make_inputs(*[size] * (1 + number % 3))
        for output, expected in zip(compiled(inputs), model(inputs)):
            found, expected = output["instances"], expected["instances"]
            torch.testing.assert_close(found.scores, expected.scores)
    # Of backbone and head: static, one image of any size, and any number of images; a square one.
    assert 2 <= counter.frame_count <= 10
    before = counter.frame_count
    compiled(make_inputs(*[(416, 352)] * 5))
    assert counter.frame_count == before
    (view,) = view_fusion(model, make_inputs((64, 96)))
    assert len(view.maps) == 3


def test_compile_by_key(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda module: calls.append(module) or module)
    run = InferenceModel(cfg := make_cfg("TEST.COMPILE", True), make_model(cfg))
    assert calls == [run.model.backbone, run.model.head]
    InferenceModel(cfg := make_cfg(), make_model(cfg))
    assert len(calls) == 2


@pytest.mark.usefixtures("clean_loggers")
def test_evaluation_changes_no_training(config, tmp_path):
    """To the bit: weights, buffers and momenta after evaluations at steps 2 and 4, and none."""
    states = []
    for period in (2, 0):
        options = ("TEST.EVAL_PERIOD", period, "TEST.IMS_PER_BATCH", 3)
        options += ("DATASETS.TEST", ("shapes_val",) if period else (), "OUTPUT_DIR")
        run = run_here("--config-file", config, *options, tmp_path / str(period))
        assert run.code == 0, run.output
        log = (tmp_path / str(period) / "log.txt").read_text()
        assert log.count("Start inference on 3 batches") == (2 if period else 0)
        state = read_checkpoint(tmp_path / str(period) / "model_final.pth")
        optimizer = state["trainer"]["_trainer"]["optimizer"]["state"]
        states.append((state["model"], {k: x["momentum_buffer"] for k, x in optimizer.items()}))
    for tensors, others in zip(*states):
        assert tensors.keys() == others.keys()
        assert all(torch.equal(x, others[name]) for name, x in tensors.items())
