"""What users test their own losses with: that right ones pass, wrong ones do not, and how two times are compared."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sampling import LOSSES, is_rowwise, plain
from test_user_loss import TOYS

import fastloss as fl
from fastloss import testing
from fastloss.__main__ import load
from fastloss.bench import timing
from fastloss.testing import assert_gradient, assert_not_slower


def operands(loss, seed=3):
    return plain(loss, (4, 5) if is_rowwise(loss) else (12,), np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["huber", "binary_crossentropy", "sparse_categorical_crossentropy", "dice"])
def test_right_gradients_pass(name):
    """Some losses: every one's derivatives are the business of test_derivatives.py."""
    loss = LOSSES[name](**({"axis": -1} if is_rowwise(LOSSES[name]) else {}))
    assert_gradient(loss, *operands(loss))


@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted_mean", "none"])
def test_weights_masks_and_normalizers_reach_the_loss(reduction):
    loss = fl.Huber(reduction=reduction)
    y, p = operands(loss)
    assert_gradient(loss, y, p, np.arange(12.0), mask=np.arange(12) != 5, normalizer=3.5)
    assert_gradient(fl.mean_squared_error, y, p, np.arange(12.0))


def test_derivatives_by_targets():
    loss = fl.CategoricalCrossentropy(from_logits=True, wrt="y_true")
    assert_gradient(loss, *operands(loss))


class Spoiled:
    """A loss of plain NumPy with something wrong; no Hessian, but where one is spoiled."""

    def __init__(self, spoil, hessian=None):
        self.spoil = spoil
        if hessian is not None:
            self.value_grad_and_hess = lambda y, p: (self(y, p), 3 * (p - y) ** 2, hessian(6 * (p - y)))

    def __call__(self, y, p):
        return ((p - y) ** 3).sum()

    def value_and_grad(self, y, p):
        return self(y, p), self.spoil(3 * (p - y) ** 2)


def one_element(results):
    results[7] *= 1.0 + 1e-5
    return results


def test_a_loss_of_ones_own_is_checked_by_its_gradient_alone():
    y, p = np.random.default_rng(0).normal(size=(2, 12))
    assert_gradient(Spoiled(lambda gradient: gradient), y, p)
    assert_gradient(Spoiled(lambda gradient: gradient, lambda hessian: hessian), y, p)


def shifted(results):
    return results + 1e-4


def no_number(results):
    return results * np.nan


@pytest.mark.parametrize("spoil", [np.negative, one_element, shifted, no_number])
def test_wrong_derivatives_do_not_pass(spoil):
    y, p = np.random.default_rng(0).normal(size=(2, 12))
    with pytest.raises(
        AssertionError, match=r"^assert_gradient: gradient of Spoiled at \[\d+\] is .* elements are off$"
    ):
        assert_gradient(Spoiled(spoil), y, p)
    with pytest.raises(AssertionError, match=r"^assert_gradient: Hessian of Spoiled at \[\d+\] is "):
        assert_gradient(Spoiled(lambda gradient: gradient, spoil), y, p)


def test_of_many_elements_some_are_looked_at_and_all_are_not():
    y, p = np.random.default_rng(0).normal(size=(2, 20, 50))
    with pytest.raises(AssertionError, match=f"{testing.MOST} of {testing.MOST} elements"):
        assert_gradient(Spoiled(np.negative), y, p)
    assert len(set(testing._chosen(np.ones((30, 30), bool)))) == testing.MOST
    assert testing._chosen(np.array([[True, False], [True, True]])) == [(0, 0), (1, 0), (1, 1)]
    assert testing._chosen(np.array(True)) == [()]


def test_what_lies_on_a_kink_is_left_out():
    y = np.zeros(3)
    assert_gradient(fl.Huber(), y, np.array([1.0, -1.0001, 0.5]))
    with pytest.raises(AssertionError, match="1 of 1 elements"):
        assert_gradient(Spoiled(np.negative), y[:1], np.array([1.0]))


# -- times ---------------------------------------------------------------------------------------------------


