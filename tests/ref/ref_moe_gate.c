/* Router (spec 4.10): softplus, root, top-k of the biased scores (ties to the lower id), weights of the unbiased ones. */
#include "ref.h"

#include <math.h>

static double score_of(float logit) { return sqrt(logit > 20 ? (double)logit : log1p(exp((double)logit))); }

/* What is not finite ranks below everything that is. */
static double rank_of(double biased) { return isfinite(biased) ? biased : -HUGE_VAL; }

static bool taken(const uint32_t *idx, uint32_t n, uint32_t id) {
    for (uint32_t i = 0; i < n; i++)
        if (idx[i] == id)
            return true;
    return false;
}

static double choose(const float *logits, const float *bias, uint32_t n_experts, uint32_t k, uint32_t *idx) {
    double worst = 0, best_left = -HUGE_VAL;
    for (uint32_t slot = 0; slot <= k; slot++) {
        uint32_t best = UINT32_MAX;
        double most = 0;
        for (uint32_t e = 0; e < n_experts; e++) {
            const double rank = rank_of((double)(float)(score_of(logits[e]) + bias[e]));
            if (!taken(idx, slot, e) && (best == UINT32_MAX || rank > most)) {
                best = e;
                most = rank;
            }
        }
        if (slot < k) {
            idx[slot] = best;
            worst = most;
        } else if (best != UINT32_MAX) {
            best_left = most;
        }
    }
    return isfinite(worst) ? worst - best_left : HUGE_VAL;
}

double ref_moe_gate(const float *logits, const float *bias, const uint32_t *table_row, uint32_t n_experts, uint32_t k,
                    float route_scale, uint32_t *idx, float *weights) {
    double margin = HUGE_VAL, sum = 0;
    if (table_row == NULL)
        margin = choose(logits, bias, n_experts, k, idx);
    else
        for (uint32_t i = 0; i < k; i++)
            idx[i] = table_row[i] < n_experts ? table_row[i] : n_experts - 1;
    for (uint32_t i = 1; i < k; i++) /* insertion sort */
        for (uint32_t j = i; j > 0 && idx[j - 1] > idx[j]; j--) {
            const uint32_t swap = idx[j];
            idx[j] = idx[j - 1];
            idx[j - 1] = swap;
        }
    for (uint32_t i = 0; i < k; i++)
        sum += score_of(logits[idx[i]]);
    for (uint32_t i = 0; i < k; i++)
        weights[i] = (float)(score_of(logits[idx[i]]) / sum * route_scale);
    return margin;
}
