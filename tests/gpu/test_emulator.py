"""The CUDA emulator against the CUDA C++ Programming Guide, and against kernels with known faults."""

import pathlib
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from emulator import build, memory
from fake_cupy import EmulatorError, FakeCupy

SCHEDULES = ("forward", "reverse", "shuffled")
LANES = np.arange(32)


def source(parameters, body, before=""):
    """The body begins at line 1 of test.cu."""
    includes = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
    head = f'extern "C" __global__ void __launch_bounds__(1024) kernel({parameters})'
    return f'{includes}#line 1 "before.cu"\n{before}\n{head} {{\n#line 1 "test.cu"\n{body}\n}}\n'


def launch(fake, parameters, body, *arguments, grid=1, block=32, shared_mem=0, before=""):
    """Run a kernel of this body; NumPy arrays go to the device and are returned as they come back."""
    on_device = tuple(fake.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments)
    kernel = fake.RawModule(code=source(parameters, body, before)).get_function("kernel")
    kernel((grid,), (block,), on_device, shared_mem=shared_mem)
    return [a.get() for a in on_device if isinstance(a, fake.ndarray)]


@pytest.fixture
def fake():
    return FakeCupy()


@pytest.fixture(params=SCHEDULES)
def scheduled(request):
    return FakeCupy(schedule=request.param, seed=5)


# -- warps -----------------------------------------------------------------------------------------------------


SHUFFLES = """
int i = threadIdx.x, n = blockDim.x;
out[i] = __shfl_sync(0xffffffffu, i * 10, operand, width);
out[n + i] = __shfl_up_sync(0xffffffffu, i * 10, operand, width);
out[2 * n + i] = __shfl_down_sync(0xffffffffu, i * 10, operand, width);
out[3 * n + i] = __shfl_xor_sync(0xffffffffu, i * 10, operand, width);
"""


def shuffled_lanes(operand, width):
    """The tables of the Programming Guide: from which lane each lane reads."""
    first = LANES // width * width
    up = np.where(LANES - operand >= first, LANES - operand, LANES)
    down = np.where(LANES + operand < first + width, LANES + operand, LANES)
    exclusive = np.where((LANES ^ operand) < first + width, LANES ^ operand, LANES)
    return first + operand % width, up, down, exclusive


def test_shuffles(scheduled):
    kernel = scheduled.RawModule(code=source("int* out, int operand, int width", SHUFFLES)).get_function("kernel")
    out = scheduled.zeros((4, 64), np.int32)
    for width in (1, 2, 4, 8, 16, 32):
        for operand in (0, 1, 3, 7, 16, 31):
            kernel((1,), (64,), (out, np.int32(operand), np.int32(width)))
            for row, lanes in zip(out.get(), shuffled_lanes(operand, width), strict=True):
                np.testing.assert_array_equal(row, 10 * np.concatenate([lanes, 32 + lanes]))
    with pytest.raises(EmulatorError, match="power of two"):
        kernel((1,), (64,), (out, np.int32(1), np.int32(12)))


def test_shuffles_keep_all_bits_of_every_type(fake):
    values = {
        "float": np.float32,
        "double": np.float64,
        "int": np.int32,
        "unsigned": np.uint32,
        "long long": np.int64,
        "unsigned long long": np.uint64,
    }
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, 32 * np.dtype(t).itemsize, np.uint8).view(t) for t in values.values()]
    parameters = ", ".join(f"{name}* p{i}" for i, name in enumerate(values))
    body = "\n".join(f"p{i}[threadIdx.x] = __shfl_xor_sync(~0u, p{i}[threadIdx.x], 31);" for i in range(len(values)))
    for before, after in zip(arrays, launch(fake, parameters, body, *arrays), strict=True):
        assert after.tobytes() == before[::-1].tobytes()


def test_parts_of_a_warp_have_their_own_masks(scheduled):
    body = """
    int i = threadIdx.x;
    if (i < 8) out[i] = __shfl_sync(0xffu, i, 3);
    else out[i] = __ballot_sync(0xffffff00u, i % 2);
    __syncwarp();
    """
    (out,) = launch(scheduled, "unsigned* out", body, np.zeros(32, np.uint32))
    assert (out[:8] == 3).all()
    assert (out[8:] == 0xAAAAAA00).all()


