// The sequence sweep: connectionist temporal classification, a block a sequence.
//
// Warps share the frames for their softmax's sums; then the states of a frame are shared among threads, frame after
// frame: forward how likely every beginning is that ends in a state, backward every ending that goes on from it, and
// with both what goes through a state, which takes the place of the beginnings. Then warps share the frames for the gradient,
// which may be written where the predictions were. What a block keeps lies in global memory.
//
// Likelihoods are numbers of any size (`Wide`): exact to some roundings a frame, without exp or log but for a frame's
// own. All is computed in double, whatever y_pred is, but the exponentials of classes that are not in the label: a
// frame's steps wait for one another, not for arithmetic.
//
//   TRUE, PRED   storage types of the labels and of y_pred     T       double    ELEMENT  type of those exponentials
//   BLOCK        threads of a block                            FROM_LOGITS, HAS_LENGTHS, HAS_COUNTS
//   VALUE, LOSSES, GRAD, HESS, WEIGHTED, MASKED                what is wanted
//   derivatives_of<T>                                          the loss: gradient and Hessian of a class at a frame

constexpr int WARPS = BLOCK / WARP;
constexpr bool DERIVATIVES = GRAD || HESS;

// -- numbers of any size ------------------------------------------------------------------------------------------

// mantissa * 2^exponent, the mantissa in [1, 2) and the exponent a whole number; zero has an exponent of DEAD or less.
struct Wide {
    double mantissa, exponent;
};

constexpr double DEAD = -1e300, SMALLEST = DEAD / 2;
constexpr double LOG2_HIGH = 6.93147180369123816490e-01, LOG2_LOW = 1.90821492927058770002e-10;
typedef unsigned long long Bits;

__device__ __forceinline__ Wide zero() { return {1.0, DEAD}; }

// exp(x); zero for -inf. The mantissa is in [0.7, 1.5).
__device__ __forceinline__ Wide exponential(double x) {
    const double n = rint(x * 1.4426950408889634);
    const double r = fma(n, -LOG2_LOW, fma(n, -LOG2_HIGH, x));
    return {exp(fabs(r) < 1.0 ? r : 0.0), n > DEAD ? n : DEAD};  // where n itself is rounded, r says nothing
}

// 2^exponent for whole numbers of at most 1023; 0 below the smallest normal number.
__device__ __forceinline__ double power_of_two(double exponent) {
    const double limited = exponent > -1023.0 ? exponent : -1023.0;
    const Bits shifted = Bits(__double_as_longlong(limited + (6755399441055744.0 + 1023.0))) << 52;
    return __longlong_as_double(Long(shifted));
}

// Their mantissas are in [1, 2 times the number of terms).
__device__ __forceinline__ Wide total(const Wide& a, const Wide& b) {
    const double most = a.exponent > b.exponent ? a.exponent : b.exponent;
    return {a.mantissa * power_of_two(a.exponent - most) + b.mantissa * power_of_two(b.exponent - most), most};
}
__device__ __forceinline__ Wide total(const Wide& a, const Wide& b, const Wide& c) { return total(total(a, b), c); }

// The mantissa is back in [1, 2).
__device__ __forceinline__ Wide product(const Wide& a, const Wide& b) {
    const Bits bits = Bits(__double_as_longlong(a.mantissa * b.mantissa));
    const double raised = double(int(bits >> 52) - 1023);
    const Bits mantissa = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    return {__longlong_as_double(Long(mantissa)), a.exponent + b.exponent + raised};
}

// -- a sequence -----------------------------------------------------------------------------------------------------

struct Pair {  // of states: a blank and the class after it
    Wide blank, label;
};

struct Frame {
    double peak, rest;  // the largest logit, and the sum of all exponentials but one largest; 0 without logits
};

struct Sizes {
    Long sequences;
    int frames, classes, longest, blank, zero_infinity;
    Divisor weight_inner, mask_inner;
};

// What a block keeps: the workspace has one after the other for every block.
struct Kept {
    Frame* frames;    // (frames)
    Pair* lattice;    // (rows, longest + 1): row t after t frames
    Pair* emitted;    // (2, longest + 1): endings with the frame's own emission; two frames take turns
    int* next;        // (longest): where the same class comes again in the label; -1: nowhere
    int* first;       // (classes): where it comes first
};

