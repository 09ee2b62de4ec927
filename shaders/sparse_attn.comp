/* Sparse attention, spec 4.8, and the inverse RoPE of 4.9: for head h of token t over the rows of the token,
 *   z_i = scale * (q[t][h] . row_i),  p_i = exp(z_i) * 2^-M,  M = ceil(max z / ln 2),
 *   o = sum of p_i * row_i / (sum of p_i + exp(sink) * 2^-M), and the last ROPE_DIM values turn back by the query's angle.
 * K = V and one row serves all heads. The rows of a token form a list: window positions max(0, pos - window + 1) .. pos,
 * then compressed entries. The list is cut into segments of 64 or 128, and these into n_splits runs of equal length (the grid's
 * z): a row of few segments has fewer, and what is left over of the grid ends at once.
 *
 * One workgroup: QUERIES queries, over the segments of one split: HEADS heads of a token, and where these are few in a chunk of a
 * prompt, of TOKENS tokens, whose lists become one: nearly all rows of neighbours are the same. For a segment
 *   1. an invocation takes one or two rows and every fourth group of 16 dimensions: their dot products with all the
 *      queries, which are read at addresses that a whole subgroup shares,
 *   2. the four slices are added (a workgroup of 64 has one, which is all), the maximum over the rows so far gives M and the scores
 *      p: 0 for rows that a token has not,
 *   3. an invocation owns 4 columns of GROUP_QUERIES queries and adds p * row over the rows, read once more.
 * The workgroup that ends last of the splits adds them up, in order, and makes the result; the only one does it right away. M is
 * an integer, so rescaling is exact. What is not finite in a row stays with the tokens that have the row. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "sparse_attn.h"
layout(local_size_x = 256, local_size_x_id = SPARSE_ATTN_CONSTANT_WORKGROUP) in;
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"

#include "sparse_attn.glsl"

layout(constant_id = SPARSE_ATTN_CONSTANT_LANE_ROWS) const uint LANE_ROWS = 1; /* rows of an invocation in step 1: 1 or 2 */
layout(constant_id = SPARSE_ATTN_CONSTANT_TOKENS) const uint TOKENS = 1;       /* more only without splits */
layout(constant_id = SPARSE_ATTN_CONSTANT_WORKGROUP) const uint WORKGROUP = 256;

const uint QUERIES = HEADS * TOKENS;
const uint LANES = 64;                                 /* that share a slice; a subgroup has at most that many */
const uint SLICES = WORKGROUP / LANES;                 /* 4 or 1 */
const uint ROWS = LANES * LANE_ROWS;
const uint SLICE_QUERIES = QUERIES / SLICES;           /* queries whose scores an invocation finishes, for its row */
const uint QUADS = HEAD_DIM / 4;
const uint GROUP_LANES = QUADS > 64 ? 128 : QUADS > 32 || SLICES > 1 ? 64 : 32; /* at least a subgroup */
const uint GROUP_QUERIES = QUERIES * GROUP_LANES / WORKGROUP;

const uint FETCH = SLICES > 1 ? 8 : 2;                 /* rows on their way at once in step 3; a processor compiles less instead */
const uint P_STRIDE = QUERIES + 4;                     /* neighbouring rows in different banks */

/* The partial result of a workgroup: sums of p * row [QUERIES][HEAD_DIM], then M [QUERIES] as a float, then sums of p [QUERIES]. */
const uint CELL_BYTES = QUERIES * (HEAD_DIM + 2) * 4;

shared uvec4 source[ROWS];                             /* address of the codes, all the scales */
shared uint having[ROWS];                              /* which tokens have it: from the low half on, before the high half */
shared bool tainted;                                   /* a row of the segment is not finite */
shared float halves[SLICES > 1 ? 2 * QUERIES * ROWS : ROWS * P_STRIDE]; /* on their way between slices: half of the dot products, */
shared float quarters[SLICES > 1 ? QUERIES * ROWS : 1];                 /* a quarter */
#define scores halves                                  /* then p of (row, query), rows P_STRIDE apart; then factors of splits */
shared float part_max[SLICE_QUERIES * 64], part_sum[SLICE_QUERIES * 64]; /* of every subgroup */
shared int segment_max[QUERIES], total_max[QUERIES];
shared float total_sum[QUERIES], factor[QUERIES], denominator[QUERIES];

