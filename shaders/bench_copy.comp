/* Copies memory, to measure how fast a kernel can: result[i] = source[i], 16 bytes at a time. Used by no model.
 * One workgroup: 2048 words, eight per invocation, neighbours side by side. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 256u
layout(local_size_x = 256) in;
#include "bench_copy.h"
#include "memory.glsl"

layout(push_constant, scalar) uniform Args { bench_copy_args a; };
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Words4Out { uvec4 v[]; };

void main() {
    const uint first = gl_WorkGroupID.x * WORKGROUP * DSVK_BENCH_COPY_RUN + invocation();
    for (uint k = 0u; k < DSVK_BENCH_COPY_RUN; k++) {
        const uint i = first + k * WORKGROUP;
        if (i < a.n)
            Words4Out(a.result).v[i] = Words4(a.source).v[i];
    }
}
