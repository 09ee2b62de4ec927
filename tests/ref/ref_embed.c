/* Embedding (spec 4.1). */
#include "ref.h"

void ref_embed(const uint16_t *table, uint32_t token, uint32_t dim, uint32_t copies, float *out) {
    for (uint32_t c = 0; c < copies; c++)
        for (uint32_t d = 0; d < dim; d++)
            out[(size_t)c * dim + d] = ref_bf16(table[(size_t)token * dim + d]);
}
