"""``python -m fastloss warmup``: compile kernels before they are needed, when an image or a cluster is set up.

Compiled are the kernels of a loss for each kind of prediction, with targets of y_pred's type or int64 labels: the five
calls for small arrays, value and value with gradient also with weights and for arrays of 16 MB. Others (class weights,
targets of other types, ``reduction="none"``) are compiled when they are first needed, in about a second each. Kernels
are for the processor type they are compiled on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple, TextIO

import numpy as np

from .families.elementwise import BYPASS_CACHE_FROM
from .families.loss import Loss, configurations, named
from .families.rowwise import LONG_ROWS_FROM
from .validate import Array, dtype_named

DTYPES = ("float16", "bfloat16", "float32", "float64")
#: The five calls.
CALLS = ("__call__", "value_and_grad", "grad", "grad_and_hess", "value_grad_and_hess")
#: Those that are also warmed up with weights and for large arrays.
USUAL = CALLS[:2]
BAR = 30


class Request(NamedTuple):
    """One call that needs a kernel."""

    loss: Loss
    dtype: str
    shape: tuple[int, ...]
    call: str
    weighted: bool

    def make(self) -> None:
        """Make the call, so that its kernel is compiled and kept."""
        arrays = operands(self.loss, self.shape, self.dtype)
        weights = {"sample_weight": np.ones(self.shape[0])} if self.weighted else {}
        getattr(self.loss, self.call)(*arrays, **weights)


def operands(loss: Loss, shape: tuple[int, ...], dtype: str) -> tuple[Array, ...]:
    """A target and predictions that suit any loss."""
    y_pred = np.full(shape, 1.0 / shape[-1] if loss.family == "rowwise" else 0.5, dtype_named(dtype))
    if loss.several:
        y_true = np.ones(shape[:-1] if loss.unit == "row" else shape, y_pred.dtype)
        return tuple(y_true if name == "y_true" else y_pred for name in loss.operands)
    if loss.family == "sequence":
        return np.ones((shape[0], 1), np.int64), y_pred
    if getattr(loss, "indexed", False) or loss.family == "allpairs":
        return np.zeros(shape[:-1], np.int64), y_pred
    return y_pred, y_pred


def requests(loss: Loss, dtype: str) -> Iterator[Request]:
    """The calls of one configured loss that need kernels of their own."""
    size = dtype_named(dtype).itemsize
    small: list[tuple[int, ...]]
    large: tuple[int, ...] | None
    if loss.family == "allpairs":  # weights need no kernels of their own; thousands of rows take the long way
        small, large = [(8, 2), (200, 2)], None
    elif loss.family == "sequence":  # nor here; and one kernel does for any size
        small, large = [(2, 4, 3)], None
    elif loss.unit == "row" and loss.several:
        small, large = [(2, 8), (2, 16), (2, 32), (2, 64)], None
    elif loss.unit == "row":
        long_row = LONG_ROWS_FROM // size
        small, large = [(2, 4), (2, 200)], (BYPASS_CACHE_FROM // LONG_ROWS_FROM, long_row)
    else:
        small, large = [(8,)], (BYPASS_CACHE_FROM // size,)
    for shape in small:
        yield from (Request(loss, dtype, shape, call, weighted=False) for call in CALLS)
        yield from (Request(loss, dtype, shape, call, weighted=True) for call in USUAL)
    if large is not None:
        yield from (Request(loss, dtype, large, call, weighted=False) for call in USUAL)


def main(arguments: list[str]) -> int:
    """Compile, with a progress bar; exit status 1 if kernels cannot be kept, 2 for a bad request."""
    options = _options(arguments)
    from .cpu import cache
    from .cpu.team import compile_team

    try:
        losses = named(options.losses)
    except ValueError as error:
        sys.stderr.write(f"warmup: {error}\n")
        return 2
    if "bfloat16" in options.dtypes and find_spec("ml_dtypes") is None:
        sys.stderr.write("warmup: bfloat16 needs the package ml_dtypes\n")
        return 2
    obstacle = cache.obstacle(to_write=True)
    if obstacle:
        sys.stderr.write(f"warmup: kernels cannot be kept: {obstacle}\n")
        return 1
    start = time.perf_counter()
    cache.Notice.withhold()
    compile_team()
    wanted = [
        (f"{name} {kind} {dtype}".replace("  ", " "), request)
        for name, loss in losses.items()
        for kind, configured in configurations(loss)
        for dtype in options.dtypes
        for request in requests(configured, dtype)
    ]
    _make_all(wanted, sys.stdout)
    number, size = cache.kept()
    seconds = time.perf_counter() - start
    lost = cache.KernelCache.not_written
    print(f"{cache.KernelCache.written + lost} kernels compiled in {seconds:.0f} s")  # noqa: T201
    print(f"{cache.directory()}: {number} kernels, {size / 1e6:.1f} MB")  # noqa: T201
    if lost:
        sys.stderr.write(f"warmup: {lost} kernels could not be kept\n")
    return 1 if lost else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fastloss warmup", description="Compile kernels before they are needed.")
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="losses to compile (default: all)")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=["float32", "float64"], metavar="DTYPE",
        help=f"types of y_pred: {', '.join(DTYPES)} (default: float32 float64)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def _make_all(wanted: list[tuple[str, Request]], stream: TextIO) -> None:
    """Make every call, with a bar on a terminal and a line for each configuration elsewhere."""
    live, last = stream.isatty(), ""
    for number, (title, request) in enumerate(wanted):
        if live:
            filled = BAR * number // len(wanted)
            stream.write(f"\r[{'#' * filled:<{BAR}}] {number}/{len(wanted)} {title:50}")
        elif title != last:
            stream.write(f"{number}/{len(wanted)} {title}\n")
        stream.flush()
        last = title
        request.make()
    if live:
        stream.write(f"\r[{'#' * BAR}] {len(wanted)}/{len(wanted)} {'':50}\n")