/* total_max and total_sum of `splits` splits, and what each of them is multiplied by: the sums so far by scores[2 * i], its own
 * by scores[2 * i + 1], i = split * QUERIES + query. Invocation i follows query i. */
void merge_stats(uint cell, uint splits) {
    uint lane = invocation(), n = splits * QUERIES;
    for (uint i = lane; i < n; i += WORKGROUP) {
        SharedFloats stats = SharedFloats(add_product(a.partial, cell + i / QUERIES * gl_NumWorkGroups.x, CELL_BYTES));
        scores[2u * i] = stats.v[QUERIES * HEAD_DIM + i % QUERIES];
        scores[2u * i + 1u] = stats.v[QUERIES * (HEAD_DIM + 1u) + i % QUERIES];
    }
    barrier();
    if (lane < QUERIES) {
        float sum = 0.0;
        int most = SPARSE_ATTN_EMPTY;
        for (uint i = lane; i < n; i += QUERIES) {
            int here = int(scores[2u * i]), both = max(most, here);
            float keep = pow2(most - both), add = pow2(here - both);
            sum = sum * keep + scores[2u * i + 1u] * add;
            most = both;
            scores[2u * i] = keep;
            scores[2u * i + 1u] = add;
        }
        total_max[lane] = most; /* for this invocation */
        total_sum[lane] = sum;
    }
    barrier();
}

bool has(uint query, uint tokens) { return query / HEADS >= (tokens & 0xffffu) && query / HEADS < tokens >> 16; }

