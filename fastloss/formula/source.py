"""A formula as text: its syntax tree, what the names in it stand for, how a refusal names a place in it."""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from . import ops

# A "number" is known before any operand is (0.5, 1.0 / 3.0): it has no precision of its own yet.
Kind = Literal["number", "real", "mask"]

MISSING = object()

_NO_BRANCHES = "Use where(condition, yes, no)"
_ONE_ELEMENT = "A formula describes one element"
AS_ARGUMENT = "Write the number out, or make it an argument"
_DESCRIPTIONS: dict[type[ast.AST], tuple[str, str]] = {
    ast.If: ("an if statement", _NO_BRANCHES),
    ast.IfExp: ("a conditional expression", _NO_BRANCHES),
    ast.For: ("a loop", _ONE_ELEMENT),
    ast.While: ("a loop", _ONE_ELEMENT),
    ast.ListComp: ("a comprehension", _ONE_ELEMENT),
    ast.GeneratorExp: ("a comprehension", _ONE_ELEMENT),
    ast.Lambda: ("a lambda", "Write a function with def"),
    ast.FunctionDef: ("a nested function", "Define it outside of the formula"),
    ast.Attribute: ("attribute access", "Import the operation by its name"),
    ast.Subscript: ("indexing", "Make each number an argument"),
    ast.NamedExpr: ("an assignment expression", "Assign on a line of its own"),
    ast.AugAssign: ("augmented assignment", "Write x = x + y: += would change the caller's array"),
    ast.AnnAssign: ("an annotated assignment", "Leave the annotation out"),
    ast.Global: ("global state", AS_ARGUMENT),
    ast.Nonlocal: ("outside state", AS_ARGUMENT),
    ast.Starred: ("a star argument", "Pass each argument by itself"),
    ast.BoolOp: ("and/or", "Use & and | on masks"),
    ast.Not: ("not", "Use ~ on masks"),
    ast.Pow: ("a power", "Multiply, or use exp(exponent * log(base))"),
    ast.Expr: ("an expression statement", "Only assignments have an effect"),
    ast.Compare: ("this comparison", "Compare two numbers at a time, as in (a < b) & (b < c)"),
    ast.Constant: ("this constant", "Only finite numbers can be written out"),
    ast.Tuple: ("a tuple", "Only the value that a formula returns can be one"),
}


class NotInSubset(SyntaxError):
    """A formula uses Python that the formula language leaves out."""


@dataclass(frozen=True)
class FormulaSource:
    """A checked formula.

    Attributes
    ----------
    function, name, filename, first_line
        The formula and where it is written.
    arguments
        Names of its arguments.
    statements
        Its assignments and, last, its return.
    outputs, returns_tuple, output_kind
        How many values it returns, whether as a tuple, and what a single one is.
    kinds, expressions
        What each name holds, and what each expression node gives.
    primitives, calls
        What the names that it calls stand for: the name of a primitive, or another formula.
    """

    function: Callable[..., Any]
    name: str
    filename: str
    first_line: int
    arguments: tuple[str, ...]
    statements: tuple[ast.stmt, ...]
    outputs: int
    returns_tuple: bool
    output_kind: Kind
    kinds: dict[str, Kind]
    expressions: dict[ast.expr, Kind]
    primitives: dict[str, str]
    calls: dict[str, FormulaSource]


def definition(function: Any) -> ast.FunctionDef:
    """The plain ``def`` of a function, numbered by the lines of its file."""
    if not isinstance(function, types.FunctionType):
        message = f"a formula must be a plain function; got {function!r}"
        raise TypeError(message)
    code = function.__code__
    if code.co_name == "<lambda>":
        stand_in = ast.Name("lambda", lineno=code.co_firstlineno)
        raise refusal(code.co_filename, stand_in, *_DESCRIPTIONS[ast.Lambda])
    node = _syntax_tree(code)
    if not isinstance(node, ast.FunctionDef):
        raise refusal(code.co_filename, node)
    for decorator in node.decorator_list:
        if ast.unparse(decorator) != "staticmethod":
            raise refusal(code.co_filename, decorator, "a decorator")
    a = node.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs or a.defaults:
        raise refusal(code.co_filename, node, "an argument beyond a name", "Leave defaults, * and / out")
    return node


def _syntax_tree(code: types.CodeType) -> ast.stmt:
    try:
        lines, first = inspect.getsourcelines(code)
    except OSError:
        message = f"{code.co_filename}:{code.co_firstlineno}: a formula must be written in a file"
        raise NotInSubset(message) from None
    # An indented function parses as it stands under an `if`; removing indents fails on some docstrings.
    indented = lines[0][:1].isspace()
    tree: Any = ast.parse("if True:\n" * indented + "".join(lines))
    node: ast.stmt = tree.body[0].body[0] if indented else tree.body[0]
    ast.increment_lineno(node, first - 1 - indented)
    return node


def separated(statement: ast.stmt) -> list[ast.stmt]:
    """``a, b = x, y`` as ``a = x`` and ``b = y``, where that means the same; other statements as they are."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
            read = {node.id for value in values for node in ast.walk(value) if isinstance(node, ast.Name)}
            written = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            if len(targets) == len(values) and not read & written:
                pairs = zip(targets, values, strict=True)
                return [ast.copy_location(ast.Assign([to], value), statement) for to, value in pairs]
    return [statement]


def outside_meaning(function: Any, name: str) -> Any:
    """What a name that the function does not assign stands for, or `MISSING`."""
    code = function.__code__
    closed = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    if name in closed:
        return closed[name].cell_contents
    return function.__globals__.get(name, getattr(builtins, name, MISSING))


def primitive_name(function: object) -> str | None:
    """Name of the primitive that ``function`` is, or None."""
    name = getattr(function, "__name__", "")
    meaning = builtins.abs if name == "abs" else getattr(ops, name, None)
    return name if name in ops.PRIMITIVES and function is meaning else None


def refusal(filename: str, node: Any, what: str = "", hint: str = "") -> NotInSubset:
    """The error for a piece of code; without ``what``, its kind says what it is and what to write instead."""
    part = node.op if isinstance(node, ast.BinOp | ast.UnaryOp) else node
    described, advice = _DESCRIPTIONS.get(type(part), (type(part).__name__, ""))
    text = ast.unparse(node).strip().partition("\n")[0]
    hint = f". {hint or advice}." if hint or advice else ""
    what = what or described
    return NotInSubset(f"{filename}:{node.lineno}: {what} is not in the formula subset: '{text}'{hint}")
