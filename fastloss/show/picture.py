"""A loss's curves as a picture: value, gradient and Hessian one below another, a column for each configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..validate import Array
from .curve import Curve
from .drawing import limits

# Colours that stay apart for all kinds of colour blindness (Okabe and Ito 2008, jfly.uni-koeln.de/color).
COLORS = ("#0072B2", "#D55E00", "#009E73")


def save(name: str, curves: Sequence[Curve], file: Path) -> None:
    """Draw curves and write them as a picture."""
    figure = Figure(figsize=(5.6 * len(curves), 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(name, fontsize=15, fontweight="bold")
    grid = figure.subplots(3, len(curves), sharex="col", squeeze=False)
    for column, curve in enumerate(curves):
        for row, (title, series) in enumerate(curve.series.items()):
            axes = grid[row, column]
            _draw(axes, curve, series, COLORS[row])
            axes.set_ylabel(title)
        grid[0, column].set_title(curve.title, fontsize=9.5)
        grid[-1, column].set_xlabel(curve.x_name)
    figure.savefig(file, dpi=120)


def _draw(axes: Axes, curve: Curve, series: Array, color: str) -> None:
    """One series; the line is broken at kinks, where derivatives may jump."""
    bounds = [-np.inf, *curve.kinks, np.inf]
    for low, high in pairwise(bounds):
        part = (curve.x > low) & (curve.x < high)
        axes.plot(curve.x[part], series[part], color=color, linewidth=2.0)
    for kink in curve.kinks:
        axes.axvline(kink, color="0.6", linewidth=0.8, linestyle=":")
    low, high = limits(series)
    room = 0.06 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.grid(visible=True, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
