"""A formula as CUDA C++: one ``__device__`` function template for it and one for each formula that it calls.

The text keeps the formula's names, statements and order of operations. A literal becomes ``T(0.5)``, because
a bare ``0.5`` would turn float32 arithmetic into float64; an expression of literals alone is computed in
float64 and rounded once, as Python does. Compile without contraction (``--fmad=false``) to get the numbers of
the CPU kernels.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from itertools import count
from typing import Any

from .ops import PRIMITIVES
from .source import FormulaSource, Kind
from .subset import check

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.BitAnd: "&&",
    ast.BitOr: "||",
    ast.USub: "-",
    ast.Invert: "!",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
# How tightly an expression holds together; looser operands are put in parentheses.
_LOGIC, _COMPARISON, _SUM, _PRODUCT, _SIGN, _ATOM = range(6)
_BINDING: dict[type[ast.AST], int] = {
    ast.BitAnd: _LOGIC,
    ast.BitOr: _LOGIC,
    ast.Add: _SUM,
    ast.Sub: _SUM,
    ast.Mult: _PRODUCT,
    ast.Div: _PRODUCT,
}
_TYPES = {"real": "T", "mask": "bool", "number": "const double"}
# Names that Python allows and C++ (or the text around) has taken; they get an underscore.
_CPP_WORDS = """
    alignas alignof asm auto bool case catch char concept const consteval constexpr constinit decltype default
    delete do double enum explicit export extern false float friend goto inline int long mutable namespace new
    noexcept operator private protected public register requires short signed sizeof static struct switch
    template this throw true typedef typeid typename union unsigned using virtual void volatile T out
