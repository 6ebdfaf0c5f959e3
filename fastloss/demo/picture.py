"""The demo's picture: training curves laid over each other, and bars of the time the loss takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter

from .comparison import Comparison

# Two colours that stay apart for all kinds of colour blindness (Okabe and Ito 2008, jfly.uni-koeln.de/color).
FAST_COLOR, PLAIN_COLOR = "#56B4E9", "#D55E00"
FAST_NAME, PLAIN_NAME = "fastloss", "plain NumPy"
BAR_WIDTH = 0.38


def save_picture(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the picture and write it as PNG.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The trained tasks, one curve panel for each.
    path : pathlib.Path
        The file to write.
    """
    figure = Figure(figsize=(13.0, 8.0), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08))
    FigureCanvasAgg(figure)
    figure.suptitle("The same training with fastloss and with plain NumPy", fontsize=16, fontweight="bold")
    half = len(comparisons)  # the lower row's two panels are as wide as the upper row's curves together
    grid = figure.add_gridspec(2, 2 * half, height_ratios=[1.15, 1.0])
    for index, comparison in enumerate(comparisons):
        _draw_curves(figure.add_subplot(grid[0, 2 * index : 2 * index + 2]), comparison)
    _draw_call_times(figure.add_subplot(grid[1, :half]), comparisons)
    _draw_shares(figure.add_subplot(grid[1, half:]), comparisons)
    figure.savefig(path, dpi=120)


def _draw_curves(axes: Axes, comparison: Comparison) -> None:
    task = comparison.task
    epochs = np.arange(1, task.epochs + 1)
    fast, plain = comparison.fast.epoch_losses(), comparison.plain.epoch_losses()
    axes.plot(epochs, fast, color=FAST_COLOR, linewidth=6, label=FAST_NAME)
    axes.plot(epochs, plain, "--", color=PLAIN_COLOR, linewidth=1.8, label=PLAIN_NAME)
    outcome = f"{task.loss_name}, test {task.unit} {task.in_words(comparison.score)}"
    axes.set_title(f"{task.name}: {task.model}\n{outcome}", fontsize=10.5)
    axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.3)
    axes.legend(title=f"largest difference {comparison.difference:.1g}", frameon=False, loc="upper right")
    _tidy(axes)


def _draw_call_times(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    plain = [comparison.plain.microseconds_per_call for comparison in comparisons]
    fast = [comparison.fast.microseconds_per_call for comparison in comparisons]
    ratios = [f"NumPy / fastloss: {comparison.times_faster:.1f}" for comparison in comparisons]
    _draw_pairs(axes, plain, fast, "{:.1f}")
    _name_pairs(axes, comparisons, ratios)
    axes.set(title="Time of one call: loss and gradient of a training batch", ylabel="median, microseconds")


def _draw_shares(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    plain = [100 * comparison.plain.loss_share for comparison in comparisons]
    fast = [100 * comparison.fast.loss_share for comparison in comparisons]
    models = [comparison.task.model for comparison in comparisons]
    _draw_pairs(axes, plain, fast, "{:.0f} %")
    _name_pairs(axes, comparisons, models)
    axes.set(title="Part of the training time that goes into the loss", ylabel="% of all training time")


def _draw_pairs(axes: Axes, plain: Sequence[float], fast: Sequence[float], label: str) -> None:
    places = np.arange(len(plain))
    for side, heights, color, name in (
        (-0.5, plain, PLAIN_COLOR, PLAIN_NAME),
        (0.5, fast, FAST_COLOR, FAST_NAME),
    ):
        bars = axes.bar(places + side * BAR_WIDTH, heights, BAR_WIDTH, color=color, label=name)
        axes.bar_label(bars, [label.format(height) for height in heights], padding=2)
    axes.set_ylim(0.0, 1.35 * max(*plain, *fast))
    axes.legend(frameon=False, loc="upper right", ncols=2)
    _tidy(axes)


def _name_pairs(axes: Axes, comparisons: Sequence[Comparison], last_lines: Sequence[str]) -> None:
    tasks = [comparison.task for comparison in comparisons]
    names = [f"{task.name}\n{task.loss_name}\n{line}" for task, line in zip(tasks, last_lines, strict=True)]
    axes.set_xticks(np.arange(len(names)), names, fontsize=9.5)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
