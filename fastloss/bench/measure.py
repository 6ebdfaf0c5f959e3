"""One case measured: its contenders checked and timed, its goals judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import contenders as who
from .arithmetic import ARITHMETIC, arithmetic
from .cases import GOALS, Case
from .data import operands
from .limit import STREAMS, streams
from .primitives import primitives_of
from .timing import Effort, Samples, interleaved

#: Cases that move fewer bytes are limited by the call itself, not by memory.
LIMIT_FROM = 1 << 18


class Verdict(NamedTuple):
    """A goal, what was measured, and whether that reaches it (None: not measured, or on too busy a machine)."""

    case: str
    goal: str
    wanted: float
    measured: float | None
    reached: bool | None

    def __str__(self) -> str:
        sign = ">=" if GOALS[self.goal] else "<="
        measured = "not measured" if self.measured is None else f"{self.measured:.4g}"
        measured += "~" if self.measured is not None and self.reached is None else ""
        return f"{self.case}: {self.goal} {measured} ({sign} {self.wanted:g})"


@dataclass(frozen=True)
class Result:
    """What was measured in one case.

    Parameters
    ----------
    case
        What was asked for.
    bytes_moved
        Bytes of target, prediction and gradient.
    samples
        Times by contender.
    refused
        Contenders that were not timed because they are wrong or failed, and how.
    """

    case: Case
    bytes_moved: int
    samples: dict[str, Samples]
    refused: dict[str, str] = field(default_factory=dict)

    def seconds(self, name: str) -> float | None:
        """Median time of a contender's call; None if it was not timed."""
        return self.samples[name].median if name in self.samples else None

    def times(self, name: str) -> float | None:
        """How many times faster than a contender fastloss is."""
        mine, other = self.seconds(who.FASTLOSS), self.seconds(name)
        return None if mine is None or other is None else other / mine

    @property
    def memory_limit(self) -> float | None:
        """Seconds that memory alone takes for these bytes: the fastest of the ways to move them."""
        return min((self.samples[name].median for name in STREAMS if name in self.samples), default=None)

    @property
    def limit(self) -> float | None:
        """Seconds that the limit which binds takes: memory, or the loss's exponentials and logarithms alone."""
        memory, arithmetic_limit = self.memory_limit, self.seconds(ARITHMETIC)
        return memory if memory is None or arithmetic_limit is None else max(memory, arithmetic_limit)

    @property
    def binding(self) -> str:
        """Which limit that is: ``memory`` or ``arithmetic``; empty if none was measured."""
        if self.limit is None:
            return ""
        return "arithmetic" if self.limit == self.seconds(ARITHMETIC) else "memory"

    @property
    def share_of_limit(self) -> float | None:
        """Speed as a share of what the limit that binds allows."""
        mine = self.seconds(who.FASTLOSS)
        return None if mine is None or self.limit is None else self.limit / mine

    @property
    def spread(self) -> float | None:
        """Width of the range that 10 to 90 % of fastloss's times lie in, as a share of their median."""
        if who.FASTLOSS not in self.samples:
            return None
        low, high = self.samples[who.FASTLOSS].range
        return (high - low) / self.samples[who.FASTLOSS].median

    def measured(self, goal: str) -> float | None:
        """The number that a goal is about."""
        mine = self.seconds(who.FASTLOSS)
        if goal == "us/call":
            return None if mine is None else mine * 1e6
        if goal == "vs float32":
            times = self.times(who.FLOAT32)
            return None if times is None else 1.0 / times
        return self.share_of_limit if goal == "limit" else self.times(goal)

    def _doubtful(self, goal: str) -> bool:
        """Whether a number that a goal is about rests on disturbed samples."""
        limits = [ARITHMETIC] if self.binding == "arithmetic" else list(STREAMS)
        names = {"limit": limits, "torch": [who.TORCH], "vs float32": [who.FLOAT32]}.get(goal, [])
        others = [self.samples[name] for name in names if name in self.samples]
        fastest = min(others, key=lambda samples: samples.median, default=None)
        return self.samples[who.FASTLOSS].doubtful or (fastest is not None and fastest.doubtful)

    def verdicts(self) -> Iterator[Verdict]:
        """Judge every goal of the case."""
        for goal, wanted in self.case.goals.items():
            measured = self.measured(goal)
            reached = None
            if measured is not None and not self._doubtful(goal):
                reached = measured >= wanted if GOALS[goal] else measured <= wanted
            yield Verdict(f"{self.case.loss.name} {self.case.name}", goal, wanted, measured, reached)

    def as_json(self) -> dict[str, Any]:
        """Everything, in plain types; what was not measured is None."""
        mine = self.seconds(who.FASTLOSS)
        return {
            "loss": self.case.loss.name,
            "case": self.case.name,
            "configuration": self.case.configuration,
            "dtype": self.case.dtype,
            "shape": list(self.case.shape),
            "elements": self.case.elements,
            "bytes": self.bytes_moved,
            "ns_per_element": None if mine is None else mine * 1e9 / self.case.elements,
            "gb_per_s": None if mine is None else self.bytes_moved / mine / 1e9,
            "share_of_limit": self.share_of_limit,
            "limits": {"memory": self.memory_limit, "arithmetic": self.seconds(ARITHMETIC)},
            "binding": self.binding or None,
            "times": {name: self.times(name) for name in (who.NUMPY, who.TORCH, who.SKLEARN)},
            "spread": self.spread,
            "numpy_by_formula": _numpy_by_formula(self.case),
            "contenders": {name: _as_json(samples) for name, samples in self.samples.items()},
            "refused": self.refused,
            "goals": [verdict._asdict() for verdict in self.verdicts()],
        }


def measure(case: Case, effort: Effort, threads: int) -> Result:
    """Make the data, refuse who computes something else, time the others."""
    data = operands(case)
    head = data.head()
    made = who.contenders(case, data, threads)
    refused = who.disagreements(case, head, who.contenders(case, head, threads))
    refused |= who.disagreements(case, data, {name: c for name, c in made.items() if name not in refused})
    calls = {name: contender.call for name, contender in made.items() if name not in refused}
    bytes_moved = data.y.nbytes + 2 * data.p.nbytes
    if bytes_moved >= LIMIT_FROM and case.loss.family != "allpairs":  # whose limit is the products of matrices
        calls |= streams(bytes_moved)
        if case.loss.family != "sequence" and (wanted := primitives_of(case.loss)):  # whose formula is not all it does
            calls[ARITHMETIC] = arithmetic(wanted, case.elements, _computing(case))
    return Result(case, bytes_moved, interleaved(calls, effort), refused)


def _computing(case: Case) -> str:
    """The precision of the kernel's arithmetic."""
    if hasattr(case.loss, "row_formulas"):
        computing: str = case.loss.formula().computing(case.dtype)  # type: ignore[attr-defined]
        return computing
    return "float64" if case.dtype == "float64" else "float32"


def _numpy_by_formula(case: Case) -> bool:
    from .numpy_peers import WRITTEN

    return (case.loss.name, case.configuration) not in WRITTEN


def _as_json(samples: Samples) -> dict[str, Any]:
    low, high = samples.range
    return {
        "median": samples.median,
        "p10": low,
        "p90": high,
        "calls_per_sample": samples.calls,
        "undisturbed": samples.undisturbed,
        "seconds": samples.seconds,
        "waited": samples.waited,
    }
