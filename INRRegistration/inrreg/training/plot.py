"""The zero-shot error in the course of a training, as a picture."""

from __future__ import annotations

from pathlib import Path

from inrreg.pictures import check_matplotlib
from inrreg.prior import Prior


def write_plot(prior: Prior, path: Path) -> None:
    """Draw what `prior.about` tells. Raises `UserError` (code `package`) without matplotlib, OSError."""
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*prior.about["history"], strict=True), marker=".", color="#3b6ea5")
    axes.set_xlabel("outer steps")
    unit = prior.about["unit"]
    count = len(prior.about["held_out"])
    axes.set_ylabel("zero-shot error, mm" if unit == "mm" else "dissimilarity before any step")
    axes.set_title(
        f"{prior.about['kind']}: {count} held-out pairs of {count + prior.about['pairs']}", fontsize="medium"
    )
    axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)
