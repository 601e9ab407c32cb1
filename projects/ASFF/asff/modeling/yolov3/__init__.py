"""The YOLOv3 detector with guided anchoring: head, matching, losses and meta-architecture."""
