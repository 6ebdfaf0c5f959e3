"""Documentation derived from a loss's definition: docstrings, and the rows of README's catalogue."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import numpy as np

from .loss import Loss
from .parameters import Rule

_CALL_PARAMETERS = """\
y_true : array_like{true_shape}
    Targets. {true_kind}
y_pred : array_like, shape {pred_shape}, float16, bfloat16, float32 or float64
    Predictions, in any memory layout. float16 and bfloat16 are computed in float32. If this is a CuPy array, all
    arrays must be, on the same device, and so are the results; the call does not wait for the device.
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
        lines.append(f"{field.name} : {rule.words}, default {field.default!r}\n    {_sentence(field.metadata['doc'])}")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    """Upper-case the first letter, unless it is a symbol that the text explains."""
    return (text if text[1:2] in (":", " ") else text[0].upper() + text[1:]) + "."


def _shapes(loss: type[Loss]) -> dict[str, str]:
    if loss.family == "elementwise":
        kind = "Any floating-point type, bool or integer."
        return {"true_shape": ", shape (...)", "pred_shape": "(...)", "true_kind": kind}
    if loss.family == "sequence":
        kind = "Class numbers other than the blank, any integer type; padded with the blank or negative numbers."
        return {"true_shape": ", shape (..., L)", "pred_shape": "(..., T, C)", "true_kind": kind}
    if getattr(loss, "indexed", False):
        kind = "Class numbers from 0 to C - 1, any integer type."
        return {"true_shape": ", shape (...)", "pred_shape": "(..., C)", "true_kind": kind}
    kind = "A value per class: any floating-point type, bool or integer."
    return {"true_shape": ", shape (..., C)", "pred_shape": "(..., C)", "true_kind": kind}


def _example_lines(loss: type[Loss]) -> str:
    lines = [">>> import fastloss as fl"]
    for example in loss.examples[:2]:
        keywords = "".join(f", {name}={value!r}" for name, value in example.parameters.items())
        operands = f"{example.y_true!r}, {example.y_pred!r}"
        if loss.__module__.partition(".")[0] == __name__.partition(".")[0]:
            call = f"fl.{loss.name}.value_and_grad({operands}, reduction='sum'{keywords})"
        else:  # a user's own loss is no attribute of the package
            call = f"fl.losses.registry()[{loss.name!r}](reduction='sum'{keywords}).value_and_grad({operands})"
        lines += [
            f">>> value, grad = {call}",
            ">>> round(value, 6), grad.round(6).tolist()",
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
        parameters = _CALL_PARAMETERS.format(**_shapes(loss)) + options + "\n" + parameters
        sections += [_section("Parameters", parameters), _section("Returns", _returns(loss))]
    else:
        sections.append(_section("Parameters", parameters))
    sections += [_section("Raises", _RAISES.format(own=own)), _section("Examples", _example_lines(loss))]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _returns(loss: type[Loss]) -> str:
    unit = {"elementwise": "element", "sequence": "sequence"}.get(loss.family, "row")
    return (
        "float or numpy.ndarray\n"
        f'    The value; with reduction="none" one loss per {unit}, float32 (float64 for float64 predictions).\n'
        "    The attributes ``value_and_grad``, ``grad``, ``grad_and_hess`` and ``value_grad_and_hess`` take the\n"
        "    same arguments, and ``out`` and ``hess_out``: where to write the gradient and the diagonal Hessian;\n"
        "    ``out`` may be y_pred itself."
    )


def catalogue_row(loss: type[Loss]) -> dict[str, str]:
    """What README's catalogue says of one loss."""
    parameters = [field.name for field in dataclasses.fields(loss) if field.name != "reduction"]
    return {
        "loss": f"`{loss.name}`" + "".join(f", `{alias}`" for alias in loss.aliases),
        "family": loss.family,
        "parameters": ", ".join(f"`{name}`" for name in parameters) or "-",
        "also in": ", ".join(_peer_names(loss)) or "-",
    }


def catalogue_rows(losses: dict[str, type[Loss]]) -> list[dict[str, str]]:
    """The rows of README's catalogue, by name."""
    return [catalogue_row(losses[name]) for name in sorted(losses)]


def _peer_names(loss: type[Loss]) -> list[str]:
    """How the peers call this loss: the first function that each peer's expression names."""
    peers: Any = loss.peers
    found = (
        ("Keras", re.search(r"keras\.losses\.(\w+)", peers.keras)),
        ("torch", re.search(r"\bF\.(\w+)", peers.torch)),
        ("scikit-learn", re.search(r"(\w+)", peers.scikit_learn)),
    )
    return [f"{library} `{match[1]}`" for library, match in found if match]
