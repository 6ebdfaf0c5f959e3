"""Every kernel that is worth compiling without being called: for compile gates, and to show a loss's text."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from .launch import OPTIONS, Device
from .pairwise import shaped as shaped_pairs
from .pairwise_source import PairBuild, PairRowBuild, pair_kernel, pair_row_kernel
from .rowwise import chosen, shaped
from .source import (
    BYTES,
    ElementBuild,
    Kernel,
    RowBuild,
    SequenceBuild,
    WeighingBuild,
    elementwise_kernel,
    rowwise_kernel,
    sequence_kernel,
    weighing_kernel,
)

DTYPES = ("float32", "bfloat16", "float16", "float64")
#: Classes, by which sweep takes them; odd ones, whose rows begin anywhere, and even ones.
CLASSES = (10, 1000, 50257, 128256)
#: Stands for the device whose limits choose a kernel: an H200.
DEVICE = Device(132, 232_448, 50 << 20)


class Entry(NamedTuple):
    """A kernel and what to expect of its machine code."""

    label: str
    kernel: Kernel
    dynamic_shared: int  # bytes that it needs on every device; what holds long rows is chosen by the device
    vectorized: bool  # moves 16 bytes at once
    hot: bool  # may not spill
    alone: bool = False  # the only kernel of its formula

    @property
    def text(self) -> str:
        """The whole text."""
        return self.kernel.text

    @property
    def name(self) -> str:
        """Its entry point."""
        return self.kernel.name

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.kernel.block

    @property
    def options(self) -> tuple[str, ...]:
        """What CuPy's compiler is told besides its own options."""
        return OPTIONS

    @property
    def computes_in(self) -> str:
        """The C++ type of its arithmetic."""
        build = self.kernel.build
        wide = build.computing == "float64" or isinstance(build, WeighingBuild)  # which divides once
        return "double" if wide else "float"


class Options(NamedTuple):
    """What a call asks for."""

    name: str
    value: bool = True
    losses: bool = False
    grad: bool = True
    hess: bool = False
    weighted: bool = False  # weights, mask and class weights


USUAL = Options("value grad")
ALL = Options("value grad hess weighted", hess=True, weighted=True)
EACH = Options("losses grad", losses=True)


def kernels(losses: Mapping[str, Any], thorough: Mapping[str, Collection[str]] | None = None) -> Iterator[Entry]:
    """Every loss x dtype x sweep, with options that take turns; the usual ones for float32 and bfloat16 always.

    Parameters
    ----------
    losses
        Losses by name.
    thorough
        Labels of the formulas that all kernels are wanted of, by the loss's name; of any other formula only one, which
        the formula's name chooses. None: all of every formula.
    """
    for name, loss in losses.items():
        own = {"sequence": _sequence, "pairwise": _pairwise}.get(loss.family)
        for label, entries in (own or (_rowwise if hasattr(loss, "row_formulas") else _elementwise))(loss):
            if thorough is None or label in thorough.get(name, ()):
                yield from (entry() for entry in entries)
            else:
                yield entries[zlib.crc32(f"{name} {label}".encode()) % len(entries)]()._replace(alone=True)
    for labels, computing in (("int64", "float32"), ("uint8", "float64")):
        build = WeighingBuild(labels, computing)
        yield Entry(f"weighing {labels} {computing}", weighing_kernel(build), 0, False, True)


def _turns(turn: int, dtype: str) -> tuple[Options, ...]:
    other = (ALL, EACH)[turn % 2]
    return (USUAL, other) if dtype == "float32" else (USUAL,) if dtype == "bfloat16" else (other,)


def _elementwise(loss: Any) -> Iterator[tuple[str, list[Callable[[], Entry]]]]:
    """For each formula its label, and what makes each of its kernels."""
    for label, formula in loss.formulas().items():
        title = f"{loss.name} {label}"
        yield (
            label,
            [
                partial(elementwise_entry, title, formula, "uint8" if options is ALL else dtype, dtype, options)
                for turn, dtype in enumerate(DTYPES)
                for options in _turns(turn, dtype)
            ],
        )


def elementwise_entry(label: str, formula: Any, true: str, dtype: str, options: Options) -> Entry:
    """The kernel for arrays that begin on 16 bytes."""
    build = ElementBuild(
        formula, true, dtype, options.value, options.losses, options.grad, options.hess, options.weighted,
        options.weighted, 16 // BYTES[dtype],
    )  # fmt: skip
    text = f"elementwise {label} {dtype}<-{true} {options.name}"
    return Entry(text, elementwise_kernel(build), 0, True, build.computing == "float32" and options is not ALL)


