"""Speed and memory of detectors, training and data loading on this machine.

One module per subcommand of ``asff benchmark``, whose function ``measure_...`` returns what is
printed.
"""
