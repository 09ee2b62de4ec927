/* Rows by index: result[i] = x[source[i]], or for source 0x80000000 | slot the f32 row in that slot of the ring at state_offset
 * in the state block of row i's sequence (the MTP block pairs a token with the streams before it, which an earlier step may
 * have left; spec 4.13).
 * x [n_in, dim], result [n, dim]. One workgroup: 1024 values (x) of one row (y), four per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "gather.h"
#include "memory.glsl"

layout(local_size_x = 256) in;
layout(push_constant, scalar) uniform Args { gather_args a; };

void main() {
    const uint row = gl_WorkGroupID.y, i = gl_WorkGroupID.x * gl_WorkGroupSize.x + invocation();
    if (i >= a.dim / 4u)
        return;
    const uint source = Words(a.source).v[row];
    uvec2 from = a.x;
    if ((source & 0x80000000u) != 0u)
        from = add_product(add_bytes(Seqs(a.seqs).v[Rows(a.rows).v[row].sequence].state, a.state_offset),
                           min(source & 0x7fffffffu, a.slots - 1u), a.dim * 4u);
    else
        from = add_product(a.x, min(source, a.n_in - 1u), a.dim * 4u);
    Vec4sOut(add_product(a.result, row, a.dim * 4u)).v[i] = Vec4s(from).v[i];
}
