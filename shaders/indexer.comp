/* Index scores, spec 4.7, in f32:
 *   scores[t][j] = scale * sum_h weights[t][h] * max(0, iq[t][h] . key_j)   for j < (position + 1) / 4
 * One workgroup: 256 keys of one token, an invocation per key. It decodes its key into registers once and goes through the heads
 * in order, whose queries are read at addresses that are the same for the whole workgroup. */
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256) in;
#include "indexer.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "order.glsl"

layout(constant_id = INDEXER_CONSTANT_INDEX_DIM) const uint INDEX_DIM = 128;
layout(constant_id = INDEXER_CONSTANT_NATIVE) const bool NATIVE = true;
const uint HEAD_DIM = 512, ROPE_DIM = 64; /* kv.glsl wants them */
#include "kv.glsl"

layout(push_constant, scalar) uniform Args { indexer_args a; };

void main() {
    uint key = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    Row row = Rows(a.rows).v[t];
    uint visible = min((row.position + 1u) / 4u, a.scores_stride);
    if (key >= visible || visible <= a.k)
        return;

    uint capacity = a.page_tokens / 4u;
    uvec2 store = add_bytes(Addrs(Seqs(a.seqs).v[row.sequence].pages).v[key / capacity], a.page_offset);
    uvec2 codes = key_codes(store, key % capacity), scales = key_scales(store, capacity, key % capacity);
    Vec4x8s iq = Vec4x8s(add_product(a.iq, t, a.iq_stride * 4u));
    Floats weights = Floats(add_product(a.weights, t, a.weights_stride * 4u));

    vec4 k[INDEX_DIM / 4];
    for (uint block = 0u; block < INDEX_DIM / 32u; block++) {
        vec4 v[8];
        key_load32(codes, scales, block, v);
        for (uint i = 0u; i < 8u; i++)
            k[block * 8u + i] = v[i];
    }
    float score = 0.0;
    for (uint h = 0u; h < a.n_heads; h++) {
        vec4 d = vec4(0.0);
        for (uint block = 0u; block < INDEX_DIM / 32u; block++)
            for (uint i = 0u; i < 8u; i++)
                d += iq.v[h * (INDEX_DIM / 32u) + block].q[i] * k[block * 8u + i];
        score += weights.v[h] * max((d.x + d.y) + (d.z + d.w), 0.0);
    }
    score *= a.scale;
    FloatsOut(add_product(a.scores, t, a.scores_stride * 4u)).v[key] = score;
    atomicAdd(WordsInOut(add_product(a.bins, t, TOPK_BINS_WORDS * 4u)).v[order_key(score) >> 21], 1u);
}
