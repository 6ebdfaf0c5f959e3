"""Tests of the tests: bugs planted into the kernels' text, each of which the emulator or a comparison must notice."""

import numpy as np
import pytest
from fake_cupy import EmulatorError, FakeCupy
from sampling import DTYPES, cast, plain
from test_calls import compare
from through_device import placed, use

import fastloss as fl
from fastloss.reference import evaluate

SPARSE = fl.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1, ignore_class=1)
DENSE = fl.CategoricalCrossentropy(from_logits=True)
CAPPED = fl.SparseCategoricalCrossentropy(from_logits=True, softcap=3.0, temperature=2.0, z_loss=0.1)


def elements(cupy, size=12_345, **options):
    check(cupy, fl.Huber(reduction="weighted_mean"), (size,), weighted=True, **options)


def rows(cupy, classes, count=9, loss=SPARSE, **options):
    check(cupy, loss, (count, classes), **options)


def slab(cupy):
    rows(cupy, 7, 600)


def warp(cupy):
    rows(cupy, 101)
    rows(cupy, 100)


def warps_dense(cupy):
    rows(cupy, 45, 70, DENSE)


def block(cupy):
    rows(cupy, 1501, 5)


def weighted_rows(cupy):
    rows(cupy, 101, weighted=True)
    rows(cupy, 7, 600, weighted=True)


def capped_slab(cupy):
    rows(cupy, 7, 300, CAPPED, scale=10.0)


def capped_warp(cupy):
    rows(cupy, 101, 9, CAPPED, scale=10.0)


def capped_block(cupy):
    rows(cupy, 1501, 5, CAPPED, scale=10.0)


def bad_label(cupy):
    for classes in (7, 101, 1501):
        y, p = np.array([0, 2**40, 2]), np.random.default_rng(0).normal(size=(3, classes)).astype("f4")
        value, grad = SPARSE.value_and_grad(cupy.asarray(y), cupy.asarray(p))
        assert np.isnan(value._host)
        np.testing.assert_array_equal(grad._host[1], 0)


def large(cupy):
    """Only the last row of more than 2^31 elements."""
    from test_device_calls import test_more_than_2_to_the_31_elements as elementwise
    from test_device_calls import test_rows_of_more_than_2_to_the_31_elements as rowwise

    for test in (elementwise, rowwise):
        with pytest.MonkeyPatch.context() as patch:
            test(cupy, patch)


def races(cupy):
    """Under the race detector, which wants few threads."""
    cupy.mode, cupy.multiprocessors = "tsan", 1
    elements(cupy)
    rows(cupy, 7, 300)


def values_of_slabs(cupy):
    """Values alone: with gradients each thread empties what it fills again. Some blocks take two slabs."""
    cupy.multiprocessors = 1
    y, p = cast(*plain(SPARSE, (2300, 7), np.random.default_rng(0)), DTYPES["float32"])
    value = SPARSE(cupy.asarray(y), cupy.asarray(p))
    np.testing.assert_allclose(value._host, evaluate(SPARSE, y, p)[0], rtol=4e-6)


def races_of_blocks(cupy):
    """Some blocks take two rows."""
    cupy.mode, cupy.multiprocessors = "tsan", 1
    for loss in (SPARSE, fl.SparseCategoricalCrossentropy()):
        y, p = np.arange(18) % 7, np.ones((18, 1501), np.float32)
        loss(cupy.asarray(y), cupy.asarray(p))


def check(cupy, loss, shape, weighted=False, scale=1.0):
    """A call in several orders, compared with the reference; predictions begin anywhere."""
    rng = np.random.default_rng(0)
    y, p = plain(loss, shape, rng)
    y, p = cast(y, scale * p, DTYPES["float32"])
    options = {"sample_weight": rng.uniform(0.5, 2.0, shape[:1]), "mask": rng.random(shape[:1]) < 0.8}
    options = options if weighted else {}
    expected = evaluate(loss, y, p, **options)
    for schedule in ("reverse", "shuffled") if cupy.mode == "fast" else ("forward",):
        cupy.schedule = schedule
        sent = {name: placed(cupy, value) for name, value in options.items()}
        for repeat in range(2):
            value, grad, hess = loss.value_grad_and_hess(placed(cupy, y), placed(cupy, p), **sent)
            np.testing.assert_allclose(value._host, expected[0], rtol=4e-6, err_msg=f"value, call {repeat}")
            compare(grad._host, expected[1], "float32", "gradient")
            compare(hess._host, expected[2], "float32", "Hessian")


