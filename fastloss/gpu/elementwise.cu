// The elementwise sweep: one loss per element, each read from memory once, each result written once.
//
// A persistent grid: every thread takes packs of neighbouring elements, `UNROLLED` at a time so that as many loads
// are under way. The formula's text, the types and which results are wanted come before this text.
//
//   TRUE, PRED   storage types of y_true and y_pred         T          type of the arithmetic
//   VECTOR       elements of a pack                         BLOCK      threads of a block
//   VALUE, LOSSES, GRAD, HESS, WEIGHTED, MASKED             what is wanted
//   PARAMETERS, PARAMETER_NAMES, FORMULA                    the loss

constexpr int UNROLLED = 4;
constexpr int TILE = BLOCK * UNROLLED;

struct Arrays {
    const TRUE* y_true;         // (size)
    const PRED* y_pred;         // (size)
    const T* weights;           // (size / weight_inner)
    const unsigned char* mask;  // (size / mask_inner)
    PRED* gradient;             // (size)
    PRED* hessian;              // (size)
    T* losses;                  // (size)
};

// The results of neighbouring elements; gives the sum of their losses.
template <int COUNT>
__device__ __forceinline__ double compute(
    const Arrays& arrays, const Inner& inner, Long first, const Pack<TRUE, COUNT>& y, const Pack<PRED, COUNT>& p,
    const Normalizer<T>& normalizer PARAMETERS) {
    Pack<PRED, COUNT> gradient, hessian;
    Pack<T, COUNT> losses;
    Weight<T> weights[COUNT];
    weigh<COUNT>(arrays, inner, first, weights);
    double total = 0.0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        T results[3];
        FORMULA<T>(loaded<T>(y.values[i]), loaded<T>(p.values[i]) PARAMETER_NAMES, results);
        const bool counts = weights[i].counts && !normalizer.dead();
        const T loss = counts ? weights[i].factor * results[0] : T(0);
        if constexpr (VALUE) total += double(loss);
        if constexpr (LOSSES) losses.values[i] = loss * normalizer.scale;
        if constexpr (GRAD) gradient.values[i] = stored<PRED>(counts ? weights[i].factor * normalizer.scale * results[1] : T(0));
        if constexpr (HESS) hessian.values[i] = stored<PRED>(counts ? weights[i].factor * normalizer.scale * results[2] : T(0));
    }
    if constexpr (LOSSES) store_once(arrays.losses + first, losses);
    if constexpr (GRAD) store_once(arrays.gradient + first, gradient);
    if constexpr (HESS) store_once(arrays.hessian + first, hessian);
    return total;
}

// y_true and y_pred, weights and mask, gradient, hessian and losses: see `Arrays`. Those not wanted are null.
// partials (gridDim.x) and ticket (1): see `grid_sum`. value (1): the sum of the weighted losses over the normaliser.
// inverse_at (1), inverse_given: see `normalizer_of`.
// Inner sizes with the other two parts of a `Divisor`. head: elements before the first whole pack, as the arrays' addresses have it.
extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_elementwise(
    const TRUE* y_true, const PRED* y_pred, const T* weights, const unsigned char* mask, PRED* gradient,
    PRED* hessian, T* losses, double* partials, unsigned* ticket, double* value, const double* inverse_at,
    double inverse_given, Long size, Long weight_inner, unsigned long long weight_magic,
    int weight_shift, Long mask_inner, unsigned long long mask_magic, int mask_shift, int head PARAMETERS) {
    const Arrays arrays = {y_true, y_pred, weights, mask, gradient, hessian, losses};
    const Inner inner = {{weight_inner, weight_magic, weight_shift}, {mask_inner, mask_magic, mask_shift}};
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const Long packs = (size - head) / VECTOR, tail = head + packs * VECTOR;
    double total = 0.0;

    for (Long first = Long(blockIdx.x) * TILE + threadIdx.x; first < packs; first += Long(gridDim.x) * TILE) {
        Pack<TRUE, VECTOR> y[UNROLLED];
        Pack<PRED, VECTOR> p[UNROLLED];
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) {
            const Long at = head + (first + i * BLOCK) * VECTOR;
            if (first + i * BLOCK < packs) {
                y[i] = load_once<TRUE, VECTOR>(y_true + at);
                p[i] = load_once<PRED, VECTOR>(y_pred + at);
            }
        }
#pragma unroll
        for (int i = 0; i < UNROLLED; ++i) {
            const Long at = head + (first + i * BLOCK) * VECTOR;
            if (first + i * BLOCK < packs)
                total += compute<VECTOR>(arrays, inner, at, y[i], p[i], normalizer PARAMETER_NAMES);
        }
    }
    if (VECTOR > 1 && blockIdx.x == 0) {  // what fills no pack: fewer than 2 * VECTOR elements
        for (Long i = threadIdx.x; i < head + size - tail; i += BLOCK) {
            const Long at = i < head ? i : tail + (i - head);
            const Pack<TRUE, 1> y = {{y_true[at]}};
            const Pack<PRED, 1> p = {{y_pred[at]}};
            total += compute<1>(arrays, inner, at, y, p, normalizer PARAMETER_NAMES);
        }
    }
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
