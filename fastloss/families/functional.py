"""A loss as a function: the parameters as keywords, the five calls as attributes."""

from __future__ import annotations

import dataclasses
import inspect
from functools import lru_cache
from typing import Any

from ..messages import rejected
from .documentation import described
from .loss import Loss


class LossFunction:
    """One loss as a function. ``huber(y, p, delta=0.5)`` equals ``Huber(delta=0.5)(y, p)``, and so do its methods."""

    def __init__(self, loss: type[Loss], name: str) -> None:
        self.loss, self.__name__, self.__qualname__ = loss, name, name
        self.__module__ = loss.__module__
        prose = loss.__doc__ or ""
        self.__doc__ = described(loss, prose, as_function=True)
        loss.__doc__ = described(loss, prose, as_function=False)
        self._default = loss()
        self._of_value = frozenset(loss.call_signature().parameters)
        self._of_derivatives = self._of_value.union(_RESULTS)
        configured: Any = lru_cache(maxsize=64, typed=True)(lambda **parameters: loss(**parameters))
        self._configured = configured
        self.__signature__ = _signature(loss)

    def _with(self, parameters: dict[str, Any]) -> Loss:
        if not parameters:
            return self._default
        known = {field.name for field in dataclasses.fields(self.loss)}
        for name in parameters:
            if name not in known:
                hint = "That one goes with value_and_grad and its like" if name in _RESULTS else ""
                rule = f"be among {', '.join(sorted(known))}"
                raise TypeError(rejected(self.__name__, "keywords", rule, repr(name), hint))
        try:
            configured: Loss = self._configured(**parameters)
        except TypeError:  # a list or an array, which no cache takes: in its kept form it is a tuple
            loss = self.loss(**parameters)
            configured = self._configured(**{name: getattr(loss, name) for name in parameters})
        return configured

    def __call__(self, *operands: Any, **options: Any) -> Any:
        """Return the value alone."""
        call, parameters = _split(options, self._of_value)
        return self._with(parameters)(*operands, **call)

    def value_and_grad(self, *operands: Any, **options: Any) -> tuple[Any, ...]:
        """Return value and gradient in one pass."""
        call, parameters = _split(options, self._of_derivatives)
        return self._with(parameters).value_and_grad(*operands, **call)

    def grad(self, *operands: Any, **options: Any) -> Any:
        """Return the gradient alone."""
        call, parameters = _split(options, self._of_derivatives)
        return self._with(parameters).grad(*operands, **call)

    def grad_and_hess(self, *operands: Any, **options: Any) -> tuple[Any, ...]:
        """Return gradient and diagonal Hessian in one pass."""
        call, parameters = _split(options, self._of_derivatives)
        return self._with(parameters).grad_and_hess(*operands, **call)

    def value_grad_and_hess(self, *operands: Any, **options: Any) -> tuple[Any, ...]:
        """Return value, gradient and diagonal Hessian in one pass."""
        call, parameters = _split(options, self._of_derivatives)
        return self._with(parameters).value_grad_and_hess(*operands, **call)

    def __repr__(self) -> str:
        return f"<fastloss function {self.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.loss,)


#: Options of calls that write results, besides what every call takes.
_RESULTS = ("out", "hess_out")


def _split(options: dict[str, Any], known: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the call, and parameters of the loss."""
    call = {name: options.pop(name) for name in known.intersection(options)}
    return call, options


def _restored(loss: type[Loss]) -> LossFunction:
    return function_of(loss)


def _signature(loss: type[Loss]) -> inspect.Signature:
    own = list(loss.call_signature().parameters.values())
    fields = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for field in dataclasses.fields(loss)
    ]
    return inspect.Signature(own + sorted(fields, key=lambda p: p.name == "reduction"))


_FUNCTIONS: dict[type[Loss], LossFunction] = {}


def function_of(loss: type[Loss]) -> LossFunction:
    """Give the one function that belongs to a loss class, and complete the docstrings of both."""
    if loss not in _FUNCTIONS:
        _FUNCTIONS[loss] = LossFunction(loss, loss.name)
    return _FUNCTIONS[loss]
