"""What all tests share: one kernel cache for the session, and notes on how much was tried."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile

import pytest

if not os.environ.get("FASTLOSS_CACHE_DIR"):
    # Before any kernel is compiled; pytest-xdist's workers inherit it and share what one has compiled.
    os.environ["FASTLOSS_CACHE_DIR"] = os.environ["FASTLOSS_TEST_CACHE"] = tempfile.mkdtemp(prefix="fastloss-")

_notes: dict[str, str] = {}


def pytest_unconfigure(config):
    made_here = os.environ.get("FASTLOSS_TEST_CACHE")
    if made_here and not hasattr(config, "workerinput"):
        shutil.rmtree(made_here, ignore_errors=True)


def pytest_collection_finish(session):
    """Numba makes many objects; to look for garbage among them and all that was imported takes a tenth of its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_logreport(report):
    _notes.update(dict(report.user_properties))


def pytest_terminal_summary(terminalreporter):
    """Say how much was tried of what is too much: ``record_property("huber", "96 of 2,400 cases")``."""
    if _notes:
        terminalreporter.section("how much was tried")
        for name, note in sorted(_notes.items()):
            terminalreporter.write_line(f"{name}: {note}")


@pytest.fixture
def set_threads():
    """Give ``fl.set_num_threads``; the number of threads is put back afterwards."""
    import fastloss as fl

    before = fl.get_num_threads()
    yield fl.set_num_threads
    fl.set_num_threads(before)
