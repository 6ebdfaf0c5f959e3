// What every kernel starts with: shared arrays, storage types, 16-byte packs, reductions in a fixed order.
//
// The same text is compiled by NVRTC for a GPU and, in the tests, by a C++ compiler for the host.
// Precision policy: arithmetic in T (float; double for double). Sums of losses in double, in an order that depends on
// the launch alone: the same device gives the same bits every time. No floating-point atomics.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef FL_EMULATED
#define FL_SHARED(TYPE, name, count) __shared__ TYPE name[count]
#define FL_DYNAMIC_SHARED(TYPE, name)                                  \
    extern __shared__ __align__(16) unsigned char fl_dynamic_shared[]; \
    TYPE* name = reinterpret_cast<TYPE*>(fl_dynamic_shared)
#endif

typedef long long Long;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int WARP = 32;

// -- storage types ------------------------------------------------------------------------------------------------

template <typename T, typename Stored>
__device__ __forceinline__ T loaded(Stored value) { return T(value); }
template <>
__device__ __forceinline__ float loaded<float, __half>(__half value) { return __half2float(value); }
template <>
__device__ __forceinline__ double loaded<double, __half>(__half value) { return double(__half2float(value)); }
template <>
__device__ __forceinline__ float loaded<float, __nv_bfloat16>(__nv_bfloat16 value) { return __bfloat162float(value); }
template <>
__device__ __forceinline__ double loaded<double, __nv_bfloat16>(__nv_bfloat16 value) {
    return double(__bfloat162float(value));
}

// Rounded once, to nearest; a double goes through float, which for these types is the rounding of the CPU kernels too.
template <typename Stored, typename T>
__device__ __forceinline__ Stored stored(T value) { return Stored(value); }
template <>
__device__ __forceinline__ __half stored<__half, float>(float value) { return __float2half_rn(value); }
template <>
__device__ __forceinline__ __half stored<__half, double>(double value) { return __float2half_rn(float(value)); }
template <>
__device__ __forceinline__ __nv_bfloat16 stored<__nv_bfloat16, float>(float value) {
    return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 stored<__nv_bfloat16, double>(double value) {
    return __float2bfloat16_rn(float(value));
}

template <typename T>
__device__ __forceinline__ T largest();
template <>
__device__ __forceinline__ float largest<float>() { return 3.402823466e+38f; }
template <>
__device__ __forceinline__ double largest<double>() { return 1.7976931348623157e+308; }
// NVRTC has no INFINITY; a quotient is folded when it is compiled.
template <typename T>
__device__ __forceinline__ T infinity() { return T(__int_as_float(0x7f800000)); }
template <typename T>
__device__ __forceinline__ T not_a_number() { return T(__int_as_float(0x7fffffff)); }

// -- packs: neighbouring elements that one instruction moves where they fill 16 bytes -----------------------------

constexpr int pack_alignment(int bytes) { return bytes >= 16 ? 16 : bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1; }

template <typename Stored, int COUNT>
struct alignas(pack_alignment(COUNT * int(sizeof(Stored)))) Pack {
    Stored values[COUNT];
};

// Through the caches as data that is used once (evict first), in pieces of at most 16 bytes.
template <typename Stored, int COUNT>
__device__ __forceinline__ Pack<Stored, COUNT> load_once(const Stored* from) {
    Pack<Stored, COUNT> pack;
    constexpr int bytes = int(sizeof(pack));
    if constexpr (bytes % 16 == 0) {
#pragma unroll
        for (int i = 0; i < bytes / 16; ++i)
            reinterpret_cast<uint4*>(&pack)[i] = __ldcs(reinterpret_cast<const uint4*>(from) + i);
    } else if constexpr (bytes == 8) {
        *reinterpret_cast<uint2*>(&pack) = __ldcs(reinterpret_cast<const uint2*>(from));
    } else {
        pack = *reinterpret_cast<const Pack<Stored, COUNT>*>(from);
    }
    return pack;
}

template <typename Stored, int COUNT>
__device__ __forceinline__ void store_once(Stored* to, const Pack<Stored, COUNT>& pack) {
    constexpr int bytes = int(sizeof(pack));
    if constexpr (bytes % 16 == 0) {
#pragma unroll
        for (int i = 0; i < bytes / 16; ++i)
            __stcs(reinterpret_cast<uint4*>(to) + i, reinterpret_cast<const uint4*>(&pack)[i]);
    } else if constexpr (bytes == 8) {
        __stcs(reinterpret_cast<uint2*>(to), *reinterpret_cast<const uint2*>(&pack));
    } else {
        *reinterpret_cast<Pack<Stored, COUNT>*>(to) = pack;
    }
}

// -- reductions: every lane of the whole warp must take part ----------------------------------------------------

// The sum over groups of LANES neighbouring lanes: the same bits in each of them, as a + b is b + a.
template <int LANES = WARP, typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(WHOLE_WARP, value, distance);
    return value;
}

