"""What a measurement was taken on: versions, processor, threads, date."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import sklearn_peers, torch_peers

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "scikit-learn", "ml_dtypes")


def environment(threads: int) -> dict[str, Any]:
    """Describe this run in plain types."""
    versions = {"fastloss": import_module("...", __name__).__version__, "python": platform.python_version()}
    versions |= {name: found for name in PACKAGES if (found := _version(name))}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "cpu": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "missing": missing(),
    }


def missing() -> dict[str, str]:
    """What cannot be measured here, and why."""
    found = {
        "torch": torch_peers.available(),
        "scikit-learn": sklearn_peers.available(),
        "bfloat16": "" if find_spec("ml_dtypes") else "needs ml_dtypes, which is not importable",
    }
    return {name: reason for name, reason in found.items() if reason}


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
