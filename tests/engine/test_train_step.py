"""One training step on models small enough to compute by hand."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from asff.engine import Trainer
from asff.engine.train_step import TrainStep, _copy_instances, _copy_packed
from tests.helpers import TINY_DARKNET, detector_cfg, make_instances

pytestmark = pytest.mark.usefixtures("one_thread")


class Plane(nn.Module):
    """The loss a . w of weights w = (1, 2), whose gradient is a."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        first, second = batch[0]["image"] * self.weights
        return {"loss_first": first, "loss_second": second}


def make_step(*slopes: tuple[float, float], **options) -> tuple[TrainStep, Plane]:
    """Training steps of learning rate 0.1 over batches with these gradients."""
    batches = [[{"image": torch.tensor(a), "file_name": f"{i}.png"}] for i, a in enumerate(slopes)]
    model = Plane()
    step = TrainStep(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return step, model


def train(step: TrainStep, steps: int) -> EventStorage:
    with EventStorage() as storage:
        for step.iter in range(steps):
            storage.iter = step.iter
            step.run_step()
    return storage


@pytest.mark.parametrize(
    ("limit", "weights"),
    [
        # The gradient (3, 4) has norm 5. Limit 1: (0.6, 0.8), times 0.1.
        (1.0, [0.94, 1.92]),
        (2.5, [0.85, 1.8]),
        # Above the norm, and off.
        (6.0, [0.7, 1.6]),
        (0.0, [0.7, 1.6]),
    ],
)
def test_clips_the_global_norm(limit, weights):
    step, model = make_step((3.0, 4.0), max_grad_norm=limit)
    storage = train(step, 1)
    assert model.weights.tolist() == pytest.approx(weights)
    assert model.weights.grad.norm().item() == pytest.approx(min(limit or 5, 5))
    # As it was, not as it became.
    assert storage.history("grad_norm").latest() == pytest.approx(5)
    assert storage.history("clipped").latest() == (0 < limit < 5)


def test_logs_losses_and_counts_clipped_steps():
    step, _ = make_step((3.0, 4.0), (0.3, 0.4), (0.0, 2.0), max_grad_norm=1.0)
    storage = train(step, 3)
    first = [storage.history(x).values()[0][0] for x in ("loss_first", "loss_second", "total_loss")]
    assert first == [3, 8, 11]
    assert (step.clipped_steps, step.steps) == (2, 3)
    assert [value for value, _ in storage.history("clipped").values()] == [1, 0, 1]


@pytest.mark.parametrize("slope", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_stops_before_a_broken_update(slope, limit):
    step, model = make_step((1.0, 0.0), (2.0, slope), max_grad_norm=limit)
    with pytest.raises(FloatingPointError) as error:
        train(step, 2)
    # The first step was taken, the second was not.
    assert model.weights.tolist() == pytest.approx([0.9, 2.0])
    message = str(error.value)
    for part in ("iteration 1,", "learning rate 0.1.", "loss_first=1.8", "loss_second=", "1.png"):
        assert part in message
    assert "0.png" not in message


def test_finite_loss_with_a_broken_gradient_stops():
    """sqrt has an infinite slope at 0."""
    step, model = make_step((1.0, 1.0))
    step.model.forward = lambda batch: {"loss": (model.weights - 1).sqrt().sum()}
    with pytest.raises(FloatingPointError, match=r"loss=1, gradient norm=(nan|inf)"):
        train(step, 1)
    assert model.weights.tolist() == [1, 2]


def test_float16_skips_an_overflow_and_goes_on():
    slopes = ((1.0, 0.0), (1e38, 0.0), (1.0, 0.0))
    step, model = make_step(*slopes, amp_dtype=torch.float16, max_grad_norm=0.99)
    scale = step.scaler.get_scale()
    storage = train(step, 3)
    # 1e38 times the scale of 65536 is infinite: no step, half the scale.
    assert model.weights.tolist() == pytest.approx([0.802, 2.0])
    assert step.scaler.get_scale() == scale / 2
    # A step that was not taken has no gradient norm, and was not clipped.
    assert storage.history("grad_norm").values() == [(1.0, 0), (1.0, 2)]
    assert storage.history("clipped").values() == [(1.0, 0), (1.0, 2)]
    assert (step.clipped_steps, step.steps) == (2, 2)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 2.0**15), (torch.bfloat16, 2.0**16), (None, 2.0**16)]
)
def test_scaler_resumes(dtype, scale):
    """Only a run with float16 has one; after any other, float16 starts with that of torch."""
    slope = 1e38 if dtype == torch.float16 else 3.0
    step, _ = make_step((slope, 0.0), amp_dtype=dtype)
    train(step, 1)
    other, _ = make_step((1.0, 0.0), amp_dtype=torch.float16)
    other.load_state_dict(step.state_dict())
    assert other.scaler.get_scale() == scale


