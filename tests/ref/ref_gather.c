/* Rows by index. */
#include "ref.h"

void ref_gather(const float *in, uint32_t source, const float *kept, uint32_t dim, float *out) {
    for (uint32_t d = 0; d < dim; d++)
        out[d] = source == 0xffffffffu ? kept[d] : in[(size_t)source * dim + d];
}
