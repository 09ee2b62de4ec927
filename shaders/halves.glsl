/* Float32 values as halves for matrix units, which lose nothing that matters: a power of two brings the largest of a group into
 * [2^14, 2^15), and what a half cannot hold becomes a second one, x = (high + low) * grow(e). */
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

const uint HALF_TOP = 14u; /* the largest of scaled values is in [2^14, 2^15) */

/* The biased exponent of the largest finite magnitude. */
uint exponent_of(vec4 v) {
    uvec4 e = floatBitsToUint(v) >> 23u & 255u;
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        e[i] = e[i] == 255u ? 0u : e[i];
    return max(max(e.x, e.y), max(e.z, e.w));
}

/* Scaling by 2^-(e - 127 - HALF_TOP) for a largest biased exponent e, and back; both factors are normal numbers. */
float shrink(uint e) { return uintBitsToFloat(uint(clamp(254 + int(HALF_TOP) - int(e), 1, 254)) << 23); }
float grow(uint e) { return uintBitsToFloat(uint(clamp(int(e) - int(HALF_TOP), 1, 254)) << 23); }

uvec2 halves(vec4 v) { return uvec2(packFloat2x16(f16vec2(v.xy)), packFloat2x16(f16vec2(v.zw))); }

/* v rounded to the 11 bits of a half, in integers: compilers take a conversion there and back for nothing to do. */
vec4 half_part(vec4 v) {
    const uvec4 u = floatBitsToUint(v);
    return uintBitsToFloat(u + 0xfffu + (u >> 13u & 1u) & 0xffffe000u);
}
