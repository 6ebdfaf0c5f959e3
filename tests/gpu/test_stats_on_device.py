"""By-products (see test_stats.py) on the GPU backend, in the emulator."""

import pytest
import test_stats
from test_stats import *  # noqa: F403
from through_device import device  # noqa: F401

del test_rows_shared_among_threads, test_the_short_way_in_is_not_taken  # noqa: F821  a matter of the NumPy backend


@pytest.fixture(autouse=True)
def one_number_of_classes(monkeypatch):
    """Each is a kernel of its own here."""
    cases = {case: (*given, several[:1]) for case, (*given, several) in test_stats.CASES.items()}
    monkeypatch.setattr(test_stats, "CASES", cases)