#: What is planted: what stands there, what stands there then, and what must notice.
BUGS = {
    "no barrier before block sums are read": (
        "= value;\n    __syncthreads();\n    double total",
        "= value;\n    double total",
        elements,
    ),
    "no barrier before the last block is known": (
        "    __syncthreads();\n    if (!is_last",
        "    if (!is_last",
        elements,
    ),
    "no barrier after a slab is filled": (
        "pitch, seconds);\n        __syncthreads();\n        const Long row",
        "pitch, seconds);\n        const Long row",
        slab,
    ),
    "no barrier before a slab is emptied": (
        "            __syncthreads();\n            if constexpr (GRAD) empty",
        "            if constexpr (GRAD) empty",
        slab,
    ),
    "no barrier before a slab is filled again": (
        "        __syncthreads();  // the last slab's",
        "        // the last slab's",
        values_of_slabs,
    ),
    "no barrier before the row's peak is read": (
        "firsts[threadIdx.x / WARP] = value;\n    __syncthreads();",
        "firsts[threadIdx.x / WARP] = value;",
        block,
    ),
    "no barrier before the row's sums are read": (
        "    __syncthreads();\n#pragma unroll\n    for (int sum = 0; sum < SUMS; ++sum)\n        sums[sum] = warp_sum(",
        "#pragma unroll\n    for (int sum = 0; sum < SUMS; ++sum)\n        sums[sum] = warp_sum(",
        races_of_blocks,
    ),
    "no barrier before the row's peak is written again": (
        "    __syncthreads();  // the last row's",
        "    // the last row's",
        races_of_blocks,
    ),
    "a barrier that some threads skip": (
        "    value = warp_sum(value);\n    __syncthreads();",
        "    value = warp_sum(value);\n    if (threadIdx.x < 77) __syncthreads();",
        elements,
    ),
    "no fence before the count": (
        "        __threadfence();  // the partial sum",
        "        // the partial sum",
        races,
    ),
    "no fence after the count": ("        __threadfence();  // the others'", "        // the others'", races),
    "a count that is not atomic": (
        "atomicInc(ticket, gridDim.x - 1)",
        "*ticket; *ticket = before + 1 == gridDim.x ? 0 : before + 1",
        races,
    ),
    "a ticket that is not put back": ("atomicInc(ticket, gridDim.x - 1)", "atomicAdd(ticket, 1u)", elements),
    "a lane that is left out": ("WHOLE_WARP = 0xffffffffu", "WHOLE_WARP = 0x7fffffffu", warp),
    "a reduction that stops early": (
        "distance > 0; distance /= 2)\n        value +=",
        "distance > 1; distance /= 2)\n        value +=",
        warp,
    ),
    "a peak of half the lanes": (
        "int distance = LANES / 2; distance > 0; distance /= 2)\n        value = fmax",
        "int distance = LANES / 4; distance > 0; distance /= 2)\n        value = fmax",
        warp,
    ),
    "a tail that is one short": ("i < head + size - tail;", "i < head + size - tail - 1;", elements),
    "a pack too many is loaded": (
        "            if (first + i * BLOCK < packs) {",
        "            if (first + i * BLOCK <= packs + 300) {",
        elements,
    ),
    "packs that are moved whole at the ends of rows": (
        "return EVEN || (column >= 0 && column + VECTOR <= classes);",
        "return true;",
        warp,
    ),
    "rows that begin on whole packs": ("EVEN ? 0 : int(", "true ? 0 : int(", warp),
    "one class too few": (
        "(sizes.classes + lead + VECTOR - 1) / VECTOR",
        "(sizes.classes + lead - 1) / VECTOR",
        block,
    ),
    "a row's end that is its neighbour's": (
        "return EVEN || unsigned(column) < unsigned(classes);",
        "return EVEN || unsigned(column) <= unsigned(classes);",
        warp,
    ),
    "one row too few in the last slab": (
        "min(rows - first_row, Long(BLOCK))) * classes",
        "min(rows - first_row - 1, Long(BLOCK))) * classes",
        slab,
    ),
    "shared memory one place too short": ("row * pitch + column)", "row * pitch + column + 1)", slab),
    "a weight that is left out of the loss": ("weights[i].factor * results[0]", "results[0]", elements),
    "a weight that is left out of the gradient": (
        "weights[i].factor * normalizer.scale * results[1]",
        "normalizer.scale * results[1]",
        elements,
    ),
    "a row's weight that is left out": (
        "rule.gradient *= head.weight * scale",
        "rule.gradient *= scale",
        weighted_rows,
    ),
    "a mask that is left out": (
        "weights[i].counts = MASKED ? arrays.mask[mask_at] != 0 : true",
        "weights[i].counts = true",
        elements,
    ),
    "a row's mask that is left out": (
        "head.counts && arrays.mask[divided(row, sizes.mask_inner)] != 0",
        "head.counts",
        weighted_rows,
    ),
    "a normalizer without the mask": ("if (mask && !mask[divided(group, per_mask)]) continue;", "", elements),
    "a normalizer without the weights": ("if (weights) count *=", "if (false) count *=", elements),
    "a link's slope that is left out": ("gradient = results[0] * link[1];", "gradient = results[0];", capped_slab),
    "a link's slope that is left out once": ("results[1] * link[1] * link[1]", "results[1] * link[1]", capped_warp),
    "a link's curvature that is left out": (" + results[0] * link[2];", ";", capped_block),
    "a slab's peak beside the link": ("row.first = row_seen(row, first);", "row.first = first;", capped_slab),
    "a warp's peak beside the link": ("row_seen(here, FIRST == PEAK", "(FIRST == PEAK", capped_warp),
    "a block's peak beside the link": ("row_seen(here, block_first(first))", "block_first(first)", capped_block),
    "a penalty that is left out": ("results[0] += penalty[0];", "", capped_slab),
    "a true class beside the link": ("row.target_x = link[0];", "row.target_x = x;", capped_slab),
    "a true class's slope that is left out": ("results[0] * row.target_slope;", "results[0];", capped_warp),
    "the true class is like any other": ("if (INDEXED && column + i == head.label) rule = target;", "", warp),
    "an ignored label counts": (
        "head.label == sizes.ignored) head.counts = false;",
        "head.label == sizes.ignored) head.counts = true;",
        warp,
    ),
    "a label that is not checked": (
        "head.bad = head.counts && (head.label < 0 || head.label >= sizes.classes);",
        "",
        bad_label,
    ),
    "statistics of lanes that hold nothing": (
        "if (k < layout.packs)\n                    add_statistics",
        "if (true)\n                    add_statistics",
        warp,
    ),
    "a gradient of the row before": (
        "row * classes, column, classes, normalizer.scale);\n            }\n        }\n    }",
        "(row > 0 ? row - 1 : row) * classes, column, classes, normalizer.scale);\n            }\n        }\n    }",
        warps_dense,
    ),
    "elements counted in 32 bits": (
        "const Long at = head + (first + i * BLOCK) * VECTOR;",
        "const int at = head + int(first + i * BLOCK) * VECTOR;",
        large,
    ),
    "rows counted in 32 bits": (
        "const PRED* x_row = y_pred + row * classes;",
        "const PRED* x_row = y_pred + int(row) * classes;",
        large,
    ),
    "a scalar of another type": ("unsigned long long weight_magic,", "unsigned weight_magic,", elements),
    "a floating-point atomic": (
        "*value = normalizer.dead()",
        "atomicAdd(value, 0.0), *value = normalizer.dead()",
        elements,
    ),
}  # fmt: skip


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    use(monkeypatch, fake)
    return fake


@pytest.mark.parametrize("noticing", sorted({check for _, _, check in BUGS.values()}, key=lambda f: f.__name__))
def test_without_a_bug_nothing_is_noticed(cupy, noticing):
    noticing(cupy)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(cupy, bug):
    there, instead, noticing = BUGS[bug]
    planted = []

    def patch(text):
        planted.append(there in text)
        return text.replace(there, instead)

    cupy.patch = patch
    with pytest.raises((AssertionError, EmulatorError)):
        noticing(cupy)
    assert any(planted), "the kernels have changed: the bug was not planted"
