"""Everything that is timed in one case, and the proof that it computes the same thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import numpy_peers, sklearn_peers, torch_peers
from .by_formula import exact, stacked, taken
from .cases import Case
from .data import Operands

Array = NDArray[Any]

FASTLOSS, FLOAT32, NUMPY, TORCH, SKLEARN = "fastloss", "fastloss float32", "numpy", "torch", "scikit-learn"

#: Relative to the largest gradient, and of the value.
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-10}
#: Gradients of a mean over 1e7 numbers lie among float16's last steps above 0: this many steps are forgiven.
STEPS = {"float16": 3 * 2.0**-24}


#: What torch's connectionist temporal classification is forgiven: it adds logarithms of hundreds in float32, each
#: rounded by some hundred steps of a probability near 1.
LOGARITHMS = 64.0


@dataclass(frozen=True)
class Contender:
    """One way to compute a loss and its gradient: the call that is timed, and how to read its result."""

    call: Callable[[], Any]
    result: Callable[[Any], tuple[float, Array]]
    dtype: str


def contenders(case: Case, data: Operands, threads: int) -> dict[str, Contender]:
    """Make every contender that has this case: fastloss, and the peers that are installed."""
    made = {FASTLOSS: _fastloss(case, data)}
    if case.dtype in ("float16", "bfloat16"):
        wide = Operands(*(side if side.dtype.kind == "i" else side.astype(np.float32) for side in data))
        made[FLOAT32] = _fastloss(case, wide)
    made[NUMPY] = _numpy(case, data)
    for name, make in ((TORCH, _torch), (SKLEARN, _sklearn)):
        contender = make(case, data, threads)
        if contender is not None:
            made[name] = contender
    return made


def disagreements(case: Case, data: Operands, made: dict[str, Contender]) -> dict[str, str]:
    """What is wrong with each contender whose value or gradient is not that of the formula in float64."""
    value, gradient = exact(case.loss, *data)
    found = {}
    for name, contender in made.items():
        try:
            tolerance = TOLERANCE[contender.dtype]
            tolerance *= LOGARITHMS if name == TORCH and case.loss.family == "sequence" else 1.0
            fault = _fault(*contender.result(contender.call()), value, gradient, tolerance, contender.dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if fault:
            found[name] = fault
    return found


def _fault(value: float, gradient: Array, right: float, right_gradient: Array, tolerance: float, dtype: str) -> str:
    """How a result differs from the right one by more than its type explains; empty if it does not."""
    if not abs(value - right) <= tolerance * max(abs(right), 1e-3):
        return f"value {value:.7g} instead of {right:.7g}"
    if gradient.shape != right_gradient.shape:
        return f"gradient of shape {gradient.shape} instead of {right_gradient.shape}"
    worst = float(np.max(np.abs(gradient - right_gradient)))
    largest = float(np.max(np.abs(right_gradient)))
    if not worst <= tolerance * largest + STEPS.get(dtype, 0.0):
        return f"gradient off by {worst:.3g}, the largest being {largest:.3g}"
    return ""


def _fastloss(case: Case, data: Operands) -> Contender:
    """The call of a training loop: value and gradient into a buffer that it keeps."""
    value_and_grad, loss = case.loss.value_and_grad, case.loss
    out = np.empty_like(data.p)
    arguments, (_, buffers) = loss.arguments(*taken(loss, *data)), taken(loss, data.y, out)
    return Contender(
        lambda: value_and_grad(*arguments, out=buffers),
        lambda result: (result[0], _wide(stacked(result[1]))),
        data.p.dtype.name,
    )


def _numpy(case: Case, data: Operands) -> Contender:
    out = np.empty_like(data.p)
    call = numpy_peers.call(case.loss, case.configuration, *data, out)
    return Contender(call, lambda value: (value, _wide(out)), case.dtype)


def _torch(case: Case, data: Operands, threads: int) -> Contender | None:
    if torch_peers.available():
        return None
    found = torch_peers.call(case.loss, *data, threads)
    if found is None:
        return None
    call, predictions = found
    return Contender(call, lambda value: torch_peers.result(value, predictions), case.dtype)


def _sklearn(case: Case, data: Operands, threads: int) -> Contender | None:
    if sklearn_peers.available():
        return None
    found = sklearn_peers.call(case.loss, *data, threads)
    if found is None:
        return None
    call, factor = found
    return Contender(call, lambda output: sklearn_peers.result(output, factor), case.dtype)


def _wide(gradient: Array) -> Array:
    return gradient.astype(np.float64)
