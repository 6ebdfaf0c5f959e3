"""A user's own losses, in one file: kernels, documentation and catalogue row come from their definition."""

import copy
import doctest
import inspect
import pickle
import sys

import numpy as np
import pytest
from catalogue import CALLS

import fastloss as fl
from fastloss.__main__ import load
from fastloss.families.loss import snake_case

TOYS = '''"""Losses of a user."""

from dataclasses import dataclass
from typing import ClassVar

from fastloss.families.definition import Example, function_of, positive, unit_interval
from fastloss.families.elementwise import ElementwiseLoss
from fastloss.families.rowwise import RowwiseLoss
from fastloss.formula.ops import exp, log, sqrt, where
from fastloss.formula.rows import RowFormula


def square(x):
    return x * x


@dataclass(frozen=True, kw_only=True)
class ToyQuartic(ElementwiseLoss):
    """A fourth power, tilted (nobody, 1900)."""

    steepness: float = positive(1.0, "factor of the fourth power")
    tilt: float = unit_interval(0.0, "share of the loss that only errors below zero have")

    aliases: ClassVar[tuple[str, ...]] = ("tq",)
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 3.0, 16.0, 32.0, 48.0),
        Example([1.0], [0.0], 3.0, [-12.0], [36.0], {"steepness": 2.0, "tilt": 0.5}),
    )

    @staticmethod
    def formula(y, p, steepness, tilt):
        """y: target, p: prediction, r: residual."""
        r = p - y
        factor = where(r < 0.0, steepness * (1.0 + tilt), steepness)
        return factor * square(square(r)), 4.0 * factor * r * square(r), 12.0 * factor * square(r)


toy_quartic = function_of(ToyQuartic)


def _cosine_sums(x, y):
    length, dot = x * x, x * y
    return length, dot


def _cosine_finish(length, dot):
    norm = sqrt(length)
    value = -dot / norm
    slope, along = 1.0 / norm, dot / (length * norm)
    return value, slope, along, length


def _cosine_element(x, y, slope, along, length):
    grad = x * along - y * slope
    hess = along + (2.0 * x * y * slope - 3.0 * x * x * along) / length
    return grad, hess


@dataclass(frozen=True, kw_only=True)
class ToyCosine(RowwiseLoss):
    """The negative projection of a row of targets on a row of predictions: no first pass over the row."""

    examples: ClassVar[tuple[Example, ...]] = (
        Example([[3.0, 4.0]], [[1.0, 0.0]], -3.0, [[0.0, -4.0]], [[0.0, 3.0]]),
        Example([[1.0, 0.0]], [[0.0, 2.0]], 0.0, [[-0.5, 0.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls):
        """Its formula."""
        return {"formula": RowFormula(None, _cosine_sums, _cosine_finish, _cosine_element)}


toy_cosine = function_of(ToyCosine)


def _share_sums(x, y, total, power):
    share = x / total
    miss = power * square(share - y)
    pull = 2.0 * power * (share - y) * share
    return miss, pull


def _share_finish(miss, pull, total):
    back = pull / total
    return miss, back


def _share_element(x, y, total, back, power):
    grad = 2.0 * power * (x / total - y) / total - back
    return grad, 0.0


@dataclass(frozen=True, kw_only=True)
class ToyShare(RowwiseLoss):
    """Squared distance of a row's shares of its sum from a target: a sum as the first pass. Its Hessian is left out."""

    power: float = positive(1.0, "factor of the loss")

    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.0, 1.0]], [[1.0, 1.0]], 0.5, [[0.5, -0.5]], [[0.0, 0.0]]),
        Example([[0.0, 1.0]], [[1.0, 1.0]], 1.0, [[1.0, -1.0]], [[0.0, 0.0]], {"power": 2.0}),
    )

    @classmethod
    def row_formulas(cls):
        """Its formula."""
        return {"formula": RowFormula("total", _share_sums, _share_finish, _share_element)}


toy_share = function_of(ToyShare)


def _peak_sums(x, peak):
    peaks = where(x == peak, 1.0, 0.0)
    return peaks


def _peak_finish(peaks, peak, target_x):
    value = peak - target_x
    share = 1.0 / peaks
    return value, share


def _peak_element(x, peak, share):
    return where(x == peak, share, 0.0), 0.0


def _peak_target(target_x, peak, share):
    return where(target_x == peak, share, 0.0) - 1.0, 0.0


@dataclass(frozen=True, kw_only=True)
class ToyPerceptron(RowwiseLoss):
    """How far the true class is from the largest one: a peak as the first pass, class numbers as targets."""

    indexed: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = (
        Example([0], [[1.0, 3.0]], 2.0, [[-1.0, 1.0]], [[0.0, 0.0]]),
        Example([1], [[1.0, 3.0]], 0.0, [[0.0, 0.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls):
        """Its formula."""
        return {"formula": RowFormula("peak", _peak_sums, _peak_finish, _peak_element, _peak_target)}


toy_perceptron = function_of(ToyPerceptron)


def _lead(x, target_x):
    lead = x - target_x
    return lead


def _rival_sums(x, target_x, peak):
    peaks = where(x - target_x == peak, 1.0, 0.0)
    above = where(x > target_x, x - target_x, 0.0)
    ahead = where(x > target_x, 1.0, 0.0)
    return peaks, above, ahead


def _rival_finish(peaks, above, ahead, peak):
    value = peak + above
    share = 1.0 / peaks
    return value, share, ahead


def _rival_element(x, target_x, peak, share):
    return where(x - target_x == peak, share, 0.0) + where(x > target_x, 1.0, 0.0), 0.0


def _rival_target(peak, share, ahead):
    return where(peak == 0.0, share, 0.0) - 1.0 - ahead, 0.0


@dataclass(frozen=True, kw_only=True)
class ToyRival(RowwiseLoss):
    """How far others are ahead of the true class, the first of them once more: all pieces look at the true class."""

    indexed: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = (
        Example([0], [[1.0, 3.0, 2.0]], 5.0, [[-3.0, 2.0, 1.0]], [[0.0, 0.0, 0.0]]),
        Example([1], [[1.0, 3.0]], 0.0, [[0.0, 0.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls):
        """Its formula."""
        return {
            "formula": RowFormula(
                "peak", _rival_sums, _rival_finish, _rival_element, _rival_target, first_of=_lead
            )
        }


toy_rival = function_of(ToyRival)


def _residual(x, y):
    residual = x - y
    return residual


def _skew_sums(x, y, total, classes):
    kept = x - y - total / classes
    squares = square(kept)
    return kept, squares


def _skew_halfway(squares, classes):
    spread = sqrt(squares / classes)
    return spread


def _skew_again(kept, spread):
    cubes = square(kept / spread) * (kept / spread)
    return cubes


def _skew_finish(cubes, spread, classes):
    value = cubes / classes
    slope = 3.0 / (spread * classes)
    return value, value, spread, slope


def _skew_element(kept, spread, value, slope):
    return slope * (square(kept / spread) - 1.0 - kept / spread * value), 0.0


@dataclass(frozen=True, kw_only=True)
class ToySkew(RowwiseLoss):
    """The skewness of a row of residuals: two rounds of sums."""

    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.0, 0.0]], [[1.0, 3.0]], 0.0, [[0.0, 0.0]], [[0.0, 0.0]]),
        Example([[1.0, 1.0]], [[3.0, 1.0]], 0.0, [[0.0, 0.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls):
        """Its formula."""
        return {
            "formula": RowFormula(
                "total", _skew_sums, _skew_finish, _skew_element, first_of=_residual, halfway=_skew_halfway,
                again=_skew_again,
            )
        }


toy_skew = function_of(ToySkew)
'''
NAMES = ["toy_quartic", "toy_cosine", "toy_share", "toy_perceptron", "toy_rival", "toy_skew"]
every_toy = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def own_registry(monkeypatch):
    """Losses defined in a test are gone after it."""
    monkeypatch.setattr("fastloss.families.loss._REGISTRY", fl.losses.registry())