__device__ __forceinline__ Kept kept_of(double* workspace, int* places, const Sizes& sizes, int rows) {
    const Long width = sizes.longest + 1, pairs = (rows + 2) * width, numbers = 2 * sizes.frames + 4 * pairs;
    double* own = workspace + blockIdx.x * numbers;
    int* own_places = places + blockIdx.x * (Long(sizes.longest) + sizes.classes);
    Pair* lattice = reinterpret_cast<Pair*>(own + 2 * sizes.frames);
    return {reinterpret_cast<Frame*>(own), lattice, lattice + rows * width, own_places, own_places + sizes.longest};
}

// What is known of a sequence before its frames are read; the same in every thread of the block.
struct Head {
    T weight;
    int labels, frames;  // that count
    bool counts;         // false: its loss is 0 and the gradient too, whatever it holds
    bool bad;            // a label is no class, or a length does not fit: the loss is NaN, the gradient 0
};

__device__ __forceinline__ Head head_of(
    const TRUE* labels, const Long* label_lengths, const Long* frame_counts, const T* weights,
    const unsigned char* mask, const Sizes& sizes, Long sequence, bool dead) {
    FL_SHARED(int, found, 2);  // where padding begins; whether something is bad
    Head head = {T(1), sizes.longest, sizes.frames, !dead, false};
    if constexpr (MASKED) head.counts = head.counts && mask[divided(sequence, sizes.mask_inner)] != 0;
    if constexpr (WEIGHTED) head.weight = checked_weight(weights[divided(sequence, sizes.weight_inner)]);
    __syncthreads();  // the last sequence's may still be being read
    if (threadIdx.x == 0) {
        found[0] = sizes.longest;
        found[1] = 0;
    }
    __syncthreads();
    if constexpr (HAS_LENGTHS) {
        const Long length = label_lengths[sequence];
        head.bad = length < 0 || length > sizes.longest;
        head.labels = head.bad ? 0 : int(length);
    } else {
        for (int i = threadIdx.x; i < sizes.longest; i += BLOCK) {
            const Long label = Long(labels[i]);
            if (label < 0 || label == sizes.blank) atomicMin(found, i);
        }
        __syncthreads();
        head.labels = found[0];
    }
    for (int i = threadIdx.x; i < (HAS_LENGTHS ? head.labels : sizes.longest); i += BLOCK) {
        const Long label = Long(labels[i]);
        const bool padding = label < 0 || label == sizes.blank;
        if (i < head.labels ? padding || label >= sizes.classes : !padding) atomicMax(found + 1, 1);
    }
    __syncthreads();
    if constexpr (HAS_COUNTS) {
        const Long frames = frame_counts[sequence];
        if (frames < 0 || frames > sizes.frames) head.bad = true;
        head.frames = frames < 0 || frames > sizes.frames ? 0 : int(frames);
    }
    head.bad = head.counts && (head.bad || found[1] != 0);
    return head;
}

// Where each class comes in the label.
__device__ __forceinline__ void chain_labels(const TRUE* labels, const Head& head, const Sizes& sizes, const Kept& kept) {
    for (int c = threadIdx.x; c < sizes.classes; c += BLOCK) kept.first[c] = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < head.labels; i += BLOCK) {
        int before = i - 1, after = i + 1;
        while (before >= 0 && labels[before] != labels[i]) --before;
        while (after < head.labels && labels[after] != labels[i]) ++after;
        kept.next[i] = after < head.labels ? after : -1;
        if (before < 0) kept.first[int(labels[i])] = i;
    }
}

