"""What is measured: loss, configuration, element type and shape, with the speed that is wanted of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from ..families.loss import Loss, configurations, named, registry
from ..families.representatives import THOROUGH

#: Goals by name, and whether each is a least (else a most) value: share of the limit that binds, times torch's
#: speed, microseconds per call, time as a share of that of the same case in float32.
GOALS = {"limit": True, "torch": True, "us/call": False, "vs float32": False}

Shape = tuple[int, ...]
Key = tuple[str, str, str, Shape]  # loss, configuration, dtype, shape

LARGE, MEDIUM = (10**7,), (10**5,)
HALF_GOALS = {"vs float32": 1.0, "torch": 4.0}
TINY_GOALS = {"us/call": 4.0, "torch": 15.0}
#: Of families whose calls are more work to check.
TINY_GOALS_OF = {"sequence": {"us/call": 40.0, "torch": 3.0}, "allpairs": {"torch": 1.0}, "pairwise": {"torch": 1.0}}
#: The speed that is wanted where a case has goals of its own.
WANTED: dict[Key, dict[str, float]] = {
    ("mean_squared_error", "", "float32", LARGE): {"limit": 0.8, "torch": 8.0},
    ("binary_crossentropy", "logits", "float32", LARGE): {"torch": 12.0},
    ("binary_crossentropy", "logits", "float32", MEDIUM): {"torch": 6.0},
    ("binary_crossentropy", "logits", "float64", LARGE): {"torch": 10.0},
    ("ctc", "logits", "float32", (32, 200, 64)): {"torch": 10.0},
    ("cosine_embedding", "", "float32", (8192, 16)): {"torch": 1.0},
    ("triplet_margin", "", "float32", (8192, 16)): {"torch": 1.0},
    ("sparse_categorical_crossentropy", "logits", "float32", (8192, 10)): {"torch": 8.0},
    ("sparse_categorical_crossentropy", "logits", "float32", (4096, 1000)): {"torch": 4.0},
    ("sparse_categorical_crossentropy", "logits", "float32", (512, 32000)): {"torch": 9.0},
    ("sparse_categorical_crossentropy", "logits", "float32", (128, 128256)): {"torch": 10.0},
    **{
        (name, configuration, dtype, shape): HALF_GOALS
        for name, configuration, shape in (
            ("mean_squared_error", "", MEDIUM),
            ("mean_squared_error", "", LARGE),
            ("binary_crossentropy", "logits", MEDIUM),
            ("binary_crossentropy", "logits", LARGE),
            ("sparse_categorical_crossentropy", "logits", (512, 32000)),
        )
        for dtype in ("float16", "bfloat16")
    },
}
#: The speed that is wanted of every loss of a family, in float32: the shape, and goals.
FAMILY_GOALS: dict[str, tuple[Shape, dict[str, float]]] = {
    "elementwise": (LARGE, {"torch": 5.0, "limit": 0.6}),
    "rowwise": ((4096, 1000), {"torch": 3.0}),
    "sequence": ((32, 200, 64), {"torch": 1.0}),
    "allpairs": ((1024, 128), {"torch": 1.0}),
    "pairwise": (LARGE, {"torch": 5.0}),
    "pairwise rows": ((4096, 1000), {"torch": 3.0}),
}
#: Shapes that every loss of a family is measured at, in float32.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "elementwise": ((8,), MEDIUM, LARGE),
    "rowwise": ((2, 4), (4096, 1000)),
    "sequence": ((1, 4, 2), (32, 200, 64)),
    "allpairs": ((4, 2), (256, 128), (1024, 128)),
    "pairwise": ((8,), MEDIUM, LARGE),
    "pairwise rows": ((2, 4), (8192, 16), (4096, 1000)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Parameters
    ----------
    loss
        The configured loss.
    configuration
        What its predictions are, if it accepts several kinds: ``logits`` or ``probabilities``.
    dtype, shape
        Of the predictions; of each, where a loss takes several.
    goals
        Wanted values, by the names of `GOALS`.
    """

    loss: Loss
    configuration: str
    dtype: str
    shape: Shape
    goals: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Number of predictions."""
        return math.prod(self.shape)

    @property
    def tiny(self) -> bool:
        """Whether the call itself is what takes the time."""
        return self.elements <= 8

    @property
    def size(self) -> str:
        """The shape in a short form: ``1e7`` or ``512x32000``."""
        if len(self.shape) > 1:
            return "x".join(map(str, self.shape))
        mantissa, exponent = f"{self.elements:e}".split("e")
        return f"1e{int(exponent)}" if float(mantissa) == 1.0 and self.elements > 10 else str(self.elements)

    @property
    def name(self) -> str:
        """What tells it from the other cases of its loss: ``logits-float32-1e7``."""
        return "-".join(filter(None, (self.configuration, self.dtype, self.size)))

    def shrunk(self, most: int) -> Case:
        """The case with fewer rows, for about ``most`` elements at most; goals belong to the full size."""
        if self.elements <= most:
            return self
        per_row = math.prod(self.shape[1:])
        return dataclasses.replace(self, shape=(max(1, most // per_row), *self.shape[1:]), goals={})


def all_cases(most: int | None = None) -> list[Case]:
    """Every case of every registered loss.

    Parameters
    ----------
    most
        About how many elements a case may have; the larger ones shrink.
    """
    cases = (case for name in registry() for case in _cases_of(name))
    kept: dict[Key, Case] = {}
    for case in cases:
        case = case if most is None else case.shrunk(most)
        kept.setdefault((case.loss.name, case.configuration, case.dtype, case.shape), case)
    return list(kept.values())


def chosen(cases: Sequence[Case], losses: Sequence[str], part: str) -> list[Case]:
    """The cases of some losses with ``part`` in their name.

    If none is named: all of the losses that stand for others, and of every other loss those with a goal of its family.

    Raises
    ------
    ValueError
        If a loss is unknown or nothing is left.
    """
    wanted = named(losses)
    left = [case for case in cases if case.loss.name in wanted and part in case.name and (losses or _usual(case))]
    if not left:
        names_of_cases = sorted({case.name for case in cases if case.loss.name in wanted})
        message = f"no case has {part!r} in its name; there are {', '.join(names_of_cases)}"
        raise ValueError(message)
    return left


def _usual(case: Case) -> bool:
    return case.loss.name in THOROUGH or bool(case.goals and not case.tiny)


def _configurations(loss: type[Loss]) -> Iterator[tuple[str, Loss]]:
    """Every kind of predictions; also row by row, where a loss is along all axes by default."""
    for configuration, configured in configurations(loss):
        yield configuration, configured
        if getattr(configured, "axis", -1) is None:
            yield f"{configuration}-rows", dataclasses.replace(configured, axis=-1)  # type: ignore[call-arg]


def sweep_of(loss: type[Loss]) -> str:
    """A loss's family, and whether it takes several predictions by rows."""
    return loss.family + (" rows" if loss.several and loss.unit == "row" else "")


def _cases_of(name: str) -> Iterator[Case]:
    """The cases of one loss: its family's shapes, and those with goals."""
    loss = registry()[name]
    for configuration, configured in _configurations(loss):
        shapes = SHAPES.get(sweep_of(loss), ())
        keys = [(name, configuration, "float32", shape) for shape in shapes]
        keys += [key for key in WANTED if key[:2] == (name, configuration) and key not in keys]
        for key in keys:
            shape, goals = FAMILY_GOALS.get(sweep_of(loss), ((), {}))
            own = goals if key[2:] == ("float32", shape) else {}
            case = Case(configured, *key[1:], goals=own | WANTED.get(key, {}))
            tiny = TINY_GOALS_OF.get(loss.family, TINY_GOALS)
            yield dataclasses.replace(case, goals=tiny) if case.tiny else case
