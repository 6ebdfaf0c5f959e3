"""A loss in words, its formulas as they are written, and the CUDA C++ that is generated from them."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ..families.declaration import SETS
from ..families.documentation import catalogue_row
from ..families.loss import Loss, configurations
from ..formula.to_cuda import cuda_text
from ..gpu import catalogue
from ..gpu.pairwise_source import pair_row_text
from ..gpu.source import occupancy_text, row_text

INDENT = 14


def page(loss: type[Loss], configured: Sequence[Loss], width: int) -> Iterator[str]:
    """Everything about a loss but its curves, line by line.

    Parameters
    ----------
    loss
        What the page is about.
    configured
        The configurations whose domains it tells.
    width
        Of the terminal.
    """
    row = {title: cell.replace("`", "") for title, cell in catalogue_row(loss).items()}
    yield f"{row['loss']}{loss.family:>{max(1, width - len(row['loss']))}}"
    yield ""
    yield from _own_words(loss, width)
    yield from _entry("also in", row["also in"], width)
    for operand, sets in zip(loss.operands, zip(*(one.domain() for one in configured), strict=True), strict=True):
        yield from _entry(operand, "; or ".join(dict.fromkeys(SETS[numbers] for numbers in sets)), width)
    yield from _entry("kinks", _kinks(configured), width)
    yield ""
    for field in dataclasses.fields(loss):
        rule = field.metadata["rule"].words
        yield from _entry(field.name, f"{field.metadata['doc']}: {rule} (default {field.default!r})", width)
    yield ""
    for title, body in formulas(loss):
        yield f"# {title}"
        yield body


def _own_words(loss: type[Loss], width: int) -> Iterator[str]:
    """The docstring before what is derived from the definition, each paragraph with a line after it."""
    described = inspect.getdoc(loss) or ""
    for paragraph in described.partition("\n\nParameters\n")[0].split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), width)
        yield ""


def _entry(title: str, body: str, width: int) -> Iterator[str]:
    """A title and what is said of it, on as many lines as it takes."""
    indent = " " * INDENT
    first = f"{title:<{INDENT - 1}} " if len(title) < INDENT else f"{title}\n{indent}"
    lines = textwrap.wrap(body, max(20, width - INDENT)) or ["-"]
    yield first + f"\n{indent}".join(lines)


def _kinks(configured: Sequence[Loss]) -> str:
    """Where the formula changes, as numbers for a target of 1."""
    found = [f"{float(kink):.8g}" for one in configured if one.family == "elementwise" for kink in one.kinks(1.0)]
    return f"y_pred = {', '.join(dict.fromkeys(found))} where y_true = 1" if found else "-"


def formulas(loss: type[Loss]) -> Iterator[tuple[str, str]]:
    """Every formula as it is written."""
    for label, formula in loss.formulas().items():
        yield f"{loss.name}: {label}", textwrap.dedent(inspect.getsource(formula))


def cuda(loss: Any) -> Iterator[tuple[str, str]]:
    """Every formula as CUDA C++."""
    if hasattr(loss, "row_formulas"):
        for label, formula in loss.row_formulas().items():
            body = pair_row_text(formula, loss.predictions()) if loss.several else row_text(formula)
            yield f"{loss.name}: {label}", body + "\n"
    else:
        text = occupancy_text if loss.family == "sequence" else cuda_text
        for label, formula in loss.formulas().items():
            yield f"{loss.name}: {label}", text(formula)


def kernels(loss: Any, dtype: str, classes: int) -> Iterator[tuple[str, str]]:
    """The kernel of each kind of prediction."""
    configured: Any
    for kind, configured in configurations(loss):
        label = f"{loss.name} {kind}".strip()
        if loss.several:
            labelled = loss.row_formulas() if loss.unit == "row" else loss.formulas()
            variant = configured.variant()
            entry = catalogue.pairwise_entry(loss, variant, labelled[variant], dtype, catalogue.USUAL, classes)
        elif hasattr(loss, "row_formulas"):
            true = "int64" if loss.indexed else dtype
            entry = catalogue.rowwise_entry(
                label, configured.formula(), loss.indexed, true, dtype, classes, catalogue.USUAL
            )
        elif loss.family == "sequence":
            entry = catalogue.sequence_entry(
                loss.name, configured.variant(), configured.formula(), dtype, catalogue.USUAL
            )
        else:
            formula = configured.formulas()[configured.variant()]
            entry = catalogue.elementwise_entry(label, formula, dtype, dtype, catalogue.USUAL)
        yield entry.label, entry.text
