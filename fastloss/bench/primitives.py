"""Which exponentials, logarithms and the like a loss needs for its value and gradient, counted on its own formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ..families.loss import Loss
from ..families.parameters import read_by
from ..formula.ops import PRIMITIVES
from ..formula.pairs import PairFormula
from ..formula.rows import RowFormula
from ..formula.wiring import argument_names

#: Primitives that are cheap beside the others.
CHEAP = ("where", "abs")


class Primitive(NamedTuple):
    """A primitive, and its exponent where that is written into the kernel."""

    name: str
    exponent: float | None = None


#: Nodes by what they compute.
Graph: TypeAlias = "dict[tuple[Any, ...], Noted]"


class _Namespace:
    """The primitives on `Noted` operands."""

    def __getattr__(self, name: str) -> Callable[..., Noted]:
        return lambda *operands: next(o for o in operands if isinstance(o, Noted)).node(name, *operands)


class Noted:
    """A number of which only is known how it was computed; equal computations are one node, as in a compiler."""

    formula_namespace = _Namespace()
    __array_ufunc__ = None  # NumPy's numbers, which parameters alone give, leave operations to this class

    def __init__(self, graph: Graph, name: str, operands: tuple[Any, ...] = ()) -> None:
        self.graph, self.name, self.operands = graph, name, operands

    def node(self, name: str, *operands: Any) -> Noted:
        """What an operation makes of operands."""
        operands = tuple(o if isinstance(o, Noted) else float(o) for o in operands)
        key = (name, *(id(o) if isinstance(o, Noted) else o for o in operands))
        return self.graph.setdefault(key, Noted(self.graph, name, operands))

    def __neg__(self) -> Noted:
        return self.node("neg", self)

    def __abs__(self) -> Noted:
        return self.node("abs", self)

    def __invert__(self) -> Noted:
        return self.node("not", self)

    __hash__ = object.__hash__


def _operator(name: str, swapped: bool = False) -> Callable[[Noted, Any], Noted]:
    def method(self: Noted, other: Any) -> Noted:
        return self.node(name, other, self) if swapped else self.node(name, self, other)

    return method


for _name in ("add", "sub", "mul", "truediv", "and", "or"):
    setattr(Noted, f"__{_name}__", _operator(_name))
    setattr(Noted, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Noted, f"__{_name}__", _operator(_name))


def primitives_of(loss: Loss) -> Counter[Primitive]:
    """How often an element's value and gradient need each primitive; what a row needs once is not counted."""
    graph: Graph = {}
    reached: dict[int, Noted] = {}
    waiting = [result for result in _results(loss, graph) if isinstance(result, Noted)]
    while waiting:
        node = waiting.pop()
        if id(node) not in reached:
            reached[id(node)] = node
            waiting += [operand for operand in node.operands if isinstance(operand, Noted)]
    dear = set(PRIMITIVES) - set(CHEAP)
    return Counter(_primitive(node) for node in reached.values() if node.name in dear)


def _results(loss: Any, graph: Graph) -> Iterator[Any]:
    """What value and gradient are computed from, on operands in place of arrays."""

    def operand(name: str) -> Noted:
        return graph.setdefault((name,), Noted(graph, f"operand {name}"))

    if not hasattr(loss, "row_formulas"):
        formula = loss.formulas()[loss.variant()]
        _, written = read_by(loss, formula)  # into the kernel
        parameters = map(operand, argument_names(formula)[len(loss.operands) :]) if written is None else written
        yield from formula(*map(operand, loss.operands), *parameters)[: 1 + _predictions(loss)]
        return
    formula = loss.formula()
    for piece in _element_pieces(formula):
        results = piece(*(operand(name) for name in argument_names(piece)))
        results = results if isinstance(results, tuple) else (results,)
        yield from results[: _predictions(loss)] if piece is formula.element else results


def _predictions(loss: Loss) -> int:
    """How many predictions there are gradients to."""
    return len(loss.operands) - ("y_true" in loss.operands)


def _element_pieces(formula: RowFormula | PairFormula) -> Iterator[Callable[..., Any]]:
    """Those that every element goes through."""
    if isinstance(formula, PairFormula):
        yield from (piece for name, piece in formula.pieces.items() if name != "finish")
        return
    for piece in (formula.first_of, formula.statistics, formula.again, formula.element):
        if piece is not None:
            yield piece


def _primitive(node: Noted) -> Primitive:
    written = node.name == "power" and not isinstance(node.operands[1], Noted)
    return Primitive(node.name, node.operands[1] if written else None)