@pytest.fixture
def toys(own_registry, tmp_path, monkeypatch):
    """The module of the toy losses, as a user imports it."""
    path = tmp_path / "toy_losses.py"
    path.write_text(TOYS)
    monkeypatch.setitem(sys.modules, path.stem, None)
    return load(path)


# -- by hand, in NumPy -----------------------------------------------------------------------------


def by_hand(name, y, p, *, steepness=1.0, tilt=0.0, power=1.0):
    """Losses, gradient and Hessian in float64 from the definition, not from the formula."""
    if name == "toy_quartic":
        factor = np.where(p < y, steepness * (1 + tilt), steepness)
        return factor * (p - y) ** 4, 4 * factor * (p - y) ** 3, 12 * factor * (p - y) ** 2
    if name == "toy_cosine":
        norm = np.linalg.norm(p, axis=-1, keepdims=True)
        dot = (p * y).sum(-1, keepdims=True)
        hess = dot / norm**3 + 2 * p * y / norm**3 - 3 * p**2 * dot / norm**5
        return -(dot / norm)[..., 0], p * dot / norm**3 - y / norm, hess
    if name == "toy_share":
        total = p.sum(-1, keepdims=True)
        wrong = p / total - y
        grad = 2 * power / total * (wrong - (wrong * p / total).sum(-1, keepdims=True))
        return power * (wrong**2).sum(-1), grad, np.zeros(p.shape)
    if name == "toy_skew":
        residual = p - y
        z = (residual - residual.mean(-1, keepdims=True)) / residual.std(-1, keepdims=True)
        skewness = (z**3).mean(-1, keepdims=True)
        slope = 3 / (residual.std(-1, keepdims=True) * p.shape[-1])
        return skewness[..., 0], slope * (z**2 - 1 - z * skewness), np.zeros(p.shape)
    top, own = p.argmax(-1), np.take_along_axis(p, y[..., None], -1)[..., 0]
    classes = np.arange(p.shape[-1])
    if name == "toy_rival":
        lead = p - own[..., None]
        grad = (classes == top[..., None]) * 1.0 + (lead > 0)
        grad -= (classes == y[..., None]) * (1.0 + (lead > 0).sum(-1, keepdims=True))
        return lead.max(-1) + lead.clip(0).sum(-1), grad, np.zeros(p.shape)
    grad = (classes == top[..., None]) * 1.0 - (classes == y[..., None]) * 1.0
    return p.max(-1) - own, grad, np.zeros(p.shape)


