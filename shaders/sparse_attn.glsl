/* What sparse_attn.comp and sparse_attn_coopmat.comp share: the list of rows of a token, window positions max(0, pos - window + 1)
 * .. pos, then compressed entries. Include after sparse_attn.h, memory.glsl and numbers.glsl. */
layout(constant_id = SPARSE_ATTN_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512;
layout(constant_id = SPARSE_ATTN_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64;
layout(constant_id = SPARSE_ATTN_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = SPARSE_ATTN_CONSTANT_HEADS) const uint HEADS = 16; /* of a workgroup */
const uint INDEX_DIM = 128; /* kv.glsl wants one */
#include "kv.glsl"
#include "rope.glsl"

layout(push_constant, scalar) uniform Args { sparse_attn_args a; };

/* 2^d for d <= 0 */
float pow2(int d) { return d < -126 ? 0.0 : exp2_int(d); }

/* Rows of a token's list, of which the first window_rows are the window's. */
uint list_rows(Row row, uint window_rows) {
    if (a.ratio == 4u)
        return window_rows + min((row.position + 1u) / 4u, a.k);
    return window_rows + (a.ratio != 0u ? (row.position + 1u) / a.ratio : 0u);
}

/* Where row i of the token's list lies. In the place of one that does not exist stands the token's own row, which every list
 * has: it can be read, and its values times p = 0 change nothing. */
uvec4 find_row(Row row, Seq seq, uint i, uint window_rows, uint count, uint t, out uint live) {
    uint entry = i - window_rows;
    live = uint(i < count);
    if (i >= window_rows && i < count && a.ratio == 4u) {
        entry = Words(add_product(a.idx, t, a.k * 4u)).v[entry];
        live = uint(entry < (row.position + 1u) / 4u); /* -1: none */
    }
    uvec2 store;
    uint capacity, index, position = live == 0u ? row.position : row.position + 1u - window_rows + i;
    if (live != 0u && i >= window_rows) {
        capacity = a.page_tokens / a.ratio;
        store = add_bytes(Addrs(seq.pages).v[entry / capacity], a.page_offset);
        index = entry % capacity;
    } else if (position >= seq.start) {
        store = a.step_store;
        capacity = a.step_capacity;
        index = min(row.first + (position - seq.start), capacity - 1u);
    } else {
        store = add_bytes(seq.state, a.ring_offset);
        capacity = a.ring_capacity;
        index = position % capacity;
    }
    return uvec4(row_codes(store, index), row_scale_words(row_scales(store, capacity, index)));
}
