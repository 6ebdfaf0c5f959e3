"""The text of a kernel: what it is specialised on, a loss's formulas as CUDA C++, and a sweep."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..formula.rows import PIECES, RowFormula
from ..formula.subset import check
from ..formula.to_cuda import cuda_name, cuda_text
from ..formula.wiring import argument_names, result_names

#: Storage types by their NumPy names.
TYPES = {
    "float16": "__half", "bfloat16": "__nv_bfloat16", "float32": "float", "float64": "double",
    "bool": "unsigned char", "uint8": "unsigned char", "int8": "signed char", "int16": "short",
    "uint16": "unsigned short", "int32": "int", "uint32": "unsigned", "int64": "long long",
    "uint64": "unsigned long long",
}  # fmt: skip
BYTES = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in TYPES}


class Kernel(NamedTuple):
    """One kernel, ready to be compiled."""

    build: Any  # what it is specialised on: its identity
    name: str
    text: str
    block: int  # threads of a block


class ElementBuild(NamedTuple):
    """Everything that an elementwise kernel is specialised on."""

    formula: Callable[..., Any]
    true: str
    pred: str
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    weighted: bool
    masked: bool
    vector: int  # elements of a pack
    block: int = 256

    @property
    def computing(self) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return "float64" if self.pred == "float64" else "float32"


class RowBuild(NamedTuple):
    """Everything that a rowwise kernel is specialised on."""

    formula: RowFormula
    indexed: bool  # the target is a class number per row, not a value per element
    true: str
    pred: str
    value: bool
    losses: bool
    grad: bool
    hess: bool
    weighted: bool
    masked: bool
    class_weighted: bool
    sweep: str  # "slab", "warp" or "block": which of the rowwise_*.cu
    vector: int
    even: bool  # every row begins and ends with a whole pack
    block: int
    lanes: int = 32  # of a warp that share a row
    packs: int = 1  # of a row that a thread holds in registers
    more: bool = False  # than registers hold

    @property
    def computing(self) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return self.formula.computing(self.pred)


class SequenceBuild(NamedTuple):
    """Everything that a sequence kernel is specialised on."""

    formula: Callable[..., Any]
    from_logits: bool
    true: str
    pred: str
    value: bool
    losses: bool
    grad: bool
    hess: bool
    weighted: bool
    masked: bool
    has_lengths: bool  # how many labels count is given
    has_counts: bool  # how many frames count is given
    block: int = 256

    @property
    def computing(self) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return "float64"

    @property
    def element(self) -> str:
        """Precision of what a class that is not in the label gets."""
        return "float64" if self.pred == "float64" else "float32"


class WeighingBuild(NamedTuple):
    """Everything that the kernel that finds a normaliser is specialised on."""

    labels: str
    computing: str
    block: int = 256


@cache
def file_text(name: str) -> str:
    """A file of this folder; compilers name it in what they report."""
    return f'#line 1 "{name}"\n' + (Path(__file__).parent / name).read_text()


def _constants(build: Any, names: Iterable[str]) -> list[str]:
    return [f"constexpr {'bool' if isinstance(getattr(build, n), bool) else 'int'} {n.upper()} = "
            f"{int(getattr(build, n))};" for n in names]  # fmt: skip


def _types(build: Any) -> list[str]:
    return [
        f"typedef {TYPES[build.true]} TRUE;",
        f"typedef {TYPES[build.pred]} PRED;",
        f"typedef {TYPES[build.computing]} T;",
    ]


def _parameters(names: Iterable[str]) -> list[str]:
    """The loss's parameters among a kernel's own arguments, which come last."""
    names = list(names)
    return [
        "#define PARAMETERS " + "".join(f", T parameter_{name}" for name in names),
        "#define PARAMETER_NAMES " + "".join(f", parameter_{name}" for name in names),
    ]


@cache
def parameter_names(formula: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters that an elementwise formula reads, after its target and prediction."""
    return tuple(inspect.signature(formula).parameters)[2:]


