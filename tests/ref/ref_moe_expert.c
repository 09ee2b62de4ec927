/* Routed experts (spec 4.10): the routing weight comes before w2. */
#include "ref.h"

#include <math.h>

double ref_moe_up(const ref_matrix *up, float weight, const float *x, uint32_t c, double limit, double *magnitude) {
    const double h = ref_swiglu_dot(up, c, x, limit, magnitude);
    *magnitude *= fabs((double)weight);
    return weight * h;
}

double ref_moe_down(const ref_matrix *down, const float *h, uint32_t c, double *magnitude) {
    return ref_dot(down, c, h, magnitude);
}
