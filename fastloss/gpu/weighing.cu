// The normaliser of a mean that depends on what arrays hold: masks, ignored labels, weights. One value, in double.
//
//   TRUE   type of the class numbers      T   type of weights      BLOCK   threads of a block

// What is summed, over losses taken in groups of `inner` that share everything:
// weights (groups / weight_step) or null; mask (groups / mask_step) or null; labels (groups) or null, then
// class_weights (classes) or null. Steps with the other two parts of a `Divisor`. partials, ticket: see `grid_sum`.
// inverse (1): see `Normalizer`.
extern "C" __global__ void __launch_bounds__(BLOCK) fastloss_weighing(
    const T* weights, const unsigned char* mask, const TRUE* labels, const T* class_weights, double* partials,
    unsigned* ticket, double* inverse, Long groups, double inner, Long weight_step,
    unsigned long long weight_magic, int weight_shift, Long mask_step, unsigned long long mask_magic, int mask_shift,
    Long ignored, int has_ignored, Long classes) {
    const Divisor per_weight = {weight_step, weight_magic, weight_shift}, per_mask = {mask_step, mask_magic, mask_shift};
    double total = 0.0;
    for (Long group = Long(blockIdx.x) * BLOCK + threadIdx.x; group < groups; group += Long(gridDim.x) * BLOCK) {
        if (mask && !mask[divided(group, per_mask)]) continue;
        double count = inner;
        if (labels) {
            const Long label = Long(labels[group]);
            if (has_ignored && label == ignored) continue;
            if (class_weights && label >= 0 && label < classes) count *= double(class_weights[label]);
        }
        if (weights) count *= double(checked_weight(weights[divided(group, per_weight)]));
        total += count;
    }
    double sum;
    if (!grid_sum<BLOCK>(total, partials, ticket, &sum)) return;
    const double found = sum == 0.0 ? 0.0 : 1.0 / sum;
    *inverse = found > largest<double>() ? largest<double>() : found;  // NaN stays NaN
}
