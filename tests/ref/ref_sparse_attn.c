/* Sparse attention of one token, spec 4.8, and the inverse RoPE of 4.9, from decoded rows. Everything in double. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

/* The token's list of rows, in order. */
static uint32_t list_rows(const ref_sparse_attn_case *c, const float **list) {
    uint32_t n = 0;
    const uint32_t oldest = c->position + 1 > c->window ? c->position + 1 - c->window : 0;
    for (uint32_t p = oldest; p <= c->position; p++)
        list[n++] = c->window_rows + (size_t)p * c->head_dim;
    const uint32_t visible = c->ratio > 0 ? (c->position + 1) / c->ratio : 0;
    if (c->ratio == 4) {
        for (uint32_t i = 0; i < c->k && i < visible; i++)
            if (c->idx[i] >= 0 && (uint32_t)c->idx[i] < visible)
                list[n++] = c->entries + (size_t)c->idx[i] * c->head_dim;
    } else {
        for (uint32_t j = 0; j < visible; j++)
            list[n++] = c->entries + (size_t)j * c->head_dim;
    }
    return n;
}

/* One head. magnitude[d] bounds the terms whose rounding shows: sum of |p * row| / den, times 1 + the largest sum of the terms
 * of a score, because an absolute error of a score is a relative one of its p. */
static void attend(const ref_sparse_attn_case *c, const float **list, uint32_t n, const float *q, float sink, float *out,
                   float *magnitude) {
    const uint32_t dim = c->head_dim;
    double *z = malloc((n + 1) * sizeof *z);
    double most = sink, terms = 0;
    if (z == NULL)
        abort();
    for (uint32_t i = 0; i < n; i++) {
        double dot = 0, size = 0;
        for (uint32_t d = 0; d < dim; d++) {
            dot += (double)q[d] * list[i][d];
            size += fabs((double)q[d] * list[i][d]);
        }
        z[i] = c->scale * dot;
        most = fmax(most, z[i]);
        terms = fmax(terms, c->scale * size);
    }
    double den = exp(sink - most);
    for (uint32_t i = 0; i < n; i++)
        den += z[i] = exp(z[i] - most);
    for (uint32_t d = 0; d < dim; d++) {
        double o = 0, size = 0;
        for (uint32_t i = 0; i < n; i++) {
            o += z[i] * list[i][d];
            size += z[i] * fabs(list[i][d]);
        }
        out[d] = (float)(o / den);
        magnitude[d] = (float)(size / den * (1 + terms));
    }
    free(z);
}

void ref_sparse_attn(const ref_sparse_attn_case *c, float *out, float *magnitude) {
    const uint32_t tail = c->head_dim - c->rope_dim;
    const float **list = malloc((c->window + c->k + c->position + 1) * sizeof *list);
    if (list == NULL)
        abort();
    const uint32_t n = list_rows(c, list);
    for (uint32_t h = 0; h < c->n_heads; h++) {
        float *o = out + (size_t)h * c->head_dim, *m = magnitude + (size_t)h * c->head_dim;
        attend(c, list, n, c->q + (size_t)h * c->head_dim, c->sink[h], o, m);
        for (uint32_t i = 0; i < c->rope_dim / 2; i++) {
            const double cosine = c->angles[2 * i], sine = c->angles[2 * i + 1];
            float *pair = o + tail + 2 * i, *size = m + tail + 2 * i;
            const double a = pair[0], b = pair[1];
            pair[0] = (float)(a * cosine + b * sine);
            pair[1] = (float)(b * cosine - a * sine);
            size[0] = size[1] = size[0] + size[1];
        }
    }
    free(list);
}
