"""Makes the CUDA emulator importable: ``import fake_cupy``, and ``emulator.build`` and others for the rest of it."""

import pathlib
import platform
import sys

import pytest

_HERE = pathlib.Path(__file__).parent
for _directory in (_HERE, _HERE / "emulator"):
    if str(_directory) not in sys.path:
        sys.path.append(str(_directory))


def pytest_collection_modifyitems(items):
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        reason = "the emulator switches stacks in the assembler of x86-64, and asks Linux for its pages"
        for item in items:
            if _HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))
