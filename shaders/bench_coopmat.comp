/* Products of cooperative matrices in registers, halves into float32, to measure the peak of a device's matrix units: every subgroup
 * runs four chains c = a b^T + c from c = 0 for rounds * 8 links, and stores their sum. Used by no model.
 * One workgroup: 256 invocations, all with the same a and b, which pass through shared memory. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
layout(local_size_x = 256) in;
#include "bench_coopmat.h"
#include "memory.glsl"

layout(constant_id = BENCH_COOPMAT_M) const uint M = 16u;
layout(constant_id = BENCH_COOPMAT_N) const uint N = 16u;
layout(constant_id = BENCH_COOPMAT_K) const uint K = 16u;
layout(constant_id = BENCH_COOPMAT_SUBGROUP) const uint SUBGROUP = 32u;
layout(push_constant, scalar) uniform Args { bench_coopmat_args a; };

const uint SUBGROUPS = 256u / SUBGROUP, EIGHTS = K / 8u; /* uvec4 of halves in a row of a or b */
const uint OPERANDS = (M + N) * EIGHTS, SUMS = SUBGROUPS * M * N / 4u; /* uvec4 */
shared uvec4 memory[OPERANDS > SUMS ? OPERANDS : SUMS];

void main() {
    const uint self = invocation();
    if (self < OPERANDS)
        memory[self] = self < M * EIGHTS ? Words4(a.a).v[self] : Words4(a.b).v[self - M * EIGHTS];
    barrier();
    coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> left;
    coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> right;
    coopMatLoad(left, memory, 0u, EIGHTS, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(right, memory, M * EIGHTS, EIGHTS, gl_CooperativeMatrixLayoutColumnMajor);
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sums[BENCH_COOPMAT_CHAINS];
    [[unroll]] for (uint c = 0u; c < BENCH_COOPMAT_CHAINS; c++)
        sums[c] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0.0);
    for (uint round = 0u; round < a.rounds; round++)
        [[unroll]] for (uint i = 0u; i < BENCH_COOPMAT_UNROLL; i++)
            [[unroll]] for (uint c = 0u; c < BENCH_COOPMAT_CHAINS; c++)
                sums[c] = coopMatMulAdd(left, right, sums[c]);
    [[unroll]] for (uint c = 1u; c < BENCH_COOPMAT_CHAINS; c++)
        sums[0] += sums[c];
    barrier(); /* a and b have been read */
    coopMatStore(sums[0], memory, gl_SubgroupID * (M * N / 4u), N / 4u, gl_CooperativeMatrixLayoutRowMajor);
    barrier();
    for (uint i = self; i < SUMS; i += 256u)
        Vec4sOut(add_product(a.result, gl_WorkGroupID.x, SUMS * 16u)).v[i] = uintBitsToFloat(memory[i]);
}
