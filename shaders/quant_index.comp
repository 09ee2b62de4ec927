/* Index queries, spec 4.7, in place: RoPE on the last ROPE_DIM values of each index head, Hadamard over the head (3.7), and in
 * the native format FQ4 (3.6, blocks of 32), as f32 or as byte queries (ops.h). iq [n, iq_stride], n_heads * INDEX_DIM values
 * used per row. Workgroup (g, t) does the heads of row t that its values cover, 4 in each invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "quant_index.h"
layout(local_size_x = 128, local_size_x_id = QUANT_INDEX_CONSTANT_WORKGROUP) in;
layout(constant_id = QUANT_INDEX_CONSTANT_WORKGROUP) const uint WORKGROUP = 128u;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"

layout(constant_id = QUANT_INDEX_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = QUANT_INDEX_CONSTANT_INDEX_DIM) const uint INDEX_DIM = 128u;
layout(constant_id = QUANT_INDEX_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
layout(constant_id = QUANT_INDEX_CONSTANT_BYTES) const bool BYTES = false;
#define HEAD_DIM 512u
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "query.glsl"

layout(push_constant, scalar) uniform Args { quant_index_args a; };

void main() {
    uint row = gl_WorkGroupID.y, at = gl_WorkGroupID.x * WORKGROUP + invocation();
    bool live = 4u * at < a.n_heads * INDEX_DIM;
    uvec2 iq = add_product(a.iq, row, a.iq_stride * 4u);
    vec4 v = vec4(0.0);
    if (live)
        v = Vec4sInOut(iq).v[at];
    uint d = 4u * at % INDEX_DIM;
    index_query(add_bytes(iq, (4u * at - d) * 4u), live, v, d, a.table, Rows(a.rows).v[row].position);
}
