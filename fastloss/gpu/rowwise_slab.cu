// The rowwise sweep for few classes: a block takes BLOCK neighbouring rows, which are one piece of memory, through
// shared memory; a thread takes a row of them. So loads and stores are whole packs, wherever rows begin.
//
// In shared memory a row takes `pitch` places, an odd number: the lanes of a warp, each at the same column of its own
// row, then never meet in a bank. The second slab holds the targets, then the Hessian.

constexpr bool SECOND = !INDEXED || HESS;

// Move what a slab's rows hold between memory and shared memory: use(element of the slab, place in shared memory).
template <typename Use>
__device__ __forceinline__ void each_place(int first, int count, int classes, int pitch, Use use) {
    int row = unsigned(first) / unsigned(classes), column = first - row * classes;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        if (i < count) use(i, row * pitch + column);
        if (++column == classes) {
            column = 0;
            ++row;
        }
    }
}

template <typename Stored>
__device__ __forceinline__ void fill_slab(const Stored* from, int elements, int classes, int pitch, T* slab) {
    for (int at = threadIdx.x * VECTOR; at < elements; at += BLOCK * VECTOR) {
        Pack<Stored, VECTOR> pack;
        const int count = min(VECTOR, elements - at);
        if (count == VECTOR)
            pack = load_once<Stored, VECTOR>(from + at);
        else
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                if (i < count) pack.values[i] = from[at + i];
        each_place(at, count, classes, pitch, [&](int i, int place) { slab[place] = loaded<T>(pack.values[i]); });
    }
}

__device__ __forceinline__ void empty_slab(PRED* to, int elements, int classes, int pitch, const T* slab) {
    for (int at = threadIdx.x * VECTOR; at < elements; at += BLOCK * VECTOR) {
        Pack<PRED, VECTOR> pack;
        const int count = min(VECTOR, elements - at);
        each_place(at, count, classes, pitch, [&](int i, int place) { pack.values[i] = stored<PRED>(slab[place]); });
        if (count == VECTOR)
            store_once(to + at, pack);
        else
#pragma unroll
            for (int i = 0; i < VECTOR; ++i)
                if (i < count) to[at + i] = pack.values[i];
    }
}

// The row's weighted loss; its gradient takes the place of its predictions, its Hessian that of its targets.
__device__ __forceinline__ T compute_row(
    const Arrays& arrays, const Sizes& sizes, const Head& head, Row& row, T* xs, T* seconds, T scale) {
    if (!head.counts || head.bad) {
        for (int column = 0; column < sizes.classes; ++column) {
            if constexpr (GRAD) xs[column] = T(0);
            if constexpr (HESS) seconds[column] = T(0);
        }
        return head.bad ? not_a_number<T>() : T(0);
    }
    if constexpr (INDEXED) {
        row_take_target(row, xs[head.label]);
        row.target_weight = class_weight_of(arrays, int(head.label));
    }
    if constexpr (FIRST != NOTHING) {
        T first = first_start();
        for (int column = 0; column < sizes.classes; ++column) {
            const T y = INDEXED || !FIRST_OF ? T(0) : seconds[column];
            const T class_weight = FIRST_OF ? class_weight_of(arrays, column) : T(1);
            first = first_of(first, row_first(row, xs[column], y, class_weight));
        }
        row.first = row_seen(row, first);
    }
    T sums[SUMS] = {};
    if constexpr (HAS_STATISTICS) {
        for (int column = 0; column < sizes.classes; ++column) {
            T terms[SUMS] = {}, kept;
            const T y = INDEXED ? T(0) : seconds[column];
            row_statistics(row, xs[column], y, class_weight_of(arrays, column), terms, kept);
#pragma unroll
            for (int sum = 0; sum < SUMS; ++sum) sums[sum] += terms[sum];
        }
    }
    if constexpr (AGAIN) {
        halfway(row, sums);
        for (int column = 0; column < sizes.classes; ++column) {
            T terms[SUMS] = {};
            const T y = INDEXED ? T(0) : seconds[column];
            again_terms(row, xs[column], y, class_weight_of(arrays, column), terms);
#pragma unroll
            for (int sum = 0; sum < SUMS; ++sum) sums[sum] += terms[sum];
        }
    }
    const T loss = loss_of(head, row, sums);
    if constexpr (GRAD || HESS) {
        const Rule target = target_of(row);
        for (int column = 0; column < sizes.classes; ++column) {
            const T y = INDEXED ? T(0) : seconds[column];
            Rule rule = rule_of(row, xs[column], y, class_weight_of(arrays, column));
            if (INDEXED && column == head.label) rule = target;
            if constexpr (GRAD) xs[column] = head.weight * scale * rule.gradient;
            if constexpr (HESS) seconds[column] = head.weight * scale * rule.hessian;
        }
    }
    return loss;
}

extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_rowwise_slab(ROW_ARGUMENTS PARAMETERS) {
    FL_DYNAMIC_SHARED(T, xs);
    const Arrays arrays = ROW_ARRAYS;
    const Sizes sizes = ROW_SIZES;
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const int pitch = classes | 1;
    T* seconds = xs + BLOCK * pitch;
    const Row every = every_row(classes, class_weight_sum PARAMETER_NAMES);
    double total = 0.0;
    Tally tally = {};

    for (Long slab = blockIdx.x; slab * BLOCK < rows; slab += gridDim.x) {
        const Long first_row = slab * BLOCK, first = first_row * classes;
        const int elements = int(min(rows - first_row, Long(BLOCK))) * classes;
        __syncthreads();  // the last slab's results may still be being read
        fill_slab(y_pred + first, elements, classes, pitch, xs);
        if constexpr (!INDEXED) fill_slab(y_true + first, elements, classes, pitch, seconds);
        __syncthreads();
        const Long row = first_row + threadIdx.x;
        if (row < rows) {
            const Head head = head_of(arrays, sizes, row, normalizer.dead());
            const int place = threadIdx.x * pitch;
            Row here = every;
            Place found = no_place(), sought = no_place();
            if constexpr (REPORT) {  // before the gradient takes their place
                for (int column = 0; column < classes; ++column) {
                    add_place(found, xs[place + column], column);
                    if constexpr (!INDEXED) add_place(sought, seconds[place + column], column);
                }
            }
            const T loss = compute_row(arrays, sizes, head, here, xs + place, seconds + (SECOND ? place : 0), normalizer.scale);
            if constexpr (REPORT) write_report(arrays, sizes, head, here, row, found, sought, tally);
            if constexpr (LOSSES) losses[row] = loss * normalizer.scale;
            total += double(loss);
        }
        if constexpr (GRAD || HESS) {
            __syncthreads();
            if constexpr (GRAD) empty_slab(gradient + first, elements, classes, pitch, xs);
            if constexpr (HESS) empty_slab(hessian + first, elements, classes, pitch, seconds);
        }
    }
    if constexpr (REPORT) add_tallies(arrays, sizes, tally);
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