def toy_operands(name, shape, dtype, seed=3):
    generator = np.random.default_rng(seed)
    p = generator.uniform(0.5, 2.0, shape).astype(dtype)
    if name in ("toy_perceptron", "toy_rival"):
        return generator.integers(0, shape[-1], shape[:-1]), p
    return generator.uniform(0.0, 1.0, shape).astype(dtype), p


def parameters_of(name):
    """No parameter at its default."""
    return {"toy_quartic": {"steepness": 0.75, "tilt": 0.5}, "toy_share": {"power": 1.5}}.get(name, {})


SHAPES = {"few": ((37, 5), "float64"), "many": ((3, 131), "float32"), "more": ((2, 1501), "float32")}


@pytest.mark.parametrize(("shape", "dtype"), SHAPES.values(), ids=SHAPES)
@every_toy
def test_kernels_compute_what_the_definition_says(toys, name, shape, dtype):
    y, p = toy_operands(name, shape, dtype)
    parameters = parameters_of(name)
    losses, grad, hess = by_hand(
        name, y.astype("float64") if y.dtype.kind == "f" else y, p.astype("float64"), **parameters
    )
    weight, mask = np.linspace(0.5, 2.0, shape[0]), np.arange(shape[0]) % 5 != 1
    factor = (weight * mask).reshape((-1,) + (1,) * (losses.ndim - 1))
    exact = {"rtol": 3e-5, "atol": 3e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}

    value, own_grad, own_hess = getattr(toys, name).value_grad_and_hess(
        y, p, weight, mask=mask, reduction="sum", **parameters
    )
    np.testing.assert_allclose(value, (factor * losses).sum(), rtol=exact["rtol"])
    factor = factor.reshape((-1, 1))
    np.testing.assert_allclose(own_grad, factor * grad, **exact)
    np.testing.assert_allclose(own_hess, factor * hess, **exact)
    assert own_grad.dtype == own_hess.dtype == dtype


