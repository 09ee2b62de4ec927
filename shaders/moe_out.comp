/* End of the mixture of experts and begin of the next sublayer, spec 4.10 and 4.3:
 *   y[t] = sum over slots of w2 of the slot's expert times h[pair] + shared w2 times h[t];  X[t] = HC-post(y[t])
 *   post, comb and result[t] = RMSNorm(HC-pre(X[t])) of the next site; before the head (N_MIX 4) only its reductions
 * Workgroup (x, y): tile y of 32 outputs times the pairs of tile x of pairs, or times ROWS rows of the shared expert. The last one
 * of a tile adds up the parts of every row in the order of slots and mixes the streams; the last of all tiles makes the next
 * site's input. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "moe_out.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"
#include "matmul.glsl"
#include "reduce.glsl"

layout(constant_id = MOE_OUT_CONSTANT_N_HIDDEN) const uint N_HIDDEN = 2048u;
layout(constant_id = MOE_OUT_CONSTANT_DIM) const uint DIM = 4096u;
layout(constant_id = MOE_OUT_CONSTANT_K) const uint K = 6u;
layout(constant_id = MOE_OUT_CONSTANT_N_EXPERTS) const uint N_EXPERTS = 256u;
layout(constant_id = MOE_OUT_CONSTANT_N_MIX) const uint N_MIX = 24u;
layout(constant_id = MOE_OUT_CONSTANT_SINKHORN) const uint SINKHORN = 20u;
layout(constant_id = MOE_OUT_CONSTANT_EPS) const float EPS = 1e-6;
layout(constant_id = MOE_OUT_CONSTANT_HC_EPS) const float HC_EPS = 1e-6;
const uint PIECES = MIX_CHUNK / 32u;
#define ACTIVATIONS SharedVec4s
#define REDUCTIONS SharedFloats
#include "streams.glsl"
#include "hyper_conn_pre.glsl"
#include "hyper_conn_end.glsl"

layout(push_constant, scalar) uniform Args { moe_out_args a; };

const uint WORDS = (4u * N_HIDDEN >> TYPE) / 16u, WORDS_B = (4u * N_HIDDEN >> TYPE_B) / 16u; /* of a weight row */

uvec2 add64(uvec2 x, uvec2 y) { return add_bytes(x, y.x) + uvec2(0u, y.y); }

uint pair_at(uint place) { return min(Words(a.pairs).v[min(place, a.n * K - 1u)], a.n * K - 1u); }

/* The parts of tile y that this workgroup makes, into y. */
void make_parts(uint tile) {
    const bool shared_expert = gl_WorkGroupID.x >= a.max_tiles;
    const uint first_row = (gl_WorkGroupID.x - a.max_tiles) * ROWS;
    const uvec4 job = Words4(a.tiles).v[min(gl_WorkGroupID.x, a.max_tiles - 1u)];
    const uint count = shared_expert ? min(ROWS, a.n - first_row) : min(job.z, ROWS);
    if (count == 0u) /* the same for the whole workgroup */
        return;
    uint pair[MAX_ROWS], x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) { /* places beyond the last repeat it and are not stored */
        const uint i = min(r, count - 1u);
        pair[r] = shared_expert ? (first_row + i) * (K + 1u) + K : pair_at(job.y + i);
        x_at[r] = (shared_expert ? a.n * K + first_row + i : pair[r]) * (N_HIDDEN / 4u);
        if (!shared_expert)
            pair[r] = pair[r] / K * (K + 1u) + pair[r] % K; /* now the part */
    }
    vec4 sums[MAX_ROWS];
    if (shared_expert) {
        multiply(TYPE_B, a.shared_down, add_bytes(a.shared_down, a.shared_scales), tile, WORDS_B, a.h, x_at, sums);
    } else {
        const uvec2 codes = add64(Addrs(a.experts).v[min(job.x, N_EXPERTS - 1u)], a.offset);
        multiply(TYPE, codes, add_bytes(codes, a.scales), tile, WORDS, a.h, x_at, sums);
    }
    const uint r = invocation() / 32u, o = invocation() % 32u;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        [[unroll]] for (uint i = 0u; i < PASS_ROWS; i++) /* constant indices: the array stays in registers */
            if (r == i && first + i < count)
                SharedFloats(add_product(a.y, pair[first + i], DIM * 4u)).v[tile * 32u + o] = row_total(i, o);
    }
}

/* Rows first .. first + count - 1 of the tile into tile_y. */
void add_parts(uint first, uint count, uint tile) {
    [[unroll]] for (uint pass = 0u; pass < MAX_ROWS; pass += ROWS_AT_A_TIME) {
        const uint r = pass + invocation() / 32u, o = invocation() % 32u, row = first + min(r, count - 1u);
        if (pass > 0u && r >= count)
            break;
        float part[K + 1u];
        [[unroll]] for (uint slot = 0u; slot <= K; slot++)
            part[slot] = SharedFloats(add_product(a.y, row * (K + 1u) + slot, DIM * 4u)).v[tile * 32u + o];
        precise float sum = part[0];
        [[unroll]] for (uint slot = 1u; slot <= K; slot++)
            sum += part[slot];
        tile_y[r * 32u + o] = sum;
    }
}

void main() {
    const uint tile = gl_WorkGroupID.y;
    make_parts(tile);
    if (!last_workgroup(add_bytes(a.counters, tile * 4u), gl_NumWorkGroups.x))
        return;
    const Site site = Sites(a.site).v;
    const Coefficients c = Coefficients(a.streams, site.base, site.scale, site.norm, a.result, a.post, a.comb, SINKHORN, EPS, HC_EPS);
    const uint groups = (a.n + MAX_ROWS - 1u) / MAX_ROWS;
    for (uint i = 0u; i < groups; i++) {
        const uint group = (i + tile) % groups, first = group * MAX_ROWS, count = min(MAX_ROWS, a.n - first); /* tiles spread */
        add_parts(first, count, tile);
        hyper_conn_end(first, count, tile, a.streams, a.post, a.comb, site.fn, a.partials);
        if (N_MIX > 4u && last_workgroup(add_bytes(a.counters, (DIM_TILES + group) * 4u), DIM_TILES))
            for (uint row = first; row < first + count; row++)
                hyper_conn_pre_row(c, a.partials, row, row);
    }
}
