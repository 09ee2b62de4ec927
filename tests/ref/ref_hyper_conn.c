/* Hyper-connections of spec 4.3 in double, without the BF16 roundings: HC-post, the reductions, HC-pre with Sinkhorn.
 */
#include "ref.h"

#include <math.h>
#include <stddef.h>

void ref_hyper_conn_post(float *x, const float *y, uint32_t n_parts, const float *post, const float *comb, uint32_t dim,
                         float *magnitude) {
    for (uint32_t d = 0; d < dim; d++) {
        double sum = 0, sum_abs = 0, mixed[4];
        for (uint32_t i = 0; i < n_parts; i++) {
            sum += y[i * dim + d];
            sum_abs += fabs(y[i * dim + d]);
        }
        for (int k = 0; k < 4; k++) {
            double m = fabs(post[k]) * sum_abs;
            mixed[k] = post[k] * sum;
            for (int j = 0; j < 4; j++) {
                mixed[k] += (double)comb[4 * j + k] * x[j * dim + d];
                m += fabs((double)comb[4 * j + k] * x[j * dim + d]);
            }
            if (magnitude != NULL)
                magnitude[k * dim + d] = (float)m;
        }
        for (int k = 0; k < 4; k++)
            x[k * dim + d] = (float)mixed[k];
    }
}

void ref_hyper_conn_mix(const float *x, const float *fn, uint32_t dim, uint32_t n_mix, float *partials,
                        float *magnitude) {
    for (uint32_t first = 0, c = 0; first < dim; first += DSVK_HC_CHUNK, c++) {
        const uint32_t last = first + DSVK_HC_CHUNK < dim ? first + DSVK_HC_CHUNK : dim;
        for (uint32_t m = 0; m <= n_mix; m++) {
            double sum = 0, sum_abs = 0;
            for (uint32_t k = 0; k < 4; k++)
                for (uint32_t d = first; d < last; d++) {
                    const double v = x[k * dim + d];
                    const double term = m < n_mix ? fn[(size_t)m * 4 * dim + k * dim + d] * v : v * v;
                    sum += term;
                    sum_abs += fabs(term);
                }
            partials[c * (n_mix + 1) + m] = (float)sum;
            magnitude[c * (n_mix + 1) + m] = (float)sum_abs;
        }
    }
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void sinkhorn(double c[4][4], uint32_t iterations, double eps) {
    for (int j = 0; j < 4; j++) {
        double top = c[j][0], sum = 0;
        for (int k = 1; k < 4; k++)
            top = fmax(top, c[j][k]);
        for (int k = 0; k < 4; k++)
            sum += c[j][k] = exp(c[j][k] - top);
        for (int k = 0; k < 4; k++)
            c[j][k] = c[j][k] / sum + eps;
    }
    for (uint32_t i = 0; i < iterations; i++) {
        for (int j = 0; i > 0 && j < 4; j++) {
            const double sum = c[j][0] + c[j][1] + c[j][2] + c[j][3] + eps;
            for (int k = 0; k < 4; k++)
                c[j][k] /= sum;
        }
        for (int k = 0; k < 4; k++) {
            const double sum = c[0][k] + c[1][k] + c[2][k] + c[3][k] + eps;
            for (int j = 0; j < 4; j++)
                c[j][k] /= sum;
        }
    }
}

void ref_hyper_conn_pre(const ref_hyper_conn *p, const float *x, const float *partials, float *out, float *pre,
                        float *post, float *comb, float *magnitude) {
    const uint32_t chunks = (p->dim + DSVK_HC_CHUNK - 1) / DSVK_HC_CHUNK, n = p->n_mix + 1;
    double mix[25] = {0}, gate[4], squares = 0, c[4][4];
    for (uint32_t m = 0; m < n; m++)
        for (uint32_t i = 0; i < chunks; i++)
            mix[m] += partials[i * n + m];
    const double rs = 1 / sqrt(mix[p->n_mix] / (4.0 * p->dim) + p->eps);
    for (uint32_t m = 0; m < p->n_mix; m++)
        mix[m] *= rs;

    for (int k = 0; k < 4; k++) {
        gate[k] = sigmoid(mix[k] * p->scale[0] + p->base[k]) + p->hc_eps;
        if (pre != NULL)
            pre[k] = (float)gate[k];
    }
    for (uint32_t d = 0; d < p->dim; d++) {
        double v = 0;
        for (int k = 0; k < 4; k++)
            v += gate[k] * x[k * p->dim + d];
        squares += v * v;
    }
    const double factor = 1 / sqrt(squares / p->dim + p->eps);
    for (uint32_t d = 0; d < p->dim; d++) {
        double v = 0, m = 0;
        for (int k = 0; k < 4; k++) {
            v += gate[k] * x[k * p->dim + d];
            m += gate[k] * fabs(x[k * p->dim + d]);
        }
        out[d] = (float)(p->norm[d] * (v * factor));
        magnitude[d] = (float)(fabs(p->norm[d]) * m * factor);
    }
    if (p->n_mix == 4)
        return;
    for (int k = 0; k < 4; k++)
        post[k] = (float)(2 * sigmoid(mix[4 + k] * p->scale[1] + p->base[4 + k]));
    for (int j = 0; j < 4; j++)
        for (int k = 0; k < 4; k++)
            c[j][k] = mix[8 + 4 * j + k] * p->scale[2] + p->base[8 + 4 * j + k];
    sinkhorn(c, p->sinkhorn_iters, p->hc_eps);
    for (int j = 0; j < 4; j++)
        for (int k = 0; k < 4; k++)
            comb[4 * j + k] = (float)c[j][k];
}
