"""Which Python a formula may be written in: refuse what lies outside, bind the rest to other primitives.

A formula is straight-line code on numbers and masks: assignments and one return; + - * / and comparisons;
& | ~ on masks; calls of primitives and of other formulas. Everything else is refused with its file and line,
because no lowering could give it the same meaning on arrays, SIMD lanes and GPU threads.
"""

from __future__ import annotations

import ast
import inspect
import math
import types
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from . import source as text
from .source import FormulaSource, Kind, NotInSubset

__all__ = ["FormulaSource", "NotInSubset", "check", "rebind"]

Wanted = Literal["real", "mask", "any"]

_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def check(function: Callable[..., Any]) -> FormulaSource:
    """Read a formula and every formula that it calls.

    Raises
    ------
    NotInSubset
        Naming the file and line of the first piece of code outside of the formula language.
    """
    return _Reader(function).read()


def rebind(function: Callable[..., Any], namespace: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The same formula on other primitives, also within the formulas that it calls.

    Parameters
    ----------
    function : callable
        A formula; it stays as it is.
    namespace : mapping of str to callable
        New meanings of primitives, by their names in `fastloss.formula.ops`; the others keep theirs.
    """
    return _rebound(check(function), namespace)


def _rebound(source: FormulaSource, namespace: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    function: Any = source.function
    code = function.__code__
    new: dict[str, Any] = {name: namespace[p] for name, p in source.primitives.items() if p in namespace}
    new |= {name: _rebound(call, namespace) for name, call in source.calls.items()}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(new[name]) if name in new else cell for name, cell in cells)
    return types.FunctionType(code, function.__globals__ | new, function.__name__, None, closure)


class _Reader:
    """One walk over a formula: refuses what is outside of the language, notes what every expression gives."""

    def __init__(self, function: Callable[..., Any], callers: tuple[object, ...] = ()) -> None:
        self.function, self.callers = function, (*callers, function)
        self.node = text.definition(function)
        self.filename = function.__code__.co_filename
        self.arguments = tuple(argument.arg for argument in self.node.args.args)
        names = [node for node in ast.walk(self.node) if isinstance(node, ast.Name)]
        self.stores = Counter([*self.arguments, *(n.id for n in names if isinstance(n.ctx, ast.Store))])
        self.kinds: dict[str, Kind] = {}
        self.expressions: dict[ast.expr, Kind] = {}
        self.primitives: dict[str, str] = {}
        self.calls: dict[str, FormulaSource] = {}

    def refusal(self, node: Any, what: str = "", hint: str = "") -> NotInSubset:
        return text.refusal(self.filename, node, what, hint)

    def read(self) -> FormulaSource:
        if not "".join(self.stores).isascii():
            raise self.refusal(self.node, "a name outside of ASCII")
        body = self.node.body[ast.get_docstring(self.node) is not None :]
        statements = [part for statement in body for part in text.separated(statement)]
        for statement in statements:
            if statement is not statements[-1] or not isinstance(statement, ast.Return):
                self._assign(statement)
        if not statements or not isinstance(statements[-1], ast.Return):
            raise self.refusal(self.node, "a function without a return", "A formula ends with one")
        outputs, returns_tuple, output_kind = self._return(statements[-1])
        unused: dict[str, Kind] = dict.fromkeys(self.arguments, "real")
        return FormulaSource(
            function=self.function,
            name=self.function.__name__,
            filename=self.filename,
            first_line=self.node.lineno,
            arguments=self.arguments,
            statements=tuple(statements),
            outputs=outputs,
            returns_tuple=returns_tuple,
            output_kind=output_kind,
            kinds=unused | self.kinds,
            expressions=self.expressions,
            primitives=self.primitives,
            calls=self.calls,
        )

    def _assign(self, statement: ast.stmt) -> None:
        if not isinstance(statement, ast.Assign):
            raise self.refusal(statement)
        target = statement.targets[0]
        if len(statement.targets) > 1:
            raise self.refusal(statement, "a chained assignment", "Write one line for each name")
        if isinstance(target, ast.Tuple):
            called = self._tuple_call(statement.value)
            if called is None or called.outputs != len(target.elts):
                raise self.refusal(statement, "this unpacking", "Assign to one name at a time")
            for part in target.elts:
                self._store(part, "real")
        else:
            self._store(target, self.expression(statement.value, "any"))

    def _store(self, target: ast.expr, kind: Kind) -> None:
        if not isinstance(target, ast.Name):
            raise self.refusal(target)
        if kind == "number" and self.stores[target.id] > 1:
            kind = "real"
        if self.kinds.setdefault(target.id, kind) != kind:
            raise self.refusal(target, "a name used for a number and for a mask", "Use two names")

    def _return(self, statement: ast.Return) -> tuple[int, bool, Kind]:
        value = statement.value
        if value is None or (isinstance(value, ast.Tuple) and not value.elts):
            raise self.refusal(statement, "a return without a value")
        if isinstance(value, ast.Tuple):
            for part in value.elts:
                self.expression(part)
            return len(value.elts), True, "real"
        called = self._tuple_call(value)
        if called is not None:
            return called.outputs, True, "real"
        return 1, False, "mask" if self.expression(value, "any") == "mask" else "real"

    def expression(self, node: ast.expr, wanted: Wanted = "real") -> Kind:
        kind = self._kind(node, wanted)
        if wanted == "mask" and kind != "mask":
            raise self.refusal(node, "a number where a mask belongs", "Compare it with something")
        if wanted == "real" and kind == "mask":
            raise self.refusal(node, "a mask where a number belongs", "Use where(mask, yes, no)")
        self.expressions[node] = kind
        return kind

    def _kind(self, node: ast.expr, wanted: Wanted) -> Kind:
        match node:
            case ast.Constant(value=value) if _is_finite_number(value):
                return "number"
            case ast.Name():
                return self._name(node, wanted)
            case ast.UnaryOp(op=ast.USub()):
                return self.expression(node.operand)
            case ast.UnaryOp(op=ast.Invert()):
                return self.expression(node.operand, "mask")
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                return _joined(self.expression(node.left), self.expression(node.right))
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                self.expression(node.left, "mask")
                return self.expression(node.right, "mask")
            case ast.Compare(ops=[op], comparators=[right]) if isinstance(op, _COMPARISONS):
                self.expression(node.left)
                self.expression(right)
                return "mask"
            case ast.Call():
                return self._call(node, wanted)
        raise self.refusal(node)

    def _name(self, node: ast.Name, wanted: Wanted) -> Kind:
        if node.id in self.arguments:
            self.kinds.setdefault(node.id, "mask" if wanted == "mask" else "real")
        if node.id not in self.kinds:
            known = node.id in self.stores or text.outside_meaning(self.function, node.id) is not text.MISSING
            raise self.refusal(node, "an outside value" if known else "an undefined name", text.AS_ARGUMENT)
        return self.kinds[node.id]

    def _call(self, node: ast.Call, wanted: Wanted) -> Kind:
        name = self._callee(node)
        if name in self.calls:
            if self.calls[name].returns_tuple:
                raise self.refusal(node, "a tuple inside an expression", "Unpack it on a line of its own")
            return self._pass(node, self.calls[name])
        if self.primitives[name] != "where":
            return _joined(*[self.expression(argument) for argument in node.args])
        self.expression(node.args[0], "mask")
        yes: Literal["real", "mask"] = "mask" if self.expression(node.args[1], wanted) == "mask" else "real"
        self.expression(node.args[2], yes)
        return yes

    def _tuple_call(self, node: ast.expr) -> FormulaSource | None:
        """The formula that returns a tuple which ``node`` is a call of, or None."""
        called = self.calls.get(self._callee(node)) if isinstance(node, ast.Call) else None
        if called is not None and called.returns_tuple:
            self._pass(node, called)
            return called
        return None

    def _pass(self, node: Any, called: FormulaSource) -> Kind:
        for argument, parameter in zip(node.args, called.arguments, strict=True):
            self.expression(argument, "mask" if called.kinds[parameter] == "mask" else "real")
        return called.output_kind

    def _callee(self, node: ast.Call) -> str:
        """The name that is called, once it is noted what it stands for."""
        if not isinstance(node.func, ast.Name):
            raise self.refusal(node.func)
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                raise self.refusal(argument)
        if node.keywords:
            raise self.refusal(node, "a keyword argument", "Pass it by its position")
        name = node.func.id
        meaning: Any = text.MISSING if name in self.stores else text.outside_meaning(self.function, name)
        primitive = text.primitive_name(meaning)
        if primitive is not None:
            self.primitives[name] = primitive
        elif meaning is text.MISSING:
            raise self.refusal(node, "an undefined name")
        elif not isinstance(meaning, types.FunctionType):
            raise self.refusal(node, "a call of what is no formula", "Call primitives or formulas")
        elif name not in self.calls:
            self.calls[name] = self._nested(node, meaning)
        expected = len(inspect.signature(meaning).parameters)
        if len(node.args) != expected:
            raise self.refusal(node, f"a call with {len(node.args)} arguments", f"It takes {expected}")
        return name

    def _nested(self, node: ast.Call, function: Any) -> FormulaSource:
        if function in self.callers:
            raise self.refusal(node, "recursion")
        try:
            return _Reader(function, self.callers).read()
        except NotInSubset as error:
            message = f"{error} (called at {self.filename}:{node.lineno})"
            raise NotInSubset(message) from None


def _is_finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _joined(*kinds: Kind) -> Kind:
    return "number" if all(kind == "number" for kind in kinds) else "real"