class Clock:
    """Time passes only in calls."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing, "waiting_time", lambda: 0)
        monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # takes seconds after thousands of tests

    def call(self, seconds):
        def call():
            self.now += seconds

        return call


def test_what_takes_longer_does_not_pass(monkeypatch):
    clock = Clock(monkeypatch)
    base, equal, slower = clock.call(1e-3), clock.call(1e-3), clock.call(1.08e-3)
    assert assert_not_slower(base, equal) == pytest.approx(1.0)
    assert assert_not_slower(slower, base) == pytest.approx(1 / 1.08)
    assert assert_not_slower(base, slower, at_most=1.1) == pytest.approx(1.08)
    with pytest.raises(AssertionError, match=r"^assert_not_slower: call takes 1.08 times as long as call \(1.08 to"):
        assert_not_slower(base, slower)


def test_what_was_slower_once_is_timed_again(monkeypatch):
    asked = []

    def pairs(base, head, rounds, sample):
        asked.append(rounds)
        return [(1.0, 1.2 if len(asked) == 1 else 1.0)] * rounds

    monkeypatch.setattr(testing, "pairs", pairs)
    assert assert_not_slower(len, len, rounds=10) == 1.0
    assert asked == [10, 30]


def test_pairs_are_taken_in_both_orders_and_disturbed_ones_left_out(monkeypatch):
    clock, order, waits = Clock(monkeypatch), [], [0]
    monkeypatch.setattr(timing, "_calls_per_sample", lambda call, seconds: 1)
    monkeypatch.setattr(timing, "waiting_time", lambda: waits[0])

    def contender(name):
        def call():
            order.append(name)
            disturbed = len(order) in (5, 6)
            clock.now += 9.0 if disturbed else 1.0
            waits[0] += 10**9 if disturbed else 0

        return call

    found = timing.pairs(contender("base"), contender("head"), 4, 1e-3)
    assert order[:6] == ["base", "head", "head", "base", "base", "head"]
    assert found == [(1.0, 1.0)] * 4
    assert len(order) == 10


def test_where_everything_is_disturbed_all_pairs_count(monkeypatch):
    clock, waits = Clock(monkeypatch), iter(range(10**9, 10**15, 10**9))
    monkeypatch.setattr(timing, "waiting_time", lambda: next(waits))
    assert len(timing.pairs(clock.call(1e-3), clock.call(1e-3), 6, 1e-3)) == timing.PATIENT * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assert_not_slower(len, len, at_most=0), "assert_not_slower: at_most must be > 0; got 0"),
        (lambda: assert_not_slower(len, len, rounds=-1), "assert_not_slower: rounds must be > 0; got -1"),
        (lambda: assert_gradient(fl.huber, [1.0], [2.0], rtol=0.0), "assert_gradient: rtol must be > 0; got 0.0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


# -- a user's file -------------------------------------------------------------------------------------------


@pytest.fixture
def cauchy(tmp_path, monkeypatch):
    """README's example, in a file, and its function."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```python\n(# my_losses\.py\n.*?)```", readme, re.DOTALL)
    file = tmp_path / "my_losses.py"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr("fastloss.families.loss._REGISTRY", fl.losses.registry())
    monkeypatch.setitem(sys.modules, "my_losses", None)
    return file, load(file).cauchy


def test_the_loss_that_readme_defines(cauchy):
    file, loss = cauchy
    y, p = np.random.default_rng(0).normal(size=(2, 12))
    assert_gradient(loss, y, p)
    assert loss(y, p, scale=2.0) == pytest.approx(np.mean(2.0 * np.log1p((p - y) ** 2 / 4.0)), rel=1e-14)
    assert "Grows as a logarithm" in command("--with", file, "show", "cauchy").stdout


def command(*arguments):
    words = [sys.executable, "-m", "fastloss", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def test_commands_take_the_losses_of_a_file(tmp_path):
    file = tmp_path / "toys.py"
    file.write_text(TOYS, encoding="utf-8")
    done = command("--with", file, "show", "toy_quartic")
    assert done.returncode == 0
    assert "A fourth power, tilted" in done.stdout
    done = command("--with", file, "bench", "toy_quartic", "--quick", "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "toy_quartic" in done.stdout


@pytest.mark.parametrize("given", [(), ("no_such_file.py",), (Path(__file__).parent,)])
def test_a_file_that_is_none(given):
    done = command("--with", *given, "list")
    assert done.returncode == 2
    assert done.stderr.startswith("fastloss: --with needs a Python file; got ")
