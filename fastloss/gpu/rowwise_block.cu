// The rowwise sweep for many classes: a block takes a row. Its first PACKS packs a thread lie in registers, the next
// ones in shared memory (`shared_packs`), and what is left is read again, mostly from the second-level cache. Each
// pack is loaded and written by one thread alone, so the gradient may be written where the row was.

// Have the compiler believe that a pack has changed: it would keep what it has computed from it before, converted to
// float and its exponential, which is twice the registers or four times, and spill them (344 bytes a thread).
__device__ __forceinline__ void forget(Pack<PRED, VECTOR>& pack) {
    if constexpr (sizeof(pack) % 4 == 0) {
#pragma unroll
        for (int i = 0; i < int(sizeof(pack)) / 4; ++i) asm volatile("" : "+r"(reinterpret_cast<unsigned*>(&pack)[i]));
    }
}

// Call use(column, pack) with this thread's packs of the row.
template <bool LAST, typename Use>
__device__ __forceinline__ void each_pack(
    Pack<PRED, VECTOR>* held, const Pack<PRED, VECTOR>* shared, int shared_packs, const PRED* row,
    const Layout& layout, int classes, Use use) {
#pragma unroll
    for (int n = 0; n < PACKS; ++n) {
        const int k = n * BLOCK + threadIdx.x;
        forget(held[n]);
        if (k < layout.packs) use(k * VECTOR - layout.lead, held[n]);
    }
    if constexpr (MORE) {
        int k = PACKS * BLOCK + threadIdx.x;
        const int in_shared = min(layout.packs, PACKS * BLOCK + shared_packs);
        // Not unrolled: that would take the registers that hold the row.
#pragma unroll 1
        for (; k < in_shared; k += BLOCK) use(k * VECTOR - layout.lead, shared[k - PACKS * BLOCK]);
#pragma unroll 1
        for (; k < layout.packs; k += BLOCK) {
            const int column = k * VECTOR - layout.lead;
            use(column, load_pack<LAST>(row, column, classes));
        }
    }
}

// The largest, or the sum, over the block: in every thread.
__device__ __forceinline__ T block_first(T value) {
    FL_SHARED(T, firsts, WARP);
    value = FIRST == PEAK ? warp_max(value) : warp_sum(value);
    __syncthreads();  // the last row's may still be being read
    if (threadIdx.x % WARP == 0) firsts[threadIdx.x / WARP] = value;
    __syncthreads();
    value = threadIdx.x % WARP < BLOCK / WARP ? firsts[threadIdx.x % WARP] : first_start();
    return FIRST == PEAK ? warp_max(value) : warp_sum(value);
}

__device__ __forceinline__ void block_sums(T* sums) {
    FL_SHARED(T, parts, SUMS * WARP);
    __syncthreads();
#pragma unroll
    for (int sum = 0; sum < SUMS; ++sum) {
        sums[sum] = warp_sum(sums[sum]);
        if (threadIdx.x % WARP == 0) parts[sum * WARP + threadIdx.x / WARP] = sums[sum];
    }
    __syncthreads();
#pragma unroll
    for (int sum = 0; sum < SUMS; ++sum)
        sums[sum] = warp_sum(threadIdx.x % WARP < BLOCK / WARP ? parts[sum * WARP + threadIdx.x % WARP] : T(0));
}

// Where the first largest number is over the block: in every thread.
__device__ __forceinline__ Place block_place(Place place) {
    FL_SHARED(T, numbers, WARP);
    FL_SHARED(int, columns, WARP);
    place = warp_place(place);
    __syncthreads();  // the last row's may still be being read
    if (threadIdx.x % WARP == 0) {
        numbers[threadIdx.x / WARP] = place.largest;
        columns[threadIdx.x / WARP] = place.column;
    }
    __syncthreads();
    const int warp = threadIdx.x % WARP;
    return warp_place(warp < BLOCK / WARP ? Place{numbers[warp], columns[warp]} : no_place());
}