/* Tokens t .. t + n - 1, which are of one sequence. */
void attend(uint t, uint n) {
    uint lane = invocation(), head0 = gl_WorkGroupID.x * HEADS, split = gl_WorkGroupID.z;
    List list = list_rows(t, n);
    uint segments = (list.count + ROWS - 1u) / ROWS;
    uint share = (segments + gl_NumWorkGroups.z - 1u) / gl_NumWorkGroups.z, splits = (segments + share - 1u) / share;
    if (split >= splits)
        return;
    uint end = min((split + 1u) * share, segments);

    /* steps 1 and 2: its row, slice of dimensions and queries to finish; step 3: its columns and queries. subgroupMin tells the
     * compiler what is the same for the subgroup. */
    uint r = lane % LANES, slice = subgroupMin(lane / LANES), finish = slice * SLICE_QUERIES;
    uint quad = min(lane % GROUP_LANES, QUADS - 1u), group = subgroupMin(lane / GROUP_LANES) * GROUP_QUERIES;
    bool owner = lane % GROUP_LANES < QUADS;
    uint subgroups = gl_NumSubgroups / SLICES; /* that share a slice */

    vec4 total[GROUP_QUERIES];
    for (uint j = 0u; j < GROUP_QUERIES; j++)
        total[j] = vec4(0.0);
    if (lane < QUERIES) {
        total_max[lane] = SPARSE_ATTN_EMPTY;
        total_sum[lane] = 0.0;
    }

    for (uint segment = split * share; segment < end; segment++) {
        uint first = segment * ROWS, rows = min(list.count - first, ROWS);
        [[unroll]] for (uint pass = 0u; pass < ROWS; pass += WORKGROUP) {
            const uint i = pass + lane;
            if (i < ROWS) {
                uint from, end;
                source[i] = find_row(list, first + i, from, end);
                having[i] = from | end << 16;
                tainted = false;
            }
        }
        barrier();

        uvec4 from[LANE_ROWS];
        float dots[LANE_ROWS][QUERIES];
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
            from[k] = source[r * LANE_ROWS + k];
            [[unroll]] for (uint h = 0u; h < QUERIES; h++)
                dots[k][h] = 0.0;
        }
        uint dims = r * LANE_ROWS < rows ? HEAD_DIM : 0u;
        for (uint d = slice * 16u; d < dims; d += SLICES * 16u) {
            vec4 v[LANE_ROWS][4];
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
                row_load16(from[k].xy, from[k].zw, d, v[k]);
            [[unroll]] for (uint h = 0u; h < QUERIES; h++) {
                Vec4x4s q = Vec4x4s(add_product(a.q, t + min(h / HEADS, n - 1u), a.q_stride * 4u));
                uint at = min(head0 + h % HEADS, a.n_heads - 1u) * (HEAD_DIM / 16u) + d / 16u;
                vec4 sum[LANE_ROWS];
                [[unroll]] for (uint i = 0u; i < 4u; i++) {
                    vec4 x = q.v[at].q[i];
                    [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
                        sum[k] = i == 0u ? x * v[k][i] : fma(x, v[k][i], sum[k]);
                }
                [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
                    dots[k][h] += (sum[k].x + sum[k].y) + (sum[k].z + sum[k].w);
            }
        }

        /* Each slice ends up with the sums over all of them of a quarter of the queries: half of the dot products go to the
         * slice two further, then half of the rest to its neighbour. */
        bool upper = slice >= 2u, odd = (slice & 1u) != 0u;
        if (SLICES > 1u) {
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
                [[unroll]] for (uint j = 0u; j < 2u * SLICE_QUERIES; j++)
                    halves[(slice * 2u * SLICE_QUERIES + j) * ROWS + k * LANES + r] =
                        upper ? dots[k][j] : dots[k][(2u * SLICE_QUERIES + j) % QUERIES];
            barrier();
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
                [[unroll]] for (uint j = 0u; j < 2u * SLICE_QUERIES; j++)
                    dots[k][j % QUERIES] = (upper ? dots[k][(2u * SLICE_QUERIES + j) % QUERIES] : dots[k][j % QUERIES]) +
                                           halves[((slice ^ 2u) * 2u * SLICE_QUERIES + j) * ROWS + k * LANES + r];
                [[unroll]] for (uint j = 0u; j < SLICE_QUERIES; j++)
                    quarters[(slice * SLICE_QUERIES + j) * ROWS + k * LANES + r] =
                        odd ? dots[k][j] : dots[k][(SLICE_QUERIES + j) % QUERIES];
            }
            barrier();
        }

        uint tokens[LANE_ROWS];
        float z[LANE_ROWS][SLICE_QUERIES];
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
            tokens[k] = having[r * LANE_ROWS + k];
        [[unroll]] for (uint j = 0u; j < SLICE_QUERIES; j++) {
            float most = -3e38;
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
                if (SLICES > 1u)
                    z[k][j] = (odd ? dots[k][(SLICE_QUERIES + j) % QUERIES] : dots[k][j]) +
                              quarters[((slice ^ 1u) * SLICE_QUERIES + j) * ROWS + k * LANES + r];
                else
                    z[k][j] = dots[k][j];
                z[k][j] *= a.scale;
                most = max(most, has(finish + j, tokens[k]) && is_finite(z[k][j]) ? z[k][j] : -3e38);
                if (TOKENS > 1u && !is_finite(z[k][j]))
                    tainted = true;
            }
            part_max[j * 64u + gl_SubgroupID] = subgroupMax(most);
        }
        barrier();
        float best[SLICE_QUERIES];
        for (uint j = 0u; j < SLICE_QUERIES; j++)
            best[j] = -3e38;
        for (uint s = 0u; s < subgroups; s++) /* outside: a loop of unknown length in the other would keep z out of registers */
            for (uint j = 0u; j < SLICE_QUERIES; j++)
                best[j] = max(best[j], part_max[j * 64u + slice * subgroups + s]);
        [[unroll]] for (uint j = 0u; j < SLICE_QUERIES; j++) {
            int most = max(total_max[finish + j], best[j] > -3e38 ? exp_exponent(best[j]) : SPARSE_ATTN_EMPTY);
            float sum = 0.0;
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
                float p = has(finish + j, tokens[k]) ? exp_scaled(z[k][j], most) : 0.0;
                scores[(r * LANE_ROWS + k) * P_STRIDE + finish + j] = p;
                sum += p;
            }
            part_sum[j * 64u + gl_SubgroupID] = subgroupAdd(sum);
            if (r == 0u)
                segment_max[finish + j] = most;
        }
        barrier();

        [[unroll]] for (uint j = 0u; j < GROUP_QUERIES; j++)
            total[j] *= pow2(total_max[group + j] - segment_max[group + j]);
        if (TOKENS > 1u && tainted)
            for (uint i = 0u; i < rows; i++) {
                vec4 v = row_decode4(row_fetch4(source[i].xy, source[i].zw, quad * 4u), quad * 4u);
                [[unroll]] for (uint j = 0u; j < GROUP_QUERIES; j++)
                    if (has(group + j, having[i]))
                        total[j] = fma(vec4(scores[i * P_STRIDE + group + j]), v, total[j]);
            }
        else for (uint i = 0u; i < rows; i += FETCH) {
            uvec4 raw[FETCH];
            [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                uvec4 at = source[i + u];
                raw[u] = row_fetch4(at.xy, at.zw, quad * 4u);
            }
            [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                vec4 v = row_decode4(raw[u], quad * 4u);
                [[unroll]] for (uint j = 0u; j < GROUP_QUERIES; j++)
                    total[j] = fma(vec4(scores[(i + u) * P_STRIDE + group + j]), v, total[j]);
            }
        }
        barrier();
        if (lane < QUERIES) {
            float sum = 0.0;
            for (uint s = 0u; s < subgroups; s++)
                sum += part_sum[lane % SLICE_QUERIES * 64u + lane / SLICE_QUERIES * subgroups + s];
            total_sum[lane] = total_sum[lane] * pow2(total_max[lane] - segment_max[lane]) + sum;
            total_max[lane] = segment_max[lane];
        }
    }

    if (splits > 1u) {
        uint cell0 = t * gl_NumWorkGroups.z * gl_NumWorkGroups.x + gl_WorkGroupID.x; /* of split 0 */
        SharedVec4s sums = SharedVec4s(add_product(a.partial, cell0 + split * gl_NumWorkGroups.x, CELL_BYTES));
        if (owner)
            for (uint j = 0u; j < GROUP_QUERIES; j++)
                sums.v[(group + j) * QUADS + quad] = total[j];
        if (lane < QUERIES) {
            SharedFloats stats = SharedFloats(add_product(a.partial, cell0 + split * gl_NumWorkGroups.x, CELL_BYTES));
            stats.v[QUERIES * HEAD_DIM + lane] = float(total_max[lane]);
            stats.v[QUERIES * (HEAD_DIM + 1u) + lane] = total_sum[lane];
        }
        if (!last_workgroup(add_bytes(a.counters, 4u * (t * gl_NumWorkGroups.x + gl_WorkGroupID.x)), splits))
            return;
        merge_stats(cell0, splits);
        for (uint j = 0u; j < GROUP_QUERIES; j++)
            total[j] = vec4(0.0);
        for (uint s = 0u; s < splits; s++) {
            SharedVec4s part = SharedVec4s(add_product(a.partial, cell0 + s * gl_NumWorkGroups.x, CELL_BYTES));
            [[unroll]] for (uint j = 0u; j < GROUP_QUERIES; j++) {
                uint i = s * QUERIES + group + j;
                total[j] = total[j] * scores[2u * i] + part.v[(group + j) * QUADS + quad] * scores[2u * i + 1u];
            }
        }
    }

    /* o = total * factor / denominator */
    if (lane < QUERIES) {
        float sink = Floats(a.sink).v[min(head0 + lane % HEADS, a.n_heads - 1u)];
        int most = total_max[lane], both = is_finite(sink) ? max(most, exp_exponent(sink)) : most;
        float keep = pow2(most - both);
        factor[lane] = keep;
        denominator[lane] = total_sum[lane] * keep + exp_scaled(sink, both);
    }
    barrier();
    if (!owner)
        return;
    bool turned = quad * 4u >= HEAD_DIM - ROPE_DIM;
    vec4 angles = vec4(1.0, 0.0, 1.0, 0.0);
    [[unroll]] for (uint j = 0u; j < GROUP_QUERIES; j++) {
        const uint token = (group + j) / HEADS, head = head0 + (group + j) % HEADS;
        if (turned && (j == 0u || (group + j) % HEADS == 0u))
            angles = rope_angles(a.rope, list.row.position + min(token, n - 1u), (quad * 4u - (HEAD_DIM - ROPE_DIM)) / 2u);
        if (head >= a.n_heads || token >= n)
            continue;
        vec4 o = total[j] * factor[group + j] / denominator[group + j];
        Vec4sOut result = Vec4sOut(add_product(a.result, t + token, a.n_heads * HEAD_DIM * 4u));
        result.v[head * QUADS + quad] = turned ? rope_rotate_back(o, angles) : o;
    }
}

void main() {
    const uint t = gl_WorkGroupID.y * TOKENS, tokens = TOKENS == 1u ? 1u : min(TOKENS, a.n - t);
    uint first = 0u;
    do {
        const uint last = TOKENS == 1u ? 1u : sequence_end(Rows(a.rows), t, first, tokens);
        attend(t + first, last - first);
        first = last;
    } while (first < tokens);
}
