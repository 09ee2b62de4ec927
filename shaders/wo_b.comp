/* End of an attention sublayer and begin of the FFN's, spec 4.9 and 4.3:
 *   y[t] = W x[t];  X[t] = HC-post(y[t]);  post, comb and result[t] = RMSNorm(HC-pre(X[t])) of the next site
 * W [DIM, N_IN]; y exists in shared memory only. Workgroup (x, y): tile y of 32 outputs times ROWS rows, their streams and their
 * share of the reductions; the last one of a group of rows makes the next site's input. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "wo_b.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"
#include "matmul.glsl"
#include "reduce.glsl"

layout(constant_id = WO_B_CONSTANT_N_IN) const uint N_IN = 8192u;
layout(constant_id = WO_B_CONSTANT_DIM) const uint DIM = 4096u;
layout(constant_id = WO_B_CONSTANT_SINKHORN) const uint SINKHORN = 20u;
layout(constant_id = WO_B_CONSTANT_EPS) const float EPS = 1e-6;
layout(constant_id = WO_B_CONSTANT_HC_EPS) const float HC_EPS = 1e-6;
const uint N_MIX = 24u, PIECES = MIX_CHUNK / 32u;
#define ACTIVATIONS SharedVec4s
#define REDUCTIONS SharedFloats
#include "streams.glsl"
#include "hyper_conn_pre.glsl"
#include "hyper_conn_end.glsl"

layout(push_constant, scalar) uniform Args { wo_b_args a; };

const uint WORDS = (4u * N_IN >> TYPE) / 16u; /* of a weight row: 4, 2, 1 or 1/2 bytes a value */

void main() {
    const uint first_row = gl_WorkGroupID.x * ROWS, rows = min(ROWS, a.n - first_row), tile = gl_WorkGroupID.y;
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = min(first_row + r, a.n - 1u) * (N_IN / 4u);
    vec4 sums[MAX_ROWS];
    multiply(TYPE, a.w, add_bytes(a.w, a.scales), tile, WORDS, a.x, x_at, sums);
    const uint r = invocation() / 32u, o = invocation() % 32u;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        if (r < PASS_ROWS)
            tile_y[(first + r) * 32u + o] = row_total(r, o);
    }
    const Site site = Sites(a.site).v;
    hyper_conn_end(first_row, rows, tile, a.streams, a.post, a.comb, site.fn, a.partials);
    if (!last_workgroup(add_bytes(a.counters, gl_WorkGroupID.x * 4u), DIM_TILES))
        return;
    const Coefficients c = Coefficients(a.streams, site.base, site.scale, site.norm, a.result, a.post, a.comb, SINKHORN, EPS, HC_EPS);
    for (uint row = first_row; row < first_row + rows; row++)
        hyper_conn_pre_row(c, a.partials, row, row);
}
