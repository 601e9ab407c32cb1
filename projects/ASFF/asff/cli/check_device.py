"""Check that detectors work on this machine's GPU, and measure their speed, within 8 minutes.

    asff check-device
    asff check-device --device cpu --output report.md

The report is Markdown, to be pasted into an issue: outputs, losses and gradients beside those of
the CPU, waits of the host for the GPU, short trainings, resuming, two processes, latency and
memory. The exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse

from . import VerbParser


def add_arguments(parser: VerbParser) -> None:
    parser.add_argument(
        "--device", default="cuda", choices=["cuda", "cpu"], help="default: %(default)s"
    )
    parser.add_output(metavar="FILE", help="write the report there, too")


def run(args: argparse.Namespace) -> int:
    from ..device_check import check_device

    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    passed, report = check_device(args.device)
    if args.output is not None:
        args.output.write_text(report)
    return int(not passed)
