"""What a bug report needs: versions, processor, threads, cache, memory's speed, GPU."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import __version__, get_num_threads

PACKAGES = ("numpy", "numba", "llvmlite", "ml_dtypes", "torch", "cupy-cuda12x", "cupy-cuda13x")
#: Instructions that kernels gain from, by LLVM's names.
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512bf16", "avx512fp16", "neon", "sve")
#: Bytes that the probe of memory moves: more than caches hold.
PROBED = 192 << 20


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _kernels() -> dict[str, Any]:
    """Where kernels are kept, and whether the first call of a loss finds its own there."""
    from . import mean_squared_error
    from .cpu import cache

    obstacle, before, began = cache.obstacle(), cache.kept()[0], time.perf_counter()
    mean_squared_error([1.0], [2.0])
    took, after = time.perf_counter() - began, cache.kept()[0]
    hit = not obstacle and after == before
    return {
        "kernel cache": f"not used: {obstacle}" if obstacle else str(cache.directory()),
        "cached kernels": after,
        "first call": f"{'found in the cache' if hit else 'compiled'} in {took:.2f} s",
    }


def _memory() -> float:
    """Gigabytes a second that a kernel of two loads and a store moves, in the best way there is."""
    from .bench.limit import streams
    from .bench.timing import QUICK, interleaved

    return round(PROBED / min(samples.median for samples in interleaved(streams(PROBED), QUICK).values()) / 1e9, 1)


def _gpus() -> list[str] | str:
    """Every device that CuPy sees, or why there is none."""
    try:
        runtime = import_module("cupy").cuda.runtime
        devices = [runtime.getDeviceProperties(number) for number in range(runtime.getDeviceCount())]
        driver = runtime.driverGetVersion()
    except ImportError:
        return "CuPy is not installed"
    except Exception as error:  # noqa: BLE001  whatever CuPy raises without a driver or device
        return f"none: {' '.join(str(error).split()) or type(error).__name__}"
    return [
        f"{device['name'].decode()}, sm_{device['major']}{device['minor']}, "
        f"{device['totalGlobalMem'] / 2**30:.0f} GiB, driver for CUDA {driver // 1000}.{driver % 1000 // 10}"
        for device in devices
    ]


def facts() -> dict[str, Any]:
    """Everything that `main` shows, in plain types; takes about a second, for the probes of cache and memory."""
    from .bench.environment import processor
    from .cpu.storage import has_feature

    return {
        "fastloss": __version__,
        "python": sys.version.split()[0],
        **{package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": processor(),
        "instructions": [name for name in FEATURES if has_feature(name)],
        "processors": _processors(),
        "threads": get_num_threads(),
        **_kernels(),
        "memory GB/s": _memory(),
        "GPU": _gpus(),
    }


def main(arguments: list[str]) -> int:
    """Print the facts, as text or JSON."""
    parser = argparse.ArgumentParser(prog="python -m fastloss info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args(arguments).json
    known = facts()
    if as_json:
        print(json.dumps(known, indent=2))  # noqa: T201
        return 0
    for name, fact in known.items():
        shown = " ".join(fact) if name == "instructions" else "; ".join(fact) if isinstance(fact, list) else fact
        print(f"{name:15} {'not installed' if fact is None else shown}")  # noqa: T201
    return 0