def detector_batch(size: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    gt = make_instances([[4, 4, 40, 40], [30, 20, 60, 50]], [0, 3], image_size=(size, size))
    image = torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8)
    return [{"image": image, "instances": gt, "file_name": "a.png"} for _ in range(2)]


def detector_step(*keys: object, **options) -> TrainStep:
    torch.manual_seed(0)
    cfg = detector_cfg(*TINY_DARKNET, *keys)
    model = Trainer.build_model(cfg)
    return TrainStep(model, [detector_batch()] * 2, Trainer.build_optimizer(cfg, model), **options)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_step_equals_that_of_the_large_batch(parts):
    """Four images with 3, 0, 1 and 2 boxes; norms are frozen, for they see one part at a time."""
    frozen = ("MODEL.DARKNET.NORM", "FrozenBN", "MODEL.YOLOV3.NORM", "FrozenBN")
    boxes = [[4, 4, 40, 40], [30, 20, 60, 50], [0, 8, 30, 64]]
    batch = [
        {
            "image": torch.randint(256, (3, 64, 64), dtype=torch.uint8),
            "instances": make_instances(boxes[:count], [0, 3, 1][:count], image_size=(64, 64)),
        }
        for count in (3, 0, 1, 2)
    ]
    gradients, logged = [], []
    for accum_iters in (1, parts):
        step = detector_step(*frozen, accum_iters=accum_iters)
        step.data_loader = [batch]
        with torch.backends.mkldnn.flags(enabled=False):  # whose algorithm depends on the batch
            storage = train(step, 1)
        gradients.append([p.grad for p in step.model.parameters()])
        logged.append({k: v.latest() for k, v in storage.histories().items() if "data" not in k})
    for found, expected in zip(*gradients[::-1]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    assert {"loss_obj", "loss_shape", "total_loss", "grad_norm"} <= logged[0].keys()
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


class Reads(TorchDispatchMode):
    """Count what would make the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() in ("aten::_local_scalar_dense", "aten::nonzero")
        return func(*args, **(kwargs or {}))


def test_step_waits_for_its_device_once(monkeypatch):
    step = detector_step(max_grad_norm=1.0)
    with Reads() as expected:  # of the images' sizes, which are on the CPU
        step.model.preprocess_image(detector_batch())
    read, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: read.append(x.shape) or tolist(x))
    with Reads() as found:
        train(step, 1)
    assert found.count == expected.count
    # Five loss terms, the gradient norm, the time of the loader, and whether a signal came.
    assert read == [(8,)]


def test_copy_for_a_gpu_keeps_images_and_ground_truth():
    """By way of packed memory; here the device is the CPU."""
    device = torch.device("cpu")
    images = [torch.randint(256, (3, size, 8), dtype=torch.uint8) for size in (4, 6)]
    copies = _copy_packed(images, device)
    assert [x.dtype for x in copies] == [torch.uint8] * 2
    assert all(map(torch.equal, copies, images))
    instances = [
        make_instances([[1, 2, 3, 4], [5, 6, 7, 8]], [1, 2], [0.5, 1], image_size=(4, 8)),
        make_instances([], [], [], image_size=(6, 8)),
    ]
    for x in instances:
        x.gt_masks = BitMasks(torch.zeros(len(x), 4, 8))
    for copy, original in zip(_copy_instances(instances, device), instances):
        assert copy.image_size == original.image_size
        fields, expected = copy.get_fields(), original.get_fields()
        assert fields.keys() == expected.keys()
        assert fields["gt_masks"] is expected["gt_masks"]
        assert torch.equal(fields["gt_boxes"].tensor, expected["gt_boxes"].tensor)
        for name in ("gt_classes", "gt_weights"):
            assert torch.equal(fields[name], expected[name])


def test_autocast_keeps_losses_in_float32():
    step = detector_step(amp_dtype=torch.bfloat16)
    seen = {}
    model = step.model
    model.backbone.bottom_up.stem.register_forward_hook(
        lambda module, args, output: seen.update(stem=output.dtype)
    )
    model.register_forward_hook(lambda module, args, output: seen.update(output))
    train(step, 1)
    assert seen.pop("stem") == torch.bfloat16  # or nothing was tested
    assert {"loss_obj", "loss_cls", "loss_box", "loss_iou", "loss_shape"} <= seen.keys()
    for loss in seen.values():
        assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(p.dtype == torch.float32 for p in model.parameters())
