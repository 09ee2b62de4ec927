/* Exact top-k of the visible scores of a row, spec 4.7: the k largest, equal scores to the lower index, NaN below everything;
 * indices ascending, -1 where there are fewer than k visible. scores [n, scores_stride], idx [n, k].
 *
 * One workgroup per row. Scores map to unsigned keys of the same order. A radix select over digits of 11, 11 and 10 bits finds
 * the k-th largest key T (and stops when a digit settles it), reading the scores once per digit; a last pass writes the
 * indices of all keys > T and of the first keys = T, each at its rank. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x = 256) in;
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "topk.h"
#include "memory.glsl"

layout(push_constant, scalar) uniform Args { topk_args a; };

const uint BINS = 2048u;
const uint FETCH = 4u; /* words of four scores that an invocation has on their way at once */
shared uint histogram[BINS];
shared uint part[64];                /* one per subgroup */
shared uint chosen, chosen_above;    /* the digit that holds the k-th key, and how many keys lie in higher digits */

/* Larger score, larger key; NaN 0; -0 is 0. */
uint key_of(float score) {
    uint u = floatBitsToUint(score);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0u;
    if (u == 0x80000000u)
        u = 0u;
    return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}

/* Sum of x over the invocations before this one, in the order of (subgroup, invocation); all: over the workgroup. */
uint scan(uint x, out uint all) {
    uint before = subgroupExclusiveAdd(x), sum = subgroupAdd(x);
    barrier(); /* part may still be read by an earlier call */
    if (subgroupElect())
        part[gl_SubgroupID] = sum;
    barrier();
    all = 0u;
    for (uint i = 0u; i < gl_NumSubgroups; i++) {
        if (i == gl_SubgroupID)
            before += all;
        all += part[i];
    }
    return before;
}

void main() {
    uint t = gl_WorkGroupID.x, all;
    uint lane = scan(1u, all); /* ranks follow the scan's order, whatever order the device numbers invocations in */
    uint visible = min((Rows(a.rows).v[t].position + 1u) / 4u, a.scores_stride);
    uint quads = (visible + 3u) / 4u;
    Vec4s scores = Vec4s(add_product(a.scores, t, a.scores_stride * 4u));
    WordsOut idx = WordsOut(add_product(a.idx, t, a.k * 4u));

    if (visible <= a.k) {
        for (uint i = lane; i < a.k; i += 256u)
            idx.v[i] = i < visible ? i : 0xffffffffu;
        return;
    }

    /* Keys whose bits under `mask` equal `prefix` are still in question; `left` of them are wanted. */
    uint prefix = 0u, mask = 0u, left = a.k, settled = 0u;
    for (uint shift = 21u; settled == 0u; shift = shift == 21u ? 10u : 0u) {
        uint digits = shift == 0u ? 1024u : BINS;
        for (uint i = lane; i < digits; i += 256u)
            histogram[i] = 0u;
        barrier();
        for (uint first = lane; first < quads; first += 256u * FETCH) {
            vec4 s[FETCH];
            [[unroll]] for (uint u = 0u; u < FETCH; u++)
                s[u] = scores.v[min(first + 256u * u, quads - 1u)];
            [[unroll]] for (uint u = 0u; u < FETCH; u++)
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    uint key = key_of(s[u][j]);
                    if ((first + 256u * u) * 4u + j < visible && (key & mask) == prefix)
                        atomicAdd(histogram[key >> shift & digits - 1u], 1u);
                }
        }
        barrier();
        /* Invocation `lane` adds up `each` neighbouring digits, the highest ones first. */
        uint each = digits / 256u, top = digits - lane * each, sum = 0u;
        for (uint i = 1u; i <= each; i++)
            sum += histogram[top - i];
        uint above = scan(sum, all);
        if (above < left && above + sum >= left) {
            uint digit = top - 1u;
            while (above + histogram[digit] < left) {
                above += histogram[digit];
                digit--;
            }
            chosen = digit;
            chosen_above = above;
        }
        barrier();
        left -= chosen_above;
        prefix |= chosen << shift;
        mask |= (digits - 1u) << shift;
        settled = uint(shift == 0u || histogram[chosen] == left); /* all keys of the digit are taken */
        barrier();
    }

    /* Keys with the prefix are taken in order of index until `left` of them are; those above it always. */
    uint taken = 0u, ties = 0u;
    for (uint first = 0u; first < visible; first += 256u * 4u * FETCH) {
        uint i = first + lane * 4u * FETCH, higher = 0u, equal = 0u; /* its values are i .. i + 4 FETCH - 1 */
        vec4 s[FETCH];
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            s[u] = scores.v[min((i >> 2) + u, quads - 1u)];
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint key = key_of(s[u][j]) & mask, bit = 4u * u + j;
                if (i + bit < visible) {
                    higher |= uint(key > prefix) << bit;
                    equal |= uint(key == prefix) << bit;
                }
            }
        uint before = scan(bitCount(higher) | bitCount(equal) << 16, all);
        uint rank = taken + (before & 0xffffu), tie = ties + (before >> 16);
        for (uint j = 0u; j < 4u * FETCH; j++) {
            uint is_higher = higher >> j & 1u, is_equal = equal >> j & 1u;
            if (is_higher != 0u || (is_equal != 0u && tie < left))
                idx.v[rank + min(tie, left)] = i + j;
            rank += is_higher;
            tie += is_equal;
        }
        taken += all & 0xffffu;
        ties += all >> 16;
    }
}
