/* Head norm (spec 4.5: every head over all its values, no weight) and RoPE on the last ROPE_DIM values (4.4), in place.
 * q [n, q_stride], n_heads * HEAD_DIM values used per row. Workgroup (h, t) does head h of row t. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 64u
layout(local_size_x = 64) in;
#include "memory.glsl"
#include "reduce.glsl"
#include "rope.h"

layout(constant_id = ROPE_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512u;
layout(constant_id = ROPE_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
#include "rope.glsl"

layout(push_constant, scalar) uniform Args { rope_args a; };

void main() {
    uint head = gl_WorkGroupID.x, row = gl_WorkGroupID.y, lane = gl_LocalInvocationIndex;
    uint position = Rows(a.rows).v[row].position;
    Vec4sInOut q = Vec4sInOut(add_product(add_product(a.q, row, a.q_stride * 4u), head, HEAD_DIM * 4u));

    precise float squares = 0.0;
    for (uint i = lane; i < HEAD_DIM / 4u; i += WORKGROUP) {
        vec4 v = q.v[i];
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float factor = 1.0 / sqrt(reduce_sum(squares) / float(HEAD_DIM) + a.eps);
    for (uint i = lane; i < HEAD_DIM / 4u; i += WORKGROUP) {
        vec4 v = q.v[i] * factor;
        if (i * 4u >= HEAD_DIM - ROPE_DIM)
            v = rope_rotate(v, rope_angles(a.table, position, (i * 4u - (HEAD_DIM - ROPE_DIM)) / 2u));
        q.v[i] = v;
    }
}
