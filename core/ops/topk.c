/* Exact top-k, spec 4.7. See shaders/topk.comp. */
#include "ops.h"

#include "topk.h"

_Static_assert(sizeof(struct topk_args) <= 128, "push constants");

uint64_t dsvk_topk_bins_bytes(uint32_t n) { return (uint64_t)n * TOPK_BINS_WORDS * sizeof(uint32_t); }

#define ENOUGH_GROUPS 64u /* workgroups that keep every core of a processor busy */
#define MOST_SHARES 8u

/* Scores of a workgroup: so many that a row needs no more workgroups than the last one can look at. Each looks for the bin of the k-th
 * key, which costs a processor as much as 4,096 scores: there it has more of them while there are workgroups enough. */
static uint32_t share_of(dsvk_cmd *cmd, uint32_t n, uint32_t max_visible) {
    uint64_t shares = dsvk_ceil_div(max_visible, (uint64_t)TOPK_SHARE * TOPK_MAX_GROUPS);
    if (dsvk_device_get_limits(dsvk_cmd_device(cmd))->software) {
        const uint64_t some = n * dsvk_ceil_div(max_visible, TOPK_SHARE) / ENOUGH_GROUPS;
        shares = some > MOST_SHARES ? MOST_SHARES : some > shares ? some : shares;
    }
    return TOPK_SHARE * (uint32_t)shares;
}

uint64_t dsvk_topk_list_bytes(uint32_t n, uint32_t scores_stride) { return n * (TOPK_MAX_GROUPS + (uint64_t)scores_stride) * sizeof(uint32_t); }

void dsvk_topk(dsvk_cmd *cmd, const dsvk_topk_params *p) {
    if (p->k == 0 || p->scores_stride % 4 != 0 || p->scores_stride == 0 || p->max_visible > p->scores_stride || p->n > 65535) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "topk: %u of at most %u scores with stride %u of %u rows; the stride is a multiple of 4, "
                      "neither is 0, at most 65535 rows", p->k, p->max_visible, p->scores_stride, p->n);
        return;
    }
    const uint32_t share = share_of(cmd, p->n, p->max_visible ? p->max_visible : 1);
    const uint32_t groups = (uint32_t)dsvk_ceil_div(p->max_visible ? p->max_visible : 1, share);
    const struct topk_args args = {
        .rows = p->rows, .scores = p->scores, .bins = p->bins, .list = p->list, .idx = p->idx, .k = p->k,
        .scores_stride = p->scores_stride, .share = share
    };
    /* What is listed depends on the scores: at least k of them, written, read twice and their scores too. */
    const uint64_t scored = !p->counted && p->max_visible > p->k ? p->n : 0, row_words = 2 * TOPK_BINS + 5 * (uint64_t)p->k;
    const double by_rows = p->counted ? (double)p->n / p->counted : 0;
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "topk",
                           .shader = "topk",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { groups, p->n, 1 },
                           .bytes = scored * ((uint64_t)p->max_visible + groups * TOPK_BINS + row_words) * 4 + (uint64_t)p->n * p->k * 4,
                           .each = { { DSVK_UNIT_SCORED_KEYS, by_rows * 4 * (1 + (double)TOPK_BINS / share), 0 },
                                     { DSVK_UNIT_SCORED_ROWS, by_rows * 4 * (double)row_words, 0 } },
                       });
}
