"""Every example in a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import re
from dataclasses import fields

import pytest
import sampling
from catalogue import LOSSES

import fastloss as fl
from fastloss.families.declaration import SETS

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: Commands, not library: they have tests of their own, and import what only an extra installs.
COMMANDS = ("fastloss.__main__", "fastloss.demo", "fastloss.bench")
MODULES = [
    info.name
    for info in pkgutil.walk_packages(fl.__path__, "fastloss.")
    if not any(info.name == c or info.name.startswith(c + ".") for c in COMMANDS)
]
PUBLIC = [name for name, value in vars(fl).items() if not name.startswith("_") and not inspect.ismodule(value)]


def examples_of(docstring, name):
    return doctest.DocTestParser().get_doctest(docstring or "", {}, name, None, 0)


def run(test):
    failures = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=failures.append)
    assert not failures, "".join(failures)


@pytest.mark.parametrize("module", ["fastloss", *MODULES])
def test_examples_of_a_module(module):
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)):
        run(test)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example_that_runs(name):
    test = examples_of(inspect.getdoc(getattr(fl, name)), name)
    assert test.examples
    run(test)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_public(name):
    assert name in PUBLIC
    assert LOSSES[name].__name__ in PUBLIC
    assert all(alias in PUBLIC for alias in LOSSES[name].aliases)


@pytest.mark.parametrize("name", LOSSES)
def test_docstrings_say_what_every_configuration_takes(name):
    text = " ".join(inspect.getdoc(getattr(fl, name)).split())
    targets, predictions = re.search(r"Targets: (.*?)\. y_pred : .* Predictions: (.*?)\. Any memory", text).groups()
    for loss in sampling.configurations(LOSSES[name]):
        if any(isinstance(getattr(loss, f.name), float) and getattr(loss, f.name) != f.default for f in fields(loss)):
            continue  # what depends on a number is said in the loss's own words
        for said, numbers in zip((targets, predictions), loss.domain(), strict=True):
            assert SETS[numbers] in said
    assert ("by the targets" in text) == hasattr(LOSSES[name], "wrt")


def test_the_registry_has_an_example_that_runs():
    for function in (fl.losses.registry, fl.get_num_threads, fl.set_num_threads):
        test = examples_of(inspect.getdoc(function), function.__name__)
        assert test.examples
        run(test)


def test_the_number_of_threads_is_left_as_it_was():
    before = fl.get_num_threads()
    run(examples_of(inspect.getdoc(fl.set_num_threads), "set_num_threads"))
    assert fl.get_num_threads() == before
