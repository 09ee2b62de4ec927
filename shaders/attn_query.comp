/* Queries and cache entries of an attention sublayer, spec 4.5 to 4.7:
 *   q[t] = W qr[t], W = [wq_b; indexer.wq_b]: N_HEADS heads of HEAD_DIM with head norm and RoPE, then with RATIO 4 index heads of
 *          INDEX_DIM with RoPE, Hadamard and FQ4
 *   row t of the step's row store = RoPE(RMSNorm(kv[t])), FQ8
 *   the compressed row, with RATIO 4 also the index key, of every row that completes a window
 * Workgroups (x, y) with y below ROWS * JOBS make entries of row y % ROWS of group x of rows; the others tile y of 32 outputs
 * times ROWS rows, and the last of a group to finish a tile of a head finishes the head. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "attn_query.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"
#include "matmul.glsl"
#include "reduce.glsl"

layout(constant_id = ATTN_QUERY_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = ATTN_QUERY_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512u;
layout(constant_id = ATTN_QUERY_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
layout(constant_id = ATTN_QUERY_CONSTANT_INDEX_DIM) const uint INDEX_DIM = 128u;
layout(constant_id = ATTN_QUERY_CONSTANT_N_HEADS) const uint N_HEADS = 64u;
layout(constant_id = ATTN_QUERY_CONSTANT_Q_RANK) const uint Q_RANK = 1024u;
layout(constant_id = ATTN_QUERY_CONSTANT_RATIO) const uint RATIO = 4u; /* 0, 4 or another multiple of 4 */
layout(constant_id = ATTN_QUERY_CONSTANT_RING_CAPACITY) const uint RING_CAPACITY = 16u;
layout(constant_id = ATTN_QUERY_CONSTANT_PAGE_CAPACITY) const uint PAGE_CAPACITY = 64u;
layout(constant_id = ATTN_QUERY_CONSTANT_EPS) const float EPS = 1e-6;
layout(constant_id = ATTN_QUERY_CONSTANT_BYTES) const bool BYTES = false;
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "line_store_row.glsl"
#include "query.glsl"
#include "kv_compress.glsl"

layout(push_constant, scalar) uniform Args { attn_query_args a; };

struct KvVectors { uvec2 kv_norm, ape, norm, index_ape, index_norm; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly restrict buffer Vectors { KvVectors v; };

const uint JOBS = RATIO == 0u ? 1u : RATIO == 4u ? 3u : 2u; /* entries a row may make: window row, compressed row, key */
const uint HEAD_TILES = HEAD_DIM / 32u, INDEX_TILES = INDEX_DIM / 32u;
const uint WORDS = (4u * Q_RANK >> TYPE) / 16u; /* of a weight row: 4, 2, 1 or 1/2 bytes a value */

/* The window row (job 0), the compressed row (1) or the index key (2) of a row, where it makes one. */
void make_entry(uint row, uint job) {
    const KvVectors v = Vectors(a.vectors).v;
    const bool index = RATIO == 4u && job == 2u; /* a constant where there are none */
    vec4 x = vec4(0.0);
    Entry entry;
    if (RATIO == 0u || job == 0u) {
        if (4u * invocation() < HEAD_DIM)
            x = Vec4s(add_product(a.kv, row, (Q_RANK + HEAD_DIM) * 4u)).v[Q_RANK / 4u + invocation()];
        entry = Entry(v.kv_norm, Rows(a.rows).v[row].position, a.store, a.n, row);
    } else {
        const uint keys_at = (RATIO == 4u ? 4u : 2u) * HEAD_DIM * 4u; /* behind K and S of the rows */
        const Compressor c = Compressor(a.rows, a.seqs, index ? add_bytes(a.ks, keys_at) : a.ks, index ? v.index_ape : v.ape,
                                        index ? v.index_norm : v.norm, a.ks_stride, index ? a.index_ring_offset : a.ring_offset,
                                        RING_CAPACITY, PAGE_CAPACITY, index ? a.keys_offset : a.rows_offset, index);
        if (!compress_completes(row, c))
            return;
        entry = compress_entry(row, c, x);
    }
    store_entry(x, entry, a.table, EPS, index);
}

void finish_head(uint first_row, uint rows, uint head) {
    const uint lane = invocation();
    const bool live = 4u * lane < HEAD_DIM;
    for (uint row = first_row; row < first_row + rows; row++) {
        SharedVec4s q = SharedVec4s(add_product(a.q, row, a.n_out * 4u));
        vec4 v = vec4(0.0);
        if (live)
            v = q.v[head * (HEAD_DIM / 4u) + lane];
        v = head_norm_rope(v, a.table, Rows(a.rows).v[row].position, EPS);
        if (live)
            q.v[head * (HEAD_DIM / 4u) + lane] = v;
    }
}

/* As many rows at a time as the workgroup has room for. */
void finish_index_head(uint first_row, uint rows, uint head) {
    const uint quads = INDEX_DIM / 4u, quad = invocation() % quads;
    for (uint first = 0u; first < rows; first += WORKGROUP / quads) {
        const uint r = first + invocation() / quads, row = first_row + min(r, rows - 1u);
        const uvec2 q = add_bytes(add_product(a.q, row, a.n_out * 4u), (N_HEADS * HEAD_DIM + head * INDEX_DIM) * 4u);
        index_query(q, r < rows, SharedVec4s(q).v[quad], 4u * quad, a.table, Rows(a.rows).v[row].position);
    }
}

void main() {
    const uint first_row = gl_WorkGroupID.x * ROWS, rows = min(ROWS, a.n - first_row);
    if (gl_WorkGroupID.y < ROWS * JOBS) {
        const uint row = first_row + gl_WorkGroupID.y % ROWS, job = gl_WorkGroupID.y / ROWS;
        if (row >= a.n)
            return;
        make_entry(row, job);
        return;
    }

    const uint tile = gl_WorkGroupID.y - ROWS * JOBS;
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = min(first_row + r, a.n - 1u) * (Q_RANK / 4u);
    vec4 sums[MAX_ROWS];
    multiply(TYPE, a.w, add_bytes(a.w, a.scales), tile, WORDS, a.qr, x_at, sums);
    const uint r = invocation() / 32u, column = tile * 32u + invocation() % 32u;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        if (r < PASS_ROWS && column < a.n_out && first + r < rows)
            SharedFloats(add_product(a.q, first_row + first + r, a.n_out * 4u)).v[column] = row_total(r, column % 32u);
    }

    const bool index = RATIO == 4u && tile >= N_HEADS * HEAD_TILES;
    const uint head = index ? (tile - N_HEADS * HEAD_TILES) / INDEX_TILES : tile / HEAD_TILES;
    const uint heads = N_HEADS + (a.n_out - N_HEADS * HEAD_DIM) / INDEX_DIM;
    const uint counter = gl_WorkGroupID.x * heads + head + (index ? N_HEADS : 0u);
    if (!last_workgroup(add_bytes(a.counters, counter * 4u), index ? INDEX_TILES : HEAD_TILES))
        return;
    if (index)
        finish_index_head(first_row, rows, head);
    else
        finish_head(first_row, rows, head);
}
