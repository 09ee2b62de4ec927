/* Hyper-connections, spec 4.3, first half: optional HC-post, then the reductions of the next HC-pre.
 *   X'[t][k][d] = post[t][k] * y[t][d] + sum_j comb[t][j][k] * X[t][j][d]
 *   partials[t][chunk][m] = sum_{d in chunk, k} fn[m][k * dim + d] * X'[t][k][d];  [N_MIX]: the sum of X'^2
 * X [n, 4, dim], fn [N_MIX, 4 * dim], partials [n, chunks, N_MIX + 1]. Workgroup (c, g) does chunk c of rows g * ROWS ..:
 * every invocation owns one d, keeps its 4 streams of each row in registers and reads fn once for all of them. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
layout(local_size_x = 256) in;
#include "memory.glsl"
#include "hyper_conn_mix.h"

layout(constant_id = MIX_CONSTANT_N_MIX) const uint N_MIX = 24u;
layout(constant_id = MIX_CONSTANT_ROWS) const uint ROWS = 4u;

layout(push_constant, scalar) uniform Args { hyper_conn_mix_args a; };

/* One partial sum per subgroup: [ROWS][N_MIX + 1][subgroups], at most 64 subgroups of 4 invocations. 25.6 KiB at most. */
shared float part[ROWS * (N_MIX + 1u) * 64u];

/* X' of one row at d: HC-post when there is a y, and written back. Additions in the order of the formula, never fused, so
 * that a row's result is the same in every variant. */
vec4 streams(uint row, uint d) {
    Floats x = Floats(add_product(a.x_in, row, a.dim * 16u));
    vec4 v = vec4(x.v[d], x.v[a.dim + d], x.v[2u * a.dim + d], x.v[3u * a.dim + d]);
    if (is_null(a.y))
        return v;
    Floats parts = Floats(add_product(a.y, row, a.n_parts * a.dim * 4u));
    precise float y = parts.v[d];
    for (uint i = 1u; i < a.n_parts; i++)
        y += parts.v[i * a.dim + d];

    uint coefficients = a.same_coefficients != 0u ? 0u : row;
    Vec4s comb = Vec4s(add_product(a.comb, coefficients, 64u));
    precise vec4 mixed = Vec4s(a.post).v[coefficients] * y;
    for (uint j = 0u; j < 4u; j++)
        mixed += comb.v[j] * v[j];

    FloatsOut result = FloatsOut(add_product(a.x_out, row, a.dim * 16u));
    for (uint k = 0u; k < 4u; k++)
        result.v[k * a.dim + d] = mixed[k];
    return mixed;
}

void keep_sum(uint row, uint m, float x) {
    x = subgroupAdd(x);
    if (subgroupElect())
        part[(row * (N_MIX + 1u) + m) * 64u + gl_SubgroupID] = x;
}

void main() {
    uint chunk = gl_WorkGroupID.x, first = gl_WorkGroupID.y * ROWS, lane = gl_LocalInvocationIndex;
    uint d = chunk * MIX_CHUNK + lane;
    vec4 x[ROWS];
    for (uint r = 0u; r < ROWS; r++)
        x[r] = d < a.dim && first + r < a.n ? streams(first + r, d) : vec4(0.0);

    for (uint m = 0u; m < N_MIX; m++) {
        Floats fn = Floats(add_product(a.fn, m, a.dim * 16u));
        vec4 f = d < a.dim ? vec4(fn.v[d], fn.v[a.dim + d], fn.v[2u * a.dim + d], fn.v[3u * a.dim + d]) : vec4(0.0);
        for (uint r = 0u; r < ROWS; r++) {
            precise float sum = (f.x * x[r].x + f.y * x[r].y) + (f.z * x[r].z + f.w * x[r].w);
            keep_sum(r, m, sum);
        }
    }
    for (uint r = 0u; r < ROWS; r++) {
        precise float sum = (x[r].x * x[r].x + x[r].y * x[r].y) + (x[r].z * x[r].z + x[r].w * x[r].w);
        keep_sum(r, N_MIX, sum);
    }
    barrier();

    uint r = lane / (N_MIX + 1u), m = lane % (N_MIX + 1u);
    if (r >= ROWS || first + r >= a.n)
        return;
    float total = 0.0;
    for (uint i = 0u; i < gl_NumSubgroups; i++)
        total += part[lane * 64u + i];
    FloatsOut(a.partials).v[((first + r) * gl_NumWorkGroups.x + chunk) * (N_MIX + 1u) + m] = total;
}
