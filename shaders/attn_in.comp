/* Everything an attention sublayer projects from its normalised input, spec 4.5 and 4.6, and the norm of the query's latent:
 *   result[t]   = W x[t]     W = [wq_a; wkv]                   (Q_RANK + head_dim outputs)
 *   result_b[t] = W_b x[t]   W_b = all that feeds compressors and indexer weights; absent in layers without a ratio
 *   qr[t]       = RMSNorm(result[t][0 .. Q_RANK), norm)
 * Workgroup (x, y): tile y of 32 outputs, first those of W, then those of W_b, times ROWS rows. The last of a group of rows to
 * finish a tile of wq_a makes the norm. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attn_in.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"
#include "matmul.glsl"
#include "reduce.glsl"
#define ACTIVATIONS SharedVec4s
#include "rms_norm.glsl"

layout(constant_id = ATTN_IN_CONSTANT_Q_RANK) const uint Q_RANK = 1024u;
layout(push_constant, scalar) uniform Args { attn_in_args a; };

void main() {
    const uint tiles = (a.n_out + 31u) / 32u, first_row = gl_WorkGroupID.x * ROWS;
    const bool second = gl_WorkGroupID.y >= tiles;
    const uint tile = gl_WorkGroupID.y - (second ? tiles : 0u);
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = min(first_row + r, a.n - 1u) * (a.n_in / 4u);
    vec4 sums[MAX_ROWS];
    if (second)
        multiply(TYPE_B, a.w_b, add_bytes(a.w_b, a.scales_b), tile, a.words_b, a.x, x_at, sums);
    else
        multiply(TYPE, a.w, add_bytes(a.w, a.scales), tile, a.words, a.x, x_at, sums);

    const uint r = invocation() / 32u, o = invocation() % 32u, column = tile * 32u + o;
    SharedFloats result = SharedFloats(second ? a.result_b : a.result);
    const uint stride = second ? a.out_stride_b : a.out_stride, columns = second ? a.n_out_b : a.n_out;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        if (r < PASS_ROWS && column < columns && first_row + first + r < a.n)
            result.v[(first_row + first + r) * stride + column] = row_total(r, o);
    }

    if (second || tile >= Q_RANK / 32u || !last_workgroup(add_bytes(a.counters, gl_WorkGroupID.x * 4u), Q_RANK / 32u))
        return;
    for (uint row = first_row; row < min(first_row + ROWS, a.n); row++)
        rms_norm_row(add_product(a.result, row, a.out_stride * 4u), a.norm, add_product(a.qr, row, Q_RANK * 4u), Q_RANK, a.eps);
}
