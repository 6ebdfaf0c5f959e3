// What the rowwise sweeps share: a row's head (weight, label), its packs, and its loss.
//
// The loss's own text comes before this one: `struct Row` with its parameters, coefficients and what `first` found,
// and `row_seen` (what formulas see of a prediction), `row_take_target`, `row_first`, `row_statistics`, `row_halfway`,
// `row_again`, `row_finish`, `row_element`, `row_target`, `row_report` on it.
//
//   TRUE, PRED   storage types of y_true (class numbers if INDEXED) and y_pred     T      type of the arithmetic
//   VECTOR       elements of a pack                                                BLOCK  threads of a block
//   EVEN         whether every row begins and ends with a whole pack
//   FIRST        what a row is reduced to first: PEAK, TOTAL or NOTHING            SUMS   most statistics of a round
//   FIRST_OF     whether that is of something other than the predictions            AGAIN  whether there are two rounds
//   REPORT       whether a row's report and place are written, and rows counted
//   VALUE, LOSSES, GRAD, HESS, WEIGHTED, MASKED, CLASS_WEIGHTED                    what is wanted

// What every rowwise kernel is given. Arrays and sizes: see `Arrays` and `Sizes`; an array that is not wanted is null.
// partials (gridDim.x), ticket (1): see `grid_sum`. value (1): the sum of the weighted losses over the normaliser.
// inverse_at (1), inverse_given: see `normalizer_of`. class_weight_sum: the number of classes without weights.
#define ROW_ARGUMENTS                                                                                              \
    const TRUE *y_true, const PRED *y_pred, const T *weights, const unsigned char *mask, const T *class_weights,   \
        PRED *gradient, PRED *hessian, T *losses, double *partials, unsigned *ticket, double *value,               \
        const double *inverse_at, double inverse_given, Long rows, int classes, int offset,                  \
        Long weight_inner, unsigned long long weight_magic, int weight_shift, Long mask_inner,                     \
        unsigned long long mask_magic, int mask_shift, Long ignored, int has_ignored, T class_weight_sum
#define ROW_ARRAYS {y_true, y_pred, weights, mask, class_weights, gradient, hessian, losses}
#define ROW_SIZES                                                                                                  \
    {                                                                                                              \
        rows, classes, offset, {weight_inner, weight_magic, weight_shift}, {mask_inner, mask_magic, mask_shift},   \
            ignored, has_ignored                                                                                   \
    }

struct Arrays {
    const TRUE* y_true;         // (rows) if INDEXED, else (rows, classes)
    const PRED* y_pred;         // (rows, classes)
    const T* weights;           // (rows / weight_inner)
    const unsigned char* mask;  // (rows / mask_inner)
    const T* class_weights;     // (classes)
    PRED* gradient;             // (rows, classes)
    PRED* hessian;              // (rows, classes)
    T* losses;                  // (rows); with REPORT all that `RowResults` in families/stats.py describes
};

struct Sizes {
    Long rows;
    int classes;
    int offset;                        // elements from an aligned address to the arrays' first element
    Divisor weight_inner, mask_inner;  // how many neighbouring rows share a weight, a place of the mask
    Long ignored;                      // the label that does not count, if has_ignored
    int has_ignored;
};

// What is known of a row before it is read.
struct Head {
    T weight;
    Long label;
    bool counts;  // false: the loss is 0 and the gradient too, whatever the row holds
    bool bad;     // its label is no class: the loss is NaN, the gradient 0
};

// A template, so that it need not compile for targets that are no class numbers.
template <bool CLASS_NUMBERS, typename Stored>
__device__ __forceinline__ Long label_at(const Stored* labels, Long row) {
    if constexpr (CLASS_NUMBERS) return Long(labels[row]);
    return 0;
}

__device__ __forceinline__ Head head_of(const Arrays& arrays, const Sizes& sizes, Long row, bool dead) {
    Head head = {T(1), 0, !dead, false};
    if constexpr (MASKED) head.counts = head.counts && arrays.mask[divided(row, sizes.mask_inner)] != 0;
    if constexpr (INDEXED) {
        head.label = label_at<INDEXED>(arrays.y_true, row);
        if (sizes.has_ignored && head.label == sizes.ignored) head.counts = false;
        head.bad = head.counts && (head.label < 0 || head.label >= sizes.classes);
        if (head.bad || !head.counts) head.label = 0;  // never read with a number that is no class
    }
    if constexpr (WEIGHTED) head.weight = checked_weight(arrays.weights[divided(row, sizes.weight_inner)]);
    return head;
}

