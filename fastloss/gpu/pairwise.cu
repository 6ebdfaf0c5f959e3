// The sweep of losses of several predictions, one loss per element: all of them read once, each result written once.
//
// A persistent grid: every thread takes packs of neighbouring elements of all arrays, `UNROLLED` at a time. The
// formula's text, the types and which results are wanted come before this text.
//
//   VECTOR       elements of a pack                         BLOCK      threads of a block
//   PARAMETERS, PARAMETER_NAMES, FORMULA                    the loss
//   FORMULA_OPERANDS                                        element i of `packs`, each operand in its turn

constexpr int UNROLLED = 2;
constexpr int TILE = BLOCK * UNROLLED;

template <int COUNT>
struct Packs {
    Pack<TRUE, COUNT> y;
    Pack<PRED, COUNT> x[PREDICTIONS];
};

template <int COUNT>
__device__ __forceinline__ Packs<COUNT> load(const Arrays& arrays, Long at) {
    Packs<COUNT> packs;
    if constexpr (TARGET) packs.y = load_once<TRUE, COUNT>(arrays.y_true + at);
#pragma unroll
    for (int k = 0; k < PREDICTIONS; ++k) packs.x[k] = load_once<PRED, COUNT>(arrays.predictions[k] + at);
    return packs;
}

// The results of neighbouring elements; gives the sum of their losses.
template <int COUNT>
__device__ __forceinline__ double compute(
    const Arrays& arrays, const Inner& inner, Long first, const Packs<COUNT>& packs,
    const Normalizer<T>& normalizer PARAMETERS) {
    Pack<PRED, COUNT> gradients[PREDICTIONS], hessians[PREDICTIONS];
    Pack<T, COUNT> losses;
    Weight<T> weights[COUNT];
    weigh<COUNT>(arrays, inner, first, weights);
    double total = 0.0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        T results[1 + 2 * PREDICTIONS];
        FORMULA<T>(FORMULA_OPERANDS PARAMETER_NAMES, results);
        const bool counts = weights[i].counts && !normalizer.dead();
        const T loss = counts ? weights[i].factor * results[0] : T(0), factor = weights[i].factor * normalizer.scale;
        if constexpr (VALUE) total += double(loss);
        if constexpr (LOSSES) losses.values[i] = loss * normalizer.scale;
#pragma unroll
        for (int k = 0; k < PREDICTIONS; ++k) {
            if constexpr (GRAD) gradients[k].values[i] = stored<PRED>(counts ? factor * results[1 + k] : T(0));
            if constexpr (HESS)
                hessians[k].values[i] = stored<PRED>(counts ? factor * results[1 + PREDICTIONS + k] : T(0));
        }
    }
    if constexpr (LOSSES) store_once(arrays.losses + first, losses);
#pragma unroll
    for (int k = 0; k < PREDICTIONS; ++k) {
        if constexpr (GRAD) store_once(arrays.gradients[k] + first, gradients[k]);
        if constexpr (HESS) store_once(arrays.hessians[k] + first, hessians[k]);
    }
    return total;
}

// head: elements before the first whole pack, as the arrays' addresses have it. See `PAIR_ARGUMENTS`.
extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_pairwise(PAIR_ARGUMENTS, Long size, int head PARAMETERS) {
    const Arrays arrays = PAIR_ARRAYS;
    const Inner inner = PAIR_INNER;
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const Long packs = (size - head) / VECTOR, tail = head + packs * VECTOR;
    double total = 0.0;

    for (Long first = Long(blockIdx.x) * TILE + threadIdx.x; first < packs; first += Long(gridDim.x) * TILE) {
        Packs<VECTOR> held[UNROLLED];
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i)
            if (first + i * BLOCK < packs) held[i] = load<VECTOR>(arrays, head + (first + i * BLOCK) * VECTOR);
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) {
            const Long at = head + (first + i * BLOCK) * VECTOR;
            if (first + i * BLOCK < packs)
                total += compute<VECTOR>(arrays, inner, at, held[i], normalizer PARAMETER_NAMES);
        }
    }
    if (VECTOR > 1 && blockIdx.x == 0) {  // what fills no pack: fewer than 2 * VECTOR elements
        for (Long i = threadIdx.x; i < head + size - tail; i += BLOCK) {
            const Long at = i < head ? i : tail + (i - head);
            total += compute<1>(arrays, inner, at, load<1>(arrays, at), normalizer PARAMETER_NAMES);
        }
    }
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
