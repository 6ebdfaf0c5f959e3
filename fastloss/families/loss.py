"""The class all losses derive from: a frozen, hashable configuration with five calls."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np

from ..dispatch import GRAD, HESS, VALUE
from ..messages import rejected
from ..validate import Array, as_array, output
from .declaration import Domain, Example, Peers
from .parameters import choice, converted, require_needs

#: Every concrete loss by name, in the order of definition.
_REGISTRY: dict[str, type[Loss]] = {}

REDUCTIONS = {
    "mean": ("sum_over_batch_size",),
    "sum": (),
    "weighted_mean": ("mean_with_sample_weight",),
    "none": (),
}
#: What becomes of class numbers and weights that are wrong, in CuPy arrays: NaN, or an error, which waits for the
#: device. In NumPy arrays they are always an error.
CHECKS = ("nan", "raise")


def snake_case(name: str) -> str:
    """``MeanSquaredError`` -> ``mean_squared_error``, ``KLDivergence`` -> ``kl_divergence``, ``CTC`` -> ``ctc``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def registry() -> dict[str, type[Loss]]:
    """Every loss by name, also those that users have defined.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.losses.registry()["huber"] is fl.Huber
    True
    """
    return dict(_REGISTRY)


def named(names: Collection[str]) -> dict[str, type[Loss]]:
    """The losses of some names or aliases, in the order of definition; all, if none is given.

    Raises
    ------
    ValueError
        If there is no such loss.
    """
    known = {alias: name for name, loss in _REGISTRY.items() for alias in (name, *loss.aliases)}
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"no loss {unknown[0]!r}; there are {', '.join(sorted(_REGISTRY))}"
        raise ValueError(message)
    wanted = {known[name] for name in names} or set(_REGISTRY)
    return {name: loss for name, loss in _REGISTRY.items() if name in wanted}


