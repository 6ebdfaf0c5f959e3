"""Parameters of losses: a default, a rule that every value must meet, and a line of documentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ..formula.wiring import argument_names
from ..messages import rejected


class Rule(NamedTuple):
    """What a parameter's value must be, in words and as a conversion that raises ValueError or TypeError."""

    words: str
    convert: Callable[[Any], Any]


def _parameter(default: Any, rule: Rule, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc})


def _real(accepts: Callable[[float], bool]) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not accepts(float(value)):
            raise ValueError
        return float(value)

    return convert


def needing(flag: str, parameter: Any) -> Any:
    """A parameter that differs from its default only where a flag of the loss is True."""
    return dataclasses.field(default=parameter.default, metadata={**parameter.metadata, "needs": flag})


def require_needs(loss: Any) -> None:
    """Raise ValueError if a parameter was given without the flag that it needs."""
    for field in dataclasses.fields(loss):
        flag, value = field.metadata.get("needs"), getattr(loss, field.name)
        if flag is not None and value != field.default and not getattr(loss, flag):
            raise ValueError(rejected(loss.name, field.name, f"be {field.default!r} without {flag}=True", value))


def real(default: float, doc: str) -> Any:
    """Any finite number."""
    return _parameter(default, Rule("a finite number", _real(math.isfinite)), doc)


def positive(default: float, doc: str, most: float = math.inf) -> Any:
    """A finite number above 0, and no greater than ``most``."""
    words = "> 0" if most == math.inf else f"in (0, {most:g}]"
    return _parameter(default, Rule(words, _real(lambda x: 0 < x <= most and x < math.inf)), doc)


def non_negative(default: float, doc: str) -> Any:
    """A finite number of 0 or more."""
    return _parameter(default, Rule(">= 0", _real(lambda x: 0 <= x < math.inf)), doc)


def unit_interval(default: float, doc: str) -> Any:
    """A number from 0 to 1."""
    return _parameter(default, Rule("in [0, 1]", _real(lambda x: 0 <= x <= 1)), doc)


def open_unit_interval(default: float, doc: str) -> Any:
    """A number above 0 and below 1."""
    return _parameter(default, Rule("in (0, 1)", _real(lambda x: 0 < x < 1)), doc)


def quantiles(default: float, doc: str) -> Any:
    """A number above 0 and below 1, or a sequence of such, kept as a tuple."""
    inside = _real(lambda x: 0 < x < 1)

    def convert(value: Any) -> float | tuple[float, ...]:
        if isinstance(value, Real):
            return inside(value)
        numbers = np.asarray(value)  # of a set, an array of no dimensions
        if numbers.ndim != 1 or numbers.size == 0 or isinstance(value, np.ma.MaskedArray):
            raise ValueError
        return tuple(inside(number) for number in numbers.tolist())

    return _parameter(default, Rule("in (0, 1), or a sequence of such numbers", convert), doc)


def optional_positive(doc: str) -> Any:
    """A finite number above 0, or None."""
    convert = _real(lambda x: 0 < x < math.inf)
    return _parameter(None, Rule("> 0 or None", lambda x: None if x is None else convert(x)), doc)


def norm_degree(default: float, doc: str) -> Any:
    """The p of a p-norm: 1 or more; infinity is the largest magnitude."""
    return _parameter(default, Rule(">= 1, or infinity", _real(lambda x: x >= 1)), doc)


def clip_margin(default: float, doc: str) -> Any:
    """A distance from 0 and 1 that probabilities keep: above 0, below 1/2."""
    return _parameter(default, Rule("in (0, 0.5)", _real(lambda x: 0 < x < 0.5)), doc)


def flag(default: bool, doc: str) -> Any:
    """True or False."""

    def convert(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)

    return _parameter(default, Rule("True or False", convert), doc)


def integer(default: int, doc: str) -> Any:
    """Any integer."""
    return _parameter(default, Rule("an integer", _integer), doc)


def axes(default: int | tuple[int, ...] | None, doc: str) -> Any:
    """One axis, several, or None: all of them."""

    def convert(value: Any) -> int | tuple[int, ...] | None:
        if value is None or isinstance(value, Integral):
            return None if value is None else _integer(value)
        if not isinstance(value, tuple | list) or not value:
            raise ValueError
        return tuple(_integer(number) for number in value)

    return _parameter(default, Rule("None, an integer or integers", convert), doc)


def optional_integer(doc: str) -> Any:
    """Any integer, or None."""
    return _parameter(None, Rule("an integer or None", lambda x: None if x is None else _integer(x)), doc)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError
    return int(value)


def optional_weights(doc: str) -> Any:
    """A sequence of finite numbers of 0 or more, kept as a tuple; or None."""
    rule = Rule("None or a sequence of finite numbers >= 0", lambda x: None if x is None else _weights(x))
    return _parameter(None, rule, doc)


def weights(default: float, doc: str) -> Any:
    """A finite number of 0 or more, or a sequence of such numbers, kept as a tuple."""
    number = _real(lambda x: 0 <= x < math.inf)
    rule = Rule(">= 0 or a sequence of finite numbers >= 0", lambda x: _weights(x) if np.ndim(x) else number(x))
    return _parameter(default, rule, doc)


def _weights(value: Any) -> tuple[float, ...]:
    given = np.asarray(value)
    if isinstance(value, np.ma.MaskedArray) or given.dtype.kind not in "fiu":
        raise ValueError
    weights = given.astype(np.float64)
    if weights.ndim != 1 or not weights.size or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError
    return tuple(weights.tolist())


def one_of(default: int, numbers: Sequence[int], doc: str) -> Any:
    """One of a few integers."""

    def convert(value: Any) -> int:
        if _integer(value) not in numbers:
            raise ValueError
        return int(value)

    return _parameter(default, Rule("one of " + ", ".join(map(str, numbers)), convert), doc)


def wrt(doc: str = "what the gradient and the Hessian are taken with respect to") -> Any:
    """Whether derivatives are those by the predictions or by the targets."""
    return choice("y_pred", {"y_pred": (), "y_true": ()}, doc)


def labels() -> Any:
    """Whether two classes are -1 and 1, or 0 and 1."""
    return choice("sign", {"sign": (), "binary": ()}, "what the classes are: -1 and 1, or 0 and 1")


def choice(default: str, aliases: Mapping[str, Sequence[str]], doc: str) -> Any:
    """One of the names that are ``aliases``' keys; each may be given by its aliases too."""
    names = {alias: name for name, others in aliases.items() for alias in (name, *others)}

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return names[value]

    return _parameter(default, Rule("one of " + ", ".join(map(repr, aliases)), convert), doc)


def converted(owner: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """The value in its kept form, or the one error a user sees for a bad parameter."""
    rule: Rule = field.metadata["rule"]
    try:
        return rule.convert(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(rejected(owner, field.name, f"be {rule.words}", repr(value))) from None


def read_by(loss: Any, formula: Callable[..., Any]) -> tuple[list[float], tuple[float, ...] | None]:
    """What a formula reads of a loss after its operands; and the same where that is what it reads by default.

    Kernels for the defaults have them written in: 5 % faster on binary cross-entropy.
    """
    names, usual = argument_names(formula)[len(loss.operands) :], type(loss)()
    values = [float(getattr(loss, name)) for name in names]
    return values, tuple(values) if values == [float(getattr(usual, name)) for name in names] else None
