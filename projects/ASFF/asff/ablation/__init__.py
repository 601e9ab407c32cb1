"""Comparison of configs over several seeds: runs, costs, table and plot."""
