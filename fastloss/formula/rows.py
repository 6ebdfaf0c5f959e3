"""The pieces of a rowwise formula, and how they are wired.

A row of classes is reduced in up to three steps, whatever the loss:

1. ``first``: its largest element (``peak``) or the sum of its elements (``total``); with ``first_of``, of what that
   makes of each element;
2. ``statistics``: terms per element, summed over the row. One result named ``kept`` is not summed but kept for what
   follows. Where terms depend on sums, there is a second round: ``halfway`` gives numbers of the row from the sums so
   far, ``again`` more terms;
3. ``finish``: the row's loss, and coefficients for step 4;
4. ``element``: gradient and Hessian of one element; ``target_element`` that of the true class, where the target is a
   class number.

A ``link`` stands before all of them: they see what it makes of each prediction, and their gradient and Hessian go
through the chain rule to the predictions themselves. As it never falls, the peak of what it gives is what it gives for
the peak. A ``penalty`` comes after them: it gives what is added to the row's loss whatever that is, and coefficients;
``penalty_element`` and ``penalty_target`` what is added to gradients and Hessians. A ``report`` changes nothing: it is
one more number of each row, written beside where the row's largest prediction is.

Each piece names what it wants as arguments: results of earlier pieces, the loss's parameters, and what `PROVIDED`
lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .wiring import argument_names, call_by_name, result_names

#: The pieces that are functions, in the order in which a row meets them.
PIECES = (
    *("link", "first_of", "statistics", "halfway", "again", "finish", "penalty", "report"),
    *("element", "penalty_element", "target_element", "penalty_target"),
)
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
    first_of: Callable[..., Any] | None = None  # what `first` is the largest or the sum of, in place of x
    halfway: Callable[..., Any] | None = None  # numbers of the row, between the rounds of statistics
    again: Callable[..., Any] | None = None  # the second round
    link: Callable[..., Any] | None = None  # what stands for x; its value, and first and second derivative by x
    penalty: Callable[..., Any] | None = None  # what is added to the row's loss, from its coefficients
    penalty_element: Callable[..., Any] | None = None  # what that adds to gradient and Hessian
    penalty_target: Callable[..., Any] | None = None  # the same for the true class
    report: Callable[..., Any] | None = None  # a number of the row that is given back, besides where its peak is
    by_target: bool = False  # the element rule differentiates by y, which no link and no penalty touches

    @property
    def keeps(self) -> bool:
        """Whether statistics give a value per element that the element rule wants back."""
        return self.statistics is not None and "kept" in result_names(self.statistics)

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the row sums; those of the first round, if there are two."""
        return tuple(n for n in result_names(self.statistics) if n != "kept") if self.statistics else ()

    @property
    def sums_again(self) -> tuple[str, ...]:
        """Names of the second round's row sums."""
        return result_names(self.again) if self.again else ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of what is known of a row when it comes to `finish`, besides what ``first`` found."""
        return (*self.sums, *(result_names(self.halfway) if self.halfway else ()), *self.sums_again)

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of what `finish` and the penalty give besides the row's value."""
        return (*result_names(self.finish)[1:], *(result_names(self.penalty)[1:] if self.penalty else ()))

    @property
    def pieces(self) -> tuple[Callable[..., Any], ...]:
        """Every function of the formula."""
        return tuple(piece for name in PIECES if (piece := getattr(self, name)) is not None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the loss's parameters that the pieces read: every argument that nothing else provides."""
        provided = {*PROVIDED, self.first, "kept", *self.numbers, *self.coefficients}
        asked = dict.fromkeys(name for piece in self.pieces for name in argument_names(piece))
        return tuple(name for name in asked if name not in provided)

    def computing(self, pred: str) -> str:
        """Precision that rows of type ``pred`` are computed in.

        From probabilities always float64: the gradient of a class near 1 is the difference of its row's sum and
        itself.
        """
        return "float64" if pred == "float64" or self.first == "total" or self.wide else "float32"

    # -- the pieces, their wires filled from dictionaries of lanes --------------------------------------------------

    def linked(self, x: Any, values: dict[str, Any]) -> tuple[Any, ...]:
        """What the pieces see of a prediction; where there is a link, also its first and second derivative."""
        return (x,) if self.link is None else _results(self.link, {**values, "x": x})

    def linked_first(self, first: Any, values: dict[str, Any]) -> Any:
        """What the pieces see of the first pass's result: a prediction, unless ``first_of`` has chosen otherwise."""
        return first if self.first_of else self.linked(first, values)[0]

    def statistics_of(self, values: dict[str, Any]) -> dict[str, Any]:
        """Terms of the sums, and ``kept``, of some elements."""
        assert self.statistics is not None
        return dict(zip(result_names(self.statistics), _results(self.statistics, values), strict=True))

    def halfway_of(self, values: dict[str, Any], first: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        """What is known of a row before the second round: the sums, and what is computed from them."""
        return (*sums, *(_results(self.halfway, self._known(values, first, sums)) if self.halfway else ()))

    def again_of(self, values: dict[str, Any], first: Any, numbers: tuple[Any, ...]) -> dict[str, Any]:
        """Terms of the second round's sums."""
        assert self.again is not None
        return dict(zip(self.sums_again, _results(self.again, self._known(values, first, numbers)), strict=True))

    def finish_of(self, values: dict[str, Any], first: Any, numbers: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row's value and coefficients."""
        values = self._known(values, first, numbers)
        value, *coefficients = _results(self.finish, values)
        if self.penalty:
            values |= dict(zip(self.coefficients, coefficients, strict=False))
            cost, *more = _results(self.penalty, values)
            value, coefficients = value + cost, coefficients + more
        return (value, *coefficients)

    def report_of(self, values: dict[str, Any], first: Any, coefficients: tuple[Any, ...]) -> Any:
        """What is given back of a row besides its value."""
        assert self.report is not None
        found = {self.first: first} if self.first else {}
        return call_by_name(
            self.report, {**values, **dict(zip(self.coefficients, coefficients, strict=False)), **found}
        )

    def _known(self, values: dict[str, Any], first: Any, numbers: tuple[Any, ...]) -> dict[str, Any]:
        """Values with what ``first`` found and as many of the row's numbers as are known yet."""
        found = {self.first: first} if self.first else {}
        return {**values, **dict(zip(self.numbers, numbers, strict=False)), **found}

    def rule_of(
        self,
        rule: Callable[..., Any],
        values: dict[str, Any],
        first: Any,
        coefficients: tuple[Any, ...],
        slopes: tuple[Any, ...] = (),
    ) -> tuple[Any, Any]:
        """Gradient and Hessian by one of the two element rules; ``slopes`` are the link's derivatives there."""
        values = {**values, **dict(zip(self.coefficients, coefficients, strict=False))}
        if self.first:
            values[self.first] = first
        grad, hess = call_by_name(rule, values)
        penalty = self.penalty_element if rule is self.element else self.penalty_target
        if penalty and not self.by_target:
            more_grad, more_hess = call_by_name(penalty, values)
            grad, hess = grad + more_grad, hess + more_hess
        if slopes and not self.by_target:
            slope, curvature = slopes
            grad, hess = grad * slope, hess * slope * slope + grad * curvature
        return grad, hess


def _results(piece: Callable[..., Any], values: dict[str, Any]) -> tuple[Any, ...]:
    results = call_by_name(piece, values)
    return results if isinstance(results, tuple) else (results,)
