"""docs/tutorial.ipynb runs from its first cell to its last, and can be shown as it is."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="the extra `dev` brings nbformat")
nbclient = pytest.importorskip("nbclient", reason="the extra `dev` brings nbclient")

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture
def tutorial() -> nbformat.NotebookNode:
    """Return the notebook of the repository."""
    return nbformat.read(TUTORIAL, as_version=4)


@pytest.fixture
def shortened(tutorial, tmp_path) -> nbformat.NotebookNode:
    """Return the notebook with little data and four iterations; it writes to ``tmp_path``."""
    (cell,) = (x for x in tutorial.cells if "parameters" in x.metadata.get("tags", ()))
    names = re.findall(r"^(.+?) = ", cell.source, re.MULTILINE)
    assert names == ["images, iterations", "output"]
    cell.source = f"images, iterations, output = 8, 4, {str(tmp_path)!r}"
    return tutorial


@pytest.fixture
def execute(monkeypatch, tmp_path_factory):
    """Return a function that runs a notebook in its own process, started in a folder."""
    paths = [str(ROOT / "projects" / "ASFF"), os.getenv("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))

    def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()

    return execute


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def printed(notebook: nbformat.NotebookNode, stream: str = "stdout") -> str:
    return "".join(output.text for output in outputs(notebook) if output.get("name") == stream)


def images(notebook: nbformat.NotebookNode) -> list[Image.Image]:
    found = [x.data["image/jpeg"] for x in outputs(notebook) if "image/jpeg" in x.get("data", ())]
    return [Image.open(io.BytesIO(base64.b64decode(x))) for x in found]


def check_shown(notebook: nbformat.NotebookNode) -> None:
    """Check what both a long and a short run show."""
    text = printed(notebook)
    assert text.count("sums from 1.0000 to 1.0000") == 3
    changes = dict(re.findall(r"^(p\d) .*changed by ([\d.]+)%$", text, re.MULTILINE))
    assert changes.keys() == {"p3", "p4", "p5", "p6", "p7"}
    # The start is near neutral: 5% comes from other levels. p6 and p7 are not fused.
    assert all(0 < float(changes[level]) < 10 for level in ("p3", "p4", "p5"))
    assert changes["p6"] == changes["p7"] == "0.0"
    assert "new: {'backbone.asff'}" in text and "[0.0250, 0.9500, 0.0250]" in text
    detections, fusion = images(notebook)
    # Ground truth and detections side by side, each of 192 pixels and enlarged to double size.
    assert detections.size == (2 * 2 * 192, 2 * 192)
    assert min(fusion.size) > 500


def test_runs_in_its_folder(shortened, execute, tmp_path):
    """Run also where an earlier run left its metrics."""
    (tmp_path / "metrics.json").write_text('{"bbox/AP": 1.0, "iteration": 4}\n')
    execute(shortened, TUTORIAL.parent)
    check_shown(shortened)
    assert re.search(r"iter: 3  total_loss: .*images/s: ", printed(shortened))
    assert (tmp_path / "model_final.pth").is_file()


def test_starts_in_the_root_too(shortened, execute):
    """Run the first cells, which set paths and import."""
    del shortened.cells[3:]
    shortened.cells.append(nbformat.v4.new_code_cell("print(Path.cwd())"))
    execute(shortened, ROOT)
    assert printed(shortened).splitlines() == [str(ROOT)]


def test_can_be_committed(tutorial):
    """Outputs are absent, or small and from one run from top to bottom."""
    nbformat.validate(tutorial)
    assert TUTORIAL.stat().st_size < 300_000
    assert not printed(tutorial, "stderr") and not re.search(r"/(home|root|tmp)/", str(tutorial))
    code = [cell for cell in tutorial.cells if cell.cell_type == "code"]
    if outputs(tutorial):
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        check_shown(tutorial)
    else:
        assert {cell.execution_count for cell in code} == {None}