def _pairwise(loss: Any) -> Iterator[tuple[str, list[Callable[[], Entry]]]]:
    """The same; of rows by the number of columns too."""
    for label, formula in (loss.row_formulas() if loss.unit == "row" else loss.formulas()).items():
        yield (
            label,
            [
                partial(pairwise_entry, loss, label, formula, dtype, options, columns)
                for at, columns in enumerate(CLASSES if loss.unit == "row" else CLASSES[:1])
                for turn, dtype in enumerate(DTYPES)
                if dtype == "float32" or loss.unit != "row" or (turn + at) % 2 == 0
                for options in _turns(turn + at, dtype)
            ],
        )


def pairwise_entry(loss: Any, label: str, formula: Any, dtype: str, options: Options, columns: int) -> Entry:
    """The kernel for predictions that begin on 16 bytes; of rows, for so many columns."""
    target, vector = "y_true" in loss.operands, 16 // BYTES[dtype]
    wanted = (options.value, options.losses, options.grad, options.hess, options.weighted, options.weighted)
    text = f"pairwise {loss.name} {label} {dtype} {options.name}"
    if loss.unit != "row":
        build = PairBuild(formula, target, len(loss.predictions()), dtype, dtype, *wanted, vector)
        hot = build.computing == "float32" and options is not ALL
        return Entry(text, pair_kernel(build), 0, True, hot)
    rows = PairRowBuild(formula, loss.predictions(), target, dtype, dtype, *wanted, vector, columns % vector == 0)
    rows = shaped_pairs(rows, columns)
    hot = rows.computing == "float32" and options is not ALL
    return Entry(f"{text} {columns} columns", pair_row_kernel(rows), 0, True, hot)


def _sequence(loss: Any) -> Iterator[tuple[str, list[Callable[[], Entry]]]]:
    """The same."""
    for label, formula in loss.formulas().items():
        yield (
            label,
            [
                partial(sequence_entry, loss.name, label, formula, dtype, options)
                for turn, dtype in enumerate(DTYPES)
                for options in _turns(turn, dtype)
            ],
        )


def sequence_entry(name: str, label: str, formula: Any, dtype: str, options: Options) -> Entry:
    """The kernel for int64 labels; with weights, and lengths where there are weights."""
    build = SequenceBuild(
        formula, label == "logits", "int64", dtype, options.value, options.losses, options.grad, options.hess,
        options.weighted, options.weighted, options.weighted, options.weighted,
    )  # fmt: skip
    text = f"sequence {name} {label} {dtype} {options.name}"
    return Entry(text, sequence_kernel(build), 0, False, False)


def _rowwise(loss: Any) -> Iterator[tuple[str, list[Callable[[], Entry]]]]:
    """The same; half of the types besides float32 for each number of classes."""
    for number, (label, formula) in enumerate(loss.row_formulas().items()):
        title, indexed = f"{loss.name} {label}", loss.indexed
        yield (
            label,
            [
                partial(rowwise_entry, title, formula, indexed, "int64" if indexed else dtype, dtype, classes, options)
                for at, classes in enumerate(CLASSES)
                for turn, dtype in enumerate(DTYPES)
                if dtype == "float32" or (turn + at + number) % 2 == 0
                for options in _turns(turn + at, dtype)
            ],
        )


def rowwise_entry(
    label: str, formula: Any, indexed: bool, true: str, dtype: str, classes: int, options: Options
) -> Entry:
    """The kernel for so many classes."""
    vector = 16 // BYTES[dtype]
    even = classes % vector == 0
    build = RowBuild(
        formula, indexed, true, dtype, options.value, options.losses, options.grad, options.hess, options.weighted,
        options.weighted, options.weighted, "", vector, even, 1,
    )  # fmt: skip
    shape = chosen(build, classes, vector, even, DEVICE)
    build = shaped(build, shape)
    text = f"rowwise {label} {classes} classes {dtype}<-{true} {options.name}"
    shared, hot = 0 if shape.more else shape.shared_bytes, build.computing == "float32" and options is not ALL
    return Entry(text, rowwise_kernel(build), shared, True, hot)
