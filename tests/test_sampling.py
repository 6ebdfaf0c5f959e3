"""Tests of the sampler: a case that is never drawn tests nothing."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from representatives import REPRESENTATIVES, THOROUGH, turn
from sampling import (
    DTYPES,
    ELSEWHERE,
    LOSSES,
    SWEPT,
    configurations,
    extreme,
    is_indexed,
    is_rowwise,
    loss_shape,
    near_kink,
    parameter_values,
    plain,
    takes_probabilities,
    types_for,
    variants,
    watch,
)

from fastloss.families.representatives import representatives, shapes_of
from fastloss.formula.rows import RowFormula

losses = pytest.mark.parametrize("cls", LOSSES.values(), ids=LOSSES)


def test_every_loss_is_there():
    assert len(LOSSES) >= 6
    assert {"huber", "binary_crossentropy", "sparse_categorical_crossentropy"} <= set(LOSSES)


# -- losses that stand for others ----------------------------------------------------------------------------


def test_every_shape_of_formula_has_a_representative():
    shapes = shapes_of(LOSSES)
    represented = {shape for name, label, shape in shapes if label in REPRESENTATIVES.get(name, ())}
    assert represented == {shape for _, _, shape in shapes}
    assert {loss.variant() for loss in SWEPT if loss.name in THOROUGH} == {
        label for name in THOROUGH for label in REPRESENTATIVES[name]
    }


def toy(first, statistics, indexed=False):
    """A rowwise loss that is not registered."""
    formula = RowFormula(first, statistics, lambda: 0.0, lambda: (0.0, 0.0))
    return SimpleNamespace(family="rowwise", indexed=indexed, row_formulas=lambda: {"formula": formula})


def summed(x):
    once = x
    twice = 2.0 * x
    return once, twice


def test_a_loss_with_a_formula_of_a_new_shape_joins_and_another_like_it_does_not():
    new = {"one": toy(None, summed), "other": toy(None, summed), "without": toy(None, None)}
    joined = representatives({**{name: LOSSES[name] for name in THOROUGH}, **new})
    assert [name for name in joined if name in new] == ["one", "without"]
    assert joined["one"] == ("formula",)


def test_what_is_tried_with_losses_that_stand_for_a_rarer_shape():
    assert types_for("huber", list(DTYPES)) == list(DTYPES)
    (chosen,) = types_for("one", list(DTYPES))
    assert chosen in DTYPES
    assert {turn(f"loss {number}", "abcd") for number in range(40)} == set("abcd")


# -- what each loss is tried with ----------------------------------------------------------------------------


@losses
def test_every_parameter_takes_every_value(cls):
    drawn = configurations(cls)
    for field in dataclasses.fields(cls):
        if field.name in ELSEWHERE:
            continue
        wanted = set(parameter_values(field, 5))
        assert wanted == {getattr(loss, field.name) for loss in drawn}
        assert field.default in wanted or field.name == "axis"
        assert len(wanted) > 1 or field.name == "axis"


@losses
def test_every_formula_is_reached(cls):
    labels = cls.row_formulas() if cls.family == "rowwise" else cls.formulas()
    assert {loss.variant() for loss in variants(cls)} == set(labels)


@losses
def test_both_sides_of_every_comparison_and_ties(cls):
    """Over all cases, each comparison in each formula is seen less, equal and greater where it can be."""
    sides = {}
    for loss in configurations(cls):
        rng = np.random.default_rng(3)
        for y, p in (extreme(loss, np.float64, infinite=True), plain(loss, (40, 5), rng)):
            for site, difference in watch(loss, y, p).items():
                # Between parameters alone: one formula's configurations need not have them all.
                place = (loss.variant(), site) if any(difference.strides) else ("parameters", site[:2])
                seen = sides.setdefault(place, set())
                seen |= set(np.sign(difference[np.isfinite(difference)]).tolist())
    assert sides or cls.name == "mean_squared_error"
    for (variant, site), seen in sides.items():
        assert 0.0 in seen, f"{variant}: no tie at {site}"
        # Equality is asked of what has a bound (an element and its row's peak); an order has two sides.
        assert len(seen) >= (2 if site[0] in ("==", "!=") else 3), f"{variant}: one side only at {site}"


@losses
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_extremes(cls, dtype):
    for loss in configurations(cls):
        y, p = extreme(loss, dtype)
        assert np.isfinite(p).all()
        match loss.domain().y_pred:
            case "probability":
                assert (p == 0).any()
                assert (p == 1).any()
            case "logit":
                assert p.max() >= 1e4
                assert p.min() <= -1e4
                assert np.isinf(extreme(loss, dtype, infinite=True)[1]).any()
            case "real":
                assert abs(p).max() >= 1e4
            case "log_probability":
                assert p.min() <= -1e4
            case "positive":
                assert 0 < p[p > 0].min() < 1e-7
        if not is_rowwise(loss):
            assert ((abs(p) > 0) & (abs(p) < 1e-36)).any() or takes_probabilities(loss)
        wide = np.float64 if dtype == np.float64 else np.float32
        for kink in loss.kinks(y):  # at it and on both sides of it
            assert {-1.0, 0.0, 1.0} <= set(np.sign(p - np.asarray(kink).astype(wide).astype(np.float64)).ravel())


@losses
def test_rows(cls):
    if cls.family != "rowwise":
        pytest.skip("elementwise")
    for loss in configurations(cls):
        y, _ = extreme(loss, np.float32)
        match loss.domain().y_true:
            case "distribution" | "unit":
                assert set(np.unique(y)) > {0.0, 1.0}  # one-hot and soft
                assert ((y == 0) | (y == 1)).all(axis=-1).any()
            case "binary":
                assert set(y.sum(axis=-1)) >= {0.0, 1.0, 4.0}
        if not is_indexed(loss):
            continue
        assert set(range(5)) <= set(y)
        for labels in (y, plain(loss, (80, 5), np.random.default_rng(0))[0]):
            number = getattr(loss, "ignore_class", None)
            ignored = labels == number if number is not None else np.zeros(1, bool)
            assert ignored.any() == (number is not None)
            assert not ignored.all()


@losses
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 1), (3, 2, 5), (2, 3, 2, 2)])
def test_shapes(cls, shape):
    """Empty batches, one class, more axes; every class axis."""
    for axis in range(len(shape)) if cls.family == "rowwise" else [0]:
        loss = cls(axis=axis) if cls.family == "rowwise" else cls()
        if cls.family == "rowwise" and not shape[axis]:
            continue
        y, p = plain(loss, shape, np.random.default_rng(0))
        assert p.shape == shape
        assert y.shape == (loss_shape(loss, shape) if is_indexed(loss) else shape)


@losses
def test_plain_cases_are_well_conditioned(cls):
    """Few of them lie near a kink, and those are known."""
    for loss in configurations(cls):
        y, p = plain(loss, (200, 5), np.random.default_rng(1))
        assert np.isfinite(p).all()
        assert near_kink(loss, y, p, 1e-4).mean() < 0.05


def test_near_kink_finds_kinks():
    huber = LOSSES["huber"](delta=0.5)
    p = np.array([0.4, 0.49999, 0.6, -0.50001])
    assert near_kink(huber, np.zeros(4), p, 1e-3).tolist() == [False, True, False, True]