@lru_cache(maxsize=512)
def elementwise_kernel(build: ElementBuild) -> Kernel:
    """The kernel of an elementwise loss."""
    wanted = ("value", "losses", "grad", "hess", "weighted", "masked", "vector", "block")
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        *_types(build),
        *_constants(build, wanted),
        *_parameters(parameter_names(build.formula)),
        f"#define FORMULA {cuda_name(build.formula)}",
        '#line 1 "formula"',
        cuda_text(build.formula),
        file_text("weights.cuh"),
        file_text("elementwise.cu"),
    ]
    return Kernel(build, "fastloss_elementwise", "\n".join(lines), build.block)


@lru_cache(maxsize=512)
def rowwise_kernel(build: RowBuild) -> Kernel:
    """The kernel of a rowwise loss."""
    wanted = (
        "indexed", "value", "losses", "grad", "hess", "weighted", "masked", "class_weighted",
        "vector", "even", "block", "lanes", "packs", "more",
    )  # fmt: skip
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        *_types(build),
        *_constants(build, wanted),
        *_parameters(build.formula.parameters),
        '#line 1 "formula"',
        row_text(build.formula),
        file_text("packs.cuh"),
        file_text("rows.cuh"),
        file_text(f"rowwise_{build.sweep}.cu"),
    ]
    return Kernel(build, f"fastloss_rowwise_{build.sweep}", "\n".join(lines), build.block)


@lru_cache(maxsize=512)
def sequence_kernel(build: SequenceBuild) -> Kernel:
    """The kernel of a sequence loss."""
    wanted = (
        "from_logits", "has_lengths", "has_counts", "value", "losses", "grad", "hess", "weighted", "masked", "block",
    )  # fmt: skip
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        *_types(build),
        f"typedef {TYPES[build.element]} ELEMENT;",
        *_constants(build, wanted),
        '#line 1 "formula"',
        occupancy_text(build.formula),
        file_text("sequence.cu"),
    ]
    return Kernel(build, "fastloss_sequence", "\n".join(lines), build.block)


def occupancy_text(formula: Callable[..., Any]) -> str:
    """A sequence loss's formula, and ``derivatives_of``, which calls it with what it asks for."""
    arguments = "".join(f"{name}, " for name in argument_names(formula))
    return "\n".join(
        [
            cuda_text(formula),
            "template <typename T>",
            "__device__ __forceinline__ void derivatives_of(T own, T rest, T total, T occupancy, T others, T* out) {",
            f"    {cuda_name(formula)}<T>({arguments}out);",
            "}",
        ]
    )


@lru_cache(maxsize=64)
def weighing_kernel(build: WeighingBuild) -> Kernel:
    """The kernel that finds a normaliser."""
    lines = [
        file_text("prelude.cuh"),
        '#line 1 "build"',
        f"typedef {TYPES[build.labels]} TRUE;",
        f"typedef {TYPES[build.computing]} T;",
        *_constants(build, ("block",)),
        file_text("weighing.cu"),
    ]
    return Kernel(build, "fastloss_weighing", "\n".join(lines), build.block)


# -- the pieces of a rowwise formula, wired by name --------------------------------------------------------------


def row_text(formula: RowFormula) -> str:
    """``struct Row`` and the functions on it that ``rows.cuh`` calls."""
    pieces = {name: piece for name in PIECES if (piece := getattr(formula, name)) is not None}
    texts = [f"namespace piece_{name} {{\n{cuda_text(piece)}}}" for name, piece in pieces.items()]
    functions = [*_link(formula), _first(formula), _statistics(formula), _again(formula), _finish(formula)]
    functions += [*_rules(formula), _report(formula)]
    return "\n".join([_row_struct(formula), *texts, *functions])


