"""Links, images and commands of the documentation."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from asff.cli import VERBS, VerbParser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docs/tutorial.ipynb"]

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(page: Path) -> str:
    """Return the Markdown of a page, or of a notebook's text cells."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(x["source"]) for x in cells if x["cell_type"] == "markdown")


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that a page links or shows, and the headings in them, if any."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            yield (page.parent / file if file else page), anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub derives from the headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in headings}


def test_links_lead_somewhere(page):
    for file, anchor in links(page):
        assert file.exists(), f"{file} does not exist"
        assert not anchor or anchor in anchors(file), f"{file} has no heading #{anchor}"


def test_images_are_small_files(page):
    for file, _ in links(page):
        if file.suffix in (".jpg", ".png", ".webp"):
            assert file.stat().st_size < 300_000, f"{file} has 300 kB or more"


def test_commands_name_what_exists(page):
    """Check scripts and shipped configs; other configs stand for a user's own."""
    names = re.findall(r"(?<=\s)(?:tools/\w+\.py|configs/[\w./]+\.yaml)", "\n".join(commands(page)))
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_commands_can_be_parsed(page):
    for command in commands(page):
        words = shlex.split(command, comments=True)  # none in a comment
        if words[:1] == ["asff"]:
            parse(words[1], words[2:])
        elif words[1:2] == ["train_net.py"]:
            parse("train", words[2:])


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell commands; continued lines are joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def parse(verb: str, args: list[str]) -> None:
    """Parse the arguments of ``asff VERB`` without running it."""
    assert verb in VERBS
    if args != ["--help"]:
        module = importlib.import_module(f"asff.cli.{verb.replace('-', '_')}")
        parser = VerbParser(f"asff {verb}", description=module.__doc__)
        module.add_arguments(parser)
        parser.parse_args(args)  # exits if they are wrong
