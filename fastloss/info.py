"""What a bug report needs: versions, processor, threads, cache."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__, get_num_threads


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def facts() -> dict[str, Any]:
    """Everything that `main` shows."""
    from .cpu import cache

    obstacle = cache.obstacle()
    return {
        "fastloss": __version__,
        "python": sys.version.split()[0],
        **{
            package: _version(package)
            for package in ("numpy", "numba", "llvmlite", "torch", "cupy-cuda12x", "cupy-cuda13x")
        },
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": get_num_threads(),
        "kernel cache": f"not used: {obstacle}" if obstacle else str(cache.directory()),
        "cached kernels": cache.kept()[0],
    }


def main(arguments: list[str]) -> int:
    """Print the facts, as text or JSON."""
    parser = argparse.ArgumentParser(prog="python -m fastloss info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    known = facts()
    if parser.parse_args(arguments).json:
        print(json.dumps(known, indent=2))  # noqa: T201
    else:
        for name, fact in known.items():
            print(f"{name:15} {'not installed' if fact is None else fact}")  # noqa: T201
    return 0
