/* The compressor, spec 4.6: entry j of a sequence pools the K rows of its window of RATIO tokens (ratio 4: and of the window
 * before), weighted per channel by a softmax over the rows of S + ape:
 *   P[c] = sum_u softmax_u(S[u][c] + ape[u % RATIO][c]) * K[u][c]
 * ratio 4: rows are 2 WIDTH wide, the window before contributes channels [0, WIDTH), the current one [WIDTH, 2 WIDTH).
 * Then RMSNorm, RoPE at j * RATIO, and a cache row (FQ8) or an index key (Hadamard, FQ4) of the sequence's page.
 * ks [n, ks_stride] holds K and S of this step's tokens, the ring in the sequence's state those of earlier ones.
 * Workgroup t works when row t completes a window; 4 channels per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 128u
layout(local_size_x = 128) in;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"
#include "kv_compress.h"

layout(constant_id = COMPRESS_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = COMPRESS_CONSTANT_WIDTH) const uint WIDTH = 512u;
layout(constant_id = COMPRESS_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
layout(constant_id = COMPRESS_CONSTANT_RATIO) const uint RATIO = 4u;
layout(constant_id = COMPRESS_CONSTANT_INDEX) const bool INDEX = false;
#define HEAD_DIM WIDTH
#define INDEX_DIM WIDTH
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "line_store_row.glsl"

layout(push_constant, scalar) uniform Args { kv_compress_args a; };

const bool OVERLAP = RATIO == 4u;
const uint W4 = (OVERLAP ? 2u * WIDTH : WIDTH) / 4u; /* vec4 per row of K */

/* What a workgroup pools: the token of row t at `position` completes the window. */
uint t, position;
Seq sequence;

/* K [W4], S [W4] of the token at position u. (The choice is between numbers: SwiftShader's compiler crashes on a choice
 * between pointers.) */
Vec4s token(uint u) {
    uvec2 at = u >= sequence.start
                   ? add_product(a.ks, t - (position - u), a.ks_stride * 4u)
                   : add_product(add_bytes(sequence.state, a.ring_offset), u % a.ring_capacity, W4 * 32u);
    return Vec4s(at);
}

/* Score of 4 channels of the token at u; tokens of the window before use the first half of the channels. */
uint channel(uint u) { return gl_LocalInvocationIndex + (OVERLAP && u + RATIO > position ? WIDTH / 4u : 0u); }
vec4 score(uint u) { return token(u).v[W4 + channel(u)] + Vec4s(a.ape).v[u % RATIO * W4 + channel(u)]; }

vec4 exp4(vec4 v) { return vec4(exp_exact(v.x), exp_exact(v.y), exp_exact(v.z), exp_exact(v.w)); }

/* P of this invocation's 4 channels over tokens first .. position, in two passes: the maximum, then the weighted sum. Four
 * tokens at a time, to have their loads in flight together; RATIO is a multiple of 4. */
vec4 pool(uint first) {
    vec4 best = score(first);
    for (uint u = first; u < position; u += 4u)
        best = max(max(best, max(score(u), score(u + 1u))), max(score(u + 2u), score(u + 3u)));
    vec4 sum = vec4(0.0), pooled = vec4(0.0);
    for (uint u = first; u < position; u += 4u) {
        vec4 weight[4], value[4];
        for (uint i = 0u; i < 4u; i++) {
            weight[i] = exp4(score(u + i) - best);
            value[i] = token(u + i).v[channel(u + i)];
        }
        for (uint i = 0u; i < 4u; i++) {
            sum += weight[i];
            pooled += weight[i] * value[i];
        }
    }
    return pooled / sum;
}

void store_key(vec4 v, uint key_position, uvec2 store, uint row) {
    uint d = 4u * gl_LocalInvocationIndex, plain = WIDTH - ROPE_DIM;
    if (d >= plain && d < WIDTH)
        v = rope_rotate(v, rope_angles(a.table, key_position, (d - plain) / 2u));
    v = line_hadamard(v, WIDTH);
    uvec2 codes = key_codes(store, row);
    if (!NATIVE) {
        if (d < WIDTH)
            Vec4sOut(codes).v[d >> 2] = v;
        return;
    }
    uint scale = fq4_scale(line_block_max(v, 8u));
    uint scales = line_pack_scales(d < WIDTH ? scale : 0u, 8u);
    uint nibbles = line_pack_pair(key_nibbles4(v, scale));
    if (d >= WIDTH)
        return;
    if ((d & 127u) == 0u)
        WordsOut(key_scales(store, a.page_capacity, row)).v[d >> 7] = scales;
    if ((d & 7u) == 0u)
        WordsOut(codes).v[d >> 3] = nibbles;
}

void main() {
    t = gl_WorkGroupID.x;
    Row me = Rows(a.rows).v[t];
    position = me.position;
    if ((position + 1u) % RATIO != 0u)
        return;
    sequence = Seqs(a.seqs).v[me.sequence];

    uint entry = position / RATIO, start = entry * RATIO;
    vec4 v = vec4(0.0);
    if (4u * gl_LocalInvocationIndex < WIDTH)
        v = pool(OVERLAP && entry > 0u ? start - RATIO : start);
    v = line_rms_norm(v, a.norm, WIDTH, a.eps);

    uvec2 store = add_bytes(Addrs(sequence.pages).v[entry / a.page_capacity], a.page_offset);
    if (INDEX)
        store_key(v, start, store, entry % a.page_capacity);
    else
        line_store_row(v, a.table, start, store, a.page_capacity, entry % a.page_capacity);
}
