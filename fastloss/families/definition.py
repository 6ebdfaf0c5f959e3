"""Everything a loss file needs, in one import."""

from .functional import function_of
from .loss import Example, Peers
from .parameters import (
    choice,
    clip_margin,
    flag,
    integer,
    non_negative,
    optional_integer,
    optional_weights,
    positive,
    unit_interval,
)

__all__ = [
    "Example",
    "Peers",
    "choice",
    "clip_margin",
    "flag",
    "function_of",
    "integer",
    "non_negative",
    "optional_integer",
    "optional_weights",
    "positive",
    "unit_interval",
]
