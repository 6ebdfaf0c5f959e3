"""``python -m fastloss cache``: show or clear the compiled kernels kept on disk."""

from __future__ import annotations

import argparse


def main(arguments: list[str]) -> int:
    """Say where kernels are kept, how many, and their size; with ``--clear`` remove them."""
    from .cpu import cache

    parser = argparse.ArgumentParser(prog="python -m fastloss cache", description=__doc__)
    parser.add_argument("--clear", action="store_true", help="remove all kernels; they are compiled again when needed")
    clear = parser.parse_args(arguments).clear
    obstacle = cache.obstacle()
    if obstacle:
        print(f"no kernels are read: {obstacle}")  # noqa: T201
        return 1
    number, size = cache.kept(remove=clear)
    print(f"{cache.directory()}: {number} kernels, {size / 1e6:.1f} MB{', removed' if clear else ''}")  # noqa: T201
    return 0
