/* What happens to the heads that wq_b makes, each spread over neighbouring invocations of a workgroup, 4 values in each. Include
 * after rope.glsl, kv.glsl and line.glsl. Every invocation calls. */

/* Head norm (spec 4.5: over all HEAD_DIM values of a head, no weight) and RoPE on the last ROPE_DIM (4.4). v: the head's values
 * 4 lane .. 4 lane + 3, zeros beyond HEAD_DIM. */
vec4 head_norm_rope(vec4 v, uvec2 table, uint position, float eps) {
    uint d = 4u * invocation(), plain = HEAD_DIM - ROPE_DIM;
    precise float squares = (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    v *= 1.0 / sqrt(reduce_sum(squares) / float(HEAD_DIM) + eps);
    if (d >= plain && d < HEAD_DIM)
        v = rope_rotate(v, rope_angles(table, position, (d - plain) / 2u));
    return v;
}

/* Index query (4.7): RoPE on the last ROPE_DIM values of a head, Hadamard over the head (3.7), and in the native format FQ4 (3.6,
 * blocks of 32). v: values d .. d + 3 of a head, which lies in memory at `head` and gets the result, where `live`; a workgroup holds
 * whole heads. The quantised values stay f32, or with BYTES become what ops.h calls byte queries. */
void index_query(uvec2 head, bool live, vec4 v, uint d, uvec2 table, uint position) {
    uint plain = INDEX_DIM - ROPE_DIM;
    if (d >= plain)
        v = rope_rotate(v, rope_angles(table, position, (d - plain) / 2u));
    v = line_hadamard(v, INDEX_DIM);
    if (NATIVE) {
        uint scale = fq4_scale(line_block_max(v, 8u)), nibbles = key_nibbles4(v, scale);
        if (BYTES) {
            /* A word holds every second of eight values: half of each of two neighbours. */
            const uint even = nibbles & 0x0f0fu, odd = nibbles >> 4 & 0x0f0fu;
            const bool second = (d & 4u) != 0u;
            const uint other = subgroupShuffleXor(second ? even : odd, 1u);
            if (!live)
                return;
            WordsOut(head).v[d / 4u] = e2m1_bytes(second ? other | odd << 16 : even | other << 16);
            if (d % 32u == 0u)
                FloatsOut(head).v[INDEX_DIM / 4u + d / 32u] = 0.5 * ue8m0(scale);
            return;
        }
        vec4 low, high;
        e2m1_word(nibbles, low, high);
        v = low * (E2M1_UNIT * ue8m0(scale));
    }
    if (live)
        Vec4sOut(head).v[d / 4u] = v;
}
