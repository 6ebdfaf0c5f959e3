"""The pieces of a formula on rows of several predictions (pairs, triplets), and how they are wired.

Rows of all predictions are gone through together, three times:

1. ``first``: terms of the elements, 0 or more, of which the row's largest counts (``peaks``), or else its sum;
2. ``statistics``: terms summed over the row, which may ask for the results of the first pass;
3. after ``finish``, the row's loss and coefficients, ``element``: the gradients by every prediction at one place of the
   row, in their order, then the Hessians.

Each piece names what it wants as arguments: results of earlier pieces, the loss's parameters, the predictions by the
names that the loss gives them, and ``y``, the row's target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .wiring import argument_names, call_by_name, result_names


class PairFormula(NamedTuple):
    """One variant of a loss on rows of several predictions."""

    first: Callable[..., Any]
    statistics: Callable[..., Any]
    finish: Callable[..., Any]
    element: Callable[..., Any]
    peaks: bool = False  # whether the first pass looks for the largest terms, not for sums
    wide: bool = False  # computed in float64 whatever the predictions are: their squares neither over- nor underflow

    @property
    def firsts(self) -> tuple[str, ...]:
        """Names of the first pass's results."""
        return result_names(self.first)

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the row sums of the second pass."""
        return result_names(self.statistics)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of what `finish` gives besides the row's value."""
        return result_names(self.finish)[1:]

    @property
    def pieces(self) -> dict[str, Callable[..., Any]]:
        """Every function of the formula, by what it is."""
        return {name: getattr(self, name) for name in ("first", "statistics", "finish", "element")}

    def parameters(self, predictions: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the loss's parameters that the pieces read: every argument that nothing else provides."""
        provided = {"y", *predictions, *self.firsts, *self.sums, *self.coefficients}
        asked = dict.fromkeys(name for piece in self.pieces.values() for name in argument_names(piece))
        return tuple(name for name in asked if name not in provided)

    def computing(self, pred: str) -> str:
        """Precision that rows of type ``pred`` are computed in."""
        return "float64" if pred == "float64" or self.wide else "float32"


def results_of(piece: Callable[..., Any], values: dict[str, Any]) -> tuple[Any, ...]:
    """The results of a piece, its arguments looked up."""
    results = call_by_name(piece, values)
    return results if isinstance(results, tuple) else (results,)
