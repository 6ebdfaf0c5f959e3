"""The pieces of a rowwise formula, and how they are wired.

A row of classes is reduced in up to three steps, whatever the loss:

1. ``first``: its largest element (``peak``) or the sum of its elements (``total``);
2. ``statistics``: terms per element, summed over the row. One result named ``kept`` is not summed but kept for step 4;
3. ``finish``: the row's loss, and coefficients for step 4;
4. ``element``: gradient and Hessian of one element; ``target_element`` that of the true class, where the target is a
   class number.

Each piece names what it wants as arguments: results of earlier pieces, the loss's parameters, and what `PROVIDED`
lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .wiring import argument_names, call_by_name, result_names

#: What every sweep provides by name.
PROVIDED = {
    "x": "the element's prediction",
    "y": "the element's target, where targets are dense",
    "class_weight": "the weight of the element's class; 1 without weights",
    "class_weight_sum": "the sum of all class weights; the number of classes without weights",
    "classes": "the number of classes",
    "target_x": "the prediction of the true class, where the target is a class number",
    "target_weight": "the true class's weight, likewise",
}


class RowFormula(NamedTuple):
    """One variant of a rowwise loss. Absent pieces are None."""

    first: str | None  # "peak": the largest x of the row; "total": their sum
    statistics: Callable[..., Any] | None
    finish: Callable[..., Any]
    element: Callable[..., Any]
    target_element: Callable[..., Any] | None = None  # the rule for the true class of an index target
    wide: bool = False  # computed in float64 whatever y_pred is: differences of sums over the row cancel

    @property
    def keeps(self) -> bool:
        """Whether statistics give a value per element that the element rule wants back."""
        return self.statistics is not None and "kept" in result_names(self.statistics)

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the row sums."""
        return tuple(n for n in result_names(self.statistics) if n != "kept") if self.statistics else ()

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of what `finish` gives besides the row's value."""
        return result_names(self.finish)[1:]

    @property
    def pieces(self) -> tuple[Callable[..., Any], ...]:
        """Every function of the formula."""
        pieces = (self.statistics, self.finish, self.element, self.target_element)
        return tuple(piece for piece in pieces if piece is not None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the loss's parameters that the pieces read: every argument that nothing else provides."""
        provided = {*PROVIDED, self.first, "kept", *self.sums, *self.coefficients}
        asked = dict.fromkeys(name for piece in self.pieces for name in argument_names(piece))
        return tuple(name for name in asked if name not in provided)

    def computing(self, pred: str) -> str:
        """Precision that rows of type ``pred`` are computed in.

        From probabilities always float64: the gradient of a class near 1 is the difference of its row's sum and
        itself.
        """
        return "float64" if pred == "float64" or self.first == "total" or self.wide else "float32"

    # -- the pieces, their wires filled from dictionaries of lanes --------------------------------------------------

    def statistics_of(self, values: dict[str, Any]) -> dict[str, Any]:
        """Terms of the sums, and ``kept``, of some elements."""
        statistics = self.statistics
        assert statistics is not None
        results = call_by_name(statistics, values)
        return dict(zip(result_names(statistics), results if isinstance(results, tuple) else (results,), strict=True))

    def finish_of(self, values: dict[str, Any], first: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row's value and coefficients."""
        values = {**values, **dict(zip(self.sums, sums, strict=False))}
        if self.first:
            values[self.first] = first
        results = call_by_name(self.finish, values)
        return results if isinstance(results, tuple) else (results,)

    def rule_of(
        self, rule: Callable[..., Any], values: dict[str, Any], first: Any, coefficients: tuple[Any, ...]
    ) -> Any:
        """Gradient and Hessian by one of the two element rules."""
        values = {**values, **dict(zip(self.coefficients, coefficients, strict=False))}
        if self.first:
            values[self.first] = first
        return call_by_name(rule, values)
