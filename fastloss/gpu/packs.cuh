// A row as packs, each moved by one instruction where it is whole.
//
//   VECTOR   elements of a pack          EVEN   whether every row begins and ends with a whole pack

// Pack k of a row holds its elements k * VECTOR - lead and following; those below 0 or from `classes` on are a
// neighbour's, and not touched.
struct Layout {
    int lead, packs;
};

template <typename Sizes>
__device__ __forceinline__ Layout layout_of(const Sizes& sizes, Long row) {
    const int lead = EVEN ? 0 : int((unsigned long long)(row * sizes.classes + sizes.offset) % VECTOR);
    return {lead, (sizes.classes + lead + VECTOR - 1) / VECTOR};
}

__device__ __forceinline__ bool inside(int column, int classes) { return EVEN || unsigned(column) < unsigned(classes); }

__device__ __forceinline__ bool whole(int column, int classes) {
    return EVEN || (column >= 0 && column + VECTOR <= classes);
}

// ONCE: it will not be read again.
template <bool ONCE, typename Stored>
__device__ __forceinline__ Pack<Stored, VECTOR> load_pack(const Stored* row, int column, int classes) {
    if (whole(column, classes)) {
        if constexpr (ONCE) return load_once<Stored, VECTOR>(row + column);
        return *reinterpret_cast<const Pack<Stored, VECTOR>*>(row + column);
    }
    Pack<Stored, VECTOR> pack;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i)
        pack.values[i] = inside(column + i, classes) ? row[column + i] : stored<Stored>(T(0));
    return pack;
}

template <typename Stored>
__device__ __forceinline__ void store_pack(Stored* row, int column, int classes, const Pack<Stored, VECTOR>& pack) {
    if (whole(column, classes)) {
        store_once(row + column, pack);
        return;
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i)
        if (inside(column + i, classes)) row[column + i] = pack.values[i];
}
