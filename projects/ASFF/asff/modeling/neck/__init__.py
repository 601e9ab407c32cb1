"""Necks: from bottom-up features to the levels of a pyramid."""
