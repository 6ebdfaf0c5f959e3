"""Write the text that derives from the losses' files; with --check, only compare.

That is README's catalogue, the names that the package exports, and the cases that asv measures, which are only ever
appended to. Docstrings derive at import time and need no writing.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ("<!-- catalogue: written by ci/sync.py -->", "<!-- end of catalogue -->")
EXPORTS = ("# losses: written by ci/sync.py", "# end of losses")
CASES = ("    # cases: only ever appended to, by ci/sync.py", "    # end of cases")
#: Elements of a case that is appended, at most.
MEASURED = 5_000_000
LINE_LENGTH = 120


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table of the rows; the first row's keys are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def exports(losses: dict[str, Any]) -> str:
    """Import lines for every loss's class and function, then its aliases."""
    modules = sorted((loss.__module__.removeprefix("fastloss"), name) for name, loss in losses.items())
    lines = [_export(module, word) for module, name in modules for word in (losses[name].__name__, name)]
    aliases = sorted((alias, name) for name, loss in losses.items() for alias in loss.aliases)
    return "\n".join([*lines, "", *(f"{alias} = {name}" for alias, name in aliases)])


def _export(module: str, name: str) -> str:
    line = f"from {module} import {name} as {name}"
    return line if len(line) <= LINE_LENGTH else f"from {module} import (\n    {name} as {name},\n)"


def appended(text: str) -> str:
    """The list of asv's cases with one for each kind of predictions, of each loss, that has none."""
    from fastloss.bench.cases import all_cases

    listed = text.split(CASES[0])[1].split(CASES[1])[0].strip("\n")
    measured, largest = set(), {}
    for case in all_cases():
        key, name = (case.loss.name, case.configuration), f"{case.loss.name} {case.name}"
        if f'"{name}"' in listed:
            measured.add(key)
        if case.dtype == "float32" and case.elements <= MEASURED:
            largest[key] = name
    new = [f'    "{name}",' for key, name in sorted(largest.items()) if key not in measured]
    return between(text, CASES, "\n".join([listed, *new]))


def between(text: str, marks: tuple[str, str], derived: str) -> str:
    """The text with what stands between two marks replaced."""
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    return f"{before}{marks[0]}\n{derived}\n{marks[1]}{after}"


def all_losses() -> dict[str, Any]:
    """Every loss of the package by name, also one that is not exported yet."""
    sys.path.insert(0, str(ROOT))
    for path in sorted((ROOT / "fastloss" / "losses").glob("*/[!_]*.py")):
        importlib.import_module(f"fastloss.losses.{path.parent.name}.{path.stem}")
    from fastloss.losses import registry

    return {name: loss for name, loss in registry().items() if loss.__module__.startswith("fastloss.")}


def updated(path: Path, change: Callable[[str], str], check: bool) -> bool:
    """Write one file anew, or say that it is out of date; whether all is well."""
    old = path.read_text(encoding="utf-8")
    new = change(old)
    if new == old:
        print(f"{path.name}: up to date")
    elif check:
        print(f"{path.name}: out of date; run: python ci/sync.py", file=sys.stderr)
    else:
        path.write_text(new, encoding="utf-8")
        print(f"{path.name}: written")
    return new == old or not check


def main(arguments: list[str]) -> int:
    """Update the derived text, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check = parser.parse_args(arguments).check
    losses = all_losses()
    from fastloss.families.documentation import catalogue_rows

    texts: dict[Path, Callable[[str], str]] = {
        ROOT / "README.md": lambda text: between(text, CATALOGUE, table(catalogue_rows(losses))),
        ROOT / "fastloss" / "__init__.py": lambda text: between(text, EXPORTS, exports(losses)),
        ROOT / "asv_bench" / "benchmarks" / "calls.py": appended,
    }
    results = [updated(path, change, check) for path, change in texts.items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
