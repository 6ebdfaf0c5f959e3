"""Documentation derived from a loss's definition: docstrings, and the rows of README's catalogue."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import re
import textwrap
from typing import Any

import numpy as np

from .declaration import SETS
from .loss import Loss
from .parameters import Rule

_OPERANDS = """\
y_true : array_like, shape {true_shape}, {true_types}
{true}
y_pred : array_like, shape {pred_shape}, float16, bfloat16, float32 or float64
{pred}
    Any memory layout. float16 and bfloat16 are computed in float32. If this is a CuPy array, all arrays must be, on
    the same device, and so are the results; the call does not wait for the device.
"""
#: Of several predictions: a target, and each of them.
_TARGET = """\
{name} : array_like, shape {shape}, any floating-point or integer type, or bool
{taken}
"""
_PREDICTION = """\
{name} : array_like, shape {shape}, float16, bfloat16, float32 or float64
{taken}
    All predictions have one shape and type. If they are CuPy arrays of one device, so are the results.
"""
_OPTIONS = """\
sample_weight : array_like, optional
    Finite weights of 0 or more, one per loss; aligned from the leading axis, shape (B,), (B, T), ...
mask : array_like of bool, optional
    Losses where it is False count for nothing, whatever they hold; their gradient is exactly 0.
normalizer : float, optional
    What the sum is divided by, in place of the reduction's own.
check : 'nan' or 'raise', default 'nan'
    For CuPy arrays: whether class numbers out of range and bad weights give NaN, or are looked for, which waits
    for the device, and raise. NumPy arrays are always checked."""

_RAISES = """\
TypeError
    For dtypes and array types other than the above.
ValueError
    For shapes that do not fit, weights that are negative or not finite, {own}or parameters that break their rule."""


def _parameter_lines(loss: type[Loss]) -> str:
    lines = []
    for field in dataclasses.fields(loss):
        rule: Rule = field.metadata["rule"]
        needed = f" Only with {flag}=True." if (flag := field.metadata.get("needs")) else ""
        lines.append(f"{field.name} : {rule.words}, default {field.default!r}")
        lines.append(f"    {_sentence(field.metadata['doc'])}{needed}")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    """Upper-case the first letter, unless it is a symbol that the text explains."""
    return (text if text[1:2] in (":", " ") else text[0].upper() + text[1:]) + "."


def _operand_lines(loss: Any) -> str:
    """What the arrays of a call must be."""
    if not loss.several:
        return _OPERANDS.format(**_operands(loss))
    lines = []
    for number, name in enumerate(loss.operands):
        template, kind = (_TARGET, "Targets") if name == "y_true" else (_PREDICTION, "Predictions")
        shape = "(..., C)" if loss.unit == "row" and kind == "Predictions" else "(...)"
        lines.append(template.format(name=name, shape=shape, taken=_indented(f"{kind}: {taken(loss, number)}.")))
    return "".join(lines)


def _operands(loss: type[Loss]) -> dict[str, str]:
    """Shapes, types and numbers of targets and predictions."""
    shapes = {
        "elementwise": ("(...)", "(...)"),
        "sequence": ("(..., L)", "(..., T, C)"),
        "allpairs": ("(rows,)", "(rows, columns)"),
    }
    true_shape, pred_shape = shapes.get(loss.family, ("(..., C)", "(..., C)"))
    labels = loss().domain().y_true == "label"
    if labels and loss.family == "rowwise":
        true_shape = "(...)"
    true = f"Targets: {taken(loss, 0)}{_LABELS.get(loss.family, '') if labels else ''}."
    return {
        "true_shape": true_shape,
        "true_types": "any integer type" if labels else "any floating-point or integer type, or bool",
        "true": _indented(true),
        "pred_shape": pred_shape,
        "pred": _indented(f"Predictions: {taken(loss, 1)}."),
    }


#: What labels are, by the family.
_LABELS = {
    "rowwise": " from 0 to C - 1",
    "sequence": " other than the blank, padded with the blank or negative numbers",
}


def taken(loss: type[Loss], operand: int) -> str:
    """What targets (0) or predictions (1) may be: usually, and with each parameter that makes them something else."""
    usual = loss().domain()[operand]
    words = [SETS[usual]]
    for field in dataclasses.fields(loss):
        for choice in _choices(field):
            with contextlib.suppress(ValueError):  # a parameter that needs another one
                numbers = loss(**{field.name: choice}).domain()[operand]
                words += [f"with ``{field.name}={choice!r}`` {SETS[numbers]}"] if numbers != usual else []
    return "; ".join(words)


def _choices(field: dataclasses.Field[Any]) -> list[Any]:
    """What else a parameter may be that has only a few values."""
    if isinstance(field.default, bool):
        return [not field.default]
    rule: Rule = field.metadata["rule"]
    names = re.findall(r"'([^']*)'", rule.words) if rule.words.startswith("one of") else []
    return [name for name in names if name != field.default]


def _indented(text: str) -> str:
    return textwrap.fill(text, 116, initial_indent="    ", subsequent_indent="    ", break_long_words=False)


def _example_lines(loss: type[Loss]) -> str:
    lines = [">>> import fastloss as fl"]
    for example in loss.examples[:2]:
        keywords = "".join(f", {name}={value!r}" for name, value in example.parameters.items())
        operands = ", ".join(repr(array) for array in loss.arguments(example.y_true, example.y_pred))
        if loss.__module__.partition(".")[0] == __name__.partition(".")[0]:
            call = f"fl.{loss.name}.value_and_grad({operands}, reduction='sum'{keywords})"
        else:  # a user's own loss is no attribute of the package
            call = f"fl.losses.registry()[{loss.name!r}](reduction='sum'{keywords}).value_and_grad({operands})"
        grads = "[g.round(6).tolist() for g in grad]" if loss.several else "grad.round(6).tolist()"
        lines += [
            f">>> value, grad = {call}",
            f">>> round(value, 6), {grads}",
            repr((round(float(example.value), 6), np.round(np.asarray(example.grad), 6).tolist())),
        ]
    return "\n".join(lines)


def _section(title: str, body: str) -> str:
    return f"{title}\n{'-' * len(title)}\n{body}\n"


def described(loss: type[Loss], prose: str, *, as_function: bool) -> str:
    """The docstring of a loss's class or function: its own prose, then what its definition says."""
    own = "class numbers out of range, " if getattr(loss, "indexed", False) else ""
    parameters = _parameter_lines(loss)
    sections = [inspect.cleandoc(prose)]
    if as_function:
        options = getattr(loss, "call_options", "")
        parameters = _operand_lines(loss) + _OPTIONS + options + "\n" + parameters
        sections += [_section("Parameters", parameters), _section("Returns", _returns(loss))]
    else:
        sections.append(_section("Parameters", parameters))
    sections += [_section("Raises", _RAISES.format(own=own)), _section("Examples", _example_lines(loss))]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _returns(loss: type[Loss]) -> str:
    results = "tuples, with one array for each prediction" if loss.several else "``out`` may be y_pred itself"
    return (
        "float or numpy.ndarray\n"
        f'    The value; with reduction="none" one loss per {loss.unit}, float32 (float64 for float64 predictions).\n'
        "    The attributes ``value_and_grad``, ``grad``, ``grad_and_hess`` and ``value_grad_and_hess`` take the\n"
        "    same arguments, and ``out`` and ``hess_out``: where to write the gradient and the diagonal Hessian;\n"
        f"    {results}." + (_BY_TARGETS if hasattr(loss, "wrt") else "")
    )


