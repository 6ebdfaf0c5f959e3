"""``python -m fastloss show``: a loss's formulas as they are written, or as CUDA C++."""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from .families.loss import Loss, configurations, named
from .formula.to_cuda import cuda_text
from .gpu import catalogue
from .gpu.source import row_text


def main(arguments: list[str]) -> int:
    """Print the text of one loss; exit status 2 if there is no such loss."""
    parser = argparse.ArgumentParser(prog="python -m fastloss show", description=__doc__)
    parser.add_argument("loss", help="a loss's name or alias")
    parser.add_argument("--cuda", action="store_true", help="the CUDA C++ that is generated from the formulas")
    parser.add_argument(
        "--kernel", action="store_true", help="whole kernels, as they are compiled, for value and gradient"
    )
    parser.add_argument("--dtype", choices=catalogue.DTYPES, default="float32", help="of y_pred, for --kernel")
    parser.add_argument("--classes", type=int, default=1000, help="for --kernel of a rowwise loss")
    options = parser.parse_args(arguments)
    try:
        (loss,) = named([options.loss]).values()
    except ValueError as error:
        sys.stderr.write(f"show: {error}\n")
        return 2
    parts = _kernels(loss, options) if options.kernel else _cuda(loss) if options.cuda else _formulas(loss)
    for title, text in parts:
        print(f"// {title}\n{text}" if options.cuda or options.kernel else f"# {title}\n{text}")  # noqa: T201
    return 0


def _formulas(loss: type[Loss]) -> Iterator[tuple[str, str]]:
    """Every formula as it is written."""
    for label, formula in loss.formulas().items():
        yield f"{loss.name}: {label}", textwrap.dedent(inspect.getsource(formula))


def _cuda(loss: Any) -> Iterator[tuple[str, str]]:
    """Every formula as CUDA C++."""
    if hasattr(loss, "row_formulas"):
        for label, formula in loss.row_formulas().items():
            yield f"{loss.name}: {label}", row_text(formula) + "\n"
    else:
        for label, formula in loss.formulas().items():
            yield f"{loss.name}: {label}", cuda_text(formula)


def _kernels(loss: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The kernel of each kind of prediction."""
    configured: Any
    for kind, configured in configurations(loss):
        label = f"{loss.name} {kind}".strip()
        if hasattr(loss, "row_formulas"):
            true = "int64" if loss.indexed else options.dtype
            entry = catalogue.rowwise_entry(
                label, configured.formula(), loss.indexed, true, options.dtype, options.classes, catalogue.USUAL
            )
        else:
            formula = configured.formulas()[configured.variant()]
            entry = catalogue.elementwise_entry(label, formula, options.dtype, options.dtype, catalogue.USUAL)
        yield entry.label, entry.text
