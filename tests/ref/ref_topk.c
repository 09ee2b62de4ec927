/* Exact top-k of scores [visible]: by sorting. Larger first, equal scores (0 and -0 are equal) by the lower index, NaN last. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

struct ranked {
    float score;
    int32_t index;
};

static int by_rank(const void *left, const void *right) {
    const struct ranked *a = left, *b = right;
    if (isnan(a->score) != isnan(b->score))
        return isnan(a->score) ? 1 : -1;
    if (!isnan(a->score) && a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static int by_index(const void *left, const void *right) { return *(const int32_t *)left < *(const int32_t *)right ? -1 : 1; }

void ref_topk(const float *scores, uint32_t visible, uint32_t k, int32_t *idx) {
    struct ranked *all = malloc((visible + 1) * sizeof *all);
    const uint32_t taken = visible < k ? visible : k;
    if (all == NULL)
        abort();
    for (uint32_t i = 0; i < visible; i++)
        all[i] = (struct ranked){ scores[i], (int32_t)i };
    if (visible > k)
        qsort(all, visible, sizeof *all, by_rank);
    for (uint32_t i = 0; i < k; i++)
        idx[i] = i < taken ? all[i].index : -1;
    qsort(idx, taken, sizeof *idx, by_index);
    free(all);
}
