"""The calls' tests of the NumPy backend (see test_calls.py) on the GPU backend, in the emulator."""

import pytest
import test_calls
from test_calls import *  # noqa: F403
from through_device import device  # noqa: F401

del test_the_sample_is_not_small  # noqa: F821  it is smaller here


@pytest.fixture(autouse=True)
def fewer_kernels(monkeypatch):
    """There are more of them to compile here: weights, masks and every sweep have their own."""
    monkeypatch.setattr(test_calls, "MORE_KERNELS", {"elementwise": 2, "rowwise": 2})
