from __future__ import annotations

import cv2
import numpy as np
import pytest

from asff.data.media import MAX_PIXELS, UnreadableVideo, Video, batch_images


def test_batches_of_huge_images_are_small():
    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 2, 1, 3))
    images = [({"file_name": str(i)}, huge, {}) for i in range(7)]
    assert [len(x) for x in batch_images(images, 8)] == [3, 3, 1]
    assert [len(x) for x in batch_images(images, 2)] == [2, 2, 2, 1]
    assert list(batch_images([], 8)) == []


class ScreenRecording:
    """OpenCV's view of a video with a variable frame rate: its header assumes 30 per second."""

    times = (0, 33, 500, 533, 2400, 4966)  # in milliseconds

    def __init__(self, path: str):
        self.num_read = 0
        self.num_frames = int(path)

    def isOpened(self) -> bool:
        return True

    def get(self, key: int) -> float:
        fixed = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: 150.0}
        return fixed[key] if key in fixed else self.times[self.num_read - 1]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.num_read == self.num_frames:
            return False, None
        self.num_read += 1
        return True, np.zeros((48, 64, 3), np.uint8)


def test_video_with_a_variable_frame_rate(monkeypatch):
    """It is complete if the time of its last frame is that of its end."""
    monkeypatch.setattr(cv2, "VideoCapture", ScreenRecording)
    complete, truncated = Video("6"), Video("5")
    assert len(list(complete)) == 6 and len(list(truncated)) == 5
    complete.check_end()
    with pytest.raises(UnreadableVideo, match=r"5: breaks off after 2\.4 of 5\.0 seconds"):
        truncated.check_end()
