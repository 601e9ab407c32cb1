"""The command line: `asff VERB INPUT... --option VALUE ... KEY VALUE ...`, one module per verb."""

from __future__ import annotations

import argparse
import difflib
import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# The module of a verb is named after it; it has `add_arguments(parser)` and `run(args)`.
VERBS = {
    "quickstart": "train a small detector on generated images, evaluate it, draw its detections",
    "train": "train or evaluate a detector, as train_net.py does",
    "predict": "detect objects in images, videos or the frames of a camera",
    "export": "export a detector to a file that other programs run: ONNX and others",
    "report": "write an HTML page about a run: curves, AP, mistakes, worst images",
    "fusion-maps": "draw the fusion weights of images, or summarize those of a dataset",
    "check-data": "find and repair faults of datasets before training",
    "fit-anchors": "cluster the boxes of a dataset into anchors",
    "convert": "convert checkpoints of other programs",
    "ablate": "train configs with several seeds and compare them",
    "benchmark": "measure speed and memory of models, training and data loading",
    "gradients": "measure how consistent the gradients of the levels are",
    "measure-swap": "measure what replacing FPN by ASFF-FPN changes",
    "check-device": "check that detectors work on this machine's GPU, for a report",
}

OVERVIEW = """Train, evaluate and inspect detectors with adaptively spatial feature fusion (ASFF).

usage: asff COMMAND INPUT... --option VALUE ... KEY VALUE ...

commands:
{commands}

Inputs come first, then options, then KEY VALUE pairs, which override keys of the config. Options
that several commands share:

  --config-file FILE  a config: a file here, or one of the package, as coco/yolov3_d53_asff.yaml
  --weights FILE      a checkpoint; it contains its config and class names
  --output PATH       the file or folder to write; by default a folder below output/

`asff COMMAND --help` describes a command. Exit code 2: the command line, a config or a file must be
corrected; the message names it. To begin with:

  asff quickstart
  asff predict photo.jpg --weights output/quickstart/model_final.pth
  asff report output/quickstart
  asff train --config-file coco/yolov3_d53_asff.yaml --num-gpus 4 SOLVER.BASE_LR 0.01"""

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")


class VerbParser(argparse.ArgumentParser):
    """Parser of one verb: inputs first, then options, then KEY VALUE pairs of the config."""

    def __init__(self, prog: str, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, formatter_class=formatter, allow_abbrev=False, **options)
        self._positionals.title = "inputs"
        self._has_opts = False

    def add_config_file(self, **options) -> None:
        """Add ``--config-file``, and KEY VALUE pairs that override its keys."""
        self.add_argument("--config-file", metavar="FILE", **options)
        self.add_opts()

    def add_opts(self) -> None:
        """Add KEY VALUE pairs that override keys of the config, as ``args.opts``."""
        self._has_opts = True
        self.add_argument_group("KEY VALUE ...", "config keys to override, after all options")

    def add_weights(self, **options) -> None:
        """Add ``--weights``, a checkpoint."""
        self.add_argument("--weights", metavar="FILE", **options)

    def add_output(self, default: str | None = None, **options) -> None:
        """Add ``--output``, the file or folder to write."""
        if default is not None:
            options = {"default": Path(default), "metavar": "FOLDER", **options}
            options.setdefault("help", f"folder to write to; default: {default}")
        self.add_argument("--output", type=Path, **options)

    def add_min_score(self, **options) -> None:
        """Add ``--min-score``, the lowest score of detections that are kept or drawn."""
        self.add_argument("--min-score", type=score, default=0.3, metavar="SCORE", **options)

    def format_help(self) -> str:
        inputs = [x.metavar + " ..." * bool(x.nargs) for x in self._get_positional_actions()]
        pairs = ["[KEY VALUE ...]"] if self._has_opts else []
        # argparse would put the inputs last.
        self.usage = " ".join([self.prog, *inputs, "[--option VALUE ...]", *pairs])
        return super().format_help()

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message}. See {self.prog} --help.\n")

    def parse_known_args(
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if not self._has_opts:
            return super().parse_known_args(args, namespace)
        first = self._find_opts(args)
        opts = args[first:]
        for arg in opts:
            if arg in self._option_string_actions:
                self.error(f"{arg} comes after '{opts[0]}': put options before KEY VALUE pairs")
        parsed, unknown = super().parse_known_args(args[:first], namespace)
        parsed.opts = [*opts]
        return parsed, unknown

    def _find_opts(self, args: Sequence[str]) -> int:
        """Return the index of the first KEY: after the values of the inputs or the last option."""
        inputs = self._get_positional_actions()
        num_values = math.inf if any(x.nargs for x in inputs) else len(inputs)
        may_end = False  # with any number of values, a KEY ends them
        for i, arg in enumerate(args):
            if arg.startswith("-"):
                action = self._option_string_actions.get(arg)
                nargs = 0 if action is None else action.nargs
                num_values = {None: 1, "?": 1, "+": math.inf}.get(nargs, nargs)
                may_end = nargs in ("?", "+")
            elif num_values == 0 or may_end and CONFIG_KEY.fullmatch(arg):
                return i
            else:
                num_values -= 1
        return len(args)


def at_least(least: int) -> Callable[[str], int]:
    """Return a type of arguments: whole numbers from ``least`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
        return int(text)

    return read


def score(text: str) -> float:
    """Read a score of the command line."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: arguments, by default those of this process.

    Returns:
        The exit code: 2 for an error that the user can correct.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    if args[0] == "--version":
        from .. import __version__

        print(f"asff {__version__}")
        return 0
    verb, *rest = args
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"asff: error: there is no command '{verb}'.{hint} See asff --help.", file=sys.stderr)
        return 2
    module = importlib.import_module(f".{verb.replace('-', '_')}", __package__)
    parser = VerbParser(f"asff {verb}", description=module.__doc__)
    module.add_arguments(parser)
    parsed = parser.parse_args(rest)
    sys.argv = [parser.prog, *rest]  # for messages, those of further processes included
    from ..engine import user_errors  # loads much, which --help does not need

    with user_errors():
        return module.run(parsed) or 0


def overview() -> str:
    """Return the page that ``asff --help`` prints."""
    width = max(map(len, VERBS))
    commands = "\n".join(f"  {verb:{width}}  {summary}" for verb, summary in VERBS.items())
    return OVERVIEW.format(commands=commands)
