"""The demo: three models trained on real data with plain NumPy, their loss once by fastloss, once by NumPy.

Run it with ``python -m fastloss demo``. Only the demo uses scikit-learn (data), matplotlib (picture) and rich
(live progress), and it imports them after `main` made sure that they are there.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

__all__ = ["main"]

REQUIRED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}  # what to import: what to install
PICTURE_NAME = "fastloss-demo.png"
INTRODUCTION = """\
fastloss demo: three models on real data, float64, fixed seed. Each is trained twice in plain NumPy,
its loss once by fastloss and once by the NumPy code that a careful user writes."""
REACHED, MISSED, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """Run the demo.

    Parameters
    ----------
    argv : sequence of str
        Command line options: ``--out DIR`` and ``--quick``.

    Returns
    -------
    int
        Exit status: 0 if every task reached its goal, 1 if one did not, 2 if the demo cannot run here.
    """
    options = _options(argv)
    missing = [package for module, package in REQUIRED.items() if find_spec(module) is None]
    if missing:
        return _refuse(f"needs {' and '.join(missing)}; install with: pip install 'fastloss[demo]'")
    picture = options.out / PICTURE_NAME
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        picture.touch()  # better to fail now than after the training
    except OSError as error:
        return _refuse(f"--out must be a folder to write to; got {str(options.out)!r} ({error.strerror})")
    return _run(picture, quick=options.quick)


def _options(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser("python -m fastloss demo", description="Train on real data.")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to put the picture")
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    return parser.parse_args(argv)


def _refuse(reason: str) -> int:
    sys.stderr.write(f"demo: {reason}\n")
    return UNUSABLE


def _run(picture: Path, *, quick: bool) -> int:
    from .comparison import compare, compile_kernels, table_header, table_rows
    from .picture import save_picture
    from .screen import open_screen
    from .tasks import all_tasks

    start = perf_counter()
    screen, tasks = open_screen(), all_tasks(quick=quick)
    screen.say(INTRODUCTION)
    screen.say("Getting the kernels ready; compiling them takes some seconds the first time ...")
    compile_kernels(tasks)
    screen.say(f"Ready after {perf_counter() - start:.1f} s.\n")
    comparisons = [compare(task, screen) for task in tasks]
    screen.say("")
    screen.table(table_header(comparisons), table_rows(comparisons))
    save_picture(comparisons, picture)
    screen.say(f"\nPicture: {picture.resolve()}")
    screen.say(f"Done in {perf_counter() - start:.1f} s.")
    missed = [comparison.task.name for comparison in comparisons if not comparison.reached]
    if missed:
        screen.say(f"The goal or the same curves to 1e-5 were missed on: {', '.join(missed)}.")
    return MISSED if missed else REACHED
