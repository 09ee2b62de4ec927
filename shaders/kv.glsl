/* Rows of the KV cache and index keys in the layouts of ops.h ("row stores"): addresses, decoding, encoding.
 * Include after memory.glsl and numbers.glsl, with these defined as literals or specialization constants:
 *   NATIVE (bool)        true: e4m3 codes and a BF16 tail, e2m1 keys, ue8m0 scales; false: plain f32, nothing quantised
 *   HEAD_DIM, ROPE_DIM   of a row; HEAD_DIM - ROPE_DIM is a multiple of 64, ROPE_DIM of 16
 *   INDEX_DIM            of a key, a multiple of 32
 * A row index that comes from memory is clamped by the caller. */

/* ---- rows ---- */

uint row_code_bytes() { return NATIVE ? HEAD_DIM + ROPE_DIM : 4u * HEAD_DIM; }
uint row_scale_bytes() { return NATIVE ? ((HEAD_DIM - ROPE_DIM) / 64u + 3u) & ~3u : 0u; }

/* Address of the codes (or floats) of a row, and of its scales (native only). A store is smaller than 4 GiB. */
uvec2 row_codes(uvec2 store, uint row) { return add_bytes(store, row * row_code_bytes()); }
uvec2 row_scales(uvec2 store, uint capacity, uint row) {
    return add_bytes(store, capacity * row_code_bytes() + row * row_scale_bytes());
}

/* All scales of a row, which has at most 512 values. */
uvec2 row_scale_words(uvec2 scales) {
    if (!NATIVE)
        return uvec2(0u);
    Words words = Words(scales);
    return uvec2(words.v[0], row_scale_bytes() > 4u ? words.v[1] : 0u);
}
/* The ue8m0 byte of the 64 codes around value d < HEAD_DIM - ROPE_DIM. */
uint row_scale(uvec2 words, uint d) { return ((d < 256u ? words.x : words.y) >> ((d >> 6 & 3u) * 8u)) & 0xffu; }

/* 16 consecutive values from value d (a multiple of 16) on: one, two or four 16-byte loads. */
void row_load16(uvec2 codes, uvec2 scale_words, uint d, out vec4 v[4]) {
    if (!NATIVE) {
        for (uint i = 0u; i < 4u; i++)
            v[i] = Vec4s(codes).v[(d >> 2) + i];
    } else if (d < HEAD_DIM - ROPE_DIM) {
        uvec4 w = Words4(codes).v[d >> 4];
        float scale = ue8m0(row_scale(scale_words, d)) * E4M3_UNIT;
        v[0] = e4m3_word(w.x) * scale;
        v[1] = e4m3_word(w.y) * scale;
        v[2] = e4m3_word(w.z) * scale;
        v[3] = e4m3_word(w.w) * scale;
    } else {
        uint at = (2u * d - (HEAD_DIM - ROPE_DIM)) >> 4;
        uvec4 a = Words4(codes).v[at], b = Words4(codes).v[at + 1u];
        v[0] = vec4(bf16_pair(a.x), bf16_pair(a.y));
        v[1] = vec4(bf16_pair(a.z), bf16_pair(a.w));
        v[2] = vec4(bf16_pair(b.x), bf16_pair(b.y));
        v[3] = vec4(bf16_pair(b.z), bf16_pair(b.w));
    }
}

/* 4 consecutive values from value d (a multiple of 4) on, in two steps, so that the loads of several rows can be on their way
 * before the first is decoded. All zero decodes to zeros. */
uvec4 row_fetch4(uvec2 codes, uvec2 scale_words, uint d) {
    if (!NATIVE)
        return floatBitsToUint(Vec4s(codes).v[d >> 2]);
    if (d < HEAD_DIM - ROPE_DIM)
        return uvec4(Words(codes).v[d >> 2], row_scale(scale_words, d), 0u, 0u);
    uint at = (2u * d - (HEAD_DIM - ROPE_DIM)) >> 2;
    return uvec4(Words(codes).v[at], Words(codes).v[at + 1u], 0u, 0u);
}
vec4 row_decode4(uvec4 raw, uint d) {
    if (!NATIVE)
        return uintBitsToFloat(raw);
    if (d < HEAD_DIM - ROPE_DIM)
        return e4m3_word(raw.x) * (ue8m0(raw.y) * E4M3_UNIT);
    return vec4(bf16_pair(raw.x), bf16_pair(raw.y));
}

