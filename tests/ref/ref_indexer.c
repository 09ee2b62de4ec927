/* Index scores of one row, spec 4.7 in f32 scores: keys [visible][dim] decoded. The sums are formed in double. */
#include "ref.h"

#include <math.h>

void ref_indexer(const float *iq, const float *weights, const float *keys, uint32_t n_heads, uint32_t dim, uint32_t visible,
                 float scale, float *scores, float *magnitude) {
    for (uint32_t j = 0; j < visible; j++) {
        double score = 0, size = 0;
        for (uint32_t h = 0; h < n_heads; h++) {
            double dot = 0, terms = 0;
            for (uint32_t d = 0; d < dim; d++) {
                const double term = (double)iq[(size_t)h * dim + d] * keys[(size_t)j * dim + d];
                dot += term;
                terms += fabs(term);
            }
            if (dot > 0)
                score += weights[h] * dot;
            size += fabs(weights[h]) * terms;
        }
        scores[j] = (float)(scale * score);
        magnitude[j] = (float)(scale * size);
    }
}
