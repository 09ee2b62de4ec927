/* RMSNorm of spec 4.2 without the BF16 rounding, in double. */
#include "ref.h"

#include <math.h>

void ref_rms_norm(const float *x, const float *weight, float *out, uint32_t dim, float eps) {
    double squares = 0;
    for (uint32_t i = 0; i < dim; i++)
        squares += (double)x[i] * x[i];
    const double factor = 1 / sqrt(squares / dim + eps);
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (float)(weight[i] * (x[i] * factor));
}