__device__ __forceinline__ T class_weight_of(const Arrays& arrays, int column) {
    return CLASS_WEIGHTED ? __ldg(arrays.class_weights + column) : T(1);
}

// Parameters, and the prediction and weight of the true class: to be called before the row's gradient is written,
// which may be where the row was.
__device__ __forceinline__ Row row_of(const Arrays& arrays, const Sizes& sizes, const Head& head, Long row, const Row& every) {
    Row result = every;
    if constexpr (INDEXED) {
        const bool known = head.counts && !head.bad && sizes.classes > 0;
        row_take_target(result, known ? loaded<T>(arrays.y_pred[row * sizes.classes + head.label]) : T(0));
        result.target_weight = known ? class_weight_of(arrays, int(head.label)) : T(1);
    }
    return result;
}

// -- the targets of a pack ------------------------------------------------------------------------------------------

template <bool WANTED = true>
__device__ __forceinline__ Pack<TRUE, VECTOR> load_targets(const Arrays& arrays, const Sizes& sizes, Long row, int column) {
    if constexpr (INDEXED || !WANTED) return {};
    return load_pack<false>(arrays.y_true + row * sizes.classes, column, sizes.classes);
}

// -- the steps on one pack ------------------------------------------------------------------------------------------

__device__ __forceinline__ T first_start() { return FIRST == PEAK ? -infinity<T>() : T(0); }

__device__ __forceinline__ T first_of(T so_far, T x) { return FIRST == PEAK ? fmax(so_far, x) : so_far + x; }

__device__ __forceinline__ T add_first(
    const Arrays& arrays, const Row& row, T so_far, const Pack<PRED, VECTOR>& x, const Pack<TRUE, VECTOR>& y,
    int column, int classes) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        if (!inside(column + i, classes)) continue;
        const T target = INDEXED || !FIRST_OF ? T(0) : loaded<T>(y.values[i]);
        const T class_weight = FIRST_OF ? class_weight_of(arrays, column + i) : T(1);
        so_far = first_of(so_far, row_first(row, loaded<T>(x.values[i]), target, class_weight));
    }
    return so_far;
}

__device__ __forceinline__ void add_statistics(
    const Arrays& arrays, const Row& row, const Pack<PRED, VECTOR>& x, const Pack<TRUE, VECTOR>& y, int column,
    int classes, T* sums) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        if (!inside(column + i, classes)) continue;
        T terms[SUMS] = {}, kept;
        const T target = INDEXED ? T(0) : loaded<T>(y.values[i]);
        row_statistics(row, loaded<T>(x.values[i]), target, class_weight_of(arrays, column + i), terms, kept);
#pragma unroll
        for (int sum = 0; sum < SUMS; ++sum) sums[sum] += terms[sum];
    }
}

// The terms of the second round.
__device__ __forceinline__ void again_terms(const Row& row, T x, T y, T class_weight, T* terms) {
    T before[SUMS], kept;  // only `kept` is wanted again
    row_statistics(row, x, y, class_weight, before, kept);
    row_again(row, x, y, class_weight, kept, terms);
}

__device__ __forceinline__ void add_again(
    const Arrays& arrays, const Row& row, const Pack<PRED, VECTOR>& x, const Pack<TRUE, VECTOR>& y, int column,
    int classes, T* sums) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        if (!inside(column + i, classes)) continue;
        T terms[SUMS] = {};
        const T target = INDEXED ? T(0) : loaded<T>(y.values[i]);
        again_terms(row, loaded<T>(x.values[i]), target, class_weight_of(arrays, column + i), terms);
#pragma unroll
        for (int sum = 0; sum < SUMS; ++sum) sums[sum] += terms[sum];
    }
}

// Between the rounds: the first round's sums go into the row, and the second's start from 0.
__device__ __forceinline__ void halfway(Row& row, T* sums) {
    row_halfway(row, sums);
#pragma unroll
    for (int sum = 0; sum < SUMS; ++sum) sums[sum] = T(0);
}

struct Rule {  // gradient and Hessian of one element
    T gradient, hessian;
};

__device__ __forceinline__ Rule rule_of(const Row& row, T x, T y, T class_weight) {
    T terms[SUMS], kept;  // only `kept` is wanted again: computed twice is cheaper than kept in registers
    row_statistics(row, x, y, class_weight, terms, kept);
    Rule rule;
    row_element(row, x, y, class_weight, kept, rule.gradient, rule.hessian);
    return rule;
}

