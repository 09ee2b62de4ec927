/* What indexer.comp and indexer_bytes.comp are made of: index scores, spec 4.7, in f32:
 *   scores[t][j] = scale * sum_h weights[t][h] * max(0, iq[t][h] . key_j)   for j < (position + 1) / 4
 * and how many of them begin with each first digit of topk.comp. Rows with at most k visible keys need no scores.
 *
 * One workgroup: KEYS keys of ROWS rows (tokens), by SLICES slices of the heads. An invocation has one key and multiplies it with
 * the queries of its slice's heads, whose addresses are the same for the whole subgroup. Nothing but the slices' sums goes
 * through shared memory here, and no product is ever stored.
 * Sums: the values of a block of 32, the blocks in order; the heads of a slice in order; the slices in order. Nothing of that
 * depends on ROWS or the other rows. Rows of a tile that are of different sequences have different keys: each sequence gets its
 * own turn. Include after indexer.h and the workgroup's size, and define multiply(). */
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "memory.glsl"
#include "numbers.glsl"
#include "order.glsl"

layout(constant_id = INDEXER_CONSTANT_INDEX_DIM) const uint INDEX_DIM = 128;
layout(constant_id = INDEXER_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = INDEXER_CONSTANT_ROWS) const uint ROWS = 1u;
layout(constant_id = INDEXER_CONSTANT_SLICES) const uint SLICES = 4u;
const uint HEAD_DIM = 512, ROPE_DIM = 64; /* kv.glsl wants them */
#include "kv.glsl"

#include "indexer_rows.glsl"

const uint MAX_ROWS = INDEXER_MAX_ROWS;
const uint KEYS = INDEXER_WORKGROUP / SLICES;

shared float part[ROWS * INDEXER_WORKGROUP];

/* sums[r]: weighted sum over the slice's heads for row t + r and the invocation's key, which is at codes, scales. Every invocation of
 * a workgroup calls. */
void multiply(uint t, uint slice, uint lane, uvec2 codes, uvec2 scales, out float sums[MAX_ROWS]);

/* Rows t + first .. t + last - 1, which are of one sequence. */
void score(uint t, uint first, uint last, uint slice, uint lane, Row row) {
    uint visible = visible_keys(row), key = gl_WorkGroupID.x * KEYS + lane, capacity = a.page_tokens / 4u;
    if (gl_WorkGroupID.x * KEYS >= visible) /* the grid is for the longest row there may be */
        return;
    uint near = min(key, visible - 1u);
    uvec2 store = add_bytes(Addrs(Seqs(a.seqs).v[row.sequence].pages).v[near / capacity], a.page_offset);
    float sums[MAX_ROWS];
    multiply(t, slice, lane, key_codes(store, near % capacity), key_scales(store, capacity, near % capacity), sums);
    if (SLICES > 1u) { /* else what an invocation has is the whole sum, and a software device pays for every barrier */
        barrier(); /* part may still be read */
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            part[(r * SLICES + slice) * KEYS + lane] = sums[r];
        barrier();
        for (uint r = first + slice; r < last; r += SLICES) {
            if (key >= visible_keys(Rows(a.rows).v[t + r]))
                continue;
            precise float sum = part[r * SLICES * KEYS + lane];
            [[unroll]] for (uint s = 1u; s < SLICES; s++)
                sum += part[(r * SLICES + s) * KEYS + lane];
            store_score(t + r, key, sum * a.scale);
        }
    } else {
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            if (r >= first && r < last && key < visible_keys(Rows(a.rows).v[t + r]))
                store_score(t + r, key, sums[r] * a.scale);
    }
}

void main() {
    /* A slice is whole subgroups, and the minimum says so: the queries' addresses are the same in each of them. */
    uint slice = SLICES == 1u ? 0u : subgroupMin(invocation() / KEYS), lane = invocation() % KEYS;
    uint t = gl_WorkGroupID.y * ROWS, rows = min(ROWS, a.n - t);
    uint first = 0u;
    do {
        const uint last = sequence_end(Rows(a.rows), t, first, rows);
        score(t, first, last, slice, lane, Rows(a.rows).v[t + last - 1u]); /* of a sequence's rows the last one sees the most */
        first = last;
    } while (first < rows);
}
