"""Measured speed and memory of detectors, training and data."""
