/* What edit_logits does to a row: everything is added, then what the mask rules out is overwritten. */
#include "ref.h"

#include <float.h>
#include <math.h>

void ref_edit_logits(float *logits, uint32_t vocab, const uint32_t *mask, const int32_t *ids, const float *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= 0 && (uint32_t)ids[i] < vocab)
            logits[ids[i]] += values[i];
    for (uint32_t id = 0; mask && id < vocab; id++)
        if (!(mask[id / 32] >> id % 32 & 1) && isfinite(logits[id]))
            logits[id] = -FLT_MAX;
}
