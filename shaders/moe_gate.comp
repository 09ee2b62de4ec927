/* Router, spec 4.10: s = sqrt(softplus(logit)); the k experts of highest s + bias, ties to the lower id, or the hash table's
 * row of the token; ids ascending; weight = s / (sum of the chosen s) * route_scale. logits [n, n_experts], idx and weights
 * [n, k]. Scores that are not finite rank below all others, so that k different ids < n_experts always come out.
 * One workgroup routes one row: k rounds of "largest key, then lowest id of that key". */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "moe_gate.h"
#include "memory.glsl"
#include "numbers.glsl"

#define WORKGROUP 256u
layout(local_size_x = WORKGROUP) in;
layout(push_constant, scalar) uniform Args { moe_gate_args a; };

shared uint keys[MOE_MAX_EXPERTS]; /* 0: taken, 1: not finite, else ascending with the score */
shared uint best_key[MOE_MAX_ACTIVE];
shared uint chosen[MOE_MAX_ACTIVE];
shared uint sorted_ids[MOE_MAX_ACTIVE];
shared float score[MOE_MAX_ACTIVE];

uint score_key(float x) {
    const uint u = floatBitsToUint(x);
    if (!is_finite(x))
        return 1u;
    return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}

float expert_score(Floats logits, uint e) { return sqrt(softplus(logits.v[e])); }

void choose_by_score(Floats logits, uint lane) {
    for (uint e = lane; e < a.n_experts; e += WORKGROUP)
        keys[e] = score_key(expert_score(logits, e) + Floats(a.bias).v[e]);
    if (lane < MOE_MAX_ACTIVE) {
        best_key[lane] = 0u;
        chosen[lane] = 0xffffffffu;
    }
    barrier();
    for (uint slot = 0u; slot < a.k; slot++) {
        uint key = 0u, id = 0u;
        for (uint e = lane; e < a.n_experts; e += WORKGROUP)
            if (keys[e] > key) {
                key = keys[e];
                id = e;
            }
        const uint most = subgroupMax(key);
        if (subgroupElect())
            atomicMax(best_key[slot], most);
        barrier();
        const bool tied = key == best_key[slot];
        if (tied)
            atomicMin(chosen[slot], id);
        barrier();
        if (tied && chosen[slot] == id)
            keys[id] = 0u; /* seen by its owner only, which is the only one that reads it */
    }
}

void choose_by_token(uint row, uint lane) {
    if (lane < a.k) {
        const uint token = min(Rows(a.rows).v[row].token, a.vocab - 1u);
        chosen[lane] = min(Words(a.table).v[token * a.k + lane], a.n_experts - 1u);
    }
    barrier();
}

void main() {
    const uint row = gl_WorkGroupID.x, lane = gl_LocalInvocationIndex;
    Floats logits = Floats(add_product(a.logits, row, a.logits_stride * 4u));
    if (is_null(a.table))
        choose_by_score(logits, lane);
    else
        choose_by_token(row, lane);

    if (lane < a.k) {
        const uint id = chosen[lane];
        uint rank = 0u;
        for (uint i = 0u; i < a.k; i++)
            rank += uint(chosen[i] < id || (chosen[i] == id && i < lane));
        sorted_ids[rank] = id;
        score[rank] = expert_score(logits, id);
    }
    barrier();
    if (lane < a.k) {
        precise float sum = 0.0;
        for (uint i = 0u; i < a.k; i++)
            sum += score[i];
        WordsOut(a.idx).v[row * a.k + lane] = sorted_ids[lane];
        FloatsOut(a.weights).v[row * a.k + lane] = score[lane] / sum * a.route_scale;
    }
}
