from __future__ import annotations

import os

import pytest
from PIL import Image

from asff.data.datasets import CocoDataset, shared_files
from asff.data.datasets.image_files import ImageFile, examine_files, missing_files
from tests.data.datasets.small import HEIGHT, WIDTH, make_dataset
from tests.data.rectangles import noise


@pytest.fixture
def folder(tmp_path):
    """The image files of ``make_dataset``."""
    for i in range(2):
        Image.fromarray(noise(HEIGHT, WIDTH)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("names", [("0.png", "1.png"), ("{folder}/0.png", "below/../1.png")])
def test_files_are_found_and_opened(folder, names):
    dataset = make_dataset(image_root=str(folder))
    names = [name.format(folder=folder) for name in names]
    for image, name in zip(dataset.images, names):
        image["file_name"] = name
    assert examine_files(dataset, opened=True) == {
        name: ImageFile(str(folder / f"{i}.png"), size=(WIDTH, HEIGHT))
        for i, name in enumerate(names)
    }


def test_missing_and_damaged_files(folder):
    dataset = make_dataset(images=5, image_root=str(folder))
    (folder / "2.png").write_bytes((folder / "0.png").read_bytes()[:-100])
    (folder / "3.png").write_text("no image")
    files = examine_files(dataset, opened=True)
    assert [name for name, file in files.items() if file.missing] == ["4.png"]
    assert [name for name, file in files.items() if file.damage] == ["2.png", "3.png"]
    assert not any(str(folder) in file.damage for file in files.values())
    # Unopened, damage is not seen.
    files = examine_files(dataset, opened=False)
    assert [bool(file.damage) for file in files.values()] == [False] * 5
    assert [file.missing for file in files.values()] == [False] * 4 + [True]


def test_missing_paths(tmp_path, monkeypatch):
    (tmp_path / "here.png").touch()
    here, gone = str(tmp_path / "here.png"), str(tmp_path / "gone" / "here.png")
    assert missing_files([here, gone, here]) == {gone}
    assert missing_files([]) == set()
    assert examine_files(CocoDataset([], [], []), opened=True) == {}
    monkeypatch.chdir(tmp_path)
    assert missing_files(["here.png", "gone.png"]) == {"gone.png"}


def test_files_of_two_datasets(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    os.symlink(tmp_path / "b.png", tmp_path / "link.png")
    first = {x: ImageFile(str(tmp_path / x)) for x in ("a.png", "link.png", "1.png")}
    second = {x: ImageFile(str(tmp_path / x)) for x in ("b.png", "2.png")}
    assert shared_files(first, second) == [os.path.realpath(tmp_path / "b.png")]
    assert shared_files(second, {}) == []
