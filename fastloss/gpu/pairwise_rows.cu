// The sweep of losses of several predictions, one loss per row: LANES threads take a row of all predictions, a part of
// a warp or a whole block. The first PACKS packs a thread lie in registers; what is left is read again, mostly from
// the second-level cache. Each pack is loaded and written by one thread alone, so a gradient may be written where the
// prediction was.
//
// The loss's own text comes before this one: `struct Row` with its parameters, target, results of the passes and
// coefficients, and on it `row_begin`, `row_first`, `row_know`, `row_statistics`, `row_know_sums`, `row_finish` and
// `row_element`.
//
//   VECTOR, EVEN   see ``packs.cuh``       BLOCK            threads of a block       LANES   of them for a row
//   PACKS          of a row in registers   MORE             whether rows have more than registers hold
//   FIRSTS, SUMS   results of a pass       PEAKS            whether the first pass is for the largest terms, not sums

constexpr int AT_ONCE = BLOCK / LANES;  // rows of a block
constexpr int ALONG = LANES < WARP ? LANES : WARP;

struct Sizes {
    Long rows;
    int classes;  // the columns
    int offset;   // elements from an aligned address to the arrays' first element
};

struct Held {
    Pack<PRED, VECTOR> x[PREDICTIONS];
};

__device__ __forceinline__ Held load_held(const Arrays& arrays, const Sizes& sizes, Long row, int column) {
    Held held;
#pragma unroll
    for (int k = 0; k < PREDICTIONS; ++k)
        held.x[k] = load_pack<!MORE>(arrays.predictions[k] + row * sizes.classes, column, sizes.classes);
    return held;
}

// Call use(column, held) with this thread's packs of the row.
template <typename Use>
__device__ __forceinline__ void each_held(
    const Arrays& arrays, const Sizes& sizes, Long row, const Layout& layout, int lane, const Held* held, Use use) {
#pragma unroll
    for (int n = 0; n < PACKS; ++n) {
        const int k = n * LANES + lane;
        if (k < layout.packs) use(k * VECTOR - layout.lead, held[n]);
    }
    if constexpr (MORE) {
        for (int k = PACKS * LANES + lane; k < layout.packs; k += LANES) {
            const int column = k * VECTOR - layout.lead;
            use(column, load_held(arrays, sizes, row, column));
        }
    }
}

// The sums, or the largest, of some numbers over the threads of a row: in each of them.
template <bool LARGEST, int COUNT>
__device__ __forceinline__ void reduce(T* numbers) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) numbers[i] = LARGEST ? warp_max<ALONG>(numbers[i]) : warp_sum<ALONG>(numbers[i]);
    if constexpr (LANES > WARP) {
        FL_SHARED(T, parts, COUNT * WARP);
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        __syncthreads();  // the last ones may still be being read
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (lane == 0) parts[i * WARP + warp] = numbers[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const T part = lane < BLOCK / WARP ? parts[i * WARP + lane] : T(0);
            numbers[i] = LARGEST ? warp_max(part) : warp_sum(part);
        }
    }
}

__device__ __forceinline__ Place place_of(const Held& held, int i) {
    Place place;
#pragma unroll
    for (int k = 0; k < PREDICTIONS; ++k) place.x[k] = loaded<T>(held.x[k].values[i]);
    return place;
}

__device__ __forceinline__ void write_held(
    const Arrays& arrays, const Sizes& sizes, Long row_number, const Row& row, const Held& held, int column, T factor,
    bool counts) {
    Held gradients, hessians;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        T results[2 * PREDICTIONS] = {};
        if (counts && inside(column + i, sizes.classes)) row_element(row, place_of(held, i), results);
#pragma unroll
        for (int k = 0; k < PREDICTIONS; ++k) {
            gradients.x[k].values[i] = stored<PRED>(counts ? factor * results[k] : T(0));
            hessians.x[k].values[i] = stored<PRED>(counts ? factor * results[PREDICTIONS + k] : T(0));
        }
    }
    const Long first = row_number * sizes.classes;
#pragma unroll
    for (int k = 0; k < PREDICTIONS; ++k) {
        if constexpr (GRAD) store_pack(arrays.gradients[k] + first, column, sizes.classes, gradients.x[k]);
        if constexpr (HESS) store_pack(arrays.hessians[k] + first, column, sizes.classes, hessians.x[k]);
    }
}

// See `PAIR_ARGUMENTS` and `Sizes`.
extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_pairwise_rows(
    PAIR_ARGUMENTS, Long rows, int columns, int offset PARAMETERS) {
    const Arrays arrays = PAIR_ARRAYS;
    const Inner inner = PAIR_INNER;
    const Sizes sizes = {rows, columns, offset};
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    Row every = {};
    row_begin(every PARAMETER_NAMES);
    const int lane = threadIdx.x % LANES;
    const Long step = Long(gridDim.x) * AT_ONCE;
    double total = 0.0;

    // The lanes of a warp go through the loop together, those beyond the last row too: they meet in shuffles.
    Long row = Long(blockIdx.x) * AT_ONCE + threadIdx.x / LANES;
    Long leader = Long(blockIdx.x) * AT_ONCE + (LANES < WARP ? threadIdx.x / WARP * (WARP / ALONG) : threadIdx.x / LANES);
    for (; leader < rows; leader += step, row += step) {
        const bool present = row < rows;
        const Layout layout = present ? layout_of(sizes, row) : Layout{0, 0};
        Weight<T> weight[1] = {{T(0), false}};
        if (present) weigh<1>(arrays, inner, row, weight);
        const bool counts = weight[0].counts && !normalizer.dead();
        Row here = every;
        if constexpr (TARGET)
            if (present) here.y = loaded<T>(arrays.y_true[row]);
        Held held[PACKS];
        if (counts) {
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane;
                if (k < layout.packs) held[n] = load_held(arrays, sizes, row, k * VECTOR - layout.lead);
            }
        }
        T firsts[FIRSTS] = {}, sums[SUMS] = {};
        if (counts)
            each_held(arrays, sizes, row, layout, lane, held, [&](int column, const Held& packs) {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    if (!inside(column + i, columns)) continue;
                    T terms[FIRSTS];
                    row_first(here, place_of(packs, i), terms);
#pragma unroll
                    for (int n = 0; n < FIRSTS; ++n)
                        firsts[n] = PEAKS ? fmax(firsts[n], terms[n]) : firsts[n] + terms[n];
                }
            });
        reduce<PEAKS, FIRSTS>(firsts);
        row_know(here, firsts);
        if (counts)
            each_held(arrays, sizes, row, layout, lane, held, [&](int column, const Held& packs) {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    if (!inside(column + i, columns)) continue;
                    T terms[SUMS];
                    row_statistics(here, place_of(packs, i), terms);
#pragma unroll
                    for (int n = 0; n < SUMS; ++n) sums[n] += terms[n];
                }
            });
        reduce<false, SUMS>(sums);
        row_know_sums(here, sums);
        T loss = row_finish(here);
        loss = counts ? weight[0].factor * loss : T(0);
        if (lane == 0 && present) {
            if constexpr (LOSSES) losses[row] = loss * normalizer.scale;
            total += double(loss);
        }
        if constexpr (GRAD || HESS) {
            const T factor = weight[0].factor * normalizer.scale;
            each_held(arrays, sizes, row, layout, lane, held, [&](int column, const Held& packs) {
                write_held(arrays, sizes, row, here, packs, column, factor, counts);
            });
        }
    }
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
