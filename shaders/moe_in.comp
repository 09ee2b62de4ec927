/* Begin of the mixture of experts, spec 4.10, all that needs only the sublayer's input:
 *   logits[t] = gate x[t];  idx, weights = routing of row t (moe_gate.glsl)
 *   h[t] = swiglu of the shared expert's w1 and w3 times x[t] (interleaved as in matmul.comp)
 *   pairs, tiles = the (row, slot) pairs of the step by expert, as moe_sort.comp makes them
 * Workgroup (x, y): tile y of 32 outputs, first those of the gate, then those of the shared expert, times ROWS rows. The last of a
 * group of rows to finish a tile of the gate routes these rows, the last of the groups sorts. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "moe_in.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"
#include "matmul.glsl"

layout(constant_id = MOE_IN_CONSTANT_DIM) const uint DIM = 4096u;
layout(constant_id = MOE_IN_CONSTANT_N_EXPERTS) const uint N_EXPERTS = 256u;
layout(constant_id = MOE_IN_CONSTANT_K) const uint K = 6u;
layout(constant_id = MOE_IN_CONSTANT_TILE) const uint TILE = 1u;
layout(constant_id = MOE_IN_CONSTANT_LIMIT) const float LIMIT = 10.0;
layout(constant_id = MOE_IN_CONSTANT_ROUTE_SCALE) const float ROUTE_SCALE = 1.5;
#define GATE_EXPERTS N_EXPERTS
#define GATE_LOGITS SharedFloats
#include "moe_gate.glsl"

layout(push_constant, scalar) uniform Args { moe_in_args a; };
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Words4Out { uvec4 v[]; };

const uint GATE_TILES = (N_EXPERTS + 31u) / 32u, LOGITS_STRIDE = (N_EXPERTS + 3u) & ~3u;
const uint WORDS = (4u * DIM >> TYPE) / 16u, WORDS_B = (4u * DIM >> TYPE_B) / 16u; /* of a weight row */

const uint LANE_PAIRS = (MOE_IN_MAX_PAIRS + WORKGROUP - 1u) / WORKGROUP;
shared uint pair_expert[MOE_IN_MAX_PAIRS]; /* of pair row * K + slot */
shared uint starts[MOE_IN_MAX_PAIRS];      /* 1: a tile begins at this place of the sorted pairs */

/* Few pairs: the place of a pair is the number of those that go before it, by (expert, pair). */
void sort_pairs() {
    const uint lane = invocation(), n_pairs = a.n * K;
    for (uint i = lane; i < n_pairs; i += WORKGROUP)
        pair_expert[i] = min(SharedWords(a.idx).v[i], N_EXPERTS - 1u);
    barrier();
    uint place[LANE_PAIRS], in_expert[LANE_PAIRS], count[LANE_PAIRS];
    [[unroll]] for (uint j = 0u; j < LANE_PAIRS; j++) {
        const uint i = lane + j * WORKGROUP;
        place[j] = in_expert[j] = count[j] = 0u;
        if (i < n_pairs) {
            const uint mine = pair_expert[i];
            for (uint other = 0u; other < n_pairs; other++) {
                const uint expert = pair_expert[other];
                count[j] += uint(expert == mine);
                in_expert[j] += uint(expert == mine && other < i);
                place[j] += uint(expert < mine);
            }
            place[j] += in_expert[j];
            starts[place[j]] = uint(in_expert[j] % TILE == 0u);
            WordsOut(a.pairs).v[place[j]] = i;
        }
    }
    barrier();
    uint used = 0u;
    for (uint i = 0u; i < n_pairs; i++)
        used += starts[i];
    [[unroll]] for (uint j = 0u; j < LANE_PAIRS; j++) {
        const uint i = lane + j * WORKGROUP;
        if (i < n_pairs && in_expert[j] % TILE == 0u) {
            uint tile = 0u;
            for (uint before = 0u; before < place[j]; before++)
                tile += starts[before];
            Words4Out(a.tiles).v[tile] = uvec4(pair_expert[i], place[j], min(TILE, count[j] - in_expert[j]), 0u);
        }
    }
    for (uint i = used + lane; i < a.max_tiles; i += WORKGROUP)
        Words4Out(a.tiles).v[i] = uvec4(0u);
}

void main() {
    const uint first_row = gl_WorkGroupID.x * ROWS;
    const bool shared_expert = gl_WorkGroupID.y >= GATE_TILES;
    const uint tile = gl_WorkGroupID.y - (shared_expert ? GATE_TILES : 0u);
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = min(first_row + r, a.n - 1u) * (DIM / 4u);
    vec4 sums[MAX_ROWS];
    if (shared_expert)
        multiply(TYPE_B, a.up, add_bytes(a.up, a.up_scales), tile, WORDS_B, a.x, x_at, sums);
    else
        multiply(TYPE, a.gate, add_bytes(a.gate, a.gate_scales), tile, WORDS, a.x, x_at, sums);

    const uint columns = shared_expert ? 16u : 32u; /* of the result that a tile makes */
    const uint r = invocation() / 32u, o = invocation() % 32u, column = tile * columns + o;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        const uint row = first_row + first + r;
        if (r >= PASS_ROWS || o >= columns || row >= a.n)
            continue;
        if (!shared_expert && column < N_EXPERTS)
            SharedFloats(a.logits).v[row * LOGITS_STRIDE + column] = row_total(r, o);
        if (shared_expert && column < a.n_hidden)
            FloatsOut(a.h).v[row * a.n_hidden + column] = swiglu(row_total(r, o), row_total(r, o + 16u), LIMIT);
    }

    if (shared_expert || !last_workgroup(add_bytes(a.counters, gl_WorkGroupID.x * 4u), GATE_TILES))
        return;
    const Gate g = Gate(a.rows, a.logits, a.bias, a.table, a.idx, a.weights, N_EXPERTS, K, a.vocab, LOGITS_STRIDE, ROUTE_SCALE);
    for (uint row = first_row; row < min(first_row + ROWS, a.n); row++)
        route(row, g);
    if (last_workgroup(add_bytes(a.counters, gl_NumWorkGroups.x * 4u), gl_NumWorkGroups.x))
        sort_pairs();
}
