/* Head norm (spec 4.5: every head over all its values, no weight) and RoPE on the last ROPE_DIM values (4.4), in place.
 * q [n, q_stride], n_heads * HEAD_DIM values used per row, HEAD_DIM at most 512. Workgroup (h, t) does head h of row t, 4
 * values per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "rope.h"
layout(local_size_x = 128, local_size_x_id = ROPE_CONSTANT_WORKGROUP) in;
layout(constant_id = ROPE_CONSTANT_WORKGROUP) const uint WORKGROUP = 128u;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"

layout(constant_id = ROPE_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512u;
layout(constant_id = ROPE_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
#define INDEX_DIM 128u
#define NATIVE false
#define BYTES false
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "query.glsl"

layout(push_constant, scalar) uniform Args { rope_args a; };

void main() {
    uint head = gl_WorkGroupID.x, row = gl_WorkGroupID.y, lane = invocation();
    Vec4sInOut q = Vec4sInOut(add_product(add_product(a.q, row, a.q_stride * 4u), head, HEAD_DIM * 4u));
    bool live = 4u * lane < HEAD_DIM;
    vec4 v = vec4(0.0);
    if (live)
        v = q.v[lane];
    v = head_norm_rope(v, a.table, Rows(a.rows).v[row].position, a.eps);
    if (live)
        q.v[lane] = v;
}
