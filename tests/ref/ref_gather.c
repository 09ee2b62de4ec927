/* Rows by index, from the step's own or from a ring in the state of a sequence; indices beyond the end mean the last. */
#include "ref.h"

void ref_gather(const float *in, uint32_t n_in, const float *ring, uint32_t slots, uint32_t source, uint32_t dim, float *out) {
    const bool kept = source >= 0x80000000u;
    const uint32_t wanted = source % 0x80000000u, last = (kept ? slots : n_in) - 1, row = wanted < last ? wanted : last;
    for (uint32_t d = 0; d < dim; d++)
        out[d] = (kept ? ring : in)[(size_t)row * dim + d];
}
