"""``python -m fastloss show``."""

import subprocess
import sys

import pytest
from catalogue import LOSSES

from fastloss import show
from fastloss.families.representatives import formulas_of
from fastloss.gpu import catalogue


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
