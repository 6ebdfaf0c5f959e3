"""Names as wires: the pieces of a rowwise formula find each other's results by name.

A piece's return statement lists plain names (``return value, rest, total``); another piece that has an argument
``rest`` receives that result.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from .subset import NotInSubset, check


@lru_cache(maxsize=256)
def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a formula's arguments, in order."""
    return tuple(inspect.signature(function).parameters)


@lru_cache(maxsize=256)
def result_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names in a formula's return statement, in order.

    Raises
    ------
    NotInSubset
        If the function is no formula, or returns something other than plain names.
    """
    source = check(function)
    returned = next(statement.value for statement in source.statements if isinstance(statement, ast.Return))
    parts = returned.elts if isinstance(returned, ast.Tuple) else [returned]
    names = tuple(part.id for part in parts if isinstance(part, ast.Name))
    if len(names) != len(parts):
        message = f"{source.filename}:{source.first_line}: {source.name} must return plain names"
        raise NotInSubset(message)
    return names


def call_by_name(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call a formula with each argument looked up; a callable among the values is called for the value."""
    operands = (values[name] for name in argument_names(function))
    return function(*(operand() if callable(operand) else operand for operand in operands))
