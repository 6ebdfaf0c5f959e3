"""Everything a loss file needs, in one import."""

from ..formula.rows import RowFormula
from .declaration import Domain, Example, Peers
from .functional import function_of
from .parameters import (
    axes,
    choice,
    clip_margin,
    flag,
    integer,
    labels,
    non_negative,
    norm_degree,
    one_of,
    open_unit_interval,
    optional_integer,
    optional_weights,
    positive,
    quantiles,
    real,
    unit_interval,
    weights,
    wrt,
)

__all__ = [
    "Domain",
    "Example",
    "Peers",
    "RowFormula",
    "axes",
    "choice",
    "clip_margin",
    "flag",
    "function_of",
    "integer",
    "labels",
    "non_negative",
    "norm_degree",
    "one_of",
    "open_unit_interval",
    "optional_integer",
    "optional_weights",
    "positive",
    "quantiles",
    "real",
    "unit_interval",
    "weights",
    "wrt",
]
