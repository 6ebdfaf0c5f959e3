// Weights and mask of neighbouring losses, which what is wanted (WEIGHTED, MASKED) and T come before.

struct Inner {  // how many neighbouring losses share a weight, a place of the mask
    Divisor weight, mask;
};

template <int COUNT, typename Arrays>
__device__ __forceinline__ void weigh(const Arrays& arrays, const Inner& inner, Long first, Weight<T>* weights) {
    Long weight_at = WEIGHTED ? divided(first, inner.weight) : 0, mask_at = MASKED ? divided(first, inner.mask) : 0;
    Long weight_left = (weight_at + 1) * inner.weight.by - first, mask_left = (mask_at + 1) * inner.mask.by - first;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        weights[i].factor = WEIGHTED ? checked_weight(arrays.weights[weight_at]) : T(1);
        weights[i].counts = MASKED ? arrays.mask[mask_at] != 0 : true;
        if (WEIGHTED && --weight_left == 0) {
            ++weight_at;
            weight_left = inner.weight.by;
        }
        if (MASKED && --mask_left == 0) {
            ++mask_at;
            mask_left = inner.mask.by;
        }
    }
}
