"""Every line of the page for those who come from another library: their call, ours, and the numbers that it prints."""

import re
from pathlib import Path

import numpy as np
import pytest
import sklearn._loss.loss
from sklearn import metrics
from test_peers import PEERS, keras, torch

import fastloss as fl

__all__ = ["keras", "torch"]  # fixtures

PAGE = (Path(fl.__file__).parent / "docs" / "coming_from.md").read_text(encoding="utf-8")
OPERANDS = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
LIBRARIES = ("Keras", "PyTorch", "scikit-learn")
#: Keras computes some of its losses, and its mean, in float32: 64 rows' losses, each some roundings off.
TOLERANCE = {"Keras": 4e-6, "PyTorch": 1e-12, "scikit-learn": 1e-12}


def rows(title):
    """The cells of a section's table, without backticks."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def operands():
    names = {}
    exec(OPERANDS, names)
    del names["__builtins__"]
    return names


def number(result):
    """A result of any library as a number or NumPy array."""
    return np.asarray(result.detach() if hasattr(result, "detach") else result, np.float64)


def evaluated(call, request):
    """Their call: torch's with tensors."""
    names = operands()
    if call.startswith("keras"):
        names["keras"] = request.getfixturevalue("keras")
    if re.search(r"\b(F|torch)\.", call):
        torch = request.getfixturevalue("torch")
        names = {name: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for name, a in names.items()}
        names |= {"torch": torch, "F": torch.nn.functional}
    return number(eval(call, {**names, "metrics": metrics, "_loss": sklearn._loss.loss}))


def needs_peers(call):
    marks = [
        pytest.mark.peers,
        pytest.mark.skipif(not PEERS, reason="torch and Keras are compared by `ci/dev.py test --peers`"),
    ]
    return marks if re.search(r"\b(F|torch|keras)\.", call) else []


SAME = [
    pytest.param(library, *row, marks=needs_peers(row[0]), id=row[0]) for library in LIBRARIES for row in rows(library)
]
DIFFERENT = [pytest.param(*row[:4], marks=needs_peers(row[0]), id=row[0]) for row in rows("Where the numbers differ")]


@pytest.mark.parametrize(("library", "theirs", "ours"), SAME)
def test_the_same_number(library, theirs, ours, request):
    expected = evaluated(theirs, request)
    result = number(eval(ours, {**operands(), "fl": fl}))
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE[library], atol=0)


@pytest.mark.parametrize(("theirs", "their_number", "ours", "our_number"), DIFFERENT)
def test_different_numbers(theirs, their_number, ours, our_number, request):
    """As many digits as are printed."""
    for result, printed in (
        (evaluated(theirs, request), their_number),
        (number(eval(ours, {**operands(), "fl": fl})), our_number),
    ):
        assert float(f"{result.item():.5g}") == pytest.approx(float(printed), nan_ok=True), printed
    assert their_number != our_number


def test_ours_alone():
    """Our column needs no other library, so that it is executed in every run."""
    for library in (*LIBRARIES, "Where the numbers differ"):
        for row in rows(library):
            ours = row[2] if library.startswith("Where") else row[1]
            assert number(eval(ours, {**operands(), "fl": fl})).dtype == np.float64


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_loss_that_names_a_library_is_there(library):
    """A loss whose catalogue row names a library has a line in that library's table."""
    from fastloss.families.documentation import catalogue_row

    text = " ".join(row[1] for row in rows(library))
    name = {"PyTorch": "torch"}.get(library, library)
    missing = [
        loss.name
        for loss in fl.losses.registry().values()
        if loss.__module__.startswith("fastloss.")
        and f"{name} `" in catalogue_row(loss)["also in"]
        and f"fl.{loss.name}(" not in text
    ]
    assert not missing
