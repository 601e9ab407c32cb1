from __future__ import annotations

import pytest

from asff.data.datasets.source import IMAGE_SUFFIXES, find_files, read_lines
from tests.data.datasets.written import write_files


def test_files_by_suffix_sorted_by_path_and_through_links(tmp_path):
    names = ["b.jpg", "a/z.PNG", "a/deep/c.TIFF", "c.Jpeg"]
    (tmp_path / "d").symlink_to(tmp_path / "a" / "deep")
    others = ["a.txt", "jpg", "a.jpg.txt", "a/._z.png"]  # the last as macOS leaves them in archives
    write_files(tmp_path, {name: "" for name in names + others})
    found = [str(path.relative_to(tmp_path)) for path in find_files(tmp_path, IMAGE_SUFFIXES)]
    assert found == ["a/deep/c.TIFF", "a/z.PNG", "b.jpg", "c.Jpeg", "d/c.TIFF"]


def test_lines_that_are_not_blank(tmp_path):
    path = tmp_path / "list.txt"
    # As an editor on Windows writes it.
    path.write_bytes("\ufeffone\r\n\r\n  zw\u00f6lf x \n".encode())
    assert read_lines(path) == [(1, "one"), (3, "zw\u00f6lf x")]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_no_text(tmp_path, content):
    path = tmp_path / "list.txt"
    if content:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="list.txt cannot be read as text"):
        read_lines(path)
