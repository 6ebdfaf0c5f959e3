"""Lets tests of the NumPy backend run on the GPU backend: calls with NumPy arrays go through CuPy arrays and back.

A module of this folder that imports such tests and the fixture `device` runs them unchanged, so that what a loss must
give stands in one place. Arrays keep their strides on the device, and arguments that are one array stay one.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fake_cupy import FakeArray, FakeCupy

from fastloss.families.loss import Loss
from fastloss.families.stats import Stats
from fastloss.gpu import launch
from fastloss.validate import as_array, labels, prediction, target

GIVEN = ("y_true", "y_pred", "sample_weight", "mask", "normalizer", "out", "hess_out")


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """A GPU made of software; every call of a loss goes there."""
    fake = FakeCupy(schedule="shuffled", seed=7)
    use(monkeypatch, fake)
    monkeypatch.setattr(Loss, "_evaluated", through(Loss._evaluated, fake))
    monkeypatch.setattr(Loss, "value_and_grad", without_short_way(Loss.value_and_grad))
    return fake


def use(monkeypatch, fake):
    """Have the library take this for CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", fake)
    for kept, empty in (("_functions", {}), ("_workspaces", {}), ("_allowed", set()), ("_captured", [])):
        monkeypatch.setattr(launch, kept, empty)
    launch.device_of.cache_clear()


def without_short_way(method):
    """Of small NumPy arrays, which the NumPy backend may have found for this loss."""

    def value_and_grad(self, *arguments, **options):
        object.__setattr__(self, "_quick", None)
        return method(self, *arguments, **options)

    return value_and_grad


def placed(fake, array):
    """The array on the device, with the same strides."""
    reach = [stride * (extent - 1) for stride, extent in zip(array.strides, array.shape, strict=True) if extent]
    low = sum(step for step in reach if step < 0)
    high = sum(step for step in reach if step > 0) + array.itemsize
    bytes_ = fake.empty((high - low if array.size else 0,), np.uint8)
    if not array.size:
        return fake.empty(array.shape, array.dtype)
    host = np.ndarray(array.shape, array.dtype, bytes_._host.data, -low, array.strides)
    host[...] = array
    return FakeArray(fake, bytes_.memory, host, bytes_._device_id, bytes_)


def through(evaluated, fake):
    """`Loss._evaluated` by way of the device; bad labels and weights raise, as they do for NumPy arrays."""

    def on_device(self, outputs, *arguments):
        given = dict(zip(GIVEN, arguments, strict=False))
        converters = {"y_pred": prediction, "y_true": labels if getattr(self, "indexed", False) else target}
        sent = {}
        for name, value in given.items():
            if value is not None and name != "normalizer":
                if name in converters:
                    value = converters[name](self.name, value)
                elif not name.endswith("out"):
                    value = as_array(self.name, name, value)
                sent[id(given[name])] = placed(fake, value)
        changed = [sent.get(id(value), value) for value in arguments[:-1]]
        results = evaluated(self, outputs, *changed, "raise")
        for name in ("out", "hess_out"):
            if given[name] is not None:
                given[name][...] = sent[id(given[name])]._host
        back = {id(array): given[name] for name in ("out", "hess_out") for array in [sent.get(id(given[name]))]}
        value, *others = (_back(result, back) for result in results[:3])
        for stats in results[3:]:
            log_sum_exp, argmax, correct, valid = (_back(part, {}) for part in stats)
            others.append(Stats(log_sum_exp, argmax, int(correct), int(valid)))
        is_number = value is not None and self.reduction != "none"
        return (float(value) if is_number else value, *others)

    return on_device


def _back(result, buffers):
    if result is None:
        return None
    if id(result) in buffers and buffers[id(result)] is not None:
        return buffers[id(result)]
    return result._host.copy(order="K")
