/* Sampling as ops.h and shaders/sample.comp define it, with a sorted list instead of radix cuts and doubles instead of
 * fixed-point mass. The hash is the definition's and identical. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate {
    float logit;
    uint32_t id;
} candidate;

static int by_rank(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static uint32_t mix_bits(uint32_t x) { /* lowbias32 */
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static double arrival(const struct dsvk_sample_row *o, uint32_t id) { /* exponentially distributed */
    const uint32_t a = mix_bits(o->seed_lo ^ mix_bits(o->position + 0x9e3779b9u));
    const uint32_t b = mix_bits(o->seed_hi ^ mix_bits(a + 0x85ebca6bu));
    const double v = ((double)mix_bits(mix_bits(id ^ a) + b) + 0.5) * 0x1p-32;
    return -log1p(-fmin(v, 1 - 0x1p-24));
}

static void closer(double *margin, double distance) {
    if (fabs(distance) < *margin)
        *margin = fabs(distance);
}

/* The smallest n whose mass reaches top_p of the mass of the first `n` candidates. */
static uint32_t cut_mass(const candidate *c, uint32_t n, float top_p, double temperature, double *margin) {
    double total = 0, mass = 0;
    for (uint32_t i = 0; i < n; i++)
        total += exp(((double)c[i].logit - c[0].logit) / temperature);
    for (uint32_t i = 0; i < n; i++) {
        mass += exp(((double)c[i].logit - c[0].logit) / temperature);
        closer(margin, mass / total - top_p);
        if (mass >= top_p * total)
            return i + 1;
    }
    return n;
}

uint32_t ref_sample(const float *logits, uint32_t vocab, const struct dsvk_sample_row *o, double *margin) {
    candidate *c = malloc(vocab * sizeof *c);
    uint32_t n = vocab, chosen = UINT32_MAX;
    double first = -HUGE_VAL, second = -HUGE_VAL;
    *margin = HUGE_VAL;
    if (c == NULL)
        abort();
    for (uint32_t i = 0; i < vocab; i++) {
        if (!isfinite(logits[i]))
            goto done;
        c[i] = (candidate){ logits[i], i };
    }
    qsort(c, vocab, sizeof *c, by_rank);
    if (!(o->temperature > 0)) {
        chosen = c[0].id;
        goto done;
    }
    if (o->top_k > 0 && o->top_k < n)
        n = o->top_k;
    if (o->top_p > 0 && o->top_p < 1)
        n = cut_mass(c, n, o->top_p, o->temperature, margin);
    for (uint32_t i = 0; i < n; i++) {
        const double z = ((double)c[i].logit - c[0].logit) / o->temperature, score = z - log(arrival(o, c[i].id));
        if (o->min_p > 0 && i > 0) {
            closer(margin, exp(z) / o->min_p - 1);
            if (exp(z) < o->min_p)
                continue;
        }
        if (score > first || (score == first && c[i].id < chosen)) {
            second = first;
            first = score;
            chosen = c[i].id;
        } else if (score > second) {
            second = score;
        }
    }
    closer(margin, (first - second) / (1 + fabs(first)));
done:
    free(c);
    return chosen;
}