// The largest likewise. NaN counts as nothing here: it shows in the sums.
template <int LANES = WARP, typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value = fmax(value, __shfl_xor_sync(WHOLE_WARP, value, distance));
    return value;
}

// The sum over a block, in thread 0.
template <int BLOCK>
__device__ __forceinline__ double block_sum(double value) {
    FL_SHARED(double, sums, BLOCK / WARP);
    value = warp_sum(value);
    __syncthreads();  // the last call's sums may still be being read
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = value;
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < BLOCK / WARP; ++warp) total += sums[warp];
    return total;
}

// The sum over a grid, in thread 0 of the block that comes last; whether this is that thread is the result.
// `ticket` is 0 before and after: atomicInc wraps.
template <int BLOCK>
__device__ __forceinline__ bool grid_sum(double value, double* partials, unsigned* ticket, double* total) {
    FL_SHARED(int, is_last, 1);
    value = block_sum<BLOCK>(value);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = value;
        __threadfence();  // the partial sum is written before it is counted
        const unsigned before = atomicInc(ticket, gridDim.x - 1);
        __threadfence();  // the others' are read after they were counted
        is_last[0] = before == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last[0]) return false;
    double sum = 0.0;
    for (int block = threadIdx.x; block < int(gridDim.x); block += BLOCK) sum += __ldcg(partials + block);
    *total = block_sum<BLOCK>(sum);
    return threadIdx.x == 0;
}

// -- division by a number that is known before the launch -----------------------------------------------------------

#ifdef FL_EMULATED
static inline unsigned long long __umul64hi(unsigned long long left, unsigned long long right) {
    return (unsigned long long)((unsigned __int128)(left)*right >> 64);
}
#endif

// 64-bit division takes a subroutine of some 100 instructions, and registers around its call. For numbers below 2^63
// the upper half of a product is exact (Granlund and Montgomery 1994, doi:10.1145/178243.178249).
struct Divisor {
    Long by;
    unsigned long long magic;  // ceil(2^(63 + bits) / by), bits = ceil(log2(by))
    int shift;                 // bits - 1
};

__device__ __forceinline__ Long divided(Long number, const Divisor& divisor) {
    return divisor.by == 1 ? number : Long(__umul64hi((unsigned long long)number, divisor.magic) >> divisor.shift);
}

// -- weights, mask, normaliser ------------------------------------------------------------------------------------

// What a loss is multiplied with. `counts` is false where nothing of it may show, not even NaN.
template <typename T>
struct Weight {
    T factor;
    bool counts;
};

// A weight that is negative, infinite or NaN cannot be refused without waiting for the device: it becomes NaN.
template <typename T>
__device__ __forceinline__ T checked_weight(T weight) {
    return weight >= T(0) && weight <= largest<T>() ? weight : not_a_number<T>();
}

// What losses are multiplied with besides their weights: 1 / Z, Z being what their sum is divided by. As a factor, since
// a double-precision division is 30 instructions.
template <typename T>
struct Normalizer {
    double inverse;  // 0: Z is 0, there is nothing to average, and nothing counts
    T scale;         // the same in T, at most the largest number

    // A comparison of integers: of doubles it would be made anew wherever it is asked.
    __device__ __forceinline__ bool dead() const { return __double_as_longlong(inverse) == 0; }
};

// `at` (1): found by a kernel before; else null, and it is `given`.
template <typename T>
__device__ __forceinline__ Normalizer<T> normalizer_of(const double* at, double given) {
    const double inverse = at ? *at : given;
    const T scale = T(inverse);
    return {inverse, scale > largest<T>() ? largest<T>() : scale};  // NaN stays NaN
}

// The value of the whole call, from every thread's sum of weighted losses.
template <int BLOCK, typename T>
__device__ __forceinline__ void write_value(
    double total, double* partials, unsigned* ticket, double* value, const Normalizer<T>& normalizer) {
    double sum;
    if (grid_sum<BLOCK>(total, partials, ticket, &sum)) *value = normalizer.dead() ? 0.0 : sum * normalizer.inverse;
}
