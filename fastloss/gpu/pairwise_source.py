"""The text of kernels of losses of several predictions; see `fastloss.gpu.source`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from ..formula.pairs import PairFormula
from ..formula.to_cuda import cuda_name, cuda_text
from ..formula.wiring import argument_names
from .source import Kernel, _constants, _parameters, _types, file_text


class PairBuild(NamedTuple):
    """Everything that a kernel with one loss per element is specialised on."""

    formula: Callable[..., Any]
    target: bool  # whether there is one
    predictions: int
    true: str
    pred: str
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    weighted: bool
    masked: bool
    vector: int = 1  # elements of a pack
    block: int = 256

    @property
    def computing(self) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return "float64" if self.pred == "float64" else "float32"


class PairRowBuild(NamedTuple):
    """Everything that a kernel with one loss per row is specialised on."""

    formula: PairFormula
    names: tuple[str, ...]  # of the predictions
    target: bool
    true: str
    pred: str
    value: bool
    losses: bool
    grad: bool
    hess: bool
    weighted: bool
    masked: bool
    vector: int = 1
    even: bool = True  # every row begins and ends with a whole pack
    block: int = 128
    lanes: int = 32  # threads that share a row
    packs: int = 1  # of a row that a thread holds in registers
    more: bool = False  # than registers hold

    @property
    def predictions(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def computing(self) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return self.formula.computing(self.pred)


def _lists(build: Any) -> list[str]:
    numbers = range(build.predictions)
    return [
        "#define LIST(name) " + ", ".join(f"name##_{k}" for k in numbers),
        "#define ARGUMENTS(type, name) " + ", ".join(f"type name##_{k}" for k in numbers),
    ]


@lru_cache(maxsize=512)
def pair_kernel(build: PairBuild) -> Kernel:
    """The kernel of a loss with one loss per element."""
    wanted = ("target", "predictions", "value", "losses", "grad", "hess", "weighted", "masked", "vector", "block")
    target = ["loaded<T>(packs.y.values[i])"] if build.target else []
    operands = [*target, *(f"loaded<T>(packs.x[{k}].values[i])" for k in range(build.predictions))]
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        *_types(build),
        *_constants(build, wanted),
        *_lists(build),
        *_parameters(argument_names(build.formula)[len(operands) :]),
        f"#define FORMULA {cuda_name(build.formula)}",
        f"#define FORMULA_OPERANDS {', '.join(operands)}",
        '#line 1 "formula"',
        cuda_text(build.formula),
        *(file_text(name) for name in ("weights.cuh", "pairs.cuh", "pairwise.cu")),
    ]
    return Kernel(build, "fastloss_pairwise", "\n".join(lines), build.block)


@lru_cache(maxsize=512)
def pair_row_kernel(build: PairRowBuild) -> Kernel:
    """The kernel of a loss with one loss per row."""
    wanted = (
        "target", "predictions", "value", "losses", "grad", "hess", "weighted", "masked", "vector", "even", "block",
        "lanes", "packs", "more",
    )  # fmt: skip
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        *_types(build),
        *_constants(build, wanted),
        *_lists(build),
        *_parameters(build.formula.parameters(build.names)),
        '#line 1 "formula"',
        pair_row_text(build.formula, build.names),
        *(file_text(name) for name in ("packs.cuh", "weights.cuh", "pairs.cuh", "pairwise_rows.cu")),
    ]
    return Kernel(build, "fastloss_pairwise_rows", "\n".join(lines), build.block)


def pair_row_text(formula: PairFormula, names: tuple[str, ...]) -> str:
    """``struct Row`` and the functions on it that ``pairwise_rows.cu`` calls."""
    parameters = formula.parameters(names)
    fields = ("y", *parameters, *formula.firsts, *formula.sums, *formula.coefficients)
    wires = {name: f"place.x[{k}]" for k, name in enumerate(names)} | {name: f"row.{name}" for name in fields}

    def call(name: str) -> str:
        piece = formula.pieces[name]
        arguments = "".join(f"{wires[argument]}, " for argument in argument_names(piece))
        return f"    piece_{name}::{cuda_name(piece)}<T>({arguments}results);"

    def known(head: str, numbers: tuple[str, ...]) -> list[str]:
        kept = (f"    row.{name} = numbers[{i}];" for i, name in enumerate(numbers))
        return [f"__device__ __forceinline__ void {head}(Row& row, const T* numbers) {{", *kept, "}"]

    def of_place(name: str) -> list[str]:
        head = f"__device__ __forceinline__ void row_{name}(const Row& row, const Place& place, T* results) {{"
        return [head, call(name), "}"]

    return "\n".join(
        [
            f"constexpr bool PEAKS = {int(formula.peaks)};",
            f"constexpr int FIRSTS = {len(formula.firsts)}, SUMS = {len(formula.sums)};",
            "struct Place {  // the predictions at one place of a row",
            f"    T x[{len(names)}];",
            "};",
            "struct Row {  // what is the same for all places of a row",
            f"    T {', '.join(fields)};",
            "};",
            "__device__ __forceinline__ void row_begin(Row& row PARAMETERS) {",
            *(f"    row.{name} = parameter_{name};" for name in parameters),
            "}",
            *(f"namespace piece_{name} {{\n{cuda_text(piece)}}}" for name, piece in formula.pieces.items()),
            *of_place("first"),
            *known("row_know", formula.firsts),
            *of_place("statistics"),
            *known("row_know_sums", formula.sums),
            "__device__ __forceinline__ T row_finish(Row& row) {",
            f"    T results[{1 + len(formula.coefficients)}];",
            call("finish"),
            *(f"    row.{name} = results[{i + 1}];" for i, name in enumerate(formula.coefficients)),
            "    return results[0];",
            "}",
            *of_place("element"),
        ]
    )
