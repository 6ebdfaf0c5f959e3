"""What a loss declares beside its formula: examples, the same loss elsewhere, what it takes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Example(NamedTuple):
    """A hand-computed example: operands, parameters and the exact results of reduction="sum".

    Of a loss of several predictions, ``y_pred``, ``grad`` and ``hess`` are tuples.
    """

    y_true: Any
    y_pred: Any
    value: float
    grad: Any
    hess: Any
    parameters: dict[str, Any] = {}  # noqa: RUF012  never mutated


class Peers(NamedTuple):
    """The same loss elsewhere, as an expression in ``y``, ``p``, the loss's parameters, ``loss`` and the peer's module.

    A loss of several predictions has its ``operands`` instead of ``y`` and ``p``.

    ``torch`` may use ``math``, ``torch``, ``F`` (torch.nn.functional), ``reduction`` and ``weight`` (class weights);
    ``keras`` may use ``keras``, ``optax`` may use ``optax`` and ``jax``. An expression that is None for some parameters
    has no such loss with them. ``scikit_learn`` names a class in ``sklearn._loss``, the factor that its values need and
    parameters that must be set for it; alternatives are parted by ``|``.

    ``plain`` is what the benchmark times where ``torch`` is none: one loss per element or row by torch's operations, as
    a user would write it, right for ordinary numbers.
    """

    torch: str = ""
    keras: str = ""
    scikit_learn: str = ""
    plain: str = ""
    optax: str = ""


#: What targets and predictions may be, by the names that a `Domain` gives, in the words of the documentation.
SETS = {
    "real": "any real numbers",
    "non_negative": "numbers of 0 or more",
    "positive": "numbers above 0",
    "unit": "numbers from 0 to 1",
    "sign": "-1 or 1",
    "binary": "0 or 1",
    "label": "class numbers",
    "distribution": "numbers from 0 to 1 that sum to 1 over the class axis",
    "log_distribution": "logarithms of numbers from 0 to 1 that sum to 1 over the class axis",
    "logit": "logits (any real numbers)",
    "probability": "probabilities",
    "log_probability": "logarithms of probabilities",
}


class Domain(NamedTuple):
    """What a configuration takes for targets and predictions, each by a name among `SETS`.

    Outside of it a formula still gives what it gives; tests, benchmarks and curves stay inside.
    """

    y_true: str = "real"
    y_pred: str = "real"
