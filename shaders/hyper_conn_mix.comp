/* Hyper-connections, spec 4.3, first half: optional HC-post, then the reductions of the next HC-pre.
 *   X'[t][k][d] = post[t][k] * y[t][d] + sum_j comb[t][j][k] * X[t][j][d]
 *   partials[t][chunk][m] = sum_{d in chunk, k} fn[m][k * dim + d] * X'[t][k][d];  [N_MIX]: the sum of X'^2
 * X [n, 4, dim], fn [N_MIX, 4 * dim], partials [n, chunks, N_MIX + 1]. Workgroup (c, g) does chunk c of rows g * ROWS ..:
 * every invocation owns 4 values of d, keeps their 4 streams of each row in registers and reads fn once for all rows.
 * Additions are in a fixed order and never fused, so that a row's result is the same in every variant: drivers choose the
 * subgroup size for every pipeline, so subgroupAdd, whose order follows it, would not do. X may be mixed in place. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(local_size_x = 64) in;
#include "memory.glsl"
#include "hyper_conn_mix.h"
#include "streams.glsl"

layout(constant_id = MIX_CONSTANT_N_MIX) const uint N_MIX = 24u;
layout(constant_id = MIX_CONSTANT_ROWS) const uint ROWS = 4u;

const uint FETCH = ROWS == 1u ? 4u : 1u; /* mixes (4 or 24) whose weights are on their way at once: one row waits for nothing else */

layout(push_constant, scalar) uniform Args { hyper_conn_mix_args a; };

#define WORKGROUP 64u
#define PARTS (WORKGROUP / 4u) /* of a sum: four invocations each, which every subgroup has */
const uint SUMS = ROWS * (N_MIX + 1u);
shared float part[PARTS * SUMS]; /* a part's sums side by side: neighbours in the end read neighbours */

Streams load_streams(uint row, uint d4) {
    StreamsInOut x = StreamsInOut(add_product(a.x_in, row, a.dim * 16u));
    Streams s;
    for (uint k = 0u; k < 4u; k++)
        s.k[k] = x.v[k * (a.dim >> 2) + d4];
    return s;
}

/* The weights of mix m for the 4 streams. */
Streams load_fn(uint m, uint d4) {
    Vec4s fn = Vec4s(add_product(a.fn, m, a.dim * 16u));
    Streams s;
    for (uint k = 0u; k < 4u; k++)
        s.k[k] = fn.v[k * (a.dim >> 2) + d4];
    return s;
}

/* Part i of y; rows beyond the last repeat it. */
vec4 load_part(uint row, uint i, uint d4) {
    return Vec4s(add_product(a.y, min(row, a.n - 1u), a.n_parts * a.dim * 4u)).v[i * (a.dim >> 2) + d4];
}

Streams hyper_conn_post(Streams x, vec4 y, uint row) {
    uint coefficients = a.same_coefficients != 0u ? 0u : row;
    Vec4s comb = Vec4s(add_product(a.comb, coefficients, 64u));
    vec4 post = Vec4s(a.post).v[coefficients];
    Streams mixed;
    for (uint k = 0u; k < 4u; k++)
        mixed.k[k] = post_stream(x, y, post[k], vec4(comb.v[0][k], comb.v[1][k], comb.v[2][k], comb.v[3][k]));
    return mixed;
}

void store_streams(Streams x, uint row, uint d4) {
    StreamsInOut result = StreamsInOut(add_product(a.x_out, row, a.dim * 16u));
    for (uint k = 0u; k < 4u; k++)
        result.v[k * (a.dim >> 2) + d4] = x.k[k];
}

void keep_sum(uint row, uint m, float x) {
    x += subgroupShuffleXor(x, 1u);
    x += subgroupShuffleXor(x, 2u);
    if (invocation() % 4u == 0u)
        part[invocation() / 4u * SUMS + row * (N_MIX + 1u) + m] = x;
}

void main() {
    uint chunk = gl_WorkGroupID.x, first = gl_WorkGroupID.y * ROWS, lane = invocation();
    uint d4 = chunk * (MIX_CHUNK / 4u) + lane;
    bool live = d4 < a.dim >> 2;
    const Streams zero = Streams(vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0)));

    /* Loops over rows are unrolled, with no loop of unknown length in them: their arrays live in registers. */
    precise vec4 y[ROWS]; /* the sum of the parts of y */
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        y[r] = vec4(0.0);
    if (live && !is_null(a.y)) {
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            y[r] = load_part(first + r, 0u, d4);
        for (uint i = 1u; i < a.n_parts; i++)
            [[unroll]] for (uint r = 0u; r < ROWS; r++)
                y[r] += load_part(first + r, i, d4);
    }
    Streams x[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        x[r] = zero;
        if (live && first + r < a.n)
            x[r] = load_streams(first + r, d4);
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        if (live && first + r < a.n && !is_null(a.y)) {
            x[r] = hyper_conn_post(x[r], y[r], first + r);
            store_streams(x[r], first + r, d4);
        }
    for (uint m = 0u; m < N_MIX; m += FETCH) {
        Streams f[FETCH];
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            f[u] = zero;
        if (live)
            [[unroll]] for (uint u = 0u; u < FETCH; u++)
                f[u] = load_fn(m + u, d4);
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            [[unroll]] for (uint r = 0u; r < ROWS; r++)
                keep_sum(r, m + u, product(f[u], x[r]));
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        keep_sum(r, N_MIX, product(x[r], x[r]));
    barrier();

    for (uint i = lane; i < SUMS; i += WORKGROUP) {
        uint row = first + i / (N_MIX + 1u), m = i % (N_MIX + 1u);
        precise float total = part[i] + part[SUMS + i];
        [[unroll]] for (uint s = 2u; s < PARTS; s += 2u) /* tile by tile of 32 values of d: hyper_conn_end.glsl makes single tiles */
            total += part[s * SUMS + i] + part[(s + 1u) * SUMS + i];
        if (row < a.n)
            FloatsOut(a.partials).v[(row * gl_NumWorkGroups.x + chunk) * (N_MIX + 1u) + m] = total;
    }
}
