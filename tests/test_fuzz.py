"""Random calls, good and bad, in the short form; the long one makes ten million. What is tried stands in fuzz.py."""

import os
from pathlib import Path

import fuzz
import numpy as np
import pytest
from fresh_process import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs pages without access")


def test_random_calls(set_threads):
    set_threads(2)
    counts = fuzz.fuzz(seed=0, calls=6_000)
    assert counts["calls"] >= 6_000
    wrong = "shape of y_true", "dtype of y_pred", "weight", "shape of weight", "shape of mask", "out", "label"
    assert {name for name in counts if name.startswith("refused: ")} == {f"refused: {kind}" for kind in wrong}
    assert counts["special"] > 8
    assert counts["fenced"] > 2
    assert counts["shared"] > 60


class Drawn:
    """A random generator whose single choices hypothesis makes; arrays get their numbers from NumPy's."""

    def __init__(self, data):
        self._data = data
        self._rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def random(self, size=None):
        return self._data.draw(st.floats(0, 1, exclude_max=True)) if size is None else self._rng.random(size)

    def integers(self, low, high=None, size=None):
        if size is not None:
            return self._rng.integers(low, high, size)
        low, high = (0, low) if high is None else (low, high)
        return self._data.draw(st.integers(low, high - 1))

    def choice(self, options, size=None):
        return options[self.integers(len(options))] if size is None else self._rng.choice(options, size)

    def __getattr__(self, name):
        return getattr(self._rng, name)


def cases(test):
    """Run a test on cases in which hypothesis chooses loss, types, shape, layouts and what is wrong."""
    test = given(data=st.data())(test)
    return settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))(test)


@cases
def test_random_cases(data):
    """Hypothesis reduces a case that fails to the simplest one that does."""
    rng = Drawn(data)
    fuzz.try_case(rng, fuzz.draw(rng), fuzz.Counter())


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_million_random_calls(seed):
    """In two halves, which two workers share."""
    printed = run(Path(fuzz.__file__), seed, 5e6, timeout=7200)
    print(printed)
    assert "calls" in printed


@pytest.mark.parametrize("wrong", ["nothing", "value", "write"])
def test_the_driver_notices(wrong, monkeypatch):
    """A result that is off, and a write into an input."""
    original = fuzz.fl.Huber.value_and_grad

    def off(self, y_true, y_pred, *args, **options):
        value, grad = original(self, y_true, y_pred, *args, **options)
        if wrong == "write" and y_true.flags.writeable and y_true.size:
            y_true.flat[0] += 1
        return value, grad * 1.001 if wrong == "value" else grad

    monkeypatch.setattr(fuzz.fl.Huber, "value_and_grad", off)
    monkeypatch.setattr(fuzz, "USUAL", {"huber": fuzz.USUAL["huber"]})
    if wrong == "nothing":
        fuzz.fuzz(seed=3, calls=500)
    else:
        with pytest.raises(AssertionError):
            fuzz.fuzz(seed=3, calls=500)
