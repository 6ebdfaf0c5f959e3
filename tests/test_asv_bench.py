"""The benchmarks for asv: every loss has one, and each can be made."""

import importlib
import sys
from pathlib import Path

import pytest
from representatives import EVERY_LOSS

from fastloss.bench.cases import all_cases

FOLDER = Path(__file__).parents[1] / "asv_bench"


@pytest.fixture(scope="module")
def benchmarks():
    sys.path.insert(0, str(FOLDER))
    yield {
        name: importlib.import_module(f"benchmarks.{name}")
        for name in ("calls", "losses", "calling", "starting", "gpu")
    }
    sys.path.remove(str(FOLDER))


def test_the_list_has_every_loss_and_nothing_twice(benchmarks):
    calls = benchmarks["calls"]
    known = {f"{case.loss.name} {case.name}" for case in all_cases()}
    for listed in (calls.CASES, calls.SMALL, calls.SHARED):
        assert len(set(listed)) == len(listed)
        assert set(listed) <= known, "a case was renamed: asv's history of it would end"
    missing = set(EVERY_LOSS) - {case.partition(" ")[0] for case in calls.CASES}
    assert not missing, "run: python ci/sync.py"


def test_the_list_is_only_appended_to(benchmarks):
    """Where the first ones stand; those that are appended need no line here."""
    first = {0: "binary_crossentropy logits-float32-1e5", 51: "tweedie float32-1e5"}
    assert {place: benchmarks["calls"].CASES[place] for place in first} == first


def test_calls_run(benchmarks):
    call = benchmarks["calls"].call_of("huber float32-1e5")
    value, gradient = call()
    assert value > 0
    assert gradient.shape == (10**5,)
    overhead = benchmarks["calling"].Overhead()
    overhead.setup("mean_squared_error float32-8")
    overhead.time_value_and_grad("mean_squared_error float32-8")


def test_what_a_commit_lacks_is_left_out(benchmarks):
    with pytest.raises(NotImplementedError, match="no hubert"):
        benchmarks["losses"].Losses().setup("hubert float32-1e5")
    with pytest.raises(NotImplementedError, match="fewer than 4096 processors"):
        benchmarks["calling"].Threads().setup("huber float32-1e5", 4096)


def test_without_a_gpu_the_reason_is_given(benchmarks, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(NotImplementedError, match=r"^no GPU: .*cupy"):
        benchmarks["gpu"].Gpu().setup("huber float32-1e5")
