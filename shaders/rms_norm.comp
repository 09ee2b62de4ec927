/* RMSNorm, spec 4.2: result[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps), all f32.
 * x [n, x_stride], weight [dim], result [n, dim]. One workgroup normalises one row; the second pass over x hits the cache. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "rms_norm.h"
layout(local_size_x = 256, local_size_x_id = RMS_NORM_CONSTANT_WORKGROUP) in;
layout(constant_id = RMS_NORM_CONSTANT_WORKGROUP) const uint WORKGROUP = 256u;
#include "memory.glsl"
#include "reduce.glsl"
#define ACTIVATIONS Vec4s
#include "rms_norm.glsl"

layout(push_constant, scalar) uniform Args { rms_norm_args a; };

void main() {
    uint row = gl_WorkGroupID.x;
    rms_norm_row(add_product(a.x, row, a.x_stride * 4u), a.weight, add_product(a.result, row, a.dim * 4u), a.dim, a.eps);
}
