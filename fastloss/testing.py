"""For tests of your own: is a loss's gradient right, and is a call no slower than it was.

Both raise an ``AssertionError`` of one line, so they stand in any test as they are, under pytest or without it. They
take the package's losses and those that you define yourself (see ``CONTRIBUTING.md``) alike.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bench.timing import pairs
from .messages import rejected

Array = NDArray[np.float64]
Index = tuple[int, ...]

__all__ = ["assert_gradient", "assert_not_slower"]

#: Steps of finite differences as a share of the number they move. Two central differences, extrapolated, are off by
#: their fifth derivative times the fourth power of a step and by a rounding over a step: the fifth root balances them.
STEP = float(np.finfo(np.float64).eps ** 0.2)
#: Roundings of a loss, in ulp, that a difference of two may show.
ROUNDINGS = 64.0
#: Elements that are looked at; of more, as many are drawn.
MOST = 400
#: A pair of samples is this long at least (seconds): time enough to see 1 % of it.
SAMPLE = 2e-3
#: How many times more pairs are timed before a call counts as slower.
AGAIN = 3


def assert_gradient(
    loss: Any,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    *,
    mask: Any = None,
    normalizer: Any = None,
    rtol: float = 1e-6,
) -> None:
    """Raise unless gradient and diagonal Hessian are what finite differences give, in float64.

    Each element of ``y_pred`` is moved by itself, both ways, in steps of 7e-4 of it, and the differences extrapolated
    (Richardson 1911, doi:10.1098/rsta.1911.0009): of a smooth loss they are right to some 1e-10. The Hessian is checked
    in the same way against the gradient, where the loss has one.

    Parameters
    ----------
    loss
        A loss of this package or one like it: what it gives by ``loss(y_true, y_pred, ...)`` and
        ``loss.value_and_grad(y_true, y_pred, ...)``; also ``loss.value_grad_and_hess`` if there is one. Where the loss
        is one per element or row, the gradient is that of their sum.
    y_true, y_pred
        Targets and predictions, of any shape that the loss takes. Predictions are converted to float64; of more than
        400, as many are drawn (always the same ones). Those nearer than a thousandth to a kink that the loss declares
        (``loss.kinks(y_true)``) are left out; a loss that declares none must be given none.
    sample_weight, mask, normalizer
        As for the loss; only passed on if given.
    rtol
        How far a derivative may be off, relative to itself.

    Raises
    ------
    AssertionError
        If one is off by more than that, and more than the differences' own roundings: with the worst element.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> from fastloss.testing import assert_gradient
    >>> rng = np.random.default_rng(0)
    >>> labels, logits = rng.integers(0, 10, 20), rng.normal(size=(20, 10))
    >>> assert_gradient(fl.SparseCategoricalCrossentropy(from_logits=True), labels, logits)
    """
    if not rtol > 0:
        raise ValueError(rejected("assert_gradient", "rtol", "be > 0", repr(rtol)))
    given = {"sample_weight": sample_weight, "mask": mask, "normalizer": normalizer}
    options = {name: value for name, value in given.items() if value is not None}
    by_targets = getattr(loss, "wrt", "y_pred") == "y_true"
    moved = np.array(y_true if by_targets else y_pred, np.float64)

    def called(name: str, at: Array, which: int) -> Array:
        call = getattr(loss, name)
        results = call(at, y_pred, **options) if by_targets else call(y_true, at, **options)
        return np.asarray(results[which] if name != "__call__" else results, np.float64)

    def total(at: Array, _: Index) -> float:
        return float(called("__call__", at, 0).sum())

    def slope(at: Array, index: Index) -> float:
        return float(called("value_and_grad", at, 1)[index])

    steps = _steps(loss, moved)
    chosen = _chosen(~_near_kinks(loss, y_true, moved, steps))
    _compare(loss, "gradient", called("value_and_grad", moved, 1), _derivatives(total, moved, steps, chosen), rtol)
    if hasattr(loss, "value_grad_and_hess"):
        right = _derivatives(slope, moved, steps, chosen)
        _compare(loss, "Hessian", called("value_grad_and_hess", moved, 2), right, rtol)


def _chosen(offered: NDArray[np.bool_]) -> list[Index]:
    """Places in an array where something is offered: all, or `MOST` of them."""
    every = [index for index in np.ndindex(offered.shape) if offered[index]]
    return random.Random(0).sample(every, MOST) if len(every) > MOST else every


def _near_kinks(loss: Any, y_true: Any, moved: Array, steps: Array) -> NDArray[np.bool_]:
    """Where a step would cross a kink that the loss declares."""
    near = np.zeros(moved.shape, bool)
    if hasattr(loss, "kinks") and getattr(loss, "wrt", "y_pred") == "y_pred":
        for kink in loss.kinks(np.asarray(y_true)):
            near |= abs(moved - kink) <= 2.0 * steps
    return near


def _steps(loss: Any, moved: Array) -> Array:
    """How far each number is moved: a share of its distance to 0, and where it is a probability to 1."""
    room = abs(moved)
    if hasattr(loss, "domain") and loss.domain().y_pred in ("probability", "unit"):
        room = np.minimum(room, abs(1.0 - moved))
    return STEP * np.where(room > 0.0, room, 1.0)


def _derivatives(
    function: Callable[[Array, Index], float], moved: Array, steps: Array, chosen: list[Index]
) -> dict[Index, tuple[float, float]]:
    """What `_derivative` gives for each of the chosen elements."""
    return {index: _derivative(function, moved, index, float(steps[index])) for index in chosen}


def _derivative(
    function: Callable[[Array, Index], float], around: Array, index: Index, step: float
) -> tuple[float, float]:
    """The derivative by one element, and how much of it roundings may be."""

    def at(distance: float) -> float:
        moved = around.copy()
        moved[index] += distance
        return function(moved, index)

    values = at(step), at(-step), at(0.5 * step), at(-0.5 * step)
    whole, half = (values[0] - values[1]) / (2.0 * step), (values[2] - values[3]) / step
    doubt = ROUNDINGS * np.finfo(np.float64).eps * max(map(abs, values)) / step
    return (4.0 * half - whole) / 3.0, doubt


def _compare(loss: Any, what: str, actual: Array, right: dict[Index, tuple[float, float]], rtol: float) -> None:
    wrong = []
    for index, (number, doubt) in right.items():
        allowed = rtol * max(abs(number), abs(actual[index])) + doubt
        off = abs(actual[index] - number)
        if not off <= allowed:  # nor if it is no number
            wrong.append((off / allowed if allowed > 0 else math.inf, index))
    if wrong:
        _, index = max(wrong, key=lambda found: (math.isnan(found[0]), found[0]))
        message = (
            f"assert_gradient: {what} of {_name(loss)} at {list(index)} is {actual[index]:.10g}; finite differences "
            f"give {right[index][0]:.10g}; {len(wrong)} of {len(right)} elements are off"
        )
        raise AssertionError(message)


def _name(loss: Any) -> str:
    return str(getattr(loss, "name", "") or getattr(loss, "__name__", "") or type(loss).__name__)


def assert_not_slower(
    base: Callable[[], Any], head: Callable[[], Any], *, at_most: float = 1.05, rounds: int = 40
) -> float:
    """Raise if one call takes longer than another, timed in pairs in this process.

    In each round both are called, in turns the one or the other first; what counts is the median of the rounds' ratios.
    Machines that are busy, hot or shared slow both down alike: equal calls come out within 1 % of each other on a
    machine where separate processes differ by 80 %. Rounds in which a thread had to wait for a processor are left out
    (on Linux) where enough others remain. What seems slower is timed again, three times as long, before it counts.

    Parameters
    ----------
    base, head
        Calls without arguments: what the time may be, and what it is. Give both their results' buffers (``out=``), as
        fresh memory costs more than most losses; calls on a GPU must wait for it.
    at_most
        The largest ratio of the two times that passes.
    rounds
        Pairs to time.

    Returns
    -------
    float
        The median ratio: 1.0 is as fast, 2.0 takes twice as long.

    Raises
    ------
    AssertionError
        If the ratio is larger than ``at_most``, twice.

    Examples
    --------
    >>> import numpy as np
    >>> import fastloss as fl
    >>> from fastloss.testing import assert_not_slower
    >>> y, p = np.random.default_rng(0).random((2, 10_000))
    >>> out = np.empty_like(p)
    >>> def by_hand():
    ...     difference = p - y
    ...     return np.mean(difference**2), 2.0 * difference / difference.size
    >>> ratio = assert_not_slower(by_hand, lambda: fl.mean_squared_error.value_and_grad(y, p, out=out))
    """
    for name, number in (("at_most", at_most), ("rounds", rounds)):
        if not number > 0:
            raise ValueError(rejected("assert_not_slower", name, "be > 0", repr(number)))
    for several in (rounds, AGAIN * rounds):
        ratios = sorted(_ratios(base, head, several))
        ratio = statistics.median(ratios)
        if ratio <= at_most:
            return ratio
    quarter = len(ratios) // 4
    message = (
        f"assert_not_slower: {_name(head)} takes {ratio:.3g} times as long as {_name(base)} "
        f"({ratios[quarter]:.3g} to {ratios[-1 - quarter]:.3g} in half of {len(ratios)} pairs); at most {at_most:.3g}"
    )
    raise AssertionError(message)


def _ratios(base: Callable[[], Any], head: Callable[[], Any], rounds: int) -> Iterator[float]:
    return (later / earlier for earlier, later in pairs(base, head, rounds, SAMPLE))