def _row_struct(formula: RowFormula) -> str:
    own = [f"own_{name}" for name in formula.parameters] + [f"found_{name}" for name in formula.coefficients]
    fields = ["first", "classes", "class_weight_sum", "target_x", "target_weight", *own]
    fields += [f"known_{name}" for name in _halfway_names(formula)]
    fields += ["target_slope", "target_curvature"] if formula.link else []
    first = {"peak": "PEAK", "total": "TOTAL", None: "NOTHING"}[formula.first]
    return "\n".join(
        [
            "constexpr int NOTHING = 0, PEAK = 1, TOTAL = 2;",
            f"constexpr int FIRST = {first}, SUMS = {max(1, len(formula.sums), len(formula.sums_again))};",
            f"constexpr bool FIRST_OF = {int(formula.first_of is not None)};",
            f"constexpr bool HAS_STATISTICS = {int(formula.statistics is not None)};",
            f"constexpr bool REPORT = {int(formula.report is not None)};",
            f"constexpr bool AGAIN = {int(formula.again is not None)};",
            "struct Row {  // what is the same for all elements of a row",
            f"    T {', '.join(fields)};",
            "};",
            "__device__ __forceinline__ Row every_row(int classes, T class_weight_sum PARAMETERS) {",
            "    Row row = {};",
            "    row.classes = T(classes);",
            "    row.class_weight_sum = class_weight_sum;",
            "    row.target_weight = T(1);",
            *(f"    row.own_{name} = parameter_{name};" for name in formula.parameters),
            "    return row;",
            "}",
        ]
    )


def _wires(formula: RowFormula) -> dict[str, str]:
    """The C++ text of what every piece may ask for by name."""
    wires = {name: f"row.{name}" for name in ("classes", "class_weight_sum", "target_x", "target_weight")}
    wires |= {name: name for name in ("x", "y", "kept", "class_weight")}
    wires |= {name: f"row.own_{name}" for name in formula.parameters}
    return wires | ({formula.first: "row.first"} if formula.first else {})


def _halfway_names(formula: RowFormula) -> tuple[str, ...]:
    """What the second round of statistics knows of the row."""
    return formula.numbers[: len(formula.numbers) - len(formula.sums_again)] if formula.again else ()


def _call(name: str, piece: Callable[..., Any], wires: dict[str, str], to: str = "results") -> list[str]:
    """Lines that call a piece, its results going to an array."""
    arguments = "".join(f"{wires[argument]}, " for argument in argument_names(piece))
    return [
        f"    T {to}[{check(piece).outputs}];",
        f"    piece_{name}::{cuda_name(piece)}<T>({arguments}{to});",
    ]


def _by_element(name: str, formula: RowFormula, wires: dict[str, str]) -> list[str]:
    """Lines that call a piece on an element, behind the link."""
    piece = getattr(formula, name)
    if formula.link is None:
        return _call(name, piece, wires)
    return [*_call("link", formula.link, wires, "link"), *_call(name, piece, wires | {"x": "link[0]"})]


def _link(formula: RowFormula) -> list[str]:
    """What formulas see of the first pass's result, and of the true class's prediction."""
    wires, taken = _wires(formula), ["    row.target_x = x;"]
    seen = ["    return x;"]
    if formula.link is not None:
        link = _call("link", formula.link, wires, "link")
        seen = seen if formula.first_of else [*link, "    return link[0];"]
        taken = [*link, *(f"    row.target_{part} = link[{i}];" for i, part in enumerate(("x", "slope", "curvature")))]
    return [
        "\n".join(["__device__ __forceinline__ T row_seen(const Row& row, T x) {", *seen, "}"]),
        "\n".join(["__device__ __forceinline__ void row_take_target(Row& row, T x) {", *taken, "}"]),
    ]


def _statistics(formula: RowFormula) -> str:
    head = "__device__ __forceinline__ void row_statistics"
    lines = [f"{head}(const Row& row, T x, T y, T class_weight, T* terms, T& kept) {{"]
    if formula.statistics is None:
        lines += ["    terms[0] = kept = T(0);"]
    else:
        names = result_names(formula.statistics)
        lines += _by_element("statistics", formula, _wires(formula))
        lines += [f"    terms[{i}] = results[{names.index(name)}];" for i, name in enumerate(formula.sums)]
        kept = f"results[{names.index('kept')}]" if formula.keeps else "T(0)"
        lines += [f"    kept = {kept};"]
    return "\n".join([*lines, "}"])


def _first(formula: RowFormula) -> str:
    lines = ["__device__ __forceinline__ T row_first(const Row& row, T x, T y, T class_weight) {"]
    if formula.first_of is None:
        return "\n".join([*lines, "    return x;", "}"])
    return "\n".join([*lines, *_by_element("first_of", formula, _wires(formula)), "    return results[0];", "}"])


