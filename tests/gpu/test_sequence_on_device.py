"""Connectionist temporal classification (see test_sequence.py) of CuPy arrays, in the emulator."""

import math

import numpy as np
import pytest
from alignments import allowed, as_float, exact
from fake_cupy import EmulatorError, FakeCupy
from test_sequence import CALLS, DTYPES, both, drawn, weighted_case
from through_device import placed, use

import fastloss as fl
from fastloss.formula.alignments import Targets
from fastloss.gpu import catalogue
from fastloss.gpu import sequence as kernels
from fastloss.reference import evaluate

TOLERANCE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 3e-6, "float64": 1e-11}


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy(schedule="shuffled", seed=3)
    use(monkeypatch, fake)
    return fake


def host(result):
    """A result as the host sees it, without counting that as waiting."""
    return result._host.copy()


def sent(cupy, options):
    return {name: cupy.asarray(np.asarray(value)) for name, value in options.items()}


def check(cupy, loss, y, x, lengths=(), **options):
    """All three results against the float64 reference."""
    expected = evaluate(loss, Targets(y, *(dict(lengths).get(name) for name in Targets._fields[1:])), x, **options)
    results = loss.value_grad_and_hess(
        placed(cupy, y), placed(cupy, x), **sent(cupy, options), **sent(cupy, dict(lengths))
    )
    tolerance = TOLERANCE[x.dtype.name]
    for result, right in zip(map(host, results), expected, strict=True):
        largest = np.abs(np.asarray(right)[np.isfinite(right)]).max(initial=1.0)
        np.testing.assert_allclose(result.astype(np.float64), right, rtol=tolerance, atol=tolerance * largest)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_sizes(cupy, dtype, from_logits):
    for shape, longest in (((3, 7, 5), 3), ((2, 30, 70), 9), ((2, 40, 6), 33), ((2, 1, 2), 0), ((2, 0, 3), 1)):
        y, x = drawn(shape, longest, 1, from_logits, dtype)
        check(cupy, fl.CTC(from_logits=from_logits, reduction="sum", zero_infinity=True), y, x)
        check(cupy, fl.CTC(from_logits=from_logits, reduction="none"), y, x)
    assert cupy.launches[-1].name == "fastloss_sequence"


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy(cupy, dtype, from_logits):
    """Within the roundings on the way, as on the CPU."""
    for frames, classes, length in ((6, 4, 2), (60, 40, 9)):
        label = np.random.default_rng(frames).integers(1, classes, length)
        label[1] = label[0]
        _, x = drawn((1, frames, classes), 1, frames, from_logits, dtype)
        x[:, :3, 0] += 20.0 if from_logits else 0.0
        loss = fl.CTC(from_logits=from_logits, reduction="none")
        results = [host(r)[0] for r in loss.value_grad_and_hess(cupy.asarray(label[None]), cupy.asarray(x))]
        right = exact(x[0], label, 0, from_logits)
        for result, wanted, bound in zip(results, right, allowed(right, dtype, from_logits), strict=False):
            assert (abs(result - as_float(wanted)) <= bound).all()


@pytest.mark.parametrize("call", CALLS)
def test_calls_reductions_weights_masks_and_lengths(cupy, call):
    y, x, weights, lengths = weighted_case()
    mask = {"mask": np.array([True, False, True])}
    for reduction in ("mean", "sum", "weighted_mean", "none"):
        loss = fl.CTC(reduction=reduction)
        for options in ({}, weights, mask, weights | mask):
            expected = evaluate(loss, Targets(y, *(lengths[name] for name in Targets._fields[1:])), x, **options)
            results = getattr(loss, call)(
                cupy.asarray(y), cupy.asarray(x), **sent(cupy, options), **sent(cupy, lengths)
            )
            for which, result in zip(CALLS[call], results if len(CALLS[call]) > 1 else (results,), strict=True):
                np.testing.assert_allclose(host(result), expected[which], rtol=1e-11, atol=1e-13)
    assert cupy.synchronisations == 0


def test_layouts_and_in_place(cupy):
    y, x = drawn((3, 7, 5), 3, 2)
    expected = evaluate(fl.CTC(), y, x)
    for layout in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a.copy()[::-1][::-1]):
        out = placed(cupy, layout(x))
        value, grad = fl.ctc.value_and_grad(placed(cupy, layout(y)), out, out=out)
        assert grad is out
        np.testing.assert_allclose(host(value), expected[0], rtol=1e-13)
        np.testing.assert_allclose(host(grad), expected[1], rtol=1e-11, atol=1e-13)


