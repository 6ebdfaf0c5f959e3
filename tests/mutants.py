"""Losses that are wrong on purpose: a test that passes them tests nothing.

A mutant formula is written to a file, since formulas are read from their source, and calls the true one.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re

from fastloss.formula.subset import check
from fastloss.formula.wiring import result_names

_numbers = itertools.count()


def mutant_formula(function, changes, folder):
    """The formula with some results replaced: ``{position: expression in the result's name r}``."""
    arguments = ", ".join(inspect.signature(function).parameters)
    try:
        names = result_names(function)
    except SyntaxError:  # not every piece need return plain names
        names = tuple(f"result_{i}" for i in range(check(function).outputs))
    lines = []
    for position, change in changes.items():
        expression = re.sub(r"\br\b", names[position], change)
        lines.append(f"    {names[position]} = {expression}\n")
    text = (
        "from fastloss.formula.ops import where\n\n"
        f"def {function.__name__}({arguments}):\n"
        f"    {', '.join(names)} = original({arguments})\n"
        f"{''.join(lines)}"
        f"    return {', '.join(names)}\n"
    )
    path = folder / f"mutant_{next(_numbers)}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    module.original = function
    spec.loader.exec_module(module)
    return getattr(module, function.__name__)


def mutant(loss, piece, changes, folder):
    """The configured loss with one formula changed.

    ``piece`` is "formula" for an elementwise loss; for a rowwise one it names the piece.
    """
    cls = type(loss)
    if piece in (around := loss.around() if loss.family == "rowwise" else {}):
        override = ("around", {**around, piece: mutant_formula(around[piece], changes, folder)})
    elif loss.family == "rowwise":
        formulas = cls.row_formulas()
        own = formulas[loss.variant()]
        changed = own._replace(**{piece: mutant_formula(getattr(own, piece), changes, folder)})
        override = ("row_formulas", {**formulas, loss.variant(): changed})
    else:
        formulas = cls.formulas()
        changed = mutant_formula(formulas[loss.variant()], changes, folder)
        override = ("formulas", {**formulas, loss.variant(): changed})
    return with_override(loss, *override)


def with_override(loss, name, result):
    """The same configuration of a subclass, unknown to the registry, whose class method gives ``result``."""
    namespace = {name: classmethod(lambda cls: result), "variant": lambda self: loss.variant()}
    subclass = type(type(loss).__name__, (type(loss),), namespace, abstract=True)
    return subclass(**loss.__getstate__())


def mutations(loss):
    """(what, piece, changes, the check that must notice) for ways to get this configuration's formula wrong."""
    formula = loss.formula() if loss.family == "rowwise" else None
    yield "value 1 % too large", "finish" if formula else "formula", {0: "1.01 * r"}, "gradient"
    if formula and formula.link and not formula.by_target:
        yield "the link's slope left out", "link", {1: "1.0"}, "gradient"
        yield "the link's curvature wrong", "link", {2: "r + 0.01"}, "hessian"
        yield "the link's slope left out of the Hessian", "link", {1: "1.0"}, "hessian"
    if formula and formula.penalty and not formula.by_target:
        yield "penalty 1 % too large", "penalty", {0: "1.01 * r"}, "gradient"
        yield "gradient of the penalty 1 % too large", "penalty_element", {0: "1.01 * r"}, "gradient"
        yield "Hessian of the penalty 1 % too large", "penalty_element", {1: "1.01 * r"}, "hessian"
    if formula and formula.penalty and formula.target_element:
        yield "gradient of the penalty 1 % too large, true class", "penalty_target", {0: "1.01 * r"}, "gradient"
        yield "Hessian of the penalty 1 % too large, true class", "penalty_target", {1: "1.01 * r"}, "hessian"
    rules = ("element", "target_element") if formula else ("formula",)
    grad, hess = (0, 1) if formula else (1, 2)
    for rule in rules:
        if formula and getattr(formula, rule) is None:
            continue
        yield f"gradient of the other sign ({rule})", rule, {grad: "-r"}, "gradient"
        yield f"gradient 1 % too large ({rule})", rule, {grad: "1.01 * r"}, "gradient"
        yield f"gradient shifted ({rule})", rule, {grad: "r + 0.01"}, "gradient"
        yield f"Hessian too large ({rule})", rule, {hess: "r + 0.01"}, "hessian"
        yield f"Hessian of the other sign ({rule})", rule, {hess: "-r - 0.01"}, "hessian"
