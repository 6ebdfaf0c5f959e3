// The rowwise sweep for up to about a thousand classes: a row lies in the registers of LANES lanes of a warp, PACKS
// packs in each. The next row is loaded while this one is computed. Rows are read once, gradients written once.

struct Held {
    Pack<PRED, VECTOR> packs[PACKS];
};

__device__ __forceinline__ void hold(const Arrays& arrays, const Sizes& sizes, Long row, bool wanted, int lane, Held& held) {
    if (!wanted) return;
    const Layout layout = layout_of(sizes, row);
#pragma unroll
    for (int n = 0; n < PACKS; ++n) {
        const int k = n * LANES + lane;
        if (k < layout.packs)
            held.packs[n] = load_pack<true>(
                arrays.y_pred + row * sizes.classes, k * VECTOR - layout.lead, sizes.classes);
    }
}

// Two blocks a multiprocessor: told of no number, the compiler wishes for more of them for some types and spills.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) fastloss_rowwise_warp(ROW_ARGUMENTS PARAMETERS) {
    const Arrays arrays = ROW_ARRAYS;
    const Sizes sizes = ROW_SIZES;
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const Row every = every_row(classes, class_weight_sum PARAMETER_NAMES);

    constexpr int AT_ONCE = BLOCK / LANES;  // rows of a block
    const int lane = threadIdx.x % LANES;
    const Long step = Long(gridDim.x) * AT_ONCE;
    double total = 0.0;
    Tally tally = {};
    Held next = {};
    Head head_of_next = {};
    Row row_of_next = every;
    // The lanes of a warp go through the loop together, those beyond the last row too: they meet in shuffles.
    const Long first_of_warp = Long(blockIdx.x) * AT_ONCE + threadIdx.x / WARP * (WARP / LANES);
    Long row = first_of_warp + threadIdx.x % WARP / LANES;
    if (row < rows) {
        head_of_next = head_of(arrays, sizes, row, normalizer.dead());
        row_of_next = row_of(arrays, sizes, head_of_next, row, every);
    }
    hold(arrays, sizes, row, head_of_next.counts && row < rows, lane, next);
    for (Long leader = first_of_warp; leader < rows; leader += step, row += step) {
        const bool present = row < rows;
        const Head head = head_of_next;
        Row here = row_of_next;
        const Held held = next;
        head_of_next = {};
        if (row + step < rows) {
            head_of_next = head_of(arrays, sizes, row + step, normalizer.dead());
            row_of_next = row_of(arrays, sizes, head_of_next, row + step, every);
        }
        hold(arrays, sizes, row + step, head_of_next.counts && row + step < rows, lane, next);

        // Every lane has read the true class's prediction before one writes where it was.
        if constexpr (FIRST == NOTHING && !HAS_STATISTICS) __syncwarp();

        const Layout layout = present ? layout_of(sizes, row) : Layout{0, 0};
        T first = first_start();
        if constexpr (FIRST != NOTHING) {
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane, column = k * VECTOR - layout.lead;
                if (k < layout.packs)
                    first = add_first(
                        arrays, here, first, held.packs[n], load_targets<FIRST_OF>(arrays, sizes, row, column), column,
                        classes);
            }
            here.first = row_seen(here, FIRST == PEAK ? warp_max<LANES>(first) : warp_sum<LANES>(first));
        }
        T sums[SUMS] = {};
        if constexpr (HAS_STATISTICS) {
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane, column = k * VECTOR - layout.lead;
                if (k < layout.packs)
                    add_statistics(
                        arrays, here, held.packs[n], load_targets(arrays, sizes, row, column), column, classes, sums);
            }
#pragma unroll
            for (int sum = 0; sum < SUMS; ++sum) sums[sum] = warp_sum<LANES>(sums[sum]);
        }
        if constexpr (AGAIN) {
            halfway(here, sums);
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane, column = k * VECTOR - layout.lead;
                if (k < layout.packs)
                    add_again(
                        arrays, here, held.packs[n], load_targets(arrays, sizes, row, column), column, classes, sums);
            }
#pragma unroll
            for (int sum = 0; sum < SUMS; ++sum) sums[sum] = warp_sum<LANES>(sums[sum]);
        }
        const T loss = loss_of(head, here, sums);
        if (lane == 0 && present) {
            if constexpr (LOSSES) losses[row] = loss * normalizer.scale;
            total += double(loss);
        }
        if constexpr (REPORT) {
            Place found = no_place(), sought = no_place();
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane, column = k * VECTOR - layout.lead;
                if (k >= layout.packs) continue;
                add_places(found, held.packs[n], column, classes);
                if constexpr (!INDEXED) add_places(sought, load_targets(arrays, sizes, row, column), column, classes);
            }
            found = warp_place<LANES>(found);
            if constexpr (!INDEXED) sought = warp_place<LANES>(sought);
            if (lane == 0 && present) write_report(arrays, sizes, head, here, row, found, sought, tally);
        }
        if constexpr (GRAD || HESS) {
            const Rule target = target_of(here);
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * LANES + lane, column = k * VECTOR - layout.lead;
                if (k < layout.packs)
                    write_pack(
                        arrays, head, here, target, held.packs[n], load_targets(arrays, sizes, row, column),
                        row * classes, column, classes, normalizer.scale);
            }
        }
    }
    if constexpr (REPORT) add_tallies(arrays, sizes, tally);
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
