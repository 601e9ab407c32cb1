#!/usr/bin/env python
"""Train or evaluate a detector of this project, or any other of Detectron2, with COCO metrics.

    python train_net.py --config-file configs/coco/yolov3_d53_asff.yaml --num-gpus 4
    python train_net.py --config-file FILE --resume
    python train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
    torchrun --nproc-per-node 4 train_net.py --config-file FILE

Without a GPU, --num-gpus N starts N processes on the CPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "projects" / "ASFF"))  # also where not installed

from asff.engine import argument_parser, launch, main, setup, user_errors

if __name__ == "__main__":
    args = argument_parser().parse_args()
    with user_errors():
        cfg = setup(args)
    launch(main, cfg, args)
