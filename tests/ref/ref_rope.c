/* RoPE of spec 4.4 and the head norm of 4.5. */
#include "ref.h"

#include <math.h>

void ref_rope_angle(uint32_t rope_dim, uint32_t position, uint32_t i, float *cosine, float *sine) {
    const float frequency = (float)(1.0 / pow(10000.0, 2.0 * i / rope_dim));
    const float angle = (float)position * frequency;
    *cosine = (float)cos((double)angle);
    *sine = (float)sin((double)angle);
}

void ref_rope(float *x, uint32_t n, uint32_t rope_dim, uint32_t position) {
    float *tail = x + n - rope_dim, c, s;
    for (uint32_t i = 0; i < rope_dim / 2; i++) {
        const float a = tail[2 * i], b = tail[2 * i + 1];
        ref_rope_angle(rope_dim, position, i, &c, &s);
        tail[2 * i] = a * c - b * s;
        tail[2 * i + 1] = a * s + b * c;
    }
}

void ref_rope_wide(double *x, uint32_t n, uint32_t rope_dim, uint32_t position) {
    double *tail = x + n - rope_dim;
    float c, s;
    for (uint32_t i = 0; i < rope_dim / 2; i++) {
        const double a = tail[2 * i], b = tail[2 * i + 1];
        ref_rope_angle(rope_dim, position, i, &c, &s);
        tail[2 * i] = a * c - b * s;
        tail[2 * i + 1] = a * s + b * c;
    }
}

void ref_head_norm(float *q, uint32_t head_dim, float eps) {
    double squares = 0;
    for (uint32_t i = 0; i < head_dim; i++)
        squares += (double)q[i] * q[i];
    const double factor = 1 / sqrt(squares / head_dim + eps);
    for (uint32_t i = 0; i < head_dim; i++)
        q[i] = (float)(q[i] * factor);
}
