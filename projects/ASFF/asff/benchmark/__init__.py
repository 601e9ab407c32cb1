"""Speed and memory of detectors, training, data loading and evaluation on this machine.

The functions ``measure_...`` return rows: dicts with a name, inputs, further numbers, and the times
of stages. results.py formats and draws them.
"""
