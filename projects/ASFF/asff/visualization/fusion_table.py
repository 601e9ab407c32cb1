"""Tables of the fusion statistics of a dataset."""

from __future__ import annotations

from tabulate import tabulate

from ..analysis.fusion_statistics import NEVER_USED, REGIONS

STYLE = {"tablefmt": "pipe", "floatfmt": ".3f", "missingval": "-"}


def fusion_tables(statistics: dict) -> str:
    """Format statistics as markdown tables, with a warning for each level that is never used.

    Args:
        statistics: as of ``FusionStatistics.to_json()``.
    """
    levels = list(statistics["levels"])
    self_weights, weights, shares = [], [], []
    for level in levels:
        regions = statistics["levels"][level]["regions"]
        everywhere = regions["everywhere"]
        means = [regions[region] and regions[region]["self_weight"] for region in REGIONS]
        self_weights.append((level, *means, everywhere["entropy"]))
        weights.append((level, *everywhere["weights"].values()))
        shares.append((level, *everywhere["shares"].values()))
    sizes = [f"{size} ({count})" for size, count in statistics["objects"].items()]
    parts = [
        f"Mean self weight of each level at objects by size, in the background and everywhere, and "
        f"entropy of its weights (1: all equal, 0: one weight is 1), over {statistics['images']} "
        "images:",
        tabulate(self_weights, ["level", *sizes, *REGIONS[len(sizes) :], "entropy"], **STYLE),
        "Mean weights everywhere, which each level (row) gives to each level (column):",
        tabulate(weights, ["level", *levels], **STYLE),
        "Mean shares everywhere of each level (column) in the fused feature of each level (row), "
        "by the norm of the weighted features:",
        tabulate(shares, ["level", *levels], **STYLE),
    ]
    parts += [
        f"Warning: {level} is never used. The mean weight that any level gives to it is below "
        f"{NEVER_USED} at objects of every size and in the background."
        for level in statistics["never_used"]
    ]
    return "\n\n".join(parts)