def test_votes(scheduled):
    body = """
    int i = threadIdx.x, n = blockDim.x;
    out[i] = __ballot_sync(__activemask(), i % 3 == 0);
    out[n + i] = __any_sync(__activemask(), i == 35) + 2 * __all_sync(__activemask(), i < 40);
    out[2 * n + i] = __syncthreads_count(i < 10) + 100 * __syncthreads_and(i < 48) + 1000 * __syncthreads_or(i > 48);
    """
    (out,) = launch(scheduled, "unsigned* out", body, np.zeros((3, 48), np.uint32), block=48)
    first, second = sum(1 << i for i in range(0, 32, 3)), sum(1 << i for i in range(16) if (i + 32) % 3 == 0)
    np.testing.assert_array_equal(out[0], [first] * 32 + [second] * 16)
    np.testing.assert_array_equal(out[1], [2] * 32 + [1] * 16)
    assert (out[2] == 110).all()


# -- blocks, schedules, shared memory --------------------------------------------------------------------------


def test_every_thread_of_every_block_runs_once(scheduled):
    body = """
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    ticket[block * 12 + thread] = atomicAdd(counter, 1u);
    """
    ticket, counter = scheduled.zeros(24 * 12, np.uint32), scheduled.zeros(1, np.uint32)
    code = source("unsigned* ticket, unsigned* counter", body)
    scheduled.RawModule(code=code).get_function("kernel")((4, 3, 2), (2, 3, 2), (ticket, counter))
    got, all_in_order = ticket.get(), np.arange(24 * 12)
    assert counter.get() == 24 * 12
    np.testing.assert_array_equal(np.sort(got), all_in_order)
    is_as_said = {"forward": all_in_order, "reverse": all_in_order[::-1]}.get(scheduled.schedule)
    if is_as_said is None:
        assert (got != all_in_order).mean() > 0.9
        assert set(got[:12]) == set(range(got[:12].min(), got[:12].min() + 12))  # blocks one by one
    else:
        np.testing.assert_array_equal(got, is_as_said)


SCAN = """
FL_DYNAMIC_SHARED(int, sums);
int i = threadIdx.x;
sums[i] = values[i];
__syncthreads();
for (int step = 1; step < blockDim.x; step *= 2) {
  int other = i >= step ? sums[i - step] : 0;
  __syncthreads();
  sums[i] += other;
  __syncthreads();
}
values[i] = sums[i];
"""


def test_dynamic_shared_memory(scheduled):
    values = np.random.default_rng(0).integers(0, 99, 256, np.int32)
    (sums,) = launch(scheduled, "int* values", SCAN, values, block=256, shared_mem=1024)
    np.testing.assert_array_equal(sums, values.cumsum())
    with pytest.raises(EmulatorError, match="illegal memory access"):
        launch(scheduled, "int* values", SCAN, values, block=256, shared_mem=1008)


def test_shared_memory_is_poisoned_for_every_block_and_one_per_instantiation(fake):
    before = """
    template <int n> __device__ float* row() { FL_SHARED(float, values, n); return values; }
    """
    body = """
    FL_DYNAMIC_SHARED(double, more);
    float* a = row<3>(); float* b = row<4>();
    bool same = a == row<3>() && b == row<4>() && a != b;
    ok[blockIdx.x] = same && isnan(a[2]) && isnan(b[3]) && isnan(more[1]) && (size_t)more % 16 == 0;
    a[2] = b[3] = 0.0f; more[1] = 0.0;
    """
    (ok,) = launch(fake, "bool* ok", body, np.zeros(3, bool), grid=3, block=1, shared_mem=16, before=before)
    assert ok.all()


def test_shared_memory_beyond_48_kib_needs_the_attribute_on_each_device(fake):
    kernel = fake.RawModule(code=source("", "FL_DYNAMIC_SHARED(int, s); s[12288] = 1;")).get_function("kernel")
    with pytest.raises(EmulatorError, match="allowed are 49152"):
        kernel((1,), (1,), (), shared_mem=65536)
    kernel.max_dynamic_shared_size_bytes = 65536
    kernel((1,), (1,), (), shared_mem=65536)
    with fake.cuda.Device(1), pytest.raises(EmulatorError, match="allowed are 49152"):
        kernel((1,), (1,), (), shared_mem=65536)
    with pytest.raises(EmulatorError, match="at most 232448"):
        kernel.max_dynamic_shared_size_bytes = 232449
    for body, message in (("FL_SHARED(int, s, 12289);", "48 KiB of static"), ("FL_SHARED(int, s, 4);", "227 KiB")):
        kernel = fake.RawModule(code=source("", body)).get_function("kernel")
        kernel.max_dynamic_shared_size_bytes = 232448
        with pytest.raises(EmulatorError, match=message):
            kernel((1,), (1,), (), shared_mem=232448 if "227" in message else 0)


