/* Sparse attention, spec 4.8, and the inverse RoPE of 4.9: for head h of token t over the rows of the token,
 *   z_i = scale * (q[t][h] . row_i),  p_i = exp(z_i) * 2^-M,  M = ceil(max z / ln 2),
 *   o = sum of p_i * row_i / (sum of p_i + exp(sink) * 2^-M), and the last ROPE_DIM values turn back by the query's angle.
 * K = V and one row serves all heads. The rows of a token form a list: window positions max(0, pos - window + 1) .. pos,
 * then compressed entries. The list is cut into segments of 64 or 128, and these into n_splits runs of equal length (the grid's
 * z): a row of few segments has fewer, and what is left over of the grid ends at once.
 *
 * One workgroup: HEADS heads of one token, over the segments of one split. For a segment
 *   1. an invocation takes one or two rows and every fourth group of 16 dimensions: their dot products with all the heads'
 *      queries, which are read at addresses that a whole subgroup shares,
 *   2. the four slices are added, the maximum over the rows so far gives M and the scores p,
 *   3. an invocation owns 4 columns of HEADS / GROUPS heads and adds p * row over the rows, read once more.
 * The workgroup that ends last of the splits adds them up, in order, and makes the result; the only one does it right away. M is
 * an integer, so rescaling is exact.
 * A chunk of a prompt is served the same way, where matrix units do not (sparse_attn_coopmat.comp): a decoded row serves HEADS queries,
 * and which tokens they are of would change nothing but the masks. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
layout(local_size_x = 256) in;
#include "sparse_attn.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "last.glsl"

#include "sparse_attn.glsl"

layout(constant_id = SPARSE_ATTN_CONSTANT_LANE_ROWS) const uint LANE_ROWS = 1; /* rows of an invocation in step 1: 1 or 2 */

const uint LANES = 64;                                 /* that share a slice; a subgroup has at most that many */
const uint SLICES = 256 / LANES;
const uint ROWS = LANES * LANE_ROWS;
const uint SLICE_HEADS = HEADS / SLICES;               /* heads whose scores an invocation finishes, for its row */
const uint QUADS = HEAD_DIM / 4;
const uint GROUP_LANES = QUADS > 64 ? 128 : 64;        /* at least a subgroup */
const uint GROUP_HEADS = HEADS * GROUP_LANES / 256;

const uint FETCH = 8;                                  /* rows on their way at once in step 3 */
const uint P_STRIDE = HEADS + 4;                       /* neighbouring rows in different banks */

/* The partial result of a workgroup: sums of p * row [HEADS][HEAD_DIM], then M [HEADS] as a float, then sums of p [HEADS]. */
const uint CELL_BYTES = HEADS * (HEAD_DIM + 2) * 4;

shared uvec4 source[ROWS];                             /* address of the codes, all the scales */
shared uint exists[ROWS];
shared float halves[2 * HEADS * ROWS];                 /* on their way between slices: half of the dot products, */
shared float quarters[HEADS * ROWS];                   /* a quarter */
#define scores halves                                  /* then p of (row, head), rows P_STRIDE apart; then factors of splits */
shared float part_max[SLICE_HEADS * 64], part_sum[SLICE_HEADS * 64]; /* of every subgroup */
shared int segment_max[HEADS], total_max[HEADS];
shared float total_sum[HEADS], factor[HEADS], denominator[HEADS];

/* total_max and total_sum of `splits` splits, and what each of them is multiplied by: the sums so far by scores[2 * i], its own
 * by scores[2 * i + 1], i = split * HEADS + head. Invocation h follows head h. */
