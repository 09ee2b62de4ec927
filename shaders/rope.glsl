/* RoPE (spec 4.4) from the host-built tables of ops.h: f32 [positions][ROPE_DIM / 2][2] = (cos, sin) in pages of
 * DSVK_ROPE_PAGE positions. Include after types.h and memory.glsl, with ROPE_DIM (a multiple of 4) defined. The host bounds
 * positions. */

/* (cos, sin) of pairs i and i + 1, i even, at a position. */
vec4 rope_angles(uvec2 table, uint position, uint i) {
    uvec2 page = Addrs(table).v[position / DSVK_ROPE_PAGE];
    return Vec4s(page).v[(position % DSVK_ROPE_PAGE * ROPE_DIM + 2u * i) >> 2];
}

/* Two interleaved pairs turned by +theta, or by -theta: products and sums rounded one by one. */
vec4 rope_rotate(vec4 v, vec4 angles) {
    precise vec4 turned = vec4(v.x * angles.x - v.y * angles.y, v.x * angles.y + v.y * angles.x,
                               v.z * angles.z - v.w * angles.w, v.z * angles.w + v.w * angles.z);
    return turned;
}
vec4 rope_rotate_back(vec4 v, vec4 angles) { return rope_rotate(v, angles * vec4(1.0, -1.0, 1.0, -1.0)); }