# -- what is an error --------------------------------------------------------------------------------------------


FAULTS = {
    "divergent barrier": (
        "if (threadIdx.x < 16)\n __syncthreads();\nelse\n __syncthreads();",
        r"divergent barrier: .*test.cu:2 and at test.cu:4 \[block \(0,0,0\) thread \(16,0,0\)\]",
    ),
    "barrier that some have left": (
        "if (threadIdx.x == 7) return;\n__syncthreads();",
        "deadlock: of 48 threads 47 wait for a barrier at test.cu:2, 1 have ended",
    ),
    "barrier against a shuffle": (
        "if (threadIdx.x < 32)\n __syncwarp();\nelse out[0] = __shfl_sync(~0u, 1, 0);",
        "deadlock: of 48 threads 16 wait for lanes of their warp at test.cu:3, 32 have ended",
    ),
    "divergent shuffle": (
        "if (threadIdx.x > 15) return; if (threadIdx.x % 2)\n __syncwarp(0xffffu);\nelse\n __ballot_sync(0xffffu, 1);",
        "deadlock: .*8 wait for lanes of their warp at test.cu:2, 8 wait .* at test.cu:4, 32 have ended",
    ),
    "lane outside its mask": ("out[0] = __shfl_sync(0xffffu, 1, 0);", "not in its own mask at test.cu:1"),
    "shuffle from outside the mask": (
        "if (threadIdx.x < 16) out[0] = __shfl_xor_sync(0xffffu, 1, 16);",
        r"shuffle from lane \d+, which is outside the mask, at test.cu:1",
    ),
    "read beyond the end": (
        "\nif (threadIdx.x == 5)\n out[0] = out[48];",
        r"illegal memory access .*\[block \(0,0,0\) thread \(5,0,0\)\] at test.cu:3",
    ),
    "write far beyond the end": ("\nout[16000000] = 1;", "illegal memory access .*at test.cu:2"),
    "write far before the start": ("\nout[-16000000] = 1;", "illegal memory access .*at test.cu:2"),
    "write just before the start": ("out[-1] = 1;", r"writes beside argument 0, a \(48,\) array"),
    "atomic beyond the end": ("\n\natomicAdd(out + 48, 1);", "illegal memory access .*at test.cu:3"),
    "null pointer": ("\n*(volatile int*)nullptr = 1;", "illegal memory access .*at test.cu:2"),
    "misaligned vector": (
        "\nout[0] = __ldg((const int4*)(out + 1)).x;",
        r"misaligned access \[block \(0,0,0\) thread \(0,0,0\)\] at test.cu:2",
    ),
    "misaligned atomic": ("atomicAdd((int*)((char*)out + 2), 1);", "misaligned atomic"),
    "int overflow": (
        "int large = 2147483647 - threadIdx.x;\n\nout[0] = large * 2;",
        r"integer overflow of \* .*at test.cu:3",
    ),
    "index outside a shared array": (
        "FL_SHARED(int, s, 3);\ns[threadIdx.x] = 1;",
        r"index outside an array \[.*thread \(3,0,0\)\] at test.cu:2",
    ),
    "shift by too much": ("out[0] = 1 << (threadIdx.x + 32);", "shift by too much"),
    "division by zero": ("out[0] = 1 / threadIdx.x + 1 / (int)(threadIdx.x - 1);", "division by zero|Floating point"),
    "stack overflow": ("volatile char large[100000]; large[0] = 1;", "illegal memory access"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fake, fault):
    body, message = FAULTS[fault]
    with pytest.raises(EmulatorError, match=message):
        launch(fake, "int* out", body, np.zeros(48, np.int32), block=48)


def test_a_fault_is_not_the_end(fake):
    for _ in range(3):
        with pytest.raises(EmulatorError, match=r"block \(2,0,0\) thread \(1,0,0\)"):
            launch(
                fake, "int* out", "out[blockIdx.x * 2 + threadIdx.x + 3] = 1;", np.zeros(8, np.int32), grid=3, block=2
            )
        (out,) = launch(fake, "int* out", "out[blockIdx.x] = 1;", np.zeros(4, np.int32), grid=4)
        assert (out == 1).all()


NOT_CUDA_OR_NOT_WANTED = {
    "float atomics": ("atomicAdd(out, 1.0f);", "deleted function"),
    "bare shared memory": ("__shared__ float s[4];", "use FL_SHARED or FL_DYNAMIC_SHARED"),
    "INFINITY": ("out[0] = INFINITY;", "INFINITY"),
    "NAN": ("out[0] = NAN;", "NAN"),
    "assert": ("assert(out);", "assert"),
    "uint32_t": ("uint32_t x;", "uint32_t"),
    "system header": ("\n#include <cmath>\n", "cmath"),
    "writing threadIdx": ("threadIdx.x = 1;", "read-only"),
    "shuffle of a struct": ("out[0] = __shfl_sync(~0u, make_float4(0, 0, 0, 0), 0).x;", "shuffle"),
    "store of 32 bytes": ("double4 x; __stcs((double4*)out, x);", "1, 2, 4, 8 or 16 bytes"),
}


@pytest.mark.parametrize("what", NOT_CUDA_OR_NOT_WANTED)
def test_does_not_compile(fake, what):
    body, message = NOT_CUDA_OR_NOT_WANTED[what]
    with pytest.raises(EmulatorError, match=rf"does not compile(?s:.*){message}"):
        launch(fake, "float* out", body, np.zeros(4, np.float32))


# -- numbers -------------------------------------------------------------------------------------------------------


CONVERSIONS = """
size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
if (i < 65536) half_up[i] = __half2float(half[i]), bfloat_up[i] = __bfloat162float(bfloat[i]);
if (i < n) half_down[i] = __float2half_rn(x[i]), bfloat_down[i] = __float2bfloat16_rn(x[i]);
"""


def floats_of_every_kind(count):
    random = np.random.default_rng(7)
    with np.errstate(all="ignore"):
        any_bits = random.integers(0, 2**32, count // 4, np.uint32).view(np.float32)
        near_half = np.exp2(random.uniform(-30, 17, count // 4)).astype(np.float32)
        # Half-way between two neighbours, and one float to either side of it.
        ties = random.integers(0, 2**16, count // 4, np.uint32) << 16 | 0x8000
        ties = (ties + random.integers(-1, 2, ties.size)).astype(np.uint32).view(np.float32)
        half_ties = (
            random.integers(0x3300, 0x4780, count // 4, np.uint32) << 16 | random.integers(0, 16, count // 4) << 12
        )
        half_ties = (half_ties + random.integers(-1, 2, half_ties.size)).astype(np.uint32).view(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 2**-24, 2**-25, 1e-45], np.float32)
    return np.concatenate([any_bits, near_half, -near_half[:99], ties, half_ties, special])


def test_conversions_of_half_and_bfloat16_bit_by_bit(fake):
    patterns, x = np.arange(65536).astype(np.uint16), floats_of_every_kind(200_000)
    half, bfloat = patterns.view(np.float16), patterns.view(ml_dtypes.bfloat16)
    parameters = (
        "const __half* half, const __nv_bfloat16* bfloat, const float* x, "
        "float* half_up, float* bfloat_up, __half* half_down, __nv_bfloat16* bfloat_down, long long n"
    )
    up = [np.zeros(65536, np.float32)] * 2
    down = [np.zeros(x.size, np.float16), np.zeros(x.size, ml_dtypes.bfloat16)]
    results = launch(fake, parameters, CONVERSIONS, half, bfloat, x, *up, *down, np.int64(x.size), grid=800, block=256)
    with np.errstate(all="ignore"):
        wanted = half.astype(np.float32), bfloat.astype(np.float32), x.astype(np.float16), x.astype(ml_dtypes.bfloat16)
    for got, want in zip(results[3:], wanted, strict=True):
        bits = f"u{want.itemsize}"
        is_nan = np.isnan(want)
        assert is_nan.any()
        np.testing.assert_array_equal(np.isnan(got), is_nan)
        np.testing.assert_array_equal(got.view(bits)[~is_nan], want.view(bits)[~is_nan])
    for got, want in zip(results[5:], wanted[2:], strict=True):
        assert (got.view(np.uint16)[np.isnan(want)] == 0x7FFF).all()  # NVIDIA's NaN


def test_subnormal_float32_count_as_zero_and_subnormal_float64_do_not(fake):
    tiny = np.array([1e-40, 1.0, 1.2e-38, 0.5], np.float32)
    body = "if (threadIdx.x == 0) { x[0] *= x[1]; x[2] *= x[3]; }"
    (x,) = launch(fake, "float* x", body, tiny)
    assert x[0] == 0
    assert x[2] == 0
    (x,) = launch(fake, "double* x", body, np.array([2.0**-1060, 1.0, 2.0**-1022, 0.5]))
    np.testing.assert_array_equal(x[[0, 2]], [2.0**-1060, 2.0**-1023])
    assert np.float32(1e-40) * np.float32(1) != 0, "the processor's mode is put back"


def test_mathematics(fake):
    body = """
    double d = x[0]; float f = d; int i = 0;
    out[i++] = exp(d); out[i++] = log1p(d); out[i++] = expm1(f); out[i++] = tanh(f); out[i++] = pow(d, 3.0);
    out[i++] = __expf(f); out[i++] = __logf(f); out[i++] = __fdividef(f, 4.0f); out[i++] = copysign(f, -0.0f);
    out[i++] = max(-3, 2) + min(5ll, 4ll) + max(1u, 7u); out[i++] = fmax(f, __int_as_float(0x7fc00000));
    out[i++] = isnan(d) || isinf(f); out[i++] = floor(d) + sqrt(16.0f) + fabs(-f); out[i++] = exp(f);
    out[i++] = __double_as_longlong(d) == 0x3FF8000000000000ll && __longlong_as_double(0x3FF8000000000000ll) == d;
    out[i++] = __float_as_int(f) == 0x3fc00000;
    """
    v = 1.5
    want = [np.exp(v), np.log1p(v), np.expm1(v), np.tanh(v), v**3, np.exp(v), np.log(v), v / 4, -v]
    want += [2 + 4 + 7, v, 0, 1 + 4 + v, np.exp(v), 1, 1]
    _, out = launch(fake, "const double* x, double* out", body, np.array([v]), np.zeros(16), block=1)
    np.testing.assert_allclose(out, want, rtol=1e-6)


def test_atomics(fake):
    body = """
    out[0 + threadIdx.x] = atomicInc(u, 4u);
    atomicMin(i, -(int)threadIdx.x); atomicMax(i + 1, (int)threadIdx.x - 40); atomicAdd(i + 2, -1);
    atomicMax(l, (1ull << 63) + threadIdx.x); atomicMin(l + 1, 5ull); atomicAdd(l + 2, 1ull << 40);
    atomicCAS(u + 1, threadIdx.x, threadIdx.x + 1); if (threadIdx.x == 3) atomicExch(u + 2, 9u);
    """
    arrays = np.zeros(12, np.uint32), np.zeros(3, np.uint32), np.array([0, -99, 0], np.int32)
    parameters = "unsigned* out, unsigned* u, int* i, unsigned long long* l"
    out, u, i, l = launch(fake, parameters, body, *arrays, np.full(3, 99, np.uint64), block=12)  # noqa: E741
    np.testing.assert_array_equal(out, np.arange(12) % 5)
    np.testing.assert_array_equal(u, [12 % 5, 12, 9])
    np.testing.assert_array_equal(i, [-11, -29, -12])
    np.testing.assert_array_equal(l, [(1 << 63) + 11, 5, 99 + (12 << 40)])


def test_loads_and_stores_with_hints(fake):
    body = """
    struct __align__(8) Four { unsigned short part[4]; };
    int i = threadIdx.x;
    __stcs((float4*)to + 3 * i, __ldcs((const float4*)from + 3 * i));
    __stcg((Four*)to + 6 * i + 2, __ldcg((const Four*)from + 6 * i + 2));
    __stwt((unsigned char*)to + 48 * i + 24, __ldg((const unsigned char*)from + 48 * i + 24));
    """
    values = np.arange(32 * 48, dtype=np.uint8)
    _, to = launch(fake, "const unsigned char* from, unsigned char* to", body, values, np.zeros_like(values))
    expected = values.reshape(32, 48).copy()
    expected[:, 25:] = 0
    np.testing.assert_array_equal(to.reshape(32, 48), expected)


# -- sanitizers: each kernel is right, and wrong once something is taken out of it ---------------------------------


NEIGHBOURS = """
FL_SHARED(int, s, 64);
s[threadIdx.x] = threadIdx.x;
__syncthreads();
out[threadIdx.x] = s[(threadIdx.x + 1) % 64];
"""

LAST_BLOCK = """
FL_SHARED(bool, is_last, 1);
partial[blockIdx.x * 32 + threadIdx.x] = 1;
__syncthreads();
if (threadIdx.x == 0) {
  __threadfence(/* release */);
  is_last[0] = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
  __threadfence(/* acquire */);
}
__syncthreads();
if (is_last[0] && threadIdx.x == 0) {
  int sum = 0;
  for (int i = 0; i < gridDim.x * 32; ++i) sum += partial[i];
  out[0] = sum;
}
"""

WARP = """
FL_SHARED(int, s, 32);
s[threadIdx.x] = threadIdx.x;
__syncwarp();
out[threadIdx.x] = s[threadIdx.x ^ 1] + __shfl_xor_sync(~0u, 1, 1);
"""


@pytest.mark.parametrize(
    ("body", "correct", "wrong"),
    [
        (NEIGHBOURS, "__syncthreads();", ""),
        (WARP, "__syncwarp();", "__shfl_sync(~0u, 0, 0);"),
        (LAST_BLOCK, "__threadfence(/* release */);", ""),
        (LAST_BLOCK, "__threadfence(/* release */);", "__threadfence_block();"),
        (LAST_BLOCK, "__threadfence(/* acquire */);", ""),
        (LAST_BLOCK, "atomicInc(counter, gridDim.x - 1)", "(*counter)++"),
    ],
    ids=[
        "no barrier",
        "shuffle as barrier",
        "no release fence",
        "fence within the block",
        "no acquire fence",
        "plain counter",
    ],
)
def test_races(body, correct, wrong):
    fake = FakeCupy(mode="tsan")
    is_grid = body is LAST_BLOCK
    parameters = "int* out, int* partial, unsigned* counter"
    arrays = np.zeros(64, np.int32), np.zeros(96, np.int32), np.zeros(1, np.uint32)
    shape = {"grid": 3, "block": 32} if is_grid else {"block": 64 if body is NEIGHBOURS else 32}
    out, _, _ = launch(fake, parameters, body, *arrays, **shape)
    assert out.any()
    fake.patch = lambda text: text.replace(correct, wrong)
    with pytest.raises(EmulatorError, match=r"data race(?s:.*)test\.cu:"):
        launch(fake, parameters, body, *arrays, **shape)


def test_address_sanitizer():
    fake = FakeCupy(mode="asan", schedule="reverse")
    body = (
        "FL_SHARED(int, s, 5); s[0] = 0; __syncthreads();\nfor (int i = threadIdx.x; i < n; i += 32) out[i] += (int)i;"
    )
    (out,) = launch(fake, "int* out, int n", body, np.ones(37, np.int32), np.int32(37))
    np.testing.assert_array_equal(out, 1 + np.arange(37))
    with pytest.raises(EmulatorError, match=r"heap-buffer-overflow(?s:.*)test\.cu:2"):
        launch(fake, "int* out, int n", body, np.ones(37, np.int32), np.int32(38))
    with pytest.raises(EmulatorError, match=r"alignment"):
        launch(fake, "int* out, int n", "out[0] = ((int4*)(out + 1))->x;", np.ones(37, np.int32), np.int32(38))
    with pytest.raises(EmulatorError, match="deadlock"):
        launch(fake, "int* out, int n", "if (threadIdx.x) __syncthreads();", np.ones(3, np.int32), np.int32(3))


# -- memory ------------------------------------------------------------------------------------------------------


def test_memory_is_poisoned_aligned_and_watched():
    for nbytes in (0, 1, 15, 16, 4095, 4096, 4097, 100_003):
        block = memory.DeviceMemory(nbytes)
        assert block.address % 16 == 0
        assert bytes(block.bytes()) == b"\xff" * nbytes
        assert block.intact()
        for outside in (block.address - 1, block.address + nbytes):
            if block._start <= outside < block._end:
                memory.ctypes.memset(outside, 0, 1)
                assert not block.intact()
                memory.ctypes.memset(outside, memory.CANARY, 1)


def test_one_block_of_an_array_larger_than_memory(fake):
    rows, columns = 300_000, 50_257
    x = fake.empty((rows, columns), np.float16)
    kernel = "x[(long long)blockIdx.x * n + n - 1 - threadIdx.x] = __float2half_rn(1.0f + threadIdx.x);"
    fake.only_block = rows - 1
    for body in (kernel, kernel.replace("(long long)", "(int)")):
        function = fake.RawModule(code=source("__half* x, int n", body)).get_function("kernel")
        if "long" in body:
            function((rows,), (2,), (x, np.int32(columns)))
            np.testing.assert_array_equal(x[-1, -3:].get(), np.array([0, 2, 1], np.float16))
        else:
            with pytest.raises(EmulatorError, match="integer overflow"):
                function((rows,), (2,), (x, np.int32(columns)))


# -- the compiler and its cache ------------------------------------------------------------------------------------


def test_without_a_compiler_there_is_a_clear_error(fake, monkeypatch):
    monkeypatch.setattr(build, "_COMPILER", "no-such-compiler")
    build._toolchain.cache_clear()
    try:
        with pytest.raises(EmulatorError, match="needs no-such-compiler, which is not installed"):
            launch(fake, "", "int without_a_compiler;")
    finally:
        build._toolchain.cache_clear()


def test_two_processes_compile_once(tmp_path):
    program = "from emulator import build; print(build.kernel_library('void f() {}', (), (), 'fast'))"
    environment = {"PYTHONPATH": str(pathlib.Path(__file__).parent), "FASTLOSS_EMULATOR_CACHE": str(tmp_path)}
    command, options = [sys.executable, "-c", program], {"env": build.os.environ | environment, "text": True}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, **options) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, **options) as two,
    ):
        paths = {one.communicate()[0].strip(), two.communicate()[0].strip()}
    assert {str(path) for path in tmp_path.glob("*.so")} == paths
    assert not list(tmp_path.glob("*.tmp"))


def test_settings_are_checked(fake):
    for name in ("mode", "schedule"):
        with pytest.raises(ValueError, match=f"{name} is one of"):
            setattr(fake, name, "backward")


def test_options_define_macros(fake):
    code = source("int* out", "out[0] = VALUE;")
    out = fake.zeros(1, np.int32)
    for value in (3, 4):
        fake.RawModule(code=code, options=(f"-DVALUE={value}",)).get_function("kernel")((1,), (1,), (out,))
        assert int(out) == value
    with pytest.raises(EmulatorError, match="--use_fast_math"):
        fake.RawModule(code=code, options=("--use_fast_math",))


def test_a_module_of_two_kernels(fake):
    another = source("int* out", "out[0] = 2;").replace("kernel", "two")
    module = fake.RawModule(code=source("int* out", "out[0] = 1;") + another)
    out = fake.zeros(1, np.int32)
    for name, value in (("kernel", 1), ("two", 2)):
        module.get_function(name)((1,), (1,), (out,))
        assert int(out) == value
    with pytest.raises(EmulatorError, match="no kernel three, only kernel, two"):
        module.get_function("three")


# -- the stand-in for CuPy -----------------------------------------------------------------------------------------


PARAMETERS = (
    "const float* x, const bool* mask, const unsigned char* bytes, const __nv_bfloat16* b, int n, float s, bool f"
)


def test_launches_take_exact_types_only(fake):
    kernel = fake.RawModule(code=source(PARAMETERS, "")).get_function("kernel")
    x, mask, bfloat = fake.zeros(3, np.float32), fake.zeros(3, bool), fake.zeros(3, ml_dtypes.bfloat16)
    null, byte = np.uint64(0), fake.zeros(3, np.uint8)
    good = (x, mask, byte, bfloat, np.int32(1), np.float32(2), np.bool_(True))
    kernel((1,), (1,), good)
    kernel((1,), (1,), (null, byte, mask, null, *good[4:]))
    assert fake.launches == [("kernel", (1, 1, 1), (1, 1, 1), 0)] * 2
    wrong = {
        0: [fake.zeros(3, np.float64), np.float32(1), np.uint64(8), np.zeros(3, np.float32), None],
        1: [x, fake.zeros(3, np.int8)],
        3: [fake.zeros(3, np.float16), fake.zeros(3, np.uint16)],
        4: [1, np.int64(1), np.uint32(1), 1.0, True],
        5: [2.0, np.float64(2), np.float16(2)],
        6: [True, np.uint8(1)],
    }
    for position, arguments in wrong.items():
        for argument in arguments:
            with pytest.raises(EmulatorError, match=f"argument {position} is .* in C"):
                kernel((1,), (1,), (*good[:position], argument, *good[position + 1 :]))
    with pytest.raises(EmulatorError, match="takes 7 arguments, got 6"):
        kernel((1,), (1,), good[:-1])
    for grid, block in (((0,), (1,)), ((1, 65536), (1,)), ((1,), (1025,)), ((1,), (0,)), ((1,), (1, 1, 65))):
        with pytest.raises(EmulatorError, match="impossible"):
            kernel(grid, block, good)


def test_arrays_and_launches_are_of_the_current_device(fake):
    kernel = fake.RawModule(code=source("int* out", "out[0] = 1;")).get_function("kernel")
    with fake.cuda.Device(1):
        there = fake.zeros(1, np.int32)
        assert fake.cuda.runtime.getDevice() == 1
        kernel((1,), (1,), (there,))
    assert fake.cuda.Device().id == 0
    assert there.device.id == 1
    assert there[:1].device == fake.cuda.Device(1)
    with pytest.raises(EmulatorError, match="argument 0 is on device 1, the launch on 0"):
        kernel((1,), (1,), (there,))
    with pytest.raises(fake.cuda.runtime.CUDARuntimeError), fake.cuda.Device(2):
        pass
    seen = []
    with fake.cuda.Device(1):
        thread = threading.Thread(target=lambda: seen.append(fake.cuda.Device().id))
        thread.start()
        thread.join()
    assert seen == [0], "each thread has a current device of its own"


def test_streams(fake):
    assert fake.cuda.get_current_stream().ptr == 0
    with fake.cuda.Stream() as stream:
        assert fake.cuda.get_current_stream() == stream
        assert stream.ptr
    assert fake.cuda.get_current_stream() != stream


def test_what_waits_for_the_device_is_counted(fake):
    x = fake.full((1,), 2.5, np.float32)
    assert (float(x), int(x), bool(x), x.item(), fake.asnumpy(x)[0], x.get()[0]) == (2.5, 2, True, 2.5, 2.5, 2.5)
    assert fake.synchronisations == 6
    for convert in (np.asarray, np.isnan, lambda a: a + np.ones(1)):
        with pytest.raises(TypeError):
            convert(x)
    compared = (x == x) & (x + 1 > x)
    assert fake.synchronisations == 6
    assert compared.get().all()


def test_arrays_are_laid_out_as_numpys(fake):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for host in (values, np.asfortranarray(values), values.astype(ml_dtypes.bfloat16), values[:0], values > 3):
        x = fake.asarray(host)
        assert (x.shape, x.dtype, x.size, x.nbytes) == (host.shape, host.dtype, host.size, host.nbytes)
        assert x.strides == host.strides or not host.size
        changes = (
            lambda a: a[..., 1],
            lambda a: a[:, 1:, ::2],
            lambda a: a.T,
            lambda a: a.swapaxes(0, 1).ravel(),
            lambda a: a.reshape(-1, 4, 3) if a.size else a,
            lambda a: a.transpose(2, 0, 1).copy(),
            lambda a: a.astype(np.float64),
            lambda a: a.view(np.uint8) if a.flags.c_contiguous else a,
        )
        for change in changes:
            wanted, got = change(host), change(x)
            np.testing.assert_array_equal(got.get().astype(np.float64), wanted.astype(np.float64))
            for order in ("c_contiguous", "f_contiguous"):
                assert getattr(got.flags, order) == getattr(wanted.flags, order)
    x = fake.asarray(values)
    assert x.flags.owndata
    assert not x[1:].flags.owndata
    assert x[1:].data.ptr == x.data.ptr + 48
    assert fake.asarray(x) is x
    assert fake.ascontiguousarray(x) is x
    assert fake.ascontiguousarray(x.T).flags.c_contiguous
    assert fake.array(x, order="F").flags.f_contiguous
    assert x.astype(np.float32, copy=False) is x
    assert len(x) == 2


def test_assignment(fake):
    x = fake.zeros((2, 3), np.float32)
    x[1] = 5
    x[0, 1:] = fake.full(2, 7, np.float32)
    np.testing.assert_array_equal(x.get(), [[0, 7, 7], [5, 5, 5]])
    fake.copyto(x, fake.zeros((2, 3), np.float32))
    assert not x.get().any()
    assert np.isnan(fake.empty(3, np.float32).get()).all()
    with pytest.raises(TypeError, match="NumPy"):
        x[0] = np.zeros(3, np.float32)
    with pytest.raises(TypeError, match="basic"):
        x[fake.zeros(2, bool)]