@every_toy
def test_kernels_agree_with_the_reference(toys, name):
    from fastloss.reference import evaluate

    loss = registered(name)(**parameters_of(name))
    y, p = toy_operands(name, (19, 7), "float64")
    for got, expected in zip(loss.value_grad_and_hess(y, p), evaluate(loss, y, p), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


@every_toy
def test_other_dtypes_reductions_and_axes_work_too(toys, name):
    loss, parameters = registered(name), parameters_of(name)
    y, p = toy_operands(name, (4, 6), "float16")
    losses, grad, _ = by_hand(
        name, y.astype("float64") if y.dtype.kind == "f" else y, p.astype("float64"), **parameters
    )
    each, own_grad = loss(reduction="none", **parameters).value_and_grad(y, p)
    np.testing.assert_allclose(each, losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own_grad, grad, rtol=2e-3, atol=1e-4)
    assert own_grad.dtype == "float16"
    if loss.family == "rowwise":
        across = loss(axis=0, reduction="none", **parameters)
        again, _ = across.value_and_grad(y if loss.indexed else y.T, p.T)
        np.testing.assert_array_equal(again, each)


@pytest.mark.parametrize("name", ["toy_quartic", "toy_cosine", "toy_rival", "toy_skew"])
def test_all_calls_of_class_and_function_agree(toys, name):
    y, p = toy_operands(name, (4, 3), "float32")
    loss, function = registered(name)(), getattr(toys, name)
    value, grad, hess = loss.value_grad_and_hess(y, p)
    for one in (loss, function):
        expected = {
            "__call__": (value,),
            "value_and_grad": (value, grad),
            "grad": (grad,),
            "grad_and_hess": (grad, hess),
            "value_grad_and_hess": (value, grad, hess),
        }
        for call in CALLS:
            results = getattr(one, call)(y, p)
            results = results if isinstance(results, tuple) else (results,)
            for got, wanted in zip(results, expected[call], strict=True):
                np.testing.assert_array_equal(got, wanted)


@every_toy
def test_examples_hold(toys, name):
    for example in registered(name).examples:
        loss = registered(name)(reduction="sum", **example.parameters)
        value, grad, hess = loss.value_grad_and_hess(example.y_true, example.y_pred)
        assert value == pytest.approx(example.value, rel=1e-12)
        np.testing.assert_allclose(grad, example.grad, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(hess, example.hess, rtol=1e-12, atol=1e-12)


def test_bad_input_is_refused_in_the_losss_own_name(toys):
    with pytest.raises(ValueError, match=r"^toy_quartic: steepness must be > 0; got -1"):
        toys.ToyQuartic(steepness=-1)
    with pytest.raises(ValueError, match=r"^toy_quartic: y_true must .*; got \(3,\)"):
        toys.toy_quartic(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"^toy_perceptron: y_true must .*; got 2 at position \[1\]"):
        toys.toy_perceptron([0, 2], [[0.0, 1.0], [1.0, 0.0]])


# -- a class among classes -------------------------------------------------------------------------


def registered(name):
    return fl.losses.registry()[name]


@every_toy
def test_it_is_registered_under_its_name(toys, name):
    loss = registered(name)
    assert loss.name == snake_case(loss.__name__) == name == getattr(toys, name).__name__
    assert getattr(toys, loss.__name__) is loss


@every_toy
def test_it_is_a_value_like_the_others(toys, name):
    loss = registered(name)(**parameters_of(name))
    assert pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == loss
    assert eval(repr(loss), dict(vars(toys))) == loss
    assert pickle.loads(pickle.dumps(getattr(toys, name))) is getattr(toys, name)


# -- documentation ---------------------------------------------------------------------------------


def sections(docstring):
    """A docstring's NumPy sections by title."""
    lines = inspect.cleandoc(docstring).splitlines()
    starts = [i for i in range(len(lines) - 1) if lines[i] and set(lines[i + 1]) == {"-"}]
    return {
        lines[i]: "\n".join(lines[i + 2 : stop]).strip() for i, stop in zip(starts, [*starts[1:], None], strict=True)
    }


@every_toy
def test_docstrings_say_what_the_definition_says(toys, name):
    function, loss = getattr(toys, name), registered(name)
    for documented in (function, loss):
        text = inspect.getdoc(documented)
        found = sections(text)
        assert text.splitlines()[0] in TOYS
        assert {"Parameters", "Raises", "Examples"} <= found.keys()
        for parameter in ("reduction", *parameters_of(name)):
            assert f"{parameter} :" in found["Parameters"]
    found = sections(inspect.getdoc(function))
    assert "Returns" in found
    for parameter in ("y_true", "y_pred", "sample_weight", "mask", "normalizer"):
        assert f"{parameter} :" in found["Parameters"]
    if name == "toy_quartic":
        for part in ("> 0", "default 1.0", "actor of the fourth power", "in [0, 1]"):
            assert part in found["Parameters"]


@every_toy
def test_examples_in_docstrings_run(toys, name):
    for documented in (getattr(toys, name), registered(name)):
        tests = doctest.DocTestParser().get_doctest(documented.__doc__, {}, name, None, 0)
        assert len(tests.examples) >= 2
        failures = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tests, out=failures.append)
        assert not failures, "".join(failures)


@every_toy
def test_the_signature_shows_the_parameters(toys, name):
    shown = inspect.signature(getattr(toys, name)).parameters
    assert list(shown)[:5] == ["y_true", "y_pred", "sample_weight", "mask", "normalizer"]
    assert {"reduction", *parameters_of(name)} <= shown.keys()
    assert shown["reduction"].default == "mean"


@every_toy
def test_it_gets_a_row_of_the_catalogue(toys, name):
    from fastloss.families.documentation import catalogue_rows

    before = catalogue_rows({k: v for k, v in fl.losses.registry().items() if k != name})
    new = [row for row in catalogue_rows(fl.losses.registry()) if row not in before]
    assert len(new) == 1
    assert f"`{name}`" in new[0]["loss"]
    assert new[0]["family"] == registered(name).family
    assert all(f"`{parameter}`" in new[0]["parameters"] for parameter in parameters_of(name))
    assert new[0].keys() == before[0].keys()
    if name == "toy_quartic":
        assert "`tq`" in new[0]["loss"]


# -- formulas outside of the subset ----------------------------------------------------------------

BAD = '''from dataclasses import dataclass
from fastloss.families.elementwise import ElementwiseLoss
from fastloss.families.rowwise import RowwiseLoss
from fastloss.formula.rows import RowFormula

LIMIT = 2.0


def helper(x):
    return {helper}


def _finish(s):
    return {finish}


def _element(x):
    return x, 0.0


def _sums(x):
    s = {sums}
    return s


@dataclass(frozen=True, kw_only=True)
class BadElementwise(ElementwiseLoss):
    """Its formula may be none."""

    @staticmethod
    def formula(y, p):
        r = {formula}
        return r, helper(r), 0.0


@dataclass(frozen=True, kw_only=True)
class BadRowwise(RowwiseLoss):
    """Its formulas may be none."""

    @classmethod
    def row_formulas(cls):
        return {{"formula": RowFormula(None, _sums, _finish, _element)}}
'''
GOOD_PIECES = {"helper": "2.0 * x", "finish": "s", "sums": "x * x", "formula": "p - y"}


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        ("formula", "p - y if True else y"),
        ("formula", "max(p, y)"),
        ("formula", "p ** 2"),
        ("formula", "p - y + LIMIT"),
        ("formula", "[p - y][0]"),
        ("formula", "p.real"),
        ("formula", "(p > y) and p"),
        ("formula", "0 < p < 1"),
        ("formula", "unknown(p)"),
        ("helper", "x ** 3"),
        ("helper", "abs(x) if x else 0.0"),
        ("helper", "LIMIT * x"),
        ("sums", "x ** 2"),
        ("sums", "x * LIMIT"),
        ("finish", "2.0 * s"),
        ("finish", "s if s else s"),
    ],
)
def test_a_formula_outside_of_the_subset_is_refused_with_its_place(own_registry, tmp_path, monkeypatch, piece, code):
    path = tmp_path / "bad_losses.py"
    path.write_text(BAD.format(**{**GOOD_PIECES, piece: code}))
    monkeypatch.setitem(sys.modules, path.stem, None)
    module = load(path)
    kind = module.BadElementwise if piece in ("formula", "helper") else module.BadRowwise
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if code in text)
    if code == "2.0 * s":
        line -= 1  # that a finish returns names is a rule for the function
    for call in CALLS:
        with pytest.raises(SyntaxError) as caught:
            getattr(kind(), call)(np.zeros((2, 3)), np.ones((2, 3)))
        assert str(caught.value).startswith(f"{path}:{line}: ")