// Every frame's softmax; gives this thread's part of the sum of the logarithms of the frames' sums, less their peaks.
__device__ __forceinline__ double frame_sums(const PRED* x, const Head& head, const Sizes& sizes, const Kept& kept) {
    double logs = 0.0;
    for (int t = threadIdx.x / WARP; t < head.frames; t += WARPS) {
        const PRED* row = x + Long(t) * sizes.classes;
        Frame frame = {0.0, 0.0};
        if constexpr (FROM_LOGITS) {
            ELEMENT peak = -infinity<ELEMENT>(), others = ELEMENT(0), peaks = ELEMENT(0);
            for (int c = threadIdx.x % WARP; c < sizes.classes; c += WARP) peak = fmax(peak, loaded<ELEMENT>(row[c]));
            peak = warp_max(peak);
            for (int c = threadIdx.x % WARP; c < sizes.classes; c += WARP) {
                const ELEMENT here = loaded<ELEMENT>(row[c]);
                others += here == peak ? ELEMENT(0) : exp(here - peak);
                peaks += here == peak ? ELEMENT(1) : ELEMENT(0);
            }
            frame.peak = double(peak);
            // 0 peak: an infinite one shows.
            frame.rest = double(warp_sum(others)) + (double(warp_sum(peaks)) - 1.0) + 0.0 * frame.peak;
        } else {  // what is no logarithm makes the loss NaN
            for (int c = threadIdx.x % WARP; c < sizes.classes; c += WARP)
                if (!(loaded<ELEMENT>(row[c]) < infinity<ELEMENT>())) frame.rest = not_a_number<double>();
            frame.rest = warp_sum(frame.rest);
        }
        if (threadIdx.x % WARP == 0) {
            kept.frames[t] = frame;
            logs += log1p(frame.rest);
        }
    }
    return logs;
}

// How likely a class is at a frame, relative to the frame's most likely one.
__device__ __forceinline__ Wide emission(const PRED* row, Long c, const Frame& frame) {
    return exponential(loaded<double>(row[c]) - (FROM_LOGITS ? frame.peak : 0.0));
}

__device__ __forceinline__ bool may_skip(const TRUE* labels, int i) { return i > 0 && labels[i] != labels[i - 1]; }

// How likely the label is, relative to the frames' most likely classes.
__device__ __forceinline__ Wide forward(
    const PRED* x, const TRUE* labels, const Head& head, const Sizes& sizes, const Kept& kept) {
    const int width = sizes.longest + 1;
    for (int i = threadIdx.x; i <= head.labels; i += BLOCK) {
        kept.lattice[i] = {zero(), zero()};
        if (i == 0) kept.lattice[i].blank.exponent = 0.0;
    }
    __syncthreads();
    const Pair* before = kept.lattice;
    for (int t = 0; t < head.frames; ++t) {
        // Without derivatives two rows take turns.
        Pair* here = kept.lattice + Long(DERIVATIVES ? t + 1 : (t + 1) % 2) * width;
        const PRED* row = x + Long(t) * sizes.classes;
        const Frame frame = kept.frames[t];
        for (int i = threadIdx.x; i <= head.labels; i += BLOCK) {
            const Pair own = before[i];
            const Wide below = i > 0 ? before[i - 1].label : zero();
            Pair result = {product(total(own.blank, below), emission(row, sizes.blank, frame)), zero()};
            if (i < head.labels)
                result.label = product(
                    total(own.label, own.blank, may_skip(labels, i) ? below : zero()),
                    emission(row, Long(labels[i]), frame));
            here[i] = result;
        }
        before = here;
        __syncthreads();
    }
    return head.labels > 0 ? total(before[head.labels].blank, before[head.labels - 1].label) : before[0].blank;
}

// How likely is what goes through a state, in place of what ends in it.
__device__ __forceinline__ void backward(
    const PRED* x, const TRUE* labels, const Head& head, const Sizes& sizes, const Kept& kept) {
    const int width = sizes.longest + 1;
    for (int t = head.frames - 1; t >= 0; --t) {
        Pair* started = kept.lattice + Long(t + 1) * width;
        Pair* emitted = kept.emitted + (t % 2) * width;
        const Pair* later = kept.emitted + ((t + 1) % 2) * width;
        const PRED* row = x + Long(t) * sizes.classes;
        const Frame frame = kept.frames[t];
        for (int i = threadIdx.x; i <= head.labels; i += BLOCK) {
            Pair ending = {zero(), zero()};
            if (t == head.frames - 1) {
                if (i == head.labels) ending.blank.exponent = 0.0;
                if (i == head.labels - 1) ending.label.exponent = 0.0;
            } else {
                ending.blank = total(later[i].blank, later[i].label);
                if (i < head.labels) {
                    const Pair above = later[i + 1];
                    const bool skips = i + 1 < head.labels && may_skip(labels, i + 1);
                    ending.label = total(later[i].label, above.blank, skips ? above.label : zero());
                }
            }
            const Pair begun = started[i];
            started[i] = {product(begun.blank, ending.blank), product(begun.label, ending.label)};
            Pair result = {product(ending.blank, emission(row, sizes.blank, frame)), zero()};
            if (i < head.labels) result.label = product(ending.label, emission(row, Long(labels[i]), frame));
            emitted[i] = result;
        }
        __syncthreads();
    }
}