def test_the_same_bits_in_any_order_and_for_any_number_of_blocks(cupy, monkeypatch):
    """Also where one block takes sequence after sequence."""
    y, x = drawn((7, 9, 5), 3, 4, dtype="float32")
    found = set()
    for most in (1 << 30, 1):
        monkeypatch.setattr(kernels, "MOST_KEPT", most)
        for schedule, seed in (("forward", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2)):
            cupy.schedule, cupy.seed = schedule, seed
            _, *results = fl.ctc.value_grad_and_hess(cupy.asarray(y), cupy.asarray(x))
            found.add(b"".join(host(result).tobytes() for result in results))
        assert cupy.launches[-1].grid[0] == (7 if most > 1 else 1)
    assert len(found) == 1


BAD = {
    "too large": ([[1, 2, 0], [3, 4, 0], [1, 1, 1]], {}, "y_true must be in"),
    "after padding": ([[1, 2, 0], [0, 2, 0], [1, 1, 1]], {}, "y_true must be in"),
    "2**40": ([[1, 2, 0], [2**40, 2, 0], [1, 1, 1]], {}, "y_true must be in"),
    "blank within": ([[1, 2, 0], [3, 0, 0], [1, 1, 1]], {"label_length": [2, 2, 3]}, "y_true must be in"),
    "long label": ([[1, 2, 0], [3, 1, 0], [1, 1, 1]], {"label_length": [2, 4, 3]}, "label_length must be in"),
    "negative length": ([[1, 2, 0], [3, 1, 0], [1, 1, 1]], {"label_length": [2, -1, 3]}, "label_length must be in"),
    "many frames": ([[1, 2, 0], [3, 1, 0], [1, 1, 1]], {"logit_length": [6, 7, 5]}, "logit_length must be in"),
    "negative frames": ([[1, 2, 0], [3, 1, 0], [1, 1, 1]], {"logit_length": [6, -3, 5]}, "logit_length must be in"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_bad_makes_its_loss_nan_and_its_gradient_0(cupy, what):
    labels, lengths, words = BAD[what]
    y, x = np.array(labels), drawn((3, 6, 4), 1, 5)[1]
    arguments = (cupy.asarray(y), cupy.asarray(x))
    losses, grad, hess = map(host, fl.CTC(reduction="none").value_grad_and_hess(*arguments, **sent(cupy, lengths)))
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
    for result in (grad, hess):
        assert not result[1].any()
        assert result[0].any()
        assert result[2].any()
    assert cupy.synchronisations == 0
    with pytest.raises(ValueError, match=f"^ctc: {words}") as caught:
        fl.ctc(*arguments, check="raise", **sent(cupy, lengths))
    assert "\n" not in str(caught.value)
    kept = cupy.asarray(np.array([True, False, True]))
    value = host(fl.ctc(*arguments, mask=kept, **sent(cupy, lengths)))
    assert value == pytest.approx(losses[[0, 2]].mean(), rel=1e-13)
    if words.startswith("y_true"):
        fl.ctc(*arguments, mask=kept, check="raise", **sent(cupy, lengths))


@both
def test_infinite_losses_and_what_is_no_number(cupy, from_logits):
    _, x = drawn((4, 3, 5), 1, 6, from_logits)
    y = np.array([[1, 1, 1], [1, 2, 0], [3, 0, 0], [2, 0, 0]])
    x[2, 1, 4], x[3, :, [0, 2]] = np.nan, -np.inf
    for zero in (False, True):
        loss = fl.CTC(from_logits=from_logits, zero_infinity=zero, reduction="none")
        losses, grad, hess = map(host, loss.value_grad_and_hess(cupy.asarray(y), cupy.asarray(x)))
        np.testing.assert_array_equal(losses[[0, 3]], 0.0 if zero else math.inf)
        assert math.isnan(losses[2])
        assert math.isfinite(losses[1])
        for result in (grad, hess):
            assert not result[[0, 3]].any()
            assert np.isnan(result[2]).all()
            assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("argument", ["y_true", "label_length", "logit_length"])
def test_arrays_elsewhere(cupy, argument):
    arrays = {"y_true": np.array([[1, 2]]), "label_length": np.array([2]), "logit_length": np.array([4])}
    x = cupy.asarray(np.zeros((1, 4, 3)))
    there = sent(cupy, arrays)
    with pytest.raises(TypeError, match=f"ctc: {argument} must be a CuPy array"):
        fl.ctc(y_pred=x, **{**there, argument: arrays[argument]})
    with cupy.cuda.Device(1):
        elsewhere = cupy.asarray(arrays[argument])
    with pytest.raises(ValueError, match=f"ctc: {argument} must be on y_pred's device, 0"):
        fl.ctc(y_pred=x, **{**there, argument: elsewhere})


def test_an_empty_batch(cupy):
    value, grad = fl.ctc.value_and_grad(cupy.empty((0, 2), np.int64), cupy.empty((0, 4, 3), np.float32))
    assert host(value) == 0.0
    assert grad.shape == (0, 4, 3)
    assert not cupy.launches


def test_the_catalogue_has_its_kernels():
    entries = [entry for entry in catalogue.kernels({"ctc": fl.CTC}) if entry.name == "fastloss_sequence"]
    assert {entry.kernel.build.pred for entry in entries} == {*DTYPES}
    assert {entry.kernel.build.from_logits for entry in entries} == {True, False}
    assert len({entry.text for entry in entries}) == len(entries)


# -- bugs planted into the kernel ------------------------------------------------------------------------------------


def comparison(cupy):
    y, x, weights, lengths = weighted_case()
    for schedule in ("forward", "reverse", "shuffled"):
        cupy.schedule = schedule
        check(cupy, fl.CTC(), y, x, lengths, **weights)
        check(cupy, fl.CTC(blank=3), y, x, lengths, **weights)


def races(cupy):
    """Under the race detector, which wants few threads: one block takes all sequences, bad ones too."""
    cupy.mode, cupy.multiprocessors = "tsan", 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "MOST_KEPT", 1)
        y, x = drawn((4, 3, 4), 2, 7)
        check(cupy, fl.CTC(), y, x, mask=np.array([True, False, False, True]))
        y[:3] = 9  # no class
        losses = fl.CTC(reduction="none")(cupy.asarray(y), cupy.asarray(x))
        np.testing.assert_array_equal(np.isnan(host(losses)), [True, True, True, False])


PLANTED = {
    "a blank left out between equal classes": (
        "return i > 0 && labels[i] != labels[i - 1];",
        "return i > 0;",
        comparison,
    ),
    "class 0 is the blank": ("emission(row, sizes.blank, frame)", "emission(row, 0, frame)", comparison),
    "no weight": ("head.counts ? head.weight * loss", "head.counts ? loss", comparison),
    "no weight in the gradient": ("normalizer.scale * head.weight;", "normalizer.scale;", comparison),
    "one frame too few": (
        "for (int t = 0; t < head.frames; ++t)",
        "for (int t = 0; t < head.frames - 1; ++t)",
        comparison,
    ),
    "all labels": ("head.labels = head.bad ? 0 : int(length);", "", comparison),
    "no ending at the last class": ("if (i == head.labels - 1) ending.label", "if (false) ending.label", comparison),
    "a class that comes again is forgotten": ("i >= 0; i = kept.next[i]", "i >= 0; i = -1", comparison),
    "beginnings are written over too early": (
        "                    __syncthreads();  // every thread has read the last",
        "                    // every thread has read the last",
        races,
    ),
    "no barrier between frames forward": (
        "        before = here;\n        __syncthreads();",
        "        before = here;",
        comparison,
    ),
    "no barrier between frames backward": (
        "            emitted[i] = result;\n        }\n        __syncthreads();",
        "            emitted[i] = result;\n        }",
        comparison,
    ),
    "no barrier before a new sequence": (
        "    __syncthreads();  // the last sequence's may still be being read",
        "    // the last sequence's may still be being read",
        races,
    ),
}  # fmt: skip


def test_the_kernel_as_it_is_passes(cupy):
    comparison(cupy)


def test_no_races(cupy):
    races(cupy)


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(cupy, bug):
    right, wrong, test = PLANTED[bug]
    texts = []

    def patch(text):
        if right in text:  # not so the kernel that finds a mean's normaliser
            texts.append(text)
        return text.replace(right, wrong)

    cupy.patch = patch
    with pytest.raises((AssertionError, EmulatorError)):
        test(cupy)
    assert texts
