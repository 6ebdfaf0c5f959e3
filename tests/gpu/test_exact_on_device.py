"""How exact results are (see test_exact.py) on the GPU backend, in the emulator, with the C library's exp and log."""

import pytest
import test_exact
from test_exact import *  # noqa: F403
from through_device import device  # noqa: F401


@pytest.fixture(autouse=True)
def without_subnormal_numbers(monkeypatch):
    """CuPy has float32's subnormal numbers flushed to 0, and the sign of a difference with them; float64's it keeps."""
    extreme = test_exact.extreme

    def flushed(loss, dtype, **options):
        y, p = extreme(loss, dtype, **options)
        smallest = np.finfo(np.float32).tiny if dtype == np.float32 else 0.0  # noqa: F405
        return y, np.where(abs(p) < smallest, 0.0, p)  # noqa: F405

    monkeypatch.setattr(test_exact, "extreme", flushed)