/* The inverse: 4 values from value d on; `scale` is the ue8m0 byte of their block of 64 (not read for the tail). */
void row_store4(uvec2 codes, uint d, vec4 v, uint scale) {
    if (!NATIVE) {
        Vec4sOut(codes).v[d >> 2] = v;
    } else if (d < HEAD_DIM - ROPE_DIM) {
        vec4 q = v * exp2_int(127 - int(scale));
        WordsOut(codes).v[d >> 2] =
            e4m3_bits(q.x) | e4m3_bits(q.y) << 8 | e4m3_bits(q.z) << 16 | e4m3_bits(q.w) << 24;
    } else {
        uint at = (2u * d - (HEAD_DIM - ROPE_DIM)) >> 2;
        WordsOut(codes).v[at] = bf16_bits(v.x) | bf16_bits(v.y) << 16;
        WordsOut(codes).v[at + 1u] = bf16_bits(v.z) | bf16_bits(v.w) << 16;
    }
}

/* ---- index keys ---- */

uint key_code_bytes() { return NATIVE ? INDEX_DIM / 2u : 4u * INDEX_DIM; }
uint key_scale_bytes() { return NATIVE ? (INDEX_DIM / 32u + 3u) & ~3u : 0u; }

uvec2 key_codes(uvec2 store, uint row) { return add_bytes(store, row * key_code_bytes()); }
uvec2 key_scales(uvec2 store, uint capacity, uint row) {
    return add_bytes(store, capacity * key_code_bytes() + row * key_scale_bytes());
}

/* 32 consecutive values, number `block` of the key: one block of FQ4, one 16-byte word, one scale; f32: eight words. */
void key_load32(uvec2 codes, uvec2 scales, uint block, out vec4 v[8]) {
    if (!NATIVE) {
        for (uint i = 0u; i < 8u; i++)
            v[i] = Vec4s(codes).v[block * 8u + i];
        return;
    }
    uvec4 w = Words4(codes).v[block];
    float scale = ue8m0((Words(scales).v[block >> 2] >> ((block & 3u) * 8u)) & 0xffu) * E2M1_UNIT;
    e2m1_word(w.x, v[0], v[1]);
    e2m1_word(w.y, v[2], v[3]);
    e2m1_word(w.z, v[4], v[5]);
    e2m1_word(w.w, v[6], v[7]);
    for (uint i = 0u; i < 8u; i++)
        v[i] *= scale;
}

/* The e2m1 codes in the low nibbles of four bytes, as signed bytes of twice their values: 0, 1, 2, 3, 4, 6, 8, 12. All four at once: no
 * byte's sum leaves it, as the sign is applied to 128 + value, whose top bit then turns over. */
uint e2m1_bytes(uint codes) {
    const uint high = codes >> 2 & 0x01010101u;         /* codes of 4 and more: low is what they are above 4 */
    const uint low = codes & high * 3u;
    const uint size = (codes & 0x07070707u) + low + (low & low << 1 & 0x02020202u);
    const uint negative = ((codes & 0x08080808u) << 5) - ((codes & 0x08080808u) >> 3); /* 0xff or 0 */
    return (0x80808080u + size - ((size & negative) << 1)) ^ 0x80808080u;
}

/* A block of 32 values of a native key as bytes: of eight values in turn those with even numbers, then those with odd ones, four in a
 * word, twice their values without the scale of their block. */
void key_bytes32(uvec2 codes, uint block, out uint bytes[8]) {
    const uvec4 w = Words4(codes).v[block];
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        bytes[2u * i] = e2m1_bytes(w[i]);
        bytes[2u * i + 1u] = e2m1_bytes(w[i] >> 4);
    }
}
float key_bytes_scale(uvec2 scales, uint block) { return 0.5 * ue8m0((Words(scales).v[block >> 2] >> ((block & 3u) * 8u)) & 0xffu); }

/* Four values as e2m1 nibbles, the first lowest; `scale` is the ue8m0 byte of their block of 32. */
uint key_nibbles4(vec4 v, uint scale) {
    vec4 q = v * exp2_int(127 - int(scale));
    return e2m1_bits(q.x) | e2m1_bits(q.y) << 4 | e2m1_bits(q.z) << 8 | e2m1_bits(q.w) << 12;
}
