"""Python in a process of its own: for what a process does once, may die of, or must not leave behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import fastloss

#: What makes root an ordinary user, who may not write everywhere; None if nothing does.
ORDINARY: list[str] | None = []
if hasattr(os, "geteuid") and os.geteuid() == 0:
    setpriv = shutil.which("setpriv")
    ORDINARY = [setpriv, "--bounding-set=-dac_override,-dac_read_search"] if setpriv else None

IMPORTS = [Path(fastloss.__file__).parents[1], Path(__file__).parent]


def program(*pieces):
    """Source of a program, from indented pieces."""
    return "\n".join(dedent(piece) for piece in pieces)


def run(code, *arguments, died_of=None, timeout=120, ordinary=False, **environment):
    """Run a program, or a script if ``code`` is a path, and give what it printed.

    Parameters
    ----------
    code : str or Path
        Warnings are errors in it.
    *arguments
        Its ``sys.argv[1:]``.
    died_of : set of signal.Signals, optional
        The program must end by one of these signals; without them it must end well and print no error.
    timeout : float
        Seconds after which it counts as hung.
    ordinary : bool
        Without root's right to write everywhere (see `ORDINARY`).
    **environment
        Variables to set; those that are None are unset.
    """
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, IMPORTS)), **environment}
    variables = {name: str(value) for name, value in variables.items() if value is not None}
    program = [str(code)] if isinstance(code, Path) else ["-c", code]
    done = subprocess.run(
        [*(ORDINARY if ordinary else []), sys.executable, "-P", "-W", "error", *program, *map(str, arguments)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if died_of:
        assert -done.returncode in died_of, (done.returncode, done.stdout, done.stderr)
    else:
        errors = [line for line in done.stderr.splitlines() if not line.startswith("fastloss: compiling")]
        assert (done.returncode, errors) == (0, []), done.stdout[-2000:] + done.stderr
    return done.stdout
