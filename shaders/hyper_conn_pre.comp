/* Hyper-connections, spec 4.3, second half, and the RMSNorm behind it (hyper_conn_pre.glsl has the formula). One workgroup does
 * one row. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "hyper_conn_pre.h"
layout(local_size_x = 256, local_size_x_id = PRE_CONSTANT_WORKGROUP) in;
layout(constant_id = PRE_CONSTANT_WORKGROUP) const uint WORKGROUP = 256u;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"
#include "hyper_conn_mix.h"

layout(constant_id = PRE_CONSTANT_N_MIX) const uint N_MIX = 24u;
layout(constant_id = PRE_CONSTANT_DIM) const uint DIM = 4096u;
layout(constant_id = PRE_CONSTANT_PIECES) const uint PIECES = 1u;
#define ACTIVATIONS Vec4s
#define REDUCTIONS Floats
#include "hyper_conn_pre.glsl"

layout(push_constant, scalar) uniform Args { hyper_conn_pre_args a; };

void main() {
    uint row = gl_WorkGroupID.x;
    uint source = is_null(a.select) ? row : min(Words(a.select).v[row], a.n_in - 1u);
    hyper_conn_pre_row(Coefficients(a.x_in, a.base, a.scale, a.norm, a.result, a.post, a.comb, a.sinkhorn_iters, a.eps,
                                    a.hc_eps), a.partials, source, row);
}