// shared_packs: packs that dynamic shared memory holds. At least one block a multiprocessor: told of none, the compiler
// wishes for two and spills.
extern "C" __global__ void __launch_bounds__(BLOCK, 1) fastloss_rowwise_block(ROW_ARGUMENTS, int shared_packs PARAMETERS) {
    typedef Pack<PRED, VECTOR> Packed;
    FL_DYNAMIC_SHARED(Packed, shared);
    const Arrays arrays = ROW_ARRAYS;
    const Sizes sizes = ROW_SIZES;
    const Normalizer<T> normalizer = normalizer_of<T>(inverse_at, inverse_given);
    const Row every = every_row(classes, class_weight_sum PARAMETER_NAMES);
    double total = 0.0;

    for (Long row = blockIdx.x; row < rows; row += gridDim.x) {
        const PRED* x_row = y_pred + row * classes;
        const Head head = head_of(arrays, sizes, row, normalizer.dead());
        const Layout layout = layout_of(sizes, row);
        Row here = row_of(arrays, sizes, head, row, every);
        T loss = head.bad ? not_a_number<T>() : T(0);
        Packed held[PACKS];
        Place found = no_place(), sought = no_place();
        const bool computed = head.counts && !head.bad;  // the same in every thread of the block
        if (computed) {
#pragma unroll
            for (int n = 0; n < PACKS; ++n) {
                const int k = n * BLOCK + threadIdx.x;
                if (k < layout.packs) held[n] = load_pack<true>(x_row, k * VECTOR - layout.lead, classes);
            }
            if constexpr (MORE) {
                const int in_shared = min(layout.packs, PACKS * BLOCK + shared_packs);
                for (int k = PACKS * BLOCK + threadIdx.x; k < in_shared; k += BLOCK)
                    shared[k - PACKS * BLOCK] = load_pack<true>(x_row, k * VECTOR - layout.lead, classes);
            }
            if constexpr (FIRST != NOTHING) {
                T first = first_start();
                each_pack<false>(held, shared, shared_packs, x_row, layout, classes, [&](int column, const Packed& x) {
                    const Pack<TRUE, VECTOR> y = load_targets<FIRST_OF>(arrays, sizes, row, column);
                    first = add_first(arrays, here, first, x, y, column, classes);
                });
                here.first = row_seen(here, block_first(first));
            }
            T sums[SUMS] = {};
            if constexpr (HAS_STATISTICS) {
                each_pack<false>(held, shared, shared_packs, x_row, layout, classes, [&](int column, const Packed& x) {
                    add_statistics(
                        arrays, here, x, load_targets(arrays, sizes, row, column), column, classes, sums);
                });
                block_sums(sums);
            }
            if constexpr (AGAIN) {
                halfway(here, sums);
                each_pack<false>(held, shared, shared_packs, x_row, layout, classes, [&](int column, const Packed& x) {
                    add_again(arrays, here, x, load_targets(arrays, sizes, row, column), column, classes, sums);
                });
                block_sums(sums);
            }
            loss = loss_of(head, here, sums);
            if constexpr (REPORT) {
                each_pack<false>(held, shared, shared_packs, x_row, layout, classes, [&](int column, const Packed& x) {
                    add_places(found, x, column, classes);
                    if constexpr (!INDEXED)
                        add_places(sought, load_targets(arrays, sizes, row, column), column, classes);
                });
                found = block_place(found);
                if constexpr (!INDEXED) sought = block_place(sought);
            }
            // Every thread has read the true class's prediction before one writes where it was.
            if constexpr (FIRST == NOTHING && !HAS_STATISTICS) __syncthreads();
        }
        if (threadIdx.x == 0) {
            if constexpr (LOSSES) losses[row] = loss * normalizer.scale;
            total += double(loss);
            if constexpr (REPORT) {
                Tally tally = {};
                write_report(arrays, sizes, head, here, row, found, sought, tally);
                add_tally(arrays, sizes, tally);
            }
        }
        if constexpr (GRAD || HESS) {
            if (computed) {
                const Rule target = target_of(here);
                each_pack<true>(held, shared, shared_packs, x_row, layout, classes, [&](int column, const Packed& x) {
                    const Pack<TRUE, VECTOR> y = load_targets(arrays, sizes, row, column);
                    write_pack(arrays, head, here, target, x, y, row * classes, column, classes, normalizer.scale);
                });
            } else {
                for (int k = threadIdx.x; k < layout.packs; k += BLOCK)
                    write_zeros(arrays, row * classes, k * VECTOR - layout.lead, classes);
            }
        }
    }
    if constexpr (VALUE && !LOSSES) write_value<BLOCK>(total, partials, ticket, value, normalizer);
}
