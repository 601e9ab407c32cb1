"""Speed and memory of detectors, training and data loading on this machine.

One module per subcommand of ``asff benchmark``. Each has a function ``measure_...`` that returns
numbers and a function ``format_...`` that makes a printable text of them.
"""
