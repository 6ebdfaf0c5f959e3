"""``python -m fastloss show`` and ``python -m fastloss list``."""

import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from representatives import EVERY_LOSS, LOSSES

import fastloss as fl
from fastloss import show
from fastloss.families.loss import configurations
from fastloss.families.representatives import formulas_of
from fastloss.gpu import catalogue
from fastloss.show import curve, drawing, listing


def shown(capsys, *arguments):
    assert show.main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", LOSSES)
def test_formulas_as_they_are_written_and_as_cuda(capsys, name):
    labels = LOSSES[name].row_formulas() if LOSSES[name].family == "rowwise" else LOSSES[name].formulas()
    written, translated = shown(capsys, name), shown(capsys, name, "--cuda")
    for label in LOSSES[name].formulas():
        assert f"# {name}: {label}\n" in written
    assert "def " in written
    for label in labels:
        assert f"// {name}: {label}\n" in translated
    assert "__device__ __forceinline__" in translated


@pytest.mark.parametrize("name", LOSSES)
def test_a_whole_kernel(capsys, name):
    text = shown(capsys, name, "--kernel", "--dtype", "float16", "--classes", "10")
    assert 'extern "C" __global__' in text
    assert "typedef __half PRED;" in text
    assert (name == "huber") == ("fl_formula" in text and "parameter_delta" in text)
    assert ("fastloss_rowwise_slab" in text) == (LOSSES[name].family == "rowwise")


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_a_page_says_everything_in_80_columns(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    page, cls = shown(capsys, name), EVERY_LOSS[name]
    prose = page.partition("\n# ")[0]
    assert max(map(len, prose.splitlines())) <= 80
    assert prose.splitlines()[0].split()[-1] == cls.family
    for field in dataclasses.fields(cls):
        assert re.search(rf"^{field.name}\b", prose, re.MULTILINE)
    drawn = page.count("\n   gradient\n")
    assert drawn == (len(configurations(cls)) if cls.family in ("elementwise", "rowwise") else 0)
    assert all(len(line) <= 80 for line in page.splitlines() if "┤" in line or line.startswith("no curve"))


def columns_of(panel):
    """In which lines of a panel a mark stands, by column."""
    rows = [line.partition("|")[2] for line in panel]
    return [
        {at for at, row in enumerate(rows) if row[column : column + 1] == "*"} for column in range(max(map(len, rows)))
    ]


def test_a_curve_in_a_terminal_without_braille(monkeypatch):
    """Huber's slope: flat, rising between the kinks, flat; its Hessian jumps there and is not joined."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = drawing.drawn(curve.curve_of(fl.Huber(), ""), 80)
    text.encode("ascii")
    lines = text.splitlines()
    slope = columns_of(lines[lines.index("   gradient") + 1 :][:6])
    assert slope[0] == slope[15] == {5}
    assert slope[-1] == slope[-15] == {0}
    heights = [min(rows) for rows in slope]
    assert heights == sorted(heights, reverse=True)
    jumps = columns_of(lines[lines.index("    Hessian") + 1 :][:6])
    assert all(rows in ({0}, {5}, {0, 5}) for rows in jumps)
    marks = next(line for line in lines if set(line) <= {" ", "^"})
    assert marks.count("^") == 2


def test_a_curve_by_braille_has_the_same_shape(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    text = drawing.drawn(curve.curve_of(fl.MeanSquaredError(), ""), 60)
    assert max(map(len, text.splitlines())) <= 60
    first = next(line for line in text.splitlines() if "┤" in line)
    drawn = first.partition("┤")[2]
    assert set(drawn) <= {chr(0x2800 + code) for code in range(256)} | {" "}
    assert drawn.strip("\u2800")[0] != "\u2800"


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_curves_are_finite_and_right(name):
    for kind, loss in configurations(EVERY_LOSS[name]):
        found = curve.curve_of(loss, kind)
        if found is None:
            assert loss.family not in ("elementwise", "rowwise")
            continue
        assert all(np.isfinite(series).all() for series in found.series.values())
        smooth = np.ones(len(found.x) - 2, bool)
        for kink in found.kinks:
            smooth &= (found.x[2:] < kink) | (found.x[:-2] > kink)
        slopes = (found.value[2:] - found.value[:-2]) / (found.x[2:] - found.x[:-2])
        scale = np.abs(found.grad).max() + np.abs(found.hess).max()
        if found.x_name == "y_pred":  # along a row's first prediction the others may move as well
            assert np.median(abs(slopes - found.grad[1:-1])[smooth]) <= 1e-2 * scale


def test_parameters_of_a_curve(capsys):
    assert "delta=0.5, y_true = 1:" in shown(capsys, "huber", "delta=0.5")
    assert show.main(["huber", "delta=-1"]) == 2
    assert capsys.readouterr().err == "show: huber: delta must be > 0; got -1\n"
    assert show.main(["huber", "detla=1"]) == 2
    assert capsys.readouterr().err == "show: huber has no parameter 'detla'; there are reduction, delta\n"


@pytest.mark.parametrize("series", [[0.0, 0.0], [2.0, 2.0], [np.nan, np.inf], [1e-300, 2e-300]])
def test_limits_of_flat_and_empty_series(series):
    low, high = drawing.limits(np.array(series))
    assert low < high


def test_limits_leave_out_what_needs_most_of_the_room():
    series = np.concatenate([np.linspace(0, 1, 198), [1e6, 1e9]])
    low, high = drawing.limits(series)
    assert low == 0.0
    assert 1.0 < high < 3.0


def test_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "bce.png"
    assert shown(capsys, "bce", "--png", str(file)) == f"{file}: written\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert show.main(["huber", "--png", str(tmp_path / "no" / "folder.png")]) == 2
    assert capsys.readouterr().err.startswith("show: ")


def test_a_picture_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastloss.show.picture", None)
    assert show.main(["huber", "--png", "huber.png"]) == 2
    assert capsys.readouterr().err == "show: --png needs matplotlib: pip install 'fastloss[demo]'\n"


def test_a_list_of_everything_and_of_what_holds_some_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert listing.main([]) == 0
    everything = capsys.readouterr().out
    assert max(map(len, everything.splitlines())) <= 80
    for name, cls in EVERY_LOSS.items():
        for word in (name, *cls.aliases):
            assert re.search(rf"\b{word}\b", everything)
    assert listing.main(["TORCH", "huber_"]) == 0
    some = capsys.readouterr().out
    assert "  huber\n" in some
    assert "mean_squared_error" not in some
    assert listing.main(["no such thing"]) == 1
    assert capsys.readouterr().err == "list: no loss with 'no such thing'\n"


def test_an_alias_and_a_name_that_is_none(capsys):
    assert shown(capsys, "mse") == shown(capsys, "mean_squared_error")
    assert show.main(["none"]) == 2
    assert capsys.readouterr().err.startswith("show: no loss 'none'; there are binary_crossentropy")


def test_a_reader_that_has_enough():
    command = f"{sys.executable} -m fastloss show bce --kernel | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout[:2], done.stderr) == ("//", "")


def test_every_entry_of_the_catalogue_has_a_text_and_a_label_of_its_own():
    entries = list(catalogue.kernels(LOSSES))
    assert len({entry.label for entry in entries}) == len({entry.text for entry in entries}) == len(entries)
    for name in LOSSES:
        assert any(name in entry.label for entry in entries)


def test_by_default_a_gate_takes_all_kernels_of_some_formulas_and_one_of_each_other():
    every, few = list(catalogue.kernels(LOSSES)), list(catalogue.kernels(LOSSES, {"huber": ("formula",)}))
    assert {entry.label for entry in few} < {entry.label for entry in every}
    assert [entry for entry in few if " huber " in entry.label] == [
        entry for entry in every if " huber " in entry.label
    ]
    alone = [entry for entry in few if entry.alone]
    formulas = sum(len(formulas_of(loss)) for name, loss in LOSSES.items() if name != "huber")
    assert len(alone) == formulas == len({tuple(entry.label.split(" ")[1:3]) for entry in alone})