__device__ __forceinline__ void write_pack(
    const Arrays& arrays, const Head& head, const Row& row, const Rule& target, const Pack<PRED, VECTOR>& x,
    const Pack<TRUE, VECTOR>& y, Long first, int column, int classes, T scale) {
    const bool zero = !head.counts || head.bad;
    Pack<PRED, VECTOR> gradient, hessian;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        Rule rule = {T(0), T(0)};
        if (!zero && inside(column + i, classes)) {
            const T own = INDEXED ? T(0) : loaded<T>(y.values[i]);
            rule = rule_of(row, loaded<T>(x.values[i]), own, class_weight_of(arrays, column + i));
            if (INDEXED && column + i == head.label) rule = target;
            rule.gradient *= head.weight * scale;
            rule.hessian *= head.weight * scale;
        }
        gradient.values[i] = stored<PRED>(rule.gradient);
        hessian.values[i] = stored<PRED>(rule.hessian);
    }
    if constexpr (GRAD) store_pack(arrays.gradient + first, column, classes, gradient);
    if constexpr (HESS) store_pack(arrays.hessian + first, column, classes, hessian);
}

__device__ __forceinline__ void write_zeros(const Arrays& arrays, Long first, int column, int classes) {
    Pack<PRED, VECTOR> zeros;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) zeros.values[i] = stored<PRED>(T(0));
    if constexpr (GRAD) store_pack(arrays.gradient + first, column, classes, zeros);
    if constexpr (HESS) store_pack(arrays.hessian + first, column, classes, zeros);
}

// The row's weighted loss; fills in the coefficients.
__device__ __forceinline__ T loss_of(const Head& head, Row& row, const T* sums) {
    const T loss = row_finish(row, sums);
    if (head.bad) return not_a_number<T>();
    return head.counts ? head.weight * loss : T(0);
}

__device__ __forceinline__ Rule target_of(const Row& row) {
    Rule rule = {T(0), T(0)};
    if constexpr (INDEXED) row_target(row, rule.gradient, rule.hessian);
    return rule;
}

// -- by-products ----------------------------------------------------------------------------------------------------

// Where a row's first largest number is; -1: nowhere. NaN counts as nothing.
struct Place {
    T largest;
    int column;
};

// How many rows a thread has seen that count, and whose largest prediction is the true class.
struct Tally {
    int correct, valid;
};

__device__ __forceinline__ Place no_place() { return {-infinity<T>(), -1}; }

__device__ __forceinline__ void add_place(Place& place, T number, int column) {
    if (number > place.largest) place = {number, column};
}

__device__ __forceinline__ bool before(const Place& place, const Place& other) {
    return place.largest > other.largest || (place.largest == other.largest && place.column < other.column);
}

template <typename Stored>
__device__ __forceinline__ void add_places(Place& place, const Pack<Stored, VECTOR>& pack, int column, int classes) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i)
        if (inside(column + i, classes)) add_place(place, loaded<T>(pack.values[i]), column + i);
}

template <int LANES = WARP>
__device__ __forceinline__ Place warp_place(Place place) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        const Place other = {
            __shfl_xor_sync(WHOLE_WARP, place.largest, distance), __shfl_xor_sync(WHOLE_WARP, place.column, distance)};
        if (before(other, place)) place = other;
    }
    return place;
}

// By one thread of a row. `sought`: where its targets are largest, if they are dense.
__device__ __forceinline__ void write_report(
    const Arrays& arrays, const Sizes& sizes, const Head& head, const Row& here, Long row, const Place& found,
    const Place& sought, Tally& tally) {
    T report = T(0);
    int column = -1;
    if (head.counts) {
        report = head.bad ? not_a_number<T>() : row_report(here);
        if (report == report) column = found.column;
        const Long target = INDEXED ? head.label : Long(sought.column);
        tally.valid += 1;
        tally.correct += column >= 0 && column == target;
    }
    arrays.losses[sizes.rows + row] = report;
    reinterpret_cast<Long*>(arrays.losses + 2 * sizes.rows)[row] = column;
}

// Integers: any order gives the same sum.
__device__ __forceinline__ void add_tally(const Arrays& arrays, const Sizes& sizes, const Tally& tally) {
    unsigned long long* counts = reinterpret_cast<unsigned long long*>(arrays.losses + 2 * sizes.rows) + sizes.rows;
    atomicAdd(counts, (unsigned long long)(tally.correct));
    atomicAdd(counts + 1, (unsigned long long)(tally.valid));
}

// By every thread.
__device__ __forceinline__ void add_tallies(const Arrays& arrays, const Sizes& sizes, const Tally& tally) {
    const Tally all = {warp_sum(tally.correct), warp_sum(tally.valid)};
    if (threadIdx.x % WARP == 0) add_tally(arrays, sizes, all);
}
