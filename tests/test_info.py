"""`python -m fastloss info`: what it says of cache, memory and GPU."""

import json
import subprocess
import sys
import types

import pytest

from fastloss import info


def run(folder, *arguments):
    environment = {"PATH": "", "FASTLOSS_CACHE_DIR": str(folder), "FASTLOSS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fastloss", "info", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_call_is_compiled_once_and_found_afterwards(tmp_path):
    known = json.loads(run(tmp_path, "--json"))
    assert known["first call"].startswith("compiled in ")
    assert known["kernel cache"] == str(tmp_path)
    assert known["cached kernels"] >= 1
    assert known["threads"] == 1
    assert known["processors"] >= 1
    assert known["memory GB/s"] > 0.1
    text = dict(line.split(maxsplit=1) for line in run(tmp_path).splitlines() if line.startswith(("numpy", "threads")))
    assert text == {"numpy": known["numpy"], "threads": "1"}
    assert json.loads(run(tmp_path, "--json"))["first call"].startswith("found in the cache in ")


def cupy_of(runtime):
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))


def test_gpus(monkeypatch):
    properties = {"name": b"A card", "major": 9, "minor": 0, "totalGlobalMem": 80 << 30}
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda number: properties, driverGetVersion=lambda: 13010
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy_of(runtime))
    assert info._gpus() == ["A card, sm_90, 80 GiB, driver for CUDA 13.1"]


def no_driver():
    message = "cudaErrorInsufficientDriver:\n CUDA driver version is insufficient"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("cupy", "words"),
    [
        (None, "CuPy is not installed"),
        (
            cupy_of(types.SimpleNamespace(getDeviceCount=no_driver)),
            "none: cudaErrorInsufficientDriver: CUDA driver version is insufficient",
        ),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cupy, words):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert info._gpus() == words