def test_the_same_file_with_good_formulas_works(own_registry, tmp_path, monkeypatch):
    path = tmp_path / "bad_losses.py"
    path.write_text(BAD.format(**GOOD_PIECES))
    monkeypatch.setitem(sys.modules, path.stem, None)
    module = load(path)
    value, grad = module.BadElementwise(reduction="sum").value_and_grad([1.0], [4.0])
    assert (value, grad.tolist()) == (3.0, [6.0])
    value, grad = module.BadRowwise(reduction="sum").value_and_grad([[0.0, 0.0]], [[3.0, 4.0]])
    assert (value, grad.tolist()) == (25.0, [[3.0, 4.0]])


def test_a_single_statistic_may_be_returned_as_a_tuple(own_registry, tmp_path, monkeypatch):
    path = tmp_path / "bad_losses.py"
    path.write_text(BAD.format(**GOOD_PIECES).replace("return s\n\n\n@", "return (s,)\n\n\n@"))
    assert "(s,)" in path.read_text()
    monkeypatch.setitem(sys.modules, path.stem, None)
    assert load(path).BadRowwise(reduction="sum")([[0.0, 0.0]], [[3.0, 4.0]]) == 25.0


def test_a_formula_without_a_file_is_refused(own_registry):
    space = {}
    exec(BAD.format(**GOOD_PIECES).replace("helper(r)", "r"), space)
    with pytest.raises(SyntaxError, match="must be written in a file"):
        space["BadElementwise"]()([0.0], [1.0])
