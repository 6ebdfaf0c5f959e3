"""Losses that stand for others where every loss would be too many: tests of sweeps, compile gates, quick benchmarks.

A sweep knows no loss: formulas of one shape, which is all that a sweep sees of them, go the same ways through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

#: Configurations whose formulas are always among those that stand for others.
THOROUGH: dict[str, list[dict[str, Any]]] = {
    "binary_crossentropy": [{}, {"from_logits": True}],
    "huber": [{}],
    "mean_absolute_error": [{}],
    "mean_squared_error": [{}],
    "categorical_crossentropy": [{}, {"from_logits": True}],
    "sparse_categorical_crossentropy": [
        *({}, {"from_logits": True}),
        *({"label_smoothing": 0.125}, {"from_logits": True, "label_smoothing": 0.125}),
    ],
}


def formulas_of(loss: Any) -> Mapping[str, Any]:
    """The formulas of a loss, by the labels that its ``variant`` gives."""
    formulas: Mapping[str, Any] = loss.row_formulas() if hasattr(loss, "row_formulas") else loss.formulas()
    return formulas


def shape_of(loss: Any, label: str) -> tuple[str, ...]:
    """What a sweep sees of one formula of a loss: which pieces it has, what is kept, what it is computed in."""
    formula = formulas_of(loss)[label]
    if callable(formula):
        more = len(inspect.signature(formula).parameters) > len(loss.operands)
        return (loss.family, "parameters" if more else "no parameters")
    pieces = {name: value if isinstance(value, str) else bool(value) for name, value in formula._asdict().items()}
    named = [f"{name}: {value}" for name, value in pieces.items() if value]
    kept = "keeps a number per element" if getattr(formula, "keeps", False) else "keeps nothing"
    return (
        loss.family,
        "labels" if getattr(loss, "indexed", False) else "dense",
        *named,
        kept,
        formula.computing("float32"),
    )


def shapes_of(losses: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """A list of (name, label, shape), one for each formula of some losses."""
    return [
        (name, label, shape_of(loss, label)) for name, loss in sorted(losses.items()) for label in formulas_of(loss)
    ]


def representatives(losses: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The labels of the formulas that stand for their shapes, by the loss's name."""
    chosen = {
        name: {losses[name](**parameters).variant(): None for parameters in configured}
        for name, configured in THOROUGH.items()
        if name in losses
    }
    seen = {shape for name, label, shape in shapes_of(losses) if label in chosen.get(name, ())}
    for name, label, shape in shapes_of(losses):
        if shape not in seen:
            chosen.setdefault(name, {})[label] = None
            seen.add(shape)
    return {name: tuple(labels) for name, labels in chosen.items()}
