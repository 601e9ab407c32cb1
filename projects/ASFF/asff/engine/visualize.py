"""Pictures for TensorBoard: what a detector makes of a few images, evaluation by evaluation."""

from __future__ import annotations

import logging

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn

from ..analysis import view_fusion
from ..analysis.fusion_maps import find_fusion
from ..data import build_reader, build_test_mapper
from ..visualization import draw_detections, draw_fusion

SIDE = 640  # pixels of the longer side of an image in a picture


class DrawPictures(EvalHook):
    """At every evaluation, draws the first TEST.VIS_IMAGES images of the first test dataset.

    ``detections/I`` has the truth of image I, from 0, beside what was detected; ``fusion/I``, where
    the model has ASFF, shows which level feeds which place. The first process draws, the others
    wait for it. Where that fails, the log says so once, and training goes on.

    Args:
        cfg: of the training.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg.TEST.EVAL_PERIOD, self.try_to_draw)
        self.cfg = cfg
        self.failed = False

    def try_to_draw(self) -> None:
        if not comm.is_main_process():
            return
        try:
            self.draw()
        except Exception as error:  # whatever it is: no picture is worth a training
            if not self.failed:
                logging.getLogger("asff").warning(
                    f"TEST.VIS_IMAGES: the pictures of iteration {self.trainer.iter} could not be "
                    f"drawn ({type(error).__name__}: {error}). Training goes on.",
                    exc_info=True,
                )
            self.failed = True

    @torch.no_grad()
    def draw(self) -> None:
        """Hand the pictures to the event storage."""
        model = self.trainer.checkpointer.model  # without what wraps it for several processes
        model.eval()
        try:
            self.draw_with(model)
        finally:
            model.train()

    def draw_with(self, model: nn.Module) -> None:
        """Draw with the model in evaluation mode."""
        name = self.cfg.DATASETS.TEST[0]
        metadata = MetadataCatalog.get(name)
        map_record, read = build_test_mapper(self.cfg), build_reader(self.cfg)
        fuses = has_maps(self.cfg, model)
        for index, record in enumerate(DatasetCatalog.get(name)[: self.cfg.TEST.VIS_IMAGES]):
            inputs = [map_record(record)]
            if fuses:
                (view,) = view_fusion(model, inputs)
                instances, image = view.instances, read(record["file_name"])
                self.put(f"fusion/{index}", draw_fusion(image, view, metadata.thing_classes))
            else:
                instances = model(inputs)[0]["instances"].to("cpu")
            scale = SIDE / max(instances.image_size)
            picture = draw_detections(record, instances, metadata, scale=scale)
            self.put(f"detections/{index}", picture)

    def put(self, name: str, picture: np.ndarray) -> None:
        """Hand over a picture (H, W, 3), RGB, uint8."""
        self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))


def has_maps(cfg: CfgNode, model: nn.Module) -> bool:
    """Whether a model has ASFF whose maps can be laid over an image."""
    try:
        find_fusion(model)
    except ValueError:
        return False
    return not cfg.MODEL.YOLOV3.LETTERBOX_TEST
