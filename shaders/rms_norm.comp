/* RMSNorm, spec 4.2: result[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps), all f32.
 * x [n, x_stride], weight [dim], result [n, dim]. One workgroup normalises one row; the second pass over x hits the cache. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 256u
layout(local_size_x = 256) in;
#include "memory.glsl"
#include "reduce.glsl"
#include "rms_norm.h"

layout(push_constant, scalar) uniform Args { rms_norm_args a; };

void main() {
    uint row = gl_WorkGroupID.x, lane = gl_LocalInvocationIndex, n4 = a.dim >> 2;
    Vec4s x = Vec4s(add_product(a.x, row, a.x_stride * 4u));
    Vec4sOut result = Vec4sOut(add_product(a.result, row, a.dim * 4u));

    precise float squares = 0.0;
    for (uint i = lane; i < n4; i += WORKGROUP) {
        vec4 v = x.v[i];
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float factor = 1.0 / sqrt(reduce_sum(squares) / float(a.dim) + a.eps);
    for (uint i = lane; i < n4; i += WORKGROUP)
        result.v[i] = Vec4s(a.weight).v[i] * (x.v[i] * factor);
}
