/* The compressor of spec 4.6 up to the rounding of the entry, in double: pooling, RMSNorm, RoPE. */
#include "ref.h"

#include <math.h>

/* P[c] over the tokens first .. last, of which those before `current` use channel c and the others channel offset + c.
 */
static double pool(ref_token token, const void *context, uint32_t first, uint32_t current, uint32_t last,
                   uint32_t ratio, uint32_t w, uint32_t offset, uint32_t c, const float *ape) {
    double top = -INFINITY, sum = 0, pooled = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t u = first; u <= last; u++) {
            const uint32_t channel = u < current ? c : offset + c;
            const float *ks = token(context, u);
            const double score = (double)ks[w + channel] + ape[(size_t)(u % ratio) * w + channel];
            if (pass == 0) {
                top = fmax(top, score);
            } else {
                sum += exp(score - top);
                pooled += exp(score - top) * ks[channel];
            }
        }
    return pooled / sum;
}

void ref_kv_compress(ref_token token, const void *context, uint32_t j, uint32_t ratio, uint32_t width, const float *ape,
                     const float *norm, double eps, uint32_t rope_dim, double *line) {
    const uint32_t w = ratio == 4 ? 2 * width : width, current = j * ratio;
    const uint32_t first = ratio == 4 && j > 0 ? current - ratio : current;
    double squares = 0;
    for (uint32_t c = 0; c < width; c++) {
        line[c] = pool(token, context, first, current, current + ratio - 1, ratio, w, w - width, c, ape);
        squares += line[c] * line[c];
    }
    const double factor = 1 / sqrt(squares / width + eps);
    for (uint32_t c = 0; c < width; c++)
        line[c] = norm[c] * (line[c] * factor);
    ref_rope_wide(line, width, rope_dim, current);
}