_BY_TARGETS = """
    With ``wrt='y_true'`` gradient and Hessian are those by the targets, in the dtype of y_pred."""


def catalogue_row(loss: type[Loss]) -> dict[str, str]:
    """What README's catalogue says of one loss."""
    parameters = [field.name for field in dataclasses.fields(loss) if field.name != "reduction"]
    return {
        "loss": f"`{loss.name}`" + "".join(f", `{alias}`" for alias in loss.aliases),
        "family": loss.family,
        "parameters": ", ".join(f"`{name}`" for name in parameters) or "-",
        "also in": ", ".join(_peer_names(loss)) or "-",
        "tested on": _backends(loss),
    }


def _backends(loss: type[Loss]) -> str:
    """Where its tests against 50 digits run: on the CPU, and if its family has kernels for a GPU, in their emulator."""
    on_device = importlib.util.find_spec(f"{__package__}.{loss.family}_on_device")
    return "CPU, GPU (emulated)" if on_device else "CPU"


def catalogue_rows(losses: dict[str, type[Loss]]) -> list[dict[str, str]]:
    """The rows of README's catalogue, by name."""
    return [catalogue_row(losses[name]) for name in sorted(losses)]


def _peer_names(loss: type[Loss]) -> list[str]:
    """How the peers call this loss: the first function that each peer's expression names."""
    peers: Any = loss.peers
    found = (
        ("Keras", re.search(r"keras\.losses\.(\w+)", peers.keras)),
        ("torch", re.search(r"\bF\.(\w+)", peers.torch)),
        *(("scikit-learn", re.search(r"(\w+)", words)) for words in peers.scikit_learn.split("|")),
        ("optax", re.search(r"optax\.losses\.(\w+)", peers.optax)),
    )
    return [f"{library} `{match[1]}`" for library, match in found if match]
