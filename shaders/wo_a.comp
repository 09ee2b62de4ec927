/* First half of the output projection, spec 4.9, and step 5 of 4.12, for which nothing waits any more once attention is done:
 *   result[t][o] = sum_i x[t][g][i] * w[o][i],  g = o / (32 GROUP_TILES)
 *   window row, K and S of every row into the rings of its sequence
 * Workgroups (x, y) with y below ROWS * RINGS copy row y % ROWS of group x of rows; the others tile y of 32 outputs times ROWS
 * rows. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "wo_a.h"
#include "ring_store.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "matmul.glsl"
#include "ring_store.glsl"

layout(constant_id = WO_A_CONSTANT_N_IN) const uint N_IN = 4096u;
layout(constant_id = WO_A_CONSTANT_GROUP_TILES) const uint GROUP_TILES = 32u;
layout(constant_id = WO_A_CONSTANT_CODE_BYTES) const uint CODE_BYTES = 576u;
layout(constant_id = WO_A_CONSTANT_SCALE_BYTES) const uint SCALE_BYTES = 8u;
layout(constant_id = WO_A_CONSTANT_WINDOW_CAPACITY) const uint WINDOW_CAPACITY = 136u;
layout(constant_id = WO_A_CONSTANT_KS_BYTES) const uint KS_BYTES = 0u;
layout(constant_id = WO_A_CONSTANT_INDEX_KS_BYTES) const uint INDEX_KS_BYTES = 0u;
layout(constant_id = WO_A_CONSTANT_KS_CAPACITY) const uint KS_CAPACITY = 16u;
layout(push_constant, scalar) uniform Args { wo_a_args a; };

const uint RINGS = 2u + (KS_BYTES > 0u ? 1u : 0u) + (INDEX_KS_BYTES > 0u ? 1u : 0u);
const uint WORDS = (4u * N_IN >> TYPE) / 16u; /* of a weight row: 4, 2, 1 or 1/2 bytes a value */

void store_ring(uint row, uint ring) {
    if (ring == 0u)
        ring_store_row(row, a.rows, a.seqs, ring_store_item(a.store, CODE_BYTES, CODE_BYTES, a.window_offset, WINDOW_CAPACITY));
    else if (ring == 1u)
        ring_store_row(row, a.rows, a.seqs, ring_store_item(add_bytes(a.store, a.n * CODE_BYTES), SCALE_BYTES, SCALE_BYTES,
                                                            a.window_offset + WINDOW_CAPACITY * CODE_BYTES, WINDOW_CAPACITY));
    else if (ring == 2u)
        ring_store_row(row, a.rows, a.seqs, ring_store_item(a.ks, a.ks_stride * 4u, KS_BYTES, a.ring_offset, KS_CAPACITY));
    else
        ring_store_row(row, a.rows, a.seqs, ring_store_item(add_bytes(a.ks, KS_BYTES), a.ks_stride * 4u, INDEX_KS_BYTES,
                                                            a.index_ring_offset, KS_CAPACITY));
}

void main() {
    const uint first_row = gl_WorkGroupID.x * ROWS;
    if (gl_WorkGroupID.y < ROWS * RINGS) {
        const uint row = first_row + gl_WorkGroupID.y % ROWS;
        if (row < a.n)
            store_ring(row, gl_WorkGroupID.y / ROWS);
        return;
    }
    const uint tile = gl_WorkGroupID.y - ROWS * RINGS, groups = a.n_out / (32u * GROUP_TILES);
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = (min(first_row + r, a.n - 1u) * groups + tile / GROUP_TILES) * (N_IN / 4u);
    vec4 sums[MAX_ROWS];
    multiply(TYPE, a.w, add_bytes(a.w, a.scales), tile, WORDS, a.x, x_at, sums);
    const uint r = invocation() / 32u, column = tile * 32u + invocation() % 32u;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        if (r < PASS_ROWS && column < a.n_out && first_row + first + r < a.n)
            FloatsOut(a.result).v[(first_row + first + r) * a.n_out + column] = row_total(r, column % 32u);
    }
}
