/* The end of sparse attention, spec 4.8 and the inverse RoPE of 4.9:
 *   o = sum of p * row / (sum of p + exp(sink)), all scaled by 2^-M; then the last ROPE_DIM values turn back by the query's angle.
 * sums and stats as in sparse_attn.h; result [n, n_heads * HEAD_DIM]. An invocation owns 4 values of one token, and adds the
 * splits in order by the operations that sparse_attn.comp adds segments with. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x = 256) in;
#include "sparse_attn.h"
#include "memory.glsl"
#include "numbers.glsl"

layout(constant_id = SPARSE_ATTN_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512;
layout(constant_id = SPARSE_ATTN_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64;
#include "rope.glsl"

layout(push_constant, scalar) uniform Args { sparse_attn_merge_args a; };

const uint QUADS = HEAD_DIM / 4;
const uint FETCH = 4; /* splits on their way at once */

float pow2(int d) { return d < -126 ? 0.0 : exp2_int(d); }

void main() {
    uint i = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    uint h = i / QUADS, quad = i % QUADS;
    if (h >= a.n_heads)
        return;

    vec4 total = vec4(0.0);
    float sum = 0.0;
    int most = SPARSE_ATTN_EMPTY;
    for (uint first = 0u; first < a.n_splits; first += FETCH) {
        vec4 part_total[FETCH];
        float part_sum[FETCH], part_most[FETCH];
        [[unroll]] for (uint u = 0u; u < FETCH; u++) {
            uint cell = (t * a.n_splits + min(first + u, a.n_splits - 1u)) * a.n_heads; /* of head 0 */
            Floats stats = Floats(add_product(a.stats, cell, 8u));
            part_most[u] = stats.v[2u * h];
            part_sum[u] = stats.v[2u * h + 1u];
            part_total[u] = Vec4s(add_product(a.sums, cell, HEAD_DIM * 4u)).v[i];
        }
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            if (first + u < a.n_splits) {
                int here = int(part_most[u]), both = max(most, here);
                float keep = pow2(most - both), add = pow2(here - both);
                total = total * keep + part_total[u] * add;
                sum = sum * keep + part_sum[u] * add;
                most = both;
            }
    }

    float sink = Floats(a.sink).v[h];
    int both = is_finite(sink) ? max(most, exp_exponent(sink)) : most;
    float keep = pow2(most - both);
    float denominator = sum * keep + exp_scaled(sink, both);
    vec4 o = total * keep / denominator;

    uint tail = HEAD_DIM - ROPE_DIM;
    if (quad * 4u >= tail)
        o = rope_rotate_back(o, rope_angles(a.rope, Rows(a.rows).v[t].position, (quad * 4u - tail) / 2u));
    Vec4sOut(add_product(a.result, t, a.n_heads * HEAD_DIM * 4u)).v[h * QUADS + quad] = o;
}
