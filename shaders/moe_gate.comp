/* Router, spec 4.10 (moe_gate.glsl has the formula). logits [n, n_experts], idx and weights [n, k]. One workgroup routes one row. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "moe_gate.h"
layout(local_size_x = 256, local_size_x_id = GATE_CONSTANT_WORKGROUP) in;
layout(constant_id = GATE_CONSTANT_WORKGROUP) const uint WORKGROUP = 256u;
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"

layout(push_constant, scalar) uniform Args { moe_gate_args a; };
#define GATE_EXPERTS MOE_MAX_EXPERTS
#define GATE_LOGITS Floats
#include "moe_gate.glsl"

void main() {
    route(gl_WorkGroupID.x, Gate(a.rows, a.logits, a.bias, a.table, a.idx, a.weights, a.n_experts, a.k, a.vocab,
                                 a.logits_stride, a.route_scale));
}