def _again(formula: RowFormula) -> str:
    """What lies between the two rounds of statistics, and the second round."""
    lines = ["__device__ __forceinline__ void row_halfway(Row& row, const T* sums) {"]
    known = _halfway_names(formula)
    if formula.again is not None:
        lines += [f"    row.known_{name} = sums[{i}];" for i, name in enumerate(formula.sums)]
    if formula.again is not None and formula.halfway is not None:
        lines += _call("halfway", formula.halfway, _wires(formula) | {n: f"row.known_{n}" for n in formula.sums})
        lines += [f"    row.known_{name} = results[{i}];" for i, name in enumerate(known[len(formula.sums) :])]
    head = "__device__ __forceinline__ void row_again"
    lines += ["}", f"{head}(const Row& row, T x, T y, T class_weight, T kept, T* terms) {{"]
    if formula.again is not None:
        lines += _by_element("again", formula, _wires(formula) | {name: f"row.known_{name}" for name in known})
        lines += [f"    terms[{i}] = results[{i}];" for i in range(len(formula.sums_again))]
    return "\n".join([*lines, "}"])


def _finish(formula: RowFormula) -> str:
    known = {name: f"row.known_{name}" for name in _halfway_names(formula)}
    summed = formula.sums_again if formula.again else formula.sums
    wires = _wires(formula) | known | {name: f"sums[{i}]" for i, name in enumerate(summed)}
    names, penalty = result_names(formula.finish), []
    if formula.penalty is not None:
        penalty = _call("penalty", formula.penalty, wires | {name: f"row.found_{name}" for name in names}, "penalty")
        penalty += [
            f"    row.found_{name} = penalty[{i}];" for i, name in enumerate(result_names(formula.penalty)) if i
        ]
        penalty += ["    results[0] += penalty[0];"]
    return "\n".join(
        [
            "__device__ __forceinline__ T row_finish(Row& row, const T* sums) {",
            *_call("finish", formula.finish, wires),
            *(f"    row.found_{name} = results[{i}];" for i, name in enumerate(names) if i),
            *penalty,
            "    return results[0];",
            "}",
        ]
    )


def _rules(formula: RowFormula) -> list[str]:
    wires = _wires(formula) | {name: f"row.found_{name}" for name in formula.coefficients}
    element = "void row_element(const Row& row, T x, T y, T class_weight, T kept, T& gradient, T& hessian) {"
    target = "void row_target(const Row& row, T& gradient, T& hessian) {"
    lines = [f"__device__ __forceinline__ {element}", *_by_element("element", formula, wires)]
    lines += [*_penalty("penalty_element", formula, wires), *_results(formula, "link[1]", "link[2]")]
    lines += [f"__device__ __forceinline__ {target}"]
    if formula.target_element is not None:
        lines += _call("target_element", formula.target_element, wires)
        lines += _penalty("penalty_target", formula, wires)
        lines += _results(formula, "row.target_slope", "row.target_curvature")
    else:
        lines += ["    gradient = hessian = T(0);", "}"]
    return ["\n".join(lines)]


def _report(formula: RowFormula) -> str:
    head = "__device__ __forceinline__ T row_report(const Row& row) {"
    if formula.report is None:
        return "\n".join([head, "    return T(0);", "}"])
    wires = _wires(formula) | {name: f"row.found_{name}" for name in formula.coefficients}
    return "\n".join([head, *_call("report", formula.report, wires), "    return results[0];", "}"])


def _penalty(name: str, formula: RowFormula, wires: dict[str, str]) -> list[str]:
    """Lines that add to a rule's results what the penalty does."""
    piece = getattr(formula, name)
    if piece is None or formula.by_target:
        return []
    return [*_call(name, piece, wires, "penalty"), *(f"    results[{i}] += penalty[{i}];" for i in (0, 1))]


def _results(formula: RowFormula, slope: str, curvature: str) -> list[str]:
    """Lines that end a rule: by the chain rule, where there is a link."""
    if formula.link is None or formula.by_target:
        return ["    gradient = results[0];", "    hessian = results[1];", "}"]
    return [
        f"    gradient = results[0] * {slope};",
        f"    hessian = results[1] * {slope} * {slope} + results[0] * {curvature};",
        "}",
    ]