template <typename Number>
__device__ __forceinline__ void write(
    PRED* gradient, PRED* hessian, int c, Number own, Number rest, Number occupancy, Number others, Number scale) {
    Number results[2];
    derivatives_of<Number>(own, rest, Number(1) + rest, occupancy, others, results);
    if constexpr (GRAD) gradient[c] = stored<PRED>(results[0] * scale);
    if constexpr (HESS) hessian[c] = stored<PRED>(results[1] * scale);
}

__device__ __forceinline__ void write_frames(
    const PRED* x, PRED* gradient, PRED* hessian, const Head& head, const Sizes& sizes, const Kept& kept, T scale) {
    for (int t = threadIdx.x / WARP; t < head.frames; t += WARPS) {
        Pair* shares = kept.lattice + Long(t + 1) * (sizes.longest + 1);
        const Frame frame = kept.frames[t];
        // Occupancies are shares in all that goes through the frame: in the label's likelihood, but for rounding.
        double most = -infinity<double>(), whole = 0.0, blank = 0.0, others = 0.0;
        for (int i = threadIdx.x % WARP; i <= head.labels; i += WARP)
            most = fmax(most, fmax(shares[i].blank.exponent, shares[i].label.exponent));
        most = warp_max(most);
        for (int i = threadIdx.x % WARP; i <= head.labels; i += WARP) {
            const double through_blank = shares[i].blank.mantissa * power_of_two(shares[i].blank.exponent - most);
            shares[i].label.mantissa *= power_of_two(shares[i].label.exponent - most);
            blank += through_blank;
            whole += through_blank + shares[i].label.mantissa;
        }
        const double inverse = 1.0 / warp_sum(whole);
        blank = warp_sum(blank) * inverse;
        for (int i = threadIdx.x % WARP; i < head.labels; i += WARP)
            shares[i].label.exponent = shares[i].label.mantissa * inverse;
        __syncwarp();
        // The occupancy of a class, where it comes first in the label.
        for (int c = threadIdx.x % WARP; c < sizes.classes; c += WARP) {
            if (kept.first[c] < 0) continue;
            double share = 0.0;
            for (int i = kept.first[c]; i >= 0; i = kept.next[i]) share += shares[i].label.exponent;
            shares[kept.first[c]].label.mantissa = share;
            others += share > 0.5 ? 0.0 : share;
        }
        others = warp_sum(others) + (blank > 0.5 ? 0.0 : blank);
        const Long at = Long(t) * sizes.classes;
        for (int c = threadIdx.x % WARP; c < sizes.classes; c += WARP) {
            const PRED own = x[at + c];
            if (c == sizes.blank || kept.first[c] >= 0) {
                const double share = c == sizes.blank ? blank : shares[kept.first[c]].label.mantissa;
                const double likelihood = FROM_LOGITS ? exp(loaded<double>(own) - frame.peak) : 0.0;
                write<double>(gradient + at, hessian + at, c, likelihood, frame.rest, share, others, scale);
            } else {
                const ELEMENT likelihood = FROM_LOGITS ? exp(loaded<ELEMENT>(own) - ELEMENT(frame.peak)) : ELEMENT(0);
                write<ELEMENT>(
                    gradient + at, hessian + at, c, likelihood, ELEMENT(frame.rest), ELEMENT(0), ELEMENT(0),
                    ELEMENT(scale));
            }
        }
    }
}

