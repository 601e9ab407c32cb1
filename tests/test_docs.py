"""What the documentation links, shows and runs is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docs/tutorial.ipynb"]

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(page: Path) -> str:
    """The Markdown of a page or of a notebook's text."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(x["source"]) for x in cells if x["cell_type"] == "markdown")


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Files that a page links or shows, and the places in them, if any."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            yield (page.parent / file if file else page), anchor


def anchors(page: Path) -> set[str]:
    """The places that can be linked: GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


def test_links_lead_somewhere(page):
    for file, anchor in links(page):
        assert file.exists(), f"{file} does not exist"
        assert not anchor or anchor in anchors(file), f"{file} has no heading #{anchor}"


def test_pictures_are_small_files(page):
    for file, _ in links(page):
        if file.suffix in (".jpg", ".png", ".webp"):
            assert file.stat().st_size < 300_000, f"{file} has 300 kB or more"


def test_commands_name_what_exists(page):
    """Tools, and the configs that are ours: others stand for a user's own."""
    blocks = re.findall(r"^```bash\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    names = re.findall(r"(?<=\s)(?:tools/\w+\.py|configs/[\w./]+\.yaml)", "\n".join(blocks))
    assert [name for name in names if not (ROOT / name).is_file()] == []
