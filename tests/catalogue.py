"""The losses under test, operands for each of them, and the formula variants that they have."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import sampling
from representatives import LOSSES, REPRESENTATIVES, THOROUGH

import fastloss as fl

CALLS = ("__call__", "value_and_grad", "grad", "grad_and_hess", "value_grad_and_hess")
ROWWISE = [name for name, loss in LOSSES.items() if loss.family == "rowwise"]
INDEXED = [name for name in ROWWISE if LOSSES[name].indexed]
DENSE = [name for name in LOSSES if name not in INDEXED]
#: What is tested of calls rather than of formulas needs these only.
THOROUGH_ROWWISE = [name for name in THOROUGH if name in ROWWISE]
THOROUGH_INDEXED = [name for name in THOROUGH if name in INDEXED]


def parameter_fields(loss):
    """The dataclass fields of a loss, by name."""
    return {field.name: field for field in dataclasses.fields(loss)}


def variants(loss):
    """For each formula of a loss, the fewest parameters that choose it."""
    defaults = {name: field.default for name, field in parameter_fields(loss).items()}
    found = {}
    for configured in sampling.configurations(loss):
        parameters = {name: getattr(configured, name) for name in defaults}
        changed = {name: value for name, value in parameters.items() if value != defaults[name]}
        if len(changed) < len(found.get(configured.variant(), defaults)):
            found[configured.variant()] = changed
    return found


def variant_cases(names):
    """Every (loss name, parameters) among some losses, one for each formula that stands for its shape."""
    return [
        (name, parameters)
        for name in names
        for label, parameters in variants(LOSSES[name]).items()
        if label in REPRESENTATIVES.get(name, ())
    ]


def case_id(value):
    """Test ids for names and parameters."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    return value if isinstance(value, str) else None


def calls_taking(option):
    """The calls that have a keyword option."""
    return [c for c in CALLS if option in inspect.signature(getattr(fl.losses.Loss, c)).parameters]


def operands(name, shape=(6, 5), dtype="float64", seed=0):
    """``y_true`` and ``y_pred`` that suit any loss, whatever it takes y_pred for: each row is a distribution.

    The class axis is last.
    """
    generator = np.random.default_rng(seed)
    p = generator.uniform(0.2, 0.9, shape)
    y = generator.uniform(0.1, 0.8, shape)
    if name in ROWWISE:
        p /= p.sum(axis=-1, keepdims=True)
        y /= y.sum(axis=-1, keepdims=True)
    if name in INDEXED:
        return generator.integers(0, shape[-1], shape[:-1]), p.astype(dtype)
    return y.astype(dtype), p.astype(dtype)


def loss_shape(name, shape):
    """Shape of the losses of a ``y_pred`` with the class axis last."""
    return shape[:-1] if name in ROWWISE else shape