__device__ __forceinline__ void fill(PRED* results, Long from, Long to, PRED number) {
    for (Long i = from + threadIdx.x; i < to; i += BLOCK) results[i] = number;
}

// labels (sequences, longest), y_pred, gradient and hessian (sequences, frames, classes); label_lengths, frame_counts
// and losses (sequences); weights (sequences / weight_inner); mask (sequences / mask_inner). Those not wanted are null.
// partials (gridDim.x), ticket (1): see `grid_sum`. value (1): the sum of the weighted losses over the normaliser.
// inverse_at (1), inverse_given: see `normalizer_of`. workspace, places: what every block keeps, see `Kept`; `rows` of
// the lattice. Inner sizes with the other two parts of a `Divisor`.
extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_sequence(
    const TRUE* labels, const PRED* y_pred, const Long* label_lengths, const Long* frame_counts, const T* weights,
    const unsigned char* mask, PRED* gradient, PRED* hessian, T* losses, double* partials, unsigned* ticket,
    double* value, const double* inverse_at, double inverse_given, double* workspace, int* places, Long sequences,
    int frames, int classes, int longest, int blank, int zero_infinity, int rows, Long weight_inner,
    unsigned long long weight_magic, int weight_shift, Long mask_inner, unsigned long long mask_magic, int mask_shift) {
    FL_SHARED(double, shared_logs, 1);
    const Sizes sizes = {
        sequences, frames, classes, longest, blank, zero_infinity, {weight_inner, weight_magic, weight_shift},
        {mask_inner, mask_magic, mask_shift}};
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const Kept kept = kept_of(workspace, places, sizes, rows);
    double sum = 0.0;

    for (Long sequence = blockIdx.x; sequence < sequences; sequence += gridDim.x) {
        const TRUE* own = labels + sequence * longest;
        const Long at = sequence * frames * classes, all = Long(frames) * classes;
        const Head head =
            head_of(own, label_lengths, frame_counts, weights, mask, sizes, sequence, normalizer.dead());
        T loss = head.bad ? not_a_number<T>() : T(0);
        bool computed = head.counts && !head.bad;  // the same in every thread of the block
        if (computed) {
            if constexpr (DERIVATIVES) chain_labels(own, head, sizes, kept);
            const double logs = block_sum<BLOCK>(frame_sums(y_pred + at, head, sizes, kept));
            if (threadIdx.x == 0) shared_logs[0] = logs;
            __syncthreads();
            const Wide likelihood = forward(y_pred + at, own, head, sizes, kept);
            const double found = fma(likelihood.exponent, 0.6931471805599453, log(likelihood.mantissa));
            loss = shared_logs[0] - (likelihood.exponent > SMALLEST ? found : -infinity<double>());
            const bool infinite = loss == infinity<T>();
            if (infinite && zero_infinity) loss = T(0);
            if constexpr (DERIVATIVES) {
                computed = !infinite;
                const Long counted = Long(head.frames) * classes;
                if (loss != loss) {
                    if constexpr (GRAD) fill(gradient + at, 0, counted, stored<PRED>(not_a_number<T>()));
                    if constexpr (HESS) fill(hessian + at, 0, counted, stored<PRED>(not_a_number<T>()));
                } else if (computed) {
                    __syncthreads();  // every thread has read the last beginnings, which are written over now
                    backward(y_pred + at, own, head, sizes, kept);
                    const T scale = normalizer.scale * head.weight;
                    write_frames(y_pred + at, gradient + at, hessian + at, head, sizes, kept, scale);
                }
            }
        }
        const T weighted = head.bad ? loss : head.counts ? head.weight * loss : T(0);
        if (threadIdx.x == 0) {
            if constexpr (LOSSES) losses[sequence] = weighted * normalizer.scale;
            sum += double(weighted);
        }
        const Long written = computed ? Long(head.frames) * classes : 0;
        if constexpr (GRAD) fill(gradient + at, written, all, stored<PRED>(T(0)));
        if constexpr (HESS) fill(hessian + at, written, all, stored<PRED>(T(0)));
    }
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(sum, partials, ticket, value, normalizer);
}
