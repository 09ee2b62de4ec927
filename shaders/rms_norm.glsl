/* RMSNorm of a row by a whole workgroup, spec 4.2: result = weight * x / sqrt(mean(x^2) + eps) over `dim` values, a multiple of 4.
 * Include after memory.glsl and reduce.glsl. ACTIVATIONS is the type x is read through: Vec4s, or SharedVec4s (last.glsl) for
 * what the same dispatch has written. */
void rms_norm_row(uvec2 x_row, uvec2 weight, uvec2 result_row, uint dim, float eps) {
    uint lane = invocation(), n4 = dim >> 2;
    ACTIVATIONS x = ACTIVATIONS(x_row);
    Vec4sOut result = Vec4sOut(result_row);
    precise float squares = 0.0;
    for (uint i = lane; i < n4; i += WORKGROUP) {
        vec4 v = x.v[i];
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float factor = 1.0 / sqrt(reduce_sum(squares) / float(dim) + eps);
    for (uint i = lane; i < n4; i += WORKGROUP)
        result.v[i] = Vec4s(weight).v[i] * (x.v[i] * factor);
}
