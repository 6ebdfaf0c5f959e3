// What the sweeps of losses of several predictions share. The lists of arguments come before this text.
//
//   TRUE, PRED   storage types of y_true and of all predictions      T            type of the arithmetic
//   TARGET       whether there is a y_true                           PREDICTIONS  number of predictions
//   VALUE, LOSSES, GRAD, HESS, WEIGHTED, MASKED                      what is wanted
//   LIST(name)   name_0, name_1, ... for each prediction             ARGUMENTS(type, name)   the same as parameters

struct Arrays {
    const TRUE* y_true;                // (losses) or null
    const PRED* predictions[PREDICTIONS];
    const T* weights;                  // (losses / weight_inner)
    const unsigned char* mask;         // (losses / mask_inner)
    PRED* gradients[PREDICTIONS];
    PRED* hessians[PREDICTIONS];
    T* losses;                         // (losses)
};

// What every kernel is given. Arrays that are not wanted are null; predictions, gradients and hessians are alike.
// partials (gridDim.x), ticket (1): see `grid_sum`. value (1): the sum of the weighted losses over the normaliser.
// inverse_at (1), inverse_given: see `normalizer_of`. Inner sizes with the other two parts of a `Divisor`.
#define PAIR_ARGUMENTS                                                                                                 \
    const TRUE *y_true, ARGUMENTS(const PRED*, x), const T *weights, const unsigned char *mask,                        \
        ARGUMENTS(PRED*, gradient), ARGUMENTS(PRED*, hessian), T *losses, double *partials, unsigned *ticket,          \
        double *value, const double *inverse_at, double inverse_given, Long weight_inner,                              \
        unsigned long long weight_magic, int weight_shift, Long mask_inner, unsigned long long mask_magic,             \
        int mask_shift
#define PAIR_ARRAYS {y_true, {LIST(x)}, weights, mask, {LIST(gradient)}, {LIST(hessian)}, losses}
#define PAIR_INNER {{weight_inner, weight_magic, weight_shift}, {mask_inner, mask_magic, mask_shift}}
