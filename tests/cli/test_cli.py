"""Grammar and help of the command line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from asff import __version__
from asff.cli import VERBS, VerbParser, at_least, main


@pytest.fixture
def parser() -> VerbParser:
    parser = VerbParser("asff verb", description="Do it.")
    parser.add_argument("folder", metavar="FOLDER", help="of results")
    parser.add_argument("--seeds", nargs="+", type=at_least(0), default=[])
    parser.add_argument("--fast", action="store_true")
    parser.add_config_file()
    return parser


@pytest.mark.parametrize(
    ("line", "seeds", "opts"),
    [
        ("results", [], []),
        ("results --fast --config-file a.yaml", [], []),
        ("results --fast SOLVER.MAX_ITER 4", [], ["SOLVER.MAX_ITER", "4"]),
        ("results --config-file a.yaml SEED -1", [], ["SEED", "-1"]),
        ("results --seeds 1 2 --fast", [1, 2], []),
        (
            "results --seeds 1 2 SEED 4 SOLVER.AMP.DTYPE x",
            [1, 2],
            "SEED 4 SOLVER.AMP.DTYPE x".split(),
        ),
        ("results SOLVER.MAX_ITER 4", [], ["SOLVER.MAX_ITER", "4"]),
    ],
)
def test_inputs_then_options_then_pairs(parser, line, seeds, opts):
    args = parser.parse_args(line.split())
    assert args.folder == "results"
    assert args.seeds == seeds and args.opts == opts
    assert args.fast == ("--fast" in line)
    assert args.config_file == ("a.yaml" if "a.yaml" in line else None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--fast", "required: FOLDER"),
        ("results --seeds 1 x", "--seeds: x is not a whole number of at least 0"),
        ("results --slow 3", "unrecognized arguments: --slow"),
        ("results SEED 1 --fast", "--fast comes after 'SEED': put options before KEY VALUE pairs"),
        ("results --seeds 1 SEED 1 --fast", "--fast comes after 'SEED'"),
    ],
)
def test_wrong_command_lines(parser, line, message, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(line.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("asff verb: error: ") and message in error


def test_help_shows_inputs_and_options(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert printed.startswith("usage: asff verb FOLDER [--option VALUE ...] [KEY VALUE ...]")
    assert re.search("FOLDER +of results", printed) and "--config-file FILE" in printed


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    """It begins with a sentence in the imperative, and gives examples."""
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0 and re.search(rf"^ +asff {verb}", printed, re.MULTILINE)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_overview_lists_all_verbs(args, capsys):
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in VERBS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"asff {__version__}\n"


def test_unknown_verb(capsys):
    assert main(["predicts", "x.jpg"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("asff: error: ") and "'predicts'" in error and "predict?" in error


def test_as_a_module():
    command = [sys.executable, "-m", "asff", "predict"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("asff predict: error: ")
