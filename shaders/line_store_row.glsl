/* A normalised line becomes a cache row: RoPE on the tail (spec 4.4), FQ8 scales (3.5), storing in the format of kv.glsl.
 * Include after rope.glsl, kv.glsl and line.glsl. */
void line_store_row(vec4 v, uvec2 table, uint position, uvec2 store, uint capacity, uint row) {
    uint d = 4u * invocation(), plain = HEAD_DIM - ROPE_DIM, scale = 0u;
    if (d >= plain && d < HEAD_DIM)
        v = rope_rotate(v, rope_angles(table, position, (d - plain) / 2u));
    if (NATIVE) {
        scale = fq8_scale(line_block_max(v, 16u));
        uint word = line_pack_scales(d < plain ? scale : 0u, 16u);
        if (d < plain && (d & 255u) == 0u)
            WordsOut(row_scales(store, capacity, row)).v[d >> 8] = word;
    }
    if (d < HEAD_DIM)
        row_store4(row_codes(store, row), d, v, scale);
}
