"""Draw detections and fusion maps of a few test images at every evaluation of a training."""

from __future__ import annotations

import logging

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn

from ..analysis import check_fusion_maps, view_fusion
from ..data import build_reader, build_test_mapper
from ..visualization import draw_detections, draw_fusion

SIDE = 640  # pixels of the longer side of an image in a visualization


class VisualizationHook(EvalHook):
    """Draws the first TEST.VIS_IMAGES images of the first test dataset at every evaluation.

    ``detections/I`` shows image I, from 0, with its ground truth and with its detections;
    ``fusion/I``, for a model with ASFF, its fusion maps. The first process draws, the others wait
    for it. An error is logged once and does not end the training.

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
        model = self.trainer.checkpointer.model  # not wrapped for several processes
        model.eval()
        try:
            self._draw(model)
        except Exception as error:  # a failed visualization must not end a training
            if not self.failed:
                logging.getLogger("asff").warning(
                    f"TEST.VIS_IMAGES: the images of iteration {self.trainer.iter} could not be "
                    f"drawn ({type(error).__name__}: {error}). Training goes on.",
                    exc_info=True,
                )
            self.failed = True
        finally:
            model.train()

    @torch.no_grad()
    def _draw(self, model: nn.Module) -> None:
        """Draw with the model, in evaluation mode, and put the images into the event storage."""
        name = self.cfg.DATASETS.TEST[0]
        metadata = MetadataCatalog.get(name)
        mapper, read = build_test_mapper(self.cfg), build_reader(self.cfg)
        has_maps = _has_fusion_maps(self.cfg, model)
        dataset_dicts = DatasetCatalog.get(name)[: self.cfg.TEST.VIS_IMAGES]
        for index, dataset_dict in enumerate(dataset_dicts):
            inputs = [mapper(dataset_dict)]
            if has_maps:
                (view,) = view_fusion(model, inputs)
                instances, image = view.instances, read(dataset_dict["file_name"])
                self._put(f"fusion/{index}", draw_fusion(image, view, metadata.thing_classes))
            else:
                instances = model(inputs)[0]["instances"].to("cpu")
            scale = SIDE / max(instances.image_size)
            drawn = draw_detections(dataset_dict, instances, metadata, scale=scale)
            self._put(f"detections/{index}", drawn)

    def _put(self, name: str, image: np.ndarray) -> None:
        """Put an image (H, W, 3), RGB, uint8, into the event storage."""
        self.trainer.storage.put_image(name, image.transpose(2, 0, 1))


def _has_fusion_maps(cfg: CfgNode, model: nn.Module) -> bool:
    try:
        check_fusion_maps(cfg, model)
    except ValueError:
        return False
    return True
