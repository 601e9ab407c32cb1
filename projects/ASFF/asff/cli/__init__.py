"""The command line: `asff VERB INPUT... --option VALUE ... KEY VALUE ...`, one module per verb."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

# A verb's module is named after it; it has `add_arguments(parser)` and `run(args)`.
VERBS = {
    "quickstart": "generate images, train a small detector on them, evaluate and draw",
    "train": "train or evaluate a detector, as train_net.py does",
    "predict": "detect objects in images, folders, videos or a camera's pictures",
    "report": "write a page on a run: curves, AP, mistakes, worst images",
    "fusion-maps": "draw which level feeds which place, or measure it over a dataset",
    "check-data": "find and repair what is wrong with datasets before training",
    "fit-anchors": "cluster the boxes of a dataset into anchors",
    "convert": "convert checkpoints of other programs",
    "ablate": "train configs with several seeds, and compare them",
    "benchmark": "measure speed and memory of detectors, training and data",
    "gradients": "measure how consistent the levels' gradients are",
    "measure-swap": "measure what swapping FPN for ASFF-FPN changes",
}


class VerbParser(argparse.ArgumentParser):
    """Parser of one verb: inputs first, then options, then KEY VALUE pairs of the config."""

    def __init__(self, verb: str, **options):
        super().__init__(
            prog=f"asff {verb}", formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )
        self._input_parser = argparse.ArgumentParser(prog=self.prog, add_help=False)

    def add_input(self, name: str, **options) -> None:
        """Add an input, which comes before all options; see :meth:`add_argument`."""
        self._input_parser.add_argument(name, **options)

    def add_config_file(self, **options) -> None:
        """Add ``--config-file``, and KEY VALUE pairs that override its keys as ``args.opts``."""
        self.add_argument("--config-file", metavar="FILE", **options)
        self.add_argument(
            "opts",
            nargs=argparse.REMAINDER,
            metavar="KEY VALUE",
            help="config keys to override, after all options",
        )

    def add_weights(self, **options) -> None:
        """Add ``--weights``, a checkpoint."""
        self.add_argument("--weights", metavar="FILE", **options)

    def add_output(self, **options) -> None:
        """Add ``--output``, the file or folder to write."""
        self.add_argument("--output", **options)

    def format_usage(self) -> str:
        inputs = self._input_parser.format_usage().split(self.prog, 1)[1].strip()
        options = super().format_usage().split(self.prog, 1)[1].strip()
        return f"usage: {self.prog} {inputs} {options}\n"

    def parse_args(self, args: Sequence[str], namespace=None) -> argparse.Namespace:
        first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
        if {"-h", "--help"} & {*args}:
            super().parse_args(["--help"])
        parsed, rest = self._input_parser.parse_known_args(args[:first], namespace)
        return super().parse_args([*rest, *args[first:]], parsed)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: of the command line, by default those of this process.

    Returns:
        The exit code: 2 for an error that the user can mend.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = args
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"asff: error: there is no command '{verb}'.{hint} See asff --help.", file=sys.stderr)
        return 2
    module = importlib.import_module(f".{verb.replace('-', '_')}", __package__)
    parser = VerbParser(verb, description=module.__doc__)
    module.add_arguments(parser)
    parsed = parser.parse_args(rest)
    from ..engine import user_errors  # what needs torch comes after the command line is right

    with user_errors(program=parser.prog):
        return module.run(parsed) or 0


def overview() -> str:
    """The page that ``asff --help`` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {summary}" for verb, summary in VERBS.items())
    return f"""Adaptively spatial feature fusion (ASFF) for Detectron2.

usage: asff COMMAND INPUT... --option VALUE ... KEY VALUE ...

commands:
{verbs}

Inputs come first, then options, then KEY VALUE pairs that override keys of the config. Commands
share --config-file FILE, --weights FILE and --output PATH. `asff COMMAND --help` describes one.

  asff quickstart
  asff predict photo.jpg --weights output/quickstart/model_final.pth
  asff report output/quickstart
  asff train --config-file coco/yolov3_d53_asff.yaml --num-gpus 4 SOLVER.BASE_LR 0.01"""
