/* Embedding, spec 4.1: result[t][copy][:] = table[token of t][:], BF16 to f32, `copies` identical copies.
 * One workgroup: 2048 values (x) of one row (y), eight per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "embed.h"
#include "memory.glsl"
#include "numbers.glsl"

layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform Args { embed_args a; };

void main() {
    const uint row = gl_WorkGroupID.y, i = gl_WorkGroupID.x * gl_WorkGroupSize.x + invocation();
    if (i >= a.dim / 8u)
        return;
    const uint token = min(Rows(a.rows).v[row].token, a.vocab - 1u);
    const uvec4 w = Words4(add_product(a.table, token, a.dim * 2u)).v[i];
    for (uint copy = 0u; copy < a.copies; copy++) {
        Vec4sOut result = Vec4sOut(add_product(a.result, row * a.copies + copy, a.dim * 4u));
        result.v[2u * i] = vec4(bf16_pair(w.x), bf16_pair(w.y));
        result.v[2u * i + 1u] = vec4(bf16_pair(w.z), bf16_pair(w.w));
    }
}
