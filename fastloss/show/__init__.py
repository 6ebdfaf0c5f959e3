"""``python -m fastloss show``: what a loss is, as text and as curves; ``list``: every loss there is."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

from ..families.loss import Loss, configurations, named
from ..gpu import catalogue
from . import text
from .curve import Curve, curve_of
from .drawing import drawn

DONE, UNUSABLE = 0, 2


def main(arguments: list[str]) -> int:
    """Print the text of one loss; exit status 2 for a bad request."""
    options = _parser().parse_args(arguments)
    try:
        (loss,) = named([options.loss]).values()
        configured = _configured(loss, options.parameters)
    except ValueError as error:
        sys.stderr.write(f"show: {error}\n")
        return UNUSABLE
    if options.cuda or options.kernel:
        parts = text.kernels(loss, options.dtype, options.classes) if options.kernel else text.cuda(loss)
        for title, body in parts:
            print(f"// {title}\n{body}")
        return DONE
    curves = [curve_of(one, kind) for kind, one in _drawn(configured)]
    if options.png:
        return _save(loss, [one for one in curves if one is not None], options.png)
    width = min(shutil.get_terminal_size().columns, 100)
    for line in text.page(loss, [one for _, one in configured], width):
        print(line)
    for one in curves:
        print("no curve: each of its losses depends on many predictions" if one is None else drawn(one, width) + "\n")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastloss show", description="Print what a loss is, and its curves, or draw them."
    )
    parser.add_argument("loss", help="a loss's name or alias")
    parser.add_argument(
        "parameters", nargs="*", metavar="PARAMETER=VALUE", help="of the curves: delta=0.5; default: the defaults"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves into a file (needs matplotlib)")
    parser.add_argument("--cuda", action="store_true", help="the CUDA C++ that is generated from the formulas")
    parser.add_argument(
        "--kernel", action="store_true", help="whole kernels, as they are compiled, for value and gradient"
    )
    parser.add_argument("--dtype", choices=catalogue.DTYPES, default="float32", help="of y_pred, for --kernel")
    parser.add_argument("--classes", type=int, default=1000, help="for --kernel of a rowwise loss")
    return parser


def _drawn(configured: list[tuple[str, Loss]]) -> list[tuple[str, Loss]]:
    """What has a curve: of a loss of several quantiles each."""
    columns: tuple[Any, ...] = getattr(configured[0][1], "columns", tuple)()
    return [(f"quantile = {one.quantile:g}", one) for one in columns] or configured


def _configured(loss: type[Loss], given: list[str]) -> list[tuple[str, Loss]]:
    """The configurations to draw: each kind of prediction by the defaults, or the one that is asked for."""
    if not given:
        return configurations(loss)
    known = [field.name for field in dataclasses.fields(loss)]
    parameters: dict[str, Any] = {}
    for word in given:
        name, _, value = word.partition("=")
        if name not in known:
            message = f"{loss.name} has no parameter {name!r}; there are {', '.join(known)}"
            raise ValueError(message)
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[name] = value
    return [(", ".join(given), loss(**parameters))]


def _save(loss: type[Loss], curves: list[Curve], file: Path) -> int:
    try:
        from .picture import save
    except ImportError:
        sys.stderr.write("show: --png needs matplotlib: pip install 'fastloss[demo]'\n")
        return UNUSABLE
    if not curves:
        sys.stderr.write(f"show: {loss.name} has no curve: each of its losses depends on many predictions\n")
        return UNUSABLE
    try:
        save(loss.name, curves, file)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"show: {error}\n")
        return UNUSABLE
    print(f"{file}: written")
    return DONE
