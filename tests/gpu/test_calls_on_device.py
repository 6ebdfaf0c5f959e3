"""The calls' tests of the NumPy backend (see test_calls.py) on the GPU backend, in the emulator."""

import pytest
import test_calls
from representatives import turn
from sampling import DTYPES
from test_calls import *  # noqa: F403
from through_device import device  # noqa: F401

del test_the_sample_is_not_small  # noqa: F821  it is smaller here

#: Each loss in one type, in turn, but one in all (test_exact_on_device.py has half precision, too,
#: test_layouts_on_device.py every type): the emulator takes up to 20 s to compile what one loss needs in one type.
ALL_TYPES = ("binary_crossentropy",)
CASES = [
    case
    for case in test_calls.CASES
    if case.values[0].name in ALL_TYPES or case.values[1] == turn(case.values[0].name, list(DTYPES))
]


@pytest.mark.parametrize(("cls", "dtype"), CASES)
def test_call(cls, dtype, record_property):
    test_calls.test_call(cls, dtype, record_property)


@pytest.fixture(autouse=True)
def fewer_kernels(monkeypatch):
    """There are more of them to compile here: weights, masks and every sweep have their own."""
    monkeypatch.setattr(test_calls, "MORE_KERNELS", {"elementwise": 1, "rowwise": 1})
