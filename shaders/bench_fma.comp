/* Multiplies and adds in registers, to measure a device's float32 peak: every invocation runs eight independent chains
 * a = a * x + y from a = its number * 2^-8, chain 0 .. 7 offset by 0 .. 7, for rounds * 16 links, and stores their sum.
 * Used by no model. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x = 256) in;
#include "bench_fma.h"
#include "memory.glsl"

layout(push_constant, scalar) uniform Args { bench_fma_args a; };

void main() {
    const uint i = gl_WorkGroupID.x * gl_WorkGroupSize.x + invocation();
    const float start = float(i) * 0.00390625;
    vec4 low = vec4(start, start + 1.0, start + 2.0, start + 3.0), high = low + 4.0;
    for (uint round = 0u; round < a.rounds; round++)
        [[unroll]] for (uint k = 0u; k < DSVK_BENCH_FMA_UNROLL; k++) {
            low = fma(low, vec4(a.x), vec4(a.y));
            high = fma(high, vec4(a.x), vec4(a.y));
        }
    FloatsOut(a.result).v[i] = ((low.x + low.y) + (low.z + low.w)) + ((high.x + high.y) + (high.z + high.w));
}
