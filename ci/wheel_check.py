#!/usr/bin/env python3
"""Build the wheel, install it into an empty environment and use it from outside the source tree.

Fails when a file of the package is missing from the wheel, when importing fastloss loads a compiler, or when
a small call gives a wrong result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import dev

PACKAGE = dev.ROOT / "fastloss"
IN_THE_WHEEL = """
import sys
import numpy as np
import fastloss as fl

assert not {"numba", "cupy"} & sys.modules.keys(), "importing fastloss loaded numba or cupy"
assert fl.__file__.startswith(sys.prefix), f"imported from {fl.__file__}, not from the wheel"
value, gradient = fl.huber.value_and_grad(np.array([0.0, 1.0]), np.array([3.0, 1.5]), delta=1.0)
np.testing.assert_allclose(value, (2.5 + 0.125) / 2)
np.testing.assert_allclose(gradient, [0.5, 0.25])
labels, logits = np.array([0, 1]), np.zeros((2, 4), np.float32)
value = fl.sparse_categorical_crossentropy(labels, logits, from_logits=True)
np.testing.assert_allclose(value, np.log(4.0), rtol=1e-6)
print(f"fastloss from {fl.__file__} works on Python {sys.version.split()[0]}, NumPy {np.__version__}")
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fastloss-wheel-") as name:
        folder = Path(name)
        environment = folder / "environment"
        dev.say("making an empty environment")
        dev.create_environment(environment)
        wheel = build(environment, folder / "dist")
        check_files(wheel)
        dev.install(environment, str(wheel), what=wheel.name)
        return use(environment, folder)


def build(environment: Path, folder: Path) -> Path:
    dev.say("building the wheel")
    dev.ensure_pip(environment)
    python = str(dev.python_of(environment))
    dev.run_step([python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(dev.ROOT)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_files(wheel: Path) -> None:
    """Every file of the package is in the wheel, and nothing beside it."""
    expected = {
        file.relative_to(dev.ROOT).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if missing := sorted(expected - held):
        dev.fail(f"{wheel.name} lacks {', '.join(missing)}")
    if surplus := sorted(held - expected):
        dev.fail(f"{wheel.name} holds what the package does not: {', '.join(surplus)}")
    data = sum(not name.endswith(".py") for name in held)
    dev.say(f"{wheel.name} holds all {len(held)} files of the package, {data} of them data")


def use(environment: Path, folder: Path) -> int:
    """Import and call the installed package; -I: neither the current folder nor PYTHONPATH helps."""
    variables = {**os.environ, "FASTLOSS_CACHE_DIR": str(folder / "cache")}
    command = [str(dev.python_of(environment)), "-I", "-W", "error", "-c", IN_THE_WHEEL]
    status = subprocess.run(command, cwd=folder, env=variables, check=False).returncode
    if status != 0:
        dev.fail("the installed wheel does not work (see above)")
    return status


if __name__ == "__main__":
    sys.exit(main())