def configurations(loss: type[Loss]) -> list[tuple[str, Loss]]:
    """A loss for every kind of prediction that it accepts: logits, (log-)probabilities, or just what it takes."""
    if "from_logits" not in {field.name for field in dataclasses.fields(loss)}:
        return [("", loss())]
    logits, others = (loss(from_logits=choice) for choice in (True, False))  # type: ignore[call-arg]
    kind = "log-probabilities" if others.domain().y_pred.startswith("log_") else "probabilities"
    return [("logits", logits), (kind, others)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """A configured loss."""

    reduction: str = choice("mean", REDUCTIONS, "how losses become one value; see `fastloss.losses`")

    # Kernels by what they are specialised on, and the short way in for small arrays (see `fastloss.cpu.quick`).
    _plans: ClassVar[dict[Any, Any]]
    _quick: ClassVar[Any]

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    #: Names of the arrays that every call takes, in order.
    operands: ClassVar[tuple[str, ...]] = ("y_true", "y_pred")
    #: Whether predictions, and so gradients and Hessians, are several: tuples.
    several: ClassVar[bool] = False
    #: What has one loss: an element, a row or a sequence.
    unit: ClassVar[str] = "row"
    aliases: ClassVar[tuple[str, ...]] = ()
    peers: ClassVar[Peers] = Peers()
    examples: ClassVar[tuple[Example, ...]] = ()
    takes: ClassVar[Domain | None] = None  # where every configuration takes the same: see `domain`

    def __init_subclass__(cls, abstract: bool = False, **options: Any) -> None:
        """Name and register a concrete loss."""
        super().__init_subclass__(**options)
        if not abstract:
            cls.name = snake_case(cls.__name__)
            known = _REGISTRY.get(cls.name)
            own = __name__.partition(".")[0] + "."
            if known is not None and known.__module__.startswith(own) and not cls.__module__.startswith(own):
                raise ValueError(rejected(cls.name, "the class", "have a name of its own", "that of a built-in loss"))
            _REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        """Check every parameter against its rule."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, converted(self.name, field, getattr(self, field.name)))
        require_needs(self)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the configuration, not the kernels found for it."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled configuration."""
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self._forget()

    def _forget(self) -> None:
        """Start with no kernels found and no short way in."""
        object.__setattr__(self, "_plans", {})
        object.__setattr__(self, "_quick", None)

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        raise NotImplementedError

    @classmethod
    def arguments(cls, y_true: Any, y_pred: Any) -> tuple[Any, ...]:
        """A target and predictions in the order of a call."""
        return y_true, y_pred

    @classmethod
    def call_signature(cls) -> inspect.Signature:
        """What a call takes: the operands, then options."""
        own = inspect.signature(cls.__call__)
        return own.replace(parameters=list(own.parameters.values())[1:])

    def domain(self) -> Domain:
        """What this configuration takes: ``takes``, else logits or probabilities by ``from_logits`` or real numbers."""
        if self.takes is not None:
            return self.takes
        if not hasattr(self, "from_logits"):
            return Domain()
        target = "unit" if self.family == "elementwise" else "distribution"
        if getattr(self, "indexed", False):
            target = "label"
        return Domain(target, "logit" if self.from_logits else "probability")

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Predictions at which the formula for target ``y`` changes; elementwise losses declare those they have."""
        return ()

    def _evaluate(
        self,
        outputs: int,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        mask: Any,
        normalizer: Any,
        out: Any,
        hess_out: Any,
        check: str,
    ) -> tuple[Any, ...]:
        """Value, gradient and Hessian, those that ``outputs`` asks for, and by-products; each family has its own."""
        raise NotImplementedError

    def _several(self, outputs: int, *arguments: Any) -> tuple[Any, ...]:
        """The results that a call asks for, and by-products."""
        value, grad, hess, *more = self._evaluated(outputs, *arguments)
        wanted = ((VALUE, value), (GRAD, grad), (HESS, hess))
        return (*(result for output, result in wanted if outputs & output), *more)

    def _one(self, outputs: int, *arguments: Any) -> Any:
        """The same of a call that asks for one result: alone, if there are no by-products."""
        results = self._several(outputs, *arguments)
        return results if len(results) > 1 else results[0]

    def _evaluated(self, outputs: int, *arguments: Any) -> tuple[Any, ...]:
        check = arguments[-1]
        if check not in CHECKS:
            raise ValueError(rejected(self.name, "check", "be 'nan' or 'raise'", repr(check)))
        return self._evaluate(outputs, *arguments)

    def _given(self, argument: str, array: Any) -> Array | None:
        """An optional argument as an array."""
        return None if array is None else as_array(self.name, argument, array)

    def _results(
        self, outputs: int, p: Array, out: Any, hess_out: Any, operands: tuple[Array | None, ...]
    ) -> tuple[Array | None, Array | None]:
        """Where gradient and Hessian go: the caller's buffers, checked, or new ones."""
        grad = hess = None
        if outputs & GRAD:
            grad = np.empty_like(p) if out is None else output(self.name, "out", out, p, p, operands)
        if outputs & HESS and hess_out is None:
            hess = np.empty_like(p)
        elif outputs & HESS:
            hess = output(self.name, "hess_out", hess_out, p, None, (*operands, grad))
        return grad, hess

    def _nothing_left(self, grad: Array | None, hess: Array | None) -> tuple[float, Any, Any]:
        """The results where there is nothing to average: 0, and exact zeros."""
        for result in (grad, hess):
            if result is not None:
                result[...] = 0
        return 0.0, grad, hess

    def __call__(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        mask: Any = None,
        normalizer: Any = None,
        check: str = "nan",
    ) -> Any:
        """Return the value alone."""
        return self._one(VALUE, y_true, y_pred, sample_weight, mask, normalizer, None, None, check)

    def value_and_grad(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        mask: Any = None,
        normalizer: Any = None,
        out: Any = None,
        check: str = "nan",
    ) -> tuple[Any, ...]:
        """Return value and gradient in one pass."""
        if self._quick is not None and sample_weight is None and mask is None and normalizer is None:
            results: tuple[Any, ...] | None = self._quick(y_true, y_pred, out)
            if results is not None:
                return results
        outputs = VALUE | GRAD
        return self._several(outputs, y_true, y_pred, sample_weight, mask, normalizer, out, None, check)

    def grad(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        mask: Any = None,
        normalizer: Any = None,
        out: Any = None,
        check: str = "nan",
    ) -> Any:
        """Return the gradient alone."""
        return self._one(GRAD, y_true, y_pred, sample_weight, mask, normalizer, out, None, check)

    def grad_and_hess(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        mask: Any = None,
        normalizer: Any = None,
        out: Any = None,
        hess_out: Any = None,
        check: str = "nan",
    ) -> tuple[Any, ...]:
        """Return gradient and diagonal Hessian in one pass."""
        outputs = GRAD | HESS
        return self._several(outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)

    def value_grad_and_hess(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        mask: Any = None,
        normalizer: Any = None,
        out: Any = None,
        hess_out: Any = None,
        check: str = "nan",
    ) -> tuple[Any, ...]:
        """Return value, gradient and diagonal Hessian in one pass."""
        outputs = VALUE | GRAD | HESS
        return self._several(outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)