"""
_CALLED = (re.findall(r"\w+(?=\()", primitive.cuda) for primitive in PRIMITIVES.values())
_TAKEN = frozenset(_CPP_WORDS.split()).union(*_CALLED)


def cuda_text(function: Callable[..., Any]) -> str:
    """The formula as ``void fl_<name>(T argument, ..., T* out)``, after the formulas it calls, each once.

    Parameters
    ----------
    function : callable
        A formula. Its values go to ``out[0]``, ``out[1]``, ...; an argument used as a mask is a ``bool``.

    Returns
    -------
    str
        Text that compiles for ``T`` = ``float`` and ``double``.
    """
    main = check(function)
    nested = _nested(main)
    names = _function_names([*nested, main])
    return "\n".join(_Writer(source, names, is_main=source is main).text() for source in [*nested, main])


def cuda_name(function: Callable[..., Any]) -> str:
    """Name of the function template in `cuda_text`."""
    return "fl_" + function.__name__.lstrip("_")


def _nested(source: FormulaSource) -> list[FormulaSource]:
    """Every formula that is called, directly or not, each once and before its callers."""
    found: dict[Callable[..., Any], FormulaSource] = {}
    for call in source.calls.values():
        found |= {inner.function: inner for inner in [*_nested(call), call] if inner.function not in found}
    return list(found.values())


def _function_names(sources: list[FormulaSource]) -> dict[Callable[..., Any], str]:
    """A C++ name for each formula; the last has its plain name, others of that name are numbered."""
    names: dict[Callable[..., Any], str] = {}
    for source in reversed(sources):
        plain = cuda_name(source.function)
        choices = (f"{plain}_{number}" if number > 1 else plain for number in count(1))
        names[source.function] = next(name for name in choices if name not in names.values())
    return names


def _identifier(name: str) -> str:
    return f"{name}_" if name in _TAKEN or re.fullmatch(r"out_\d+", name) else name


class _Writer:
    """Writes one formula; its values leave through ``T* out`` (main), references (a tuple) or a return."""

    def __init__(self, source: FormulaSource, names: dict[Callable[..., Any], str], *, is_main: bool) -> None:
        self.source, self.names = source, names
        self.declared = set(source.arguments)
        slots = range(source.outputs)
        self.outputs = [f"out[{i}]" for i in slots] if is_main else [f"out_{i}" for i in slots]
        self.is_main, self.returns = is_main, not (is_main or source.returns_tuple)

    def text(self) -> str:
        summary = (inspect.getdoc(self.source.function) or "").partition("\n")[0].rstrip("\\")
        return "\n".join(
            [
                *([f"// {summary}"] if summary else []),
                "template <typename T>",
                f"__device__ __forceinline__ {self._signature()} {{",
                *(f"    {line}" for statement in self.source.statements for line in self._lines(statement)),
                "}\n",
            ]
        )

    def _signature(self) -> str:
        source = self.source
        parameters = [f"{_TYPES[source.kinds[name]]} {_identifier(name)}" for name in source.arguments]
        if self.is_main:
            parameters.append("T* out")
        elif source.returns_tuple:
            parameters += [f"T& {output}" for output in self.outputs]
        result = _TYPES[source.output_kind] if self.returns else "void"
        return f"{result} {self.names[source.function]}({', '.join(parameters)})"

    def _lines(self, statement: ast.stmt) -> list[str]:
        value: Any = statement.value  # type: ignore[attr-defined]
        if isinstance(statement, ast.Return):
            return self._result(value)
        target: Any = statement.targets[0]  # type: ignore[attr-defined]
        if not isinstance(target, ast.Tuple):
            kind = self.source.kinds[target.id]
            text = self.expression(value, inside=kind)
            return [f"{self._declaration(target.id, kind)}{_identifier(target.id)} = {text};"]
        parts: list[Any] = target.elts
        new = [f"T {_identifier(part.id)};" for part in parts if self._declaration(part.id, "real")]
        return [*new, self._call_into(value, [_identifier(part.id) for part in parts])]

    def _declaration(self, name: str, kind: Kind) -> str:
        """The type to write before a name's first assignment."""
        if name in self.declared:
            return ""
        self.declared.add(name)
        return f"{_TYPES[kind]} "

    def _result(self, value: Any) -> list[str]:
        if self.returns:
            return [f"return {self.expression(value)};"]
        if self.source.returns_tuple and not isinstance(value, ast.Tuple):
            return [self._call_into(value, self.outputs)]
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        return [f"{to} = {self.expression(part)};" for to, part in zip(self.outputs, parts, strict=True)]

    def _call_into(self, call: ast.Call, outputs: list[str]) -> str:
        return f"{self._called(call)}({', '.join([*map(self.expression, call.args), *outputs])});"

    def _called(self, call: ast.Call) -> str:
        return f"{self.names[self.source.calls[call.func.id].function]}<T>"  # type: ignore[attr-defined]

    def expression(self, node: ast.expr, tightness: int = _LOGIC, inside: Kind = "real") -> str:
        """The text of an operand that must hold together at least so tightly, inside an expression."""
        kind = self.source.expressions[node]
        if kind == "number" and inside != "number":
            return f"T({self.expression(node, inside='number')})"
        text, binding = self._rendered(node, kind)
        return text if binding >= tightness else f"({text})"

    def _rendered(self, node: ast.expr, kind: Kind) -> tuple[str, int]:
        match node:
            case ast.Constant(value=value):
                return repr(float(value)), _ATOM  # type: ignore[arg-type]
            case ast.Name(id=name):
                return _identifier(name), _ATOM
            case ast.UnaryOp(op=op, operand=operand):
                return _OPERATORS[type(op)] + self.expression(operand, _ATOM, kind), _SIGN
            case ast.BinOp(op=op, left=left, right=right):
                binding = _BINDING[type(op)]
                # Equal operators group to the left; C++ and Python rank the logical ones differently.
                tight = (_SIGN, _SIGN) if binding == _LOGIC else (binding, binding + 1)
                first, second = self.expression(left, tight[0], kind), self.expression(right, tight[1], kind)
                return f"{first} {_OPERATORS[type(op)]} {second}", binding
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                first, second = self.expression(left, _SUM), self.expression(right, _SUM)
                return f"{first} {_OPERATORS[type(op)]} {second}", _COMPARISON
        return self._call(node, kind), _ATOM

    def _call(self, node: Any, kind: Kind) -> str:
        arguments = [self.expression(argument, inside=kind) for argument in node.args]
        if node.func.id in self.source.calls:
            return f"{self._called(node)}({', '.join(arguments)})"
        return PRIMITIVES[self.source.primitives[node.func.id]].cuda.format(*arguments)
