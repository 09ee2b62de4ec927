/* The compressor, spec 4.6: entry j of a sequence pools the K rows of its window of RATIO tokens (ratio 4: and of the window
 * before), weighted per channel by a softmax over the rows of S + ape:
 *   P[c] = sum_u softmax_u(S[u][c] + ape[u % RATIO][c]) * K[u][c]
 * ratio 4: rows are 2 width wide, the window before contributes channels [0, width), the current one [width, 2 width).
 * Then RMSNorm, RoPE at j * RATIO, and a cache row (FQ8; width HEAD_DIM) or an index key (Hadamard, FQ4; width INDEX_DIM) of the
 * sequence's page. K and S of this step's tokens come from `ks`, those of earlier ones from the ring in the sequence's state.
 * Include after rope.glsl, kv.glsl, line.glsl and line_store_row.glsl, with RATIO defined. */

const bool OVERLAP = RATIO == 4u;

struct Compressor {
    uvec2 rows, seqs;
    uvec2 ks;           /* f32 [n, ks_stride]: K [w], S [w] */
    uvec2 ape, norm;    /* f32 [RATIO, w], [width] */
    uint ks_stride;
    uint ring_offset, ring_capacity; /* f32 [ring_capacity][2 w] in the state */
    uint page_capacity, page_offset; /* entries per page, bytes */
    bool index;         /* a key, not a row */
};

uint compress_width(const Compressor c) { return c.index ? INDEX_DIM : HEAD_DIM; }
uint compress_quads(const Compressor c) { return (OVERLAP ? 2u : 1u) * compress_width(c) / 4u; } /* vec4 per row of K */

/* What a workgroup pools: the token of row t at `position` completes the window. */
struct Window {
    uint t, position;
    Seq sequence;
};

/* K, then S of the token at position u. (The choice is between numbers: SwiftShader's compiler crashes on a choice
 * between pointers.) */
Vec4s compress_token(const Compressor c, const Window w, uint u) {
    uvec2 at = u >= w.sequence.start
                   ? add_product(c.ks, w.t - (w.position - u), c.ks_stride * 4u)
                   : add_product(add_bytes(w.sequence.state, c.ring_offset), u % c.ring_capacity, compress_quads(c) * 32u);
    return Vec4s(at);
}

/* Score of 4 channels of the token at u; tokens of the window before use the first half of the channels. */
uint compress_channel(const Compressor c, const Window w, uint u) {
    return invocation() + (OVERLAP && u + RATIO > w.position ? compress_width(c) / 4u : 0u);
}
vec4 compress_score(const Compressor c, const Window w, uint u) {
    uint channel = compress_channel(c, w, u), quads = compress_quads(c);
    return compress_token(c, w, u).v[quads + channel] + Vec4s(c.ape).v[u % RATIO * quads + channel];
}

vec4 exp4(vec4 v) { return vec4(exp_exact(v.x), exp_exact(v.y), exp_exact(v.z), exp_exact(v.w)); }

/* P of this invocation's 4 channels over tokens first .. position, in two passes: the maximum, then the weighted sum. Four
 * tokens at a time, to have their loads in flight together; RATIO is a multiple of 4. */
vec4 compress_pool(const Compressor c, const Window w, uint first) {
    vec4 best = compress_score(c, w, first);
    for (uint u = first; u < w.position; u += 4u)
        best = max(max(best, max(compress_score(c, w, u), compress_score(c, w, u + 1u))),
                   max(compress_score(c, w, u + 2u), compress_score(c, w, u + 3u)));
    vec4 sum = vec4(0.0), pooled = vec4(0.0);
    for (uint u = first; u < w.position; u += 4u) {
        vec4 weight[4], value[4];
        for (uint i = 0u; i < 4u; i++) {
            weight[i] = exp4(compress_score(c, w, u + i) - best);
            value[i] = compress_token(c, w, u + i).v[compress_channel(c, w, u + i)];
        }
        for (uint i = 0u; i < 4u; i++) {
            sum += weight[i];
            pooled += weight[i] * value[i];
        }
    }
    return pooled / sum;
}

/* Where a line goes, and the norm's weight and the position for RoPE before it is stored. */
struct Entry {
    uvec2 norm;          /* f32 [width] */
    uint position;
    uvec2 store;
    uint capacity, row;  /* entries in the store, and which of them */
};

void store_key(vec4 v, uvec2 table, const Entry e) {
    uint d = 4u * invocation(), plain = INDEX_DIM - ROPE_DIM;
    if (d >= plain && d < INDEX_DIM)
        v = rope_rotate(v, rope_angles(table, e.position, (d - plain) / 2u));
    v = line_hadamard(v, INDEX_DIM);
    uvec2 codes = key_codes(e.store, e.row);
    if (!NATIVE) {
        if (d < INDEX_DIM)
            Vec4sOut(codes).v[d >> 2] = v;
        return;
    }
    uint scale = fq4_scale(line_block_max(v, 8u));
    uint scales = line_pack_scales(d < INDEX_DIM ? scale : 0u, 8u);
    uint nibbles = line_pack_pair(key_nibbles4(v, scale));
    if (d >= INDEX_DIM)
        return;
    if ((d & 127u) == 0u)
        WordsOut(key_scales(e.store, e.capacity, e.row)).v[d >> 7] = scales;
    if ((d & 7u) == 0u)
        WordsOut(codes).v[d >> 3] = nibbles;
}

/* RMSNorm, RoPE and the store's format: a line becomes a cache row, or with `index` an index key. */
void store_entry(vec4 v, const Entry e, uvec2 table, float eps, bool index) {
    v = line_rms_norm(v, e.norm, index ? INDEX_DIM : HEAD_DIM, eps);
    if (index)
        store_key(v, table, e);
    else
        line_store_row(v, table, e.position, e.store, e.capacity, e.row);
}

bool compress_completes(uint t, const Compressor c) { return (Rows(c.rows).v[t].position + 1u) % RATIO == 0u; }

/* The entry of row t of the step, which completes its window, and in v its values before the norm. */
Entry compress_entry(uint t, const Compressor c, out vec4 v) {
    Row me = Rows(c.rows).v[t];
    Window w = Window(t, me.position, Seqs(c.seqs).v[me.sequence]);
    uint entry = w.position / RATIO, start = entry * RATIO;
    v = vec4(0.0);
    if (4u * invocation() < compress_width(c))
        v = compress_pool(c, w, OVERLAP && entry > 0u ? start - RATIO : start);
    return Entry(c.norm, start, add_bytes(Addrs(w.sequence.pages).v[entry / c.page_capacity], c.page_offset), c.page_capacity,
                 entry % c.page_capacity);
}
