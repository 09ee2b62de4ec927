/* What sparse_attn.comp and sparse_attn_coopmat.comp share: the list of rows of a token, window positions max(0, pos - window + 1)
 * .. pos, then compressed entries, or of several. Include after sparse_attn.h, memory.glsl and numbers.glsl. */
layout(constant_id = SPARSE_ATTN_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512;
layout(constant_id = SPARSE_ATTN_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64;
layout(constant_id = SPARSE_ATTN_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = SPARSE_ATTN_CONSTANT_HEADS) const uint HEADS = 16; /* of a workgroup, each of its tokens */
const uint INDEX_DIM = 128; /* kv.glsl wants one */
#include "kv.glsl"
#include "rope.glsl"

layout(push_constant, scalar) uniform Args { sparse_attn_args a; };

/* 2^d for d <= 0 */
float pow2(int d) { return d < -126 ? 0.0 : exp2_int(d); }

/* The rows that n tokens from t on, of one sequence, attend to: those of their windows, then compressed entries, at ratio 4 as many for
 * each of the tokens in turn. */
struct List {
    Row row; /* of token t */
    Seq seq;
    uint t, n, window_rows, taken, count; /* taken: entries, at ratio 4 of a token */
};

List list_rows(uint t, uint n) {
    List l;
    l.row = Rows(a.rows).v[t];
    l.seq = Seqs(a.seqs).v[l.row.sequence];
    l.t = t;
    l.n = n;
    l.window_rows = min(l.row.position + 1u, a.window) + n - 1u;
    l.taken = a.ratio == 0u ? 0u : (l.row.position + n) / a.ratio;
    if (a.ratio == 4u)
        l.taken = min(l.taken, a.k);
    l.count = l.window_rows + (a.ratio == 4u ? n : 1u) * l.taken;
    return l;
}

/* Where row i of the list lies, and which of the tokens have it: number first of them and following ones before number end. In the
 * place of one that does not exist stands token t's own row, which can be read, and whose values times p = 0 change nothing. */
uvec4 find_row(List l, uint i, out uint first, out uint end) {
    uint position = l.row.position, entry = 0u;
    bool compressed = false;
    first = 0u;
    end = 0u;
    if (i < l.window_rows) {
        position = l.row.position + l.n - l.window_rows + i;
        first = position - min(position, l.row.position);
        end = min(position + a.window - l.row.position, l.n);
    } else if (i < l.count && a.ratio == 4u) {
        first = (i - l.window_rows) / l.taken;
        const uint at = (i - l.window_rows) % l.taken, visible = (l.row.position + first + 1u) / 4u;
        entry = Words(add_product(a.idx, l.t + first, a.k * 4u)).v[at];
        compressed = at < visible && entry < visible; /* -1: none */
        end = compressed ? first + 1u : first;
    } else if (i < l.count) {
        entry = i - l.window_rows;
        compressed = true;
        first = max((entry + 1u) * a.ratio, l.row.position + 1u) - (l.row.position + 1u);
        end = l.n;
    }
    uvec2 store;
    uint capacity, index;
    if (compressed) {
        capacity = a.page_tokens / a.ratio;
        store = add_bytes(Addrs(l.seq.pages).v[entry / capacity], a.page_offset);
        index = entry % capacity;
    } else if (position >= l.seq.start) {
        store = a.step_store;
        capacity = a.step_capacity;
        index = min(l.row.first + (position - l.seq.start), capacity - 1u);
    } else {
        store = add_bytes(l.seq.state, a.ring_offset);
        capacity = a.ring_capacity;
        index = position % capacity;
    }
    return uvec4(row_codes(store, index), row_scale_words(row_scales(store, capacity, index)));
}