void merge_stats(uint cell, uint splits) {
    uint lane = gl_LocalInvocationIndex, n = splits * HEADS;
    for (uint i = lane; i < n; i += 256u) {
        SharedFloats stats = SharedFloats(add_product(a.partial, cell + i / HEADS * gl_NumWorkGroups.x, CELL_BYTES));
        scores[2u * i] = stats.v[HEADS * HEAD_DIM + i % HEADS];
        scores[2u * i + 1u] = stats.v[HEADS * (HEAD_DIM + 1u) + i % HEADS];
    }
    barrier();
    if (lane < HEADS) {
        float sum = 0.0;
        int most = SPARSE_ATTN_EMPTY;
        for (uint i = lane; i < n; i += HEADS) {
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

void main() {
    uint lane = gl_LocalInvocationIndex, head0 = gl_WorkGroupID.x * HEADS, t = gl_WorkGroupID.y, split = gl_WorkGroupID.z;
    Row row = Rows(a.rows).v[t];
    Seq seq = Seqs(a.seqs).v[row.sequence];

    uint window_rows = min(row.position + 1u, a.window), count = list_rows(row, window_rows);
    uint segments = (count + ROWS - 1u) / ROWS;
    uint share = (segments + gl_NumWorkGroups.z - 1u) / gl_NumWorkGroups.z, splits = (segments + share - 1u) / share;
    if (split >= splits)
        return;
    uint end = min((split + 1u) * share, segments);

    /* steps 1 and 2: its row, slice of dimensions and heads to finish; step 3: its columns and heads. subgroupMin tells the
     * compiler what is the same for the subgroup. */
    uint r = lane % LANES, slice = subgroupMin(lane / LANES), finish = slice * SLICE_HEADS;
    uint quad = min(lane % GROUP_LANES, QUADS - 1u), group = subgroupMin(lane / GROUP_LANES) * GROUP_HEADS;
    bool owner = lane % GROUP_LANES < QUADS;
    uint subgroups = gl_NumSubgroups / SLICES; /* that share a slice */
    Vec4x4s q = Vec4x4s(add_product(a.q, t, a.q_stride * 4u));

    vec4 total[GROUP_HEADS];
    for (uint j = 0u; j < GROUP_HEADS; j++)
        total[j] = vec4(0.0);
    if (lane < HEADS) {
        total_max[lane] = SPARSE_ATTN_EMPTY;
        total_sum[lane] = 0.0;
    }

    for (uint segment = split * share; segment < end; segment++) {
        uint first = segment * ROWS, rows = min(count - first, ROWS);
        if (lane < ROWS)
            source[lane] = find_row(row, seq, first + lane, window_rows, count, t, exists[lane]);
        barrier();

        uvec4 from[LANE_ROWS];
        float dots[LANE_ROWS][HEADS];
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
            from[k] = source[r * LANE_ROWS + k];
            [[unroll]] for (uint h = 0u; h < HEADS; h++)
                dots[k][h] = 0.0;
        }
        uint dims = r * LANE_ROWS < rows ? HEAD_DIM : 0u;
        for (uint d = slice * 16u; d < dims; d += SLICES * 16u) {
            vec4 v[LANE_ROWS][4];
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
                row_load16(from[k].xy, from[k].zw, d, v[k]);
            [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                uint at = min(head0 + h, a.n_heads - 1u) * (HEAD_DIM / 16u) + d / 16u;
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

        /* Each slice ends up with the sums over all of them of a quarter of the heads: half of the dot products go to the
         * slice two further, then half of the rest to its neighbour. */
        bool upper = slice >= 2u, odd = (slice & 1u) != 0u;
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
            [[unroll]] for (uint j = 0u; j < 2u * SLICE_HEADS; j++)
                halves[(slice * 2u * SLICE_HEADS + j) * ROWS + k * LANES + r] =
                    upper ? dots[k][j] : dots[k][2u * SLICE_HEADS + j];
        barrier();
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
            [[unroll]] for (uint j = 0u; j < 2u * SLICE_HEADS; j++)
                dots[k][j] = (upper ? dots[k][2u * SLICE_HEADS + j] : dots[k][j]) +
                             halves[((slice ^ 2u) * 2u * SLICE_HEADS + j) * ROWS + k * LANES + r];
            [[unroll]] for (uint j = 0u; j < SLICE_HEADS; j++)
                quarters[(slice * SLICE_HEADS + j) * ROWS + k * LANES + r] =
                    odd ? dots[k][j] : dots[k][SLICE_HEADS + j];
        }
        barrier();

        bool live[LANE_ROWS];
        float z[LANE_ROWS][SLICE_HEADS];
        [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++)
            live[k] = exists[r * LANE_ROWS + k] != 0u;
        [[unroll]] for (uint j = 0u; j < SLICE_HEADS; j++) {
            float most = -3e38;
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
                z[k][j] = (odd ? dots[k][SLICE_HEADS + j] : dots[k][j]) +
                          quarters[((slice ^ 1u) * SLICE_HEADS + j) * ROWS + k * LANES + r];
                z[k][j] *= a.scale;
                most = max(most, live[k] && is_finite(z[k][j]) ? z[k][j] : -3e38);
            }
            part_max[j * 64u + gl_SubgroupID] = subgroupMax(most);
        }
        barrier();
        float best[SLICE_HEADS];
        for (uint j = 0u; j < SLICE_HEADS; j++)
            best[j] = -3e38;
        for (uint s = 0u; s < subgroups; s++) /* outside: a loop of unknown length in the other would keep z out of registers */
            for (uint j = 0u; j < SLICE_HEADS; j++)
                best[j] = max(best[j], part_max[j * 64u + slice * subgroups + s]);
        [[unroll]] for (uint j = 0u; j < SLICE_HEADS; j++) {
            int most = max(total_max[finish + j], best[j] > -3e38 ? exp_exponent(best[j]) : SPARSE_ATTN_EMPTY);
            float sum = 0.0;
            [[unroll]] for (uint k = 0u; k < LANE_ROWS; k++) {
                float p = live[k] ? exp_scaled(z[k][j], most) : 0.0;
                scores[(r * LANE_ROWS + k) * P_STRIDE + finish + j] = p;
                sum += p;
            }
            part_sum[j * 64u + gl_SubgroupID] = subgroupAdd(sum);
            if (r == 0u)
                segment_max[finish + j] = most;
        }
        barrier();

        [[unroll]] for (uint j = 0u; j < GROUP_HEADS; j++)
            total[j] *= pow2(total_max[group + j] - segment_max[group + j]);
        for (uint i = 0u; i < rows; i += FETCH) {
            uvec4 raw[FETCH];
            [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                uvec4 at = source[i + u];
                raw[u] = row_fetch4(at.xy, at.zw, quad * 4u);
            }
            [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                vec4 v = row_decode4(raw[u], quad * 4u);
                [[unroll]] for (uint j = 0u; j < GROUP_HEADS; j++)
                    total[j] = fma(vec4(scores[(i + u) * P_STRIDE + group + j]), v, total[j]);
            }
        }
        barrier();
        if (lane < HEADS) {
            float sum = 0.0;
            for (uint s = 0u; s < subgroups; s++)
                sum += part_sum[lane % SLICE_HEADS * 64u + lane / SLICE_HEADS * subgroups + s];
            total_sum[lane] = total_sum[lane] * pow2(total_max[lane] - segment_max[lane]) + sum;
            total_max[lane] = segment_max[lane];
        }
    }

    if (splits > 1u) {
        uint cell0 = t * gl_NumWorkGroups.z * gl_NumWorkGroups.x + gl_WorkGroupID.x; /* of split 0 */
        SharedVec4s sums = SharedVec4s(add_product(a.partial, cell0 + split * gl_NumWorkGroups.x, CELL_BYTES));
        if (owner)
            for (uint j = 0u; j < GROUP_HEADS; j++)
                sums.v[(group + j) * QUADS + quad] = total[j];
        if (lane < HEADS) {
            SharedFloats stats = SharedFloats(add_product(a.partial, cell0 + split * gl_NumWorkGroups.x, CELL_BYTES));
            stats.v[HEADS * HEAD_DIM + lane] = float(total_max[lane]);
            stats.v[HEADS * (HEAD_DIM + 1u) + lane] = total_sum[lane];
        }
        if (!last_workgroup(add_bytes(a.counters, 4u * (t * gl_NumWorkGroups.x + gl_WorkGroupID.x)), splits))
            return;
        merge_stats(cell0, splits);
        for (uint j = 0u; j < GROUP_HEADS; j++)
            total[j] = vec4(0.0);
        for (uint s = 0u; s < splits; s++) {
            SharedVec4s part = SharedVec4s(add_product(a.partial, cell0 + s * gl_NumWorkGroups.x, CELL_BYTES));
            [[unroll]] for (uint j = 0u; j < GROUP_HEADS; j++) {
                uint i = s * HEADS + group + j;
                total[j] = total[j] * scores[2u * i] + part.v[(group + j) * QUADS + quad] * scores[2u * i + 1u];
            }
        }
    }

    /* o = total * factor / denominator */
    if (lane < HEADS) {
        float sink = Floats(a.sink).v[min(head0 + lane, a.n_heads - 1u)];
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
    if (turned)
        angles = rope_angles(a.rope, row.position, (quad * 4u - (HEAD_DIM - ROPE_DIM)) / 2u);
    Vec4sOut result = Vec4sOut(add_product(a.result, t, a.n_heads * HEAD_DIM * 4u));
    for (uint j = 0u; j < GROUP_HEADS; j++)
        if (head0 + group + j < a.n_heads) {
            vec4 o = total[j] * factor[group + j] / denominator[group + j];
            result.v[(head0 + group + j) * QUADS + quad] = turned ? rope_rotate_back(o, angles) : o;
        }
}
