/* Hyper-connections, spec 4.3, second half, and the RMSNorm behind it (4.2):
 *   rs = 1 / sqrt(sum X^2 / (4 DIM) + eps);  mix[m] = rs * sum over chunks of partials[m]
 *   pre = sigmoid(mix[0..3] * scale[0] + base) + hc_eps;  post = 2 sigmoid(mix[4..7] * scale[1] + base)
 *   comb = Sinkhorn(mix[8..23] * scale[2] + base), rows = source streams
 *   x[d] = sum_k pre[k] * X[k][d];  result = norm * x / sqrt(mean x^2 + eps)
 * N_MIX 4 is the head's form: only pre. One workgroup does one row; x stays in registers between the two passes. A single
 * row waits for memory and nothing else: loads are not conditional, so that they can be on their way together. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 256u
layout(local_size_x = 256) in;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"
#include "hyper_conn_mix.h"
#include "hyper_conn_pre.h"

layout(constant_id = PRE_CONSTANT_N_MIX) const uint N_MIX = 24u;
layout(constant_id = PRE_CONSTANT_DIM) const uint DIM = 4096u;
const uint CHUNKS = (DIM + MIX_CHUNK - 1u) / MIX_CHUNK;
const uint PARTS = CHUNKS * (N_MIX + 1u), PARTS_PER_LANE = (PARTS + WORKGROUP - 1u) / WORKGROUP;
const uint PER_LANE = (DIM + 4u * WORKGROUP - 1u) / (4u * WORKGROUP); /* vec4 of x per invocation */

layout(push_constant, scalar) uniform Args { hyper_conn_pre_args a; };

shared float chunk[PARTS]; /* partials[source] */
shared float total[N_MIX + 1u];

vec4 sigmoid4(vec4 v) { return vec4(sigmoid(v.x), sigmoid(v.y), sigmoid(v.z), sigmoid(v.w)); }

/* Four logits: mix[first ..] scaled and shifted. */
vec4 logits(float rs, uint first, float scale) {
    vec4 mix = vec4(total[first], total[first + 1u], total[first + 2u], total[first + 3u]) * rs;
    return mix * scale + Vec4s(a.base).v[first >> 2];
}

vec4 softmax4(vec4 v) {
    v -= max(max(v.x, v.y), max(v.z, v.w));
    v = vec4(exp_exact(v.x), exp_exact(v.y), exp_exact(v.z), exp_exact(v.w));
    return v / (((v.x + v.y) + v.z) + v.w);
}

/* Divides by the sums plus hc_eps, by one reciprocal per sum. c[j][k]: j source (row), k destination (column). */
void normalise_rows(inout vec4 c[4]) {
    for (uint j = 0u; j < 4u; j++)
        c[j] *= 1.0 / ((((c[j].x + c[j].y) + c[j].z) + c[j].w) + a.hc_eps);
}
void normalise_columns(inout vec4 c[4]) {
    vec4 inverse = 1.0 / ((((c[0] + c[1]) + c[2]) + c[3]) + a.hc_eps);
    for (uint j = 0u; j < 4u; j++)
        c[j] *= inverse;
}

/* One invocation writes post and comb: 4x4 values are too few to share out, and nothing here waits for them. */
void write_coefficients(uint row, float rs) {
    Vec4sOut(a.post).v[row] = 2.0 * sigmoid4(logits(rs, 4u, Floats(a.scale).v[1]));
    vec4 c[4];
    for (uint j = 0u; j < 4u; j++)
        c[j] = softmax4(logits(rs, 8u + 4u * j, Floats(a.scale).v[2])) + a.hc_eps;
    normalise_columns(c);
    for (uint i = 1u; i < a.sinkhorn_iters; i++) {
        normalise_rows(c);
        normalise_columns(c);
    }
    for (uint j = 0u; j < 4u; j++)
        Vec4sOut(a.comb).v[row * 4u + j] = c[j];
}

void main() {
    uint row = gl_WorkGroupID.x, lane = gl_LocalInvocationIndex;
    uint source = is_null(a.select) ? row : min(Words(a.select).v[row], a.n_in - 1u);

    Floats partials = Floats(add_product(a.partials, source, CHUNKS * (N_MIX + 1u) * 4u));
    float part[PARTS_PER_LANE];
    for (uint i = 0u; i < PARTS_PER_LANE; i++)
        part[i] = partials.v[min(lane + i * WORKGROUP, PARTS - 1u)];
    for (uint i = 0u; i < PARTS_PER_LANE; i++)
        if (lane + i * WORKGROUP < PARTS)
            chunk[lane + i * WORKGROUP] = part[i];
    barrier();
    if (lane <= N_MIX) {
        float sum = 0.0;
        for (uint c = 0u; c < CHUNKS; c++)
            sum += chunk[c * (N_MIX + 1u) + lane];
        total[lane] = sum;
    }
    barrier();
    float rs = 1.0 / sqrt(total[N_MIX] / float(4u * DIM) + a.eps);
    vec4 pre = sigmoid4(logits(rs, 0u, Floats(a.scale).v[0])) + a.hc_eps;

    Vec4s streams = Vec4s(add_product(a.x_in, source, DIM * 16u));
    vec4 x[PER_LANE];
    precise float squares = 0.0;
    for (uint i = 0u; i < PER_LANE; i++) {
        uint d4 = lane + i * WORKGROUP;
        x[i] = vec4(0.0);
        for (uint k = 0u; k < 4u; k++)
            x[i] += pre[k] * streams.v[k * (DIM / 4u) + min(d4, DIM / 4u - 1u)];
        x[i] = d4 < DIM / 4u ? x[i] : vec4(0.0);
        squares += (x[i].x * x[i].x + x[i].y * x[i].y) + (x[i].z * x[i].z + x[i].w * x[i].w);
    }
    float factor = 1.0 / sqrt(reduce_sum(squares) / float(DIM) + a.eps);
    Vec4sOut result = Vec4sOut(add_product(a.result, row, DIM * 4u));
    for (uint i = 0u; i < PER_LANE; i++) {
        uint d4 = lane + i * WORKGROUP;
        if (d4 < DIM / 4u)
            result.v[d4] = Vec4s(a.norm).v[d4] * (x[i] * factor);
    }
    if (N_MIX > 4u && lane == WORKGROUP - 1u)
        write_coefficients(row, rs);
}
