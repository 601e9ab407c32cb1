"""Detectron2's DefaultTrainer, for CPUs as well as GPUs."""

from __future__ import annotations

import inspect
import logging
import math
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..checkpoint import Checkpointer, model_metadata
from ..config import images_per_iteration
from ..data import build_test_loader, build_train_loader, load_training_dicts
from ..data.build import resolve_seed
from ..data.loader import TrainingLoader
from ..evaluation import Evaluator
from ..modeling import DropBlock, TimmBackbone, block_sizes, synchronize_norms
from .activation_checkpointing import checkpoint_activations
from .checkpoint_hooks import BestCheckpointer, EarlyStop, SaveCheckpoints
from .inference import InferenceModel
from .preemption import catch_signals
from .progress import ProgressPrinter
from .train_step import TrainStep
from .visualize import VisualizationHook


class Trainer(DefaultTrainer):
    """DefaultTrainer with our loaders, step, checkpointer and COCO evaluation."""

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's body, which cannot be extended: its DDP call passes device_ids, which a
        # CPU refuses, and its AMP trainer asserts CUDA.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.seed = resolve_seed(cfg)
        dataset_dicts = load_training_dicts(cfg)
        cfg = resolve_warmup(cfg, len(dataset_dicts))
        _log_effective_batch(cfg)
        model = self.build_train_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.train_loader = build_train_loader(cfg, dataset_dicts, seed=self.seed)
        if torch.device(cfg.MODEL.DEVICE).type == "cuda":
            # Matrix products (torchvision's deformable convolution) in TF32, which torch allows
            # convolutions by default.
            torch.set_float32_matmul_precision("high")
        model = _distribute(model, cfg)
        self._trainer = TrainStep(
            model,
            self.train_loader,
            optimizer,
            accum_iters=cfg.SOLVER.ACCUM_ITERS,
            max_grad_norm=cfg.SOLVER.MAX_GRAD_NORM,
            amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            seed=self.seed,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.metadata = model_metadata(cfg)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        hooks = [x for x in super().build_hooks() if not isinstance(x, PeriodicCheckpointer)]
        # Detectron2 adds the checkpointer before it and the writers after it to process 0 alone.
        evaluation = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        solver, test = self.cfg.SOLVER, self.cfg.TEST
        if test.BEST_METRIC and self.cfg.DATASETS.TEST:
            best = BestCheckpointer(
                test.EVAL_PERIOD,
                self.checkpointer,
                test.BEST_METRIC,
                patience=solver.EARLY_STOPPING.PATIENCE,
                evaluate=hooks[evaluation]._do_eval,
            )
            hooks.insert(evaluation + 1, best)
        if test.VIS_IMAGES and self.cfg.DATASETS.TEST:
            hooks.insert(evaluation + 1, VisualizationHook(self.cfg))
        save = SaveCheckpoints(
            self.checkpointer,
            solver.CHECKPOINT_PERIOD,
            keep=solver.KEEP_CHECKPOINTS,
            keep_every=solver.KEEP_EVERY,
        )
        hooks.insert(evaluation, save)
        drop_block = ScheduleDropBlock(self.cfg.MODEL.YOLOV3.DROP_BLOCK.SCHEDULE)
        return [*hooks, drop_block, LogSummary()]

    def build_writers(self) -> list[EventWriter]:
        # The printer, which is the first writer, measures scalars that the others write.
        _, *files = super().build_writers()
        printer = ProgressPrinter(
            self.max_iter,
            batch_size=images_per_iteration(self.cfg),
            device=torch.device(self.cfg.MODEL.DEVICE),
        )
        return [printer, *files]

    def train(self) -> dict | None:
        comm.synchronize()  # a signal that comes before catch_signals() ends a process at once
        with catch_signals(self.cfg.SOLVER.SAVE_SIGNALS) as self._trainer.signals:
            with suppress(EarlyStop):
                return super().train()

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of OUTPUT_DIR, or start from MODEL.WEIGHTS.

        A resumed run keeps its seed, and so repeats what it would have done without the stop.
        """
        super().resume_or_load(resume)
        starts = set(comm.all_gather((self.start_iter, self.seed)))
        if len(starts) > 1:
            raise ValueError(
                f"Processes would start at (iteration, seed) {sorted(starts)}. OUTPUT_DIR "
                f"('{self.cfg.OUTPUT_DIR}') must be one folder that all machines share."
            )
        self._trainer.seed = self.seed
        self.train_loader.resume(self.start_iter, self.seed)
        logging.getLogger("asff").info(self._describe_start(resume))

    def _describe_start(self, resume: bool) -> str:
        """Return at which iteration this run starts, and why."""
        last = self.checkpointer.get_checkpoint_file() if self.checkpointer.has_checkpoint() else ""
        if resume and last:
            seed = f"seed {self.seed}"
            if self.cfg.SEED >= 0 and self.cfg.SEED != self.seed:
                seed += f" as before, not SEED {self.cfg.SEED}"
            return f"Resuming from iteration {self.start_iter} of {last} ({seed})."
        if resume:
            reason = f"there is no checkpoint in {self.cfg.OUTPUT_DIR}"
        elif last:
            reason = f"--resume is not given, though there is {last}"
        else:
            reason = "--resume is not given"
        weights = self.cfg.MODEL.WEIGHTS
        weights = f", with the weights of {weights} and nothing else of it" if weights else ""
        return f"Starting fresh because {reason} (seed {self.seed}){weights}."

    def state_dict(self) -> dict:
        # ``iter`` is already max_iter where the last evaluation saves the best checkpoint.
        iteration = min(self.iter, self.max_iter - 1)
        return {**super().state_dict(), "iteration": iteration, "seed": self.seed}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # Older checkpoints have no seed.
        self.seed = state_dict.get("seed", self.seed)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        # A training step on the CPU takes 0.6 to 0.7 times as long; tensor cores gain, too.
        return super().build_model(cfg).to(memory_format=torch.channels_last)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().build_optimizer(cfg, model)
        if torch.device(cfg.MODEL.DEVICE).type == "cpu":
            # There foreach is a loop, and its temporary copies of all weights cost more than the
            # step itself. (The fused kernel is hardly faster, and silently wrong where weights and
            # momenta differ in memory format.)
            for group in optimizer.param_groups:
                group["foreach"] = False
        return optimizer

    @classmethod
    def build_train_model(cls, cfg: CfgNode) -> nn.Module:
        """Build a model as it is trained, before it is distributed."""
        model = cls.build_model(cfg)
        if comm.get_world_size() > 1:
            synchronize_norms(model)
            for bottom_up in model.modules():
                if isinstance(bottom_up, TimmBackbone):
                    # Its plain norms would keep the statistics of one process.
                    synchronize_norms(bottom_up, nn.BatchNorm2d)
        if cfg.SOLVER.CHECKPOINT_ACTIVATIONS:
            checkpoint_activations(model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict:
        """Evaluate a copy of the model, as :class:`InferenceModel` runs it."""
        return super().test(cfg, InferenceModel(cfg, model), evaluators)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> Evaluator:
        return Evaluator(
            dataset_name,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            coco_api=cfg.TEST.COCO_API,
            allow_cached_coco=False,  # a cached JSON may be stale
        )

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Scale our keys with those that Detectron2 scales by SOLVER.REFERENCE_WORLD_SIZE."""
        scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        if scaled is cfg:
            return cfg
        scaled.defrost()
        scale = scaled.SOLVER.BASE_LR / cfg.SOLVER.BASE_LR
        scaled.SOLVER.BASE_LR_END *= scale
        for node, key, least in (
            (scaled.SOLVER, "KEEP_EVERY", 0),
            (scaled.INPUT, "SIZE_PERIOD", 1),
            (scaled.INPUT, "FINAL_SIZE_ITERS", 0),
            (scaled.INPUT.MIXUP, "OFF_ITERS", 0),
        ):
            node[key] = max(round(node[key] / scale), least)
        scaled.freeze()
        return scaled


def _distribute(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Wrap the model in DistributedDataParallel where there are several processes."""
    options = inspect.signature(DistributedDataParallel).parameters
    sync_buffers = "forward_sync_buffers"  # before torch 2.13 broadcast_buffers
    return create_ddp_model(
        model,
        gradient_as_bucket_view=True,
        **{sync_buffers if sync_buffers in options else "broadcast_buffers": False},
        **({} if torch.device(cfg.MODEL.DEVICE).type == "cuda" else {"device_ids": None}),
    )


def resolve_warmup(cfg: CfgNode, num_images: int) -> CfgNode:
    """Raise SOLVER.WARMUP_ITERS to WARMUP_EPOCHS epochs of ``num_images``."""
    iters = math.ceil(cfg.SOLVER.WARMUP_EPOCHS * num_images / images_per_iteration(cfg))
    if iters <= cfg.SOLVER.WARMUP_ITERS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.WARMUP_ITERS = iters
    cfg.freeze()
    logging.getLogger("asff").info(
        f"Warm-up over {cfg.SOLVER.WARMUP_EPOCHS:g} epochs of {num_images} images: {iters} "
        "iterations."
    )
    return cfg


def _log_effective_batch(cfg: CfgNode) -> None:
    """Log the batch size that gradient accumulation makes, and what it means for the rate."""
    solver, images = cfg.SOLVER, images_per_iteration(cfg)
    if solver.ACCUM_ITERS > 1:
        logging.getLogger("asff").info(
            f"Effective batch: {images} images (SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} x "
            f"SOLVER.ACCUM_ITERS {solver.ACCUM_ITERS}) at SOLVER.BASE_LR {solver.BASE_LR:g}. The "
            f"linear rule: a rate made for B images becomes rate x {images} / B."
        )


class ScheduleDropBlock(HookBase):
    """Hook that sets the block sizes of DropBlock by the share of the training that is done."""

    def __init__(self, schedule: Sequence[Sequence[float]]):
        self.schedule = schedule

    def before_train(self) -> None:
        modules = self.trainer.model.modules()
        self.layers = [module for module in modules if isinstance(module, DropBlock)]

    def before_step(self) -> None:
        share = self.trainer.iter / self.trainer.max_iter
        for layer, size in zip(self.layers, block_sizes(self.schedule, share, len(self.layers))):
            layer.block_size = size


class LogSummary(HookBase):
    """Hook that logs at the end how many steps were clipped, and which boxes and images dropped.

    Where a large share of the steps was clipped, a lower learning rate is worth a try.
    """

    def after_train(self) -> None:
        logger, step = logging.getLogger("asff"), self.trainer._trainer
        if step.max_grad_norm and step.steps:
            logger.info(
                f"The gradient norm was clipped at {step.max_grad_norm:g} in {step.clipped_steps} "
                f"of {step.steps} steps ({step.clipped_steps / step.steps:.1%})."
            )
        for line in self.trainer.train_loader.stats.summary():
            logger.info(line)
