/* Router of one row by a whole workgroup, spec 4.10: s = sqrt(softplus(logit)); the k experts of highest s + bias, ties to
 * the lower id, or the hash table's row of the token; ids ascending; weight = s / (sum of the chosen s) * route_scale. Scores
 * that are not finite rank below all others, so that k different ids < n_experts always come out.
 * k rounds of "largest key, then lowest id of that key". Include after memory.glsl, numbers.glsl, last.glsl and moe_gate.h, with
 *   GATE_EXPERTS  the most experts there can be (shared memory)
 *   GATE_LOGITS   the type logits are read through: Floats, or SharedFloats for what the same dispatch has written */
#extension GL_KHR_shader_subgroup_arithmetic : require

struct Gate {
    uvec2 rows;    /* dsvk_row [n] */
    uvec2 logits;  /* f32 [n, logits_stride] */
    uvec2 bias;    /* f32 [n_experts]; 0 with a table */
    uvec2 table;   /* u32 [vocab, k]; 0: choose by score */
    uvec2 idx;     /* u32 [n, k] */
    uvec2 weights; /* f32 [n, k] */
    uint n_experts, k, vocab, logits_stride;
    float route_scale;
};

shared uint keys[GATE_EXPERTS]; /* 0: taken, 1: not finite, else ascending with the score */
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

float expert_score(GATE_LOGITS logits, uint e) { return sqrt(softplus(logits.v[e])); }

void choose_by_score(GATE_LOGITS logits, const Gate g, uint lane) {
    for (uint e = lane; e < g.n_experts; e += WORKGROUP)
        keys[e] = score_key(expert_score(logits, e) + Floats(g.bias).v[e]);
    if (lane < MOE_MAX_ACTIVE) {
        best_key[lane] = 0u;
        chosen[lane] = 0xffffffffu;
    }
    barrier();
    for (uint slot = 0u; slot < g.k; slot++) {
        uint key = 0u, id = 0u;
        for (uint e = lane; e < g.n_experts; e += WORKGROUP)
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

void choose_by_token(uint row, const Gate g, uint lane) {
    if (lane < g.k) {
        const uint token = min(Rows(g.rows).v[row].token, g.vocab - 1u);
        chosen[lane] = min(Words(g.table).v[token * g.k + lane], g.n_experts - 1u);
    }
    barrier();
}

/* Every invocation calls; calls for several rows may follow each other. */
void route(uint row, const Gate g) {
    const uint lane = invocation();
    GATE_LOGITS logits = GATE_LOGITS(add_product(g.logits, row, g.logits_stride * 4u));
    barrier(); /* what an earlier call left in shared memory has been read */
    if (is_null(g.table))
        choose_by_score(logits, g, lane);
    else
        choose_by_token(row, g, lane);

    if (lane < g.k) {
        const uint id = chosen[lane];
        uint rank = 0u;
        for (uint i = 0u; i < g.k; i++)
            rank += uint(chosen[i] < id || (chosen[i] == id && i < lane));
        sorted_ids[rank] = id;
        score[rank] = expert_score(logits, id);
    }
    barrier();
    if (lane < g.k) {
        precise float sum = 0.0;
        for (uint i = 0u; i < g.k; i++)
            sum += score[i];
        SharedWords(g.idx).v[row * g.k + lane] = sorted_ids[lane];
        FloatsOut(g.weights).v[row * g.k + lane] = score[lane] / sum * g.route_scale;
    }
}
