"""The benchmark: every loss against NumPy, torch, scikit-learn and the speed of memory, side by side.

Run it with ``python -m fastloss bench``. All contenders of a case are timed in one process in shuffled
rounds, after each has shown that it computes the same value and gradient.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Case
    from .measure import Result, Verdict
    from .timing import Effort

__all__ = ["main"]

#: Elements per case in a quick run: out of the second-level cache still.
QUICK_ELEMENTS = 10**6
DONE, WRONG, UNUSABLE = 0, 1, 2
EXPLANATION = """\
Value and gradient of the mean, medians of shuffled rounds. % limit: of the speed that the slower of two limits allows:
memory, which must let as many bytes be read and written, or the loss's exponentials, logarithms and powers alone, on
numbers from the caches. x NumPy, x torch, x sklearn: times faster than. spread: from the fastest 10 % of the
samples to the slowest 10 %, as a share of the median. -: no such peer, or too small to be limited by memory.
~: the machine was too busy for a fair sample.
"""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str
        Command line: ``[LOSS ...] [--quick] [--json FILE] [--threads N] [--case NAME] [--sharing]``.

    Returns
    -------
    int
        Exit status: 0, also where goals are missed; 1 if fastloss computed something wrong; 2 for a bad
        request.
    """
    options = _options(argv)
    from .cases import all_cases, chosen
    from .timing import QUICK, Effort

    if options.sharing and (options.losses or options.case or options.threads):
        sys.stderr.write("bench: --sharing takes no losses, no --case and no --threads\n")
        return UNUSABLE
    try:
        cases = chosen(all_cases(QUICK_ELEMENTS if options.quick else None), options.losses, options.case)
        if options.json:
            options.json.touch()  # better to fail now than after the measurement
    except (ValueError, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return UNUSABLE
    effort = QUICK if options.quick else Effort()
    report = _share(effort) if options.sharing else run(cases, effort, options.threads)
    report["quick"] = options.quick
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"everything measured: {options.json}")
    return WRONG if any("fastloss" in result.get("refused", ()) for result in report["results"]) else DONE


def _share(effort: Effort) -> dict[str, Any]:
    """Measure one thread against two, show it, and give everything in plain types."""
    from . import sharing
    from .environment import environment

    about = environment(2)
    _print_environment(about, sharing.EXPLANATION)
    return {"environment": about, "effort": vars(effort), "results": sharing.run(effort)}


def run(cases: Sequence[Case], effort: Effort, threads: int | None = None) -> dict[str, Any]:
    """Measure cases, show them, and give everything in plain types.

    Parameters
    ----------
    cases
        What to measure.
    effort
        How long.
    threads
        Threads of every contender that has several; by default those that fastloss uses.
    """
    from ..dispatch import get_num_threads, set_num_threads
    from .environment import environment
    from .measure import measure
    from .table import open_table

    before = get_num_threads()
    threads = before if threads is None else threads
    about = environment(threads)
    _print_environment(about, EXPLANATION)
    cases = [case for case in cases if case.dtype not in about["missing"]]
    results = []
    set_num_threads(threads)
    table = open_table(cases)
    try:
        for number, case in enumerate(cases, 1):
            table.start(case, number, len(cases))
            results.append(measure(case, effort, threads))
            table.add(results[-1])
    finally:
        set_num_threads(before)
        table.end()
    verdicts = [verdict for result in results for verdict in result.verdicts()]
    _print_end(results, verdicts)
    return {"environment": about, "effort": vars(effort), "results": [result.as_json() for result in results]}


def _options(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser("python -m fastloss bench", description="Speed against others and the memory limit.")
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="losses to measure (default: all; --quick: some)")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer rounds: below a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file")
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads of every contender")
    parser.add_argument("--sharing", action="store_true", help="instead: one thread against two, in six situations")
    parser.add_argument("--case", default="", metavar="NAME", help="cases with this in their name: float16, 1e7")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"must be an integer >= 1; got {text!r}"
        raise ArgumentTypeError(message)
    return int(text)


def _print_environment(about: dict[str, Any], explanation: str) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{about['date']}  {about['cpu']}, {about['system']}, threads: {about['threads']}\n{versions}")
    for name, reason in about["missing"].items():
        print(f"left out: {name} ({reason})")
    print(explanation, flush=True)


def _print_end(results: Sequence[Result], verdicts: Sequence[Verdict]) -> None:
    for result in results:
        for name, reason in result.refused.items():
            print(f"not timed: {name} in {result.case.loss.name} {result.case.name}: {reason}")
    judged = [verdict for verdict in verdicts if verdict.reached is not None]
    missed = [verdict for verdict in judged if not verdict.reached]
    unknown = [verdict for verdict in verdicts if verdict.reached is None]
    print(f"\ngoals: {len(judged) - len(missed)} of {len(verdicts)} reached")
    for what, some in (("missed", missed), ("not judged", unknown)):
        for verdict in some:
            print(f"  {what}: {verdict}")
