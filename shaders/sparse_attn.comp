/* Sparse attention, spec 4.8, and the inverse RoPE of 4.9: for head h of token t over the rows of the token,
 *   z_i = scale * (q[t][h] . row_i),  p_i = exp(z_i) * 2^-M,  M = ceil(max z / ln 2),
 *   o = sum of p_i * row_i / (sum of p_i + exp(sink) * 2^-M), and the last ROPE_DIM values turn back by the query's angle.
 * K = V and one row serves all heads. The rows of a token form a list: window positions max(0, pos - window + 1) .. pos,
 * then compressed entries. The list is cut into segments of 64, and these into n_splits runs of equal length (the grid's z): a
 * row of few segments has fewer, and what is left over of the grid ends at once.
 *
 * One workgroup: HEADS heads of one token, over the segments of one split. For a segment
 *   1. an invocation takes one row and every fourth group of 16 dimensions: their dot products with all the heads' queries,
 *      which are read at addresses that a whole subgroup shares,
 *   2. the four slices are added, the maximum over the rows gives M and the scores p,
 *   3. an invocation owns 4 columns of HEADS / GROUPS heads and adds p * row over the rows, read once more.
 * The workgroup that ends last of the splits adds them up and makes the result; the only one does it right away.
 * Sums are formed per segment, segments are added in order, then splits in order. M is an integer, so rescaling is exact, and
 * one segment per split gives the same bits as one split. */
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

layout(constant_id = SPARSE_ATTN_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512;
layout(constant_id = SPARSE_ATTN_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64;
layout(constant_id = SPARSE_ATTN_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = SPARSE_ATTN_CONSTANT_HEADS) const uint HEADS = 16; /* 4, 8 or 16 */
const uint INDEX_DIM = 128; /* kv.glsl wants one */
#include "kv.glsl"
#include "rope.glsl"

layout(push_constant, scalar) uniform Args { sparse_attn_args a; };

const uint ROWS = SPARSE_ATTN_SEGMENT;                 /* a subgroup has at most that many invocations */
const uint SLICES = 256 / ROWS;
const uint SLICE_HEADS = HEADS / SLICES;               /* heads whose scores an invocation finishes, for its row */
const uint QUADS = HEAD_DIM / 4;
const uint GROUP_LANES = QUADS > 64 ? 128 : 64;        /* at least a subgroup */
const uint GROUP_HEADS = HEADS * GROUP_LANES / 256;

const uint FETCH = 4; /* rows on their way at once in step 3 */

/* The partial result of a workgroup: sums of p * row [HEADS][HEAD_DIM], then M [HEADS] as a float, then sums of p [HEADS]. */
const uint CELL_BYTES = HEADS * (HEAD_DIM + 2) * 4;

shared uvec4 source[ROWS];                             /* addresses of codes and scales, 0: no row */
shared float slices[SLICES * HEADS * ROWS];            /* of dot products; then, in slice 0, the p of (head, row); the merge's */
shared float part_max[SLICE_HEADS * 64], part_sum[SLICE_HEADS * 64]; /* of every subgroup */
shared int segment_max[HEADS], total_max[HEADS];
shared float segment_sum[HEADS], total_sum[HEADS], factor[HEADS], denominator[HEADS];

/* 2^d for d <= 0 */
float pow2(int d) { return d < -126 ? 0.0 : exp2_int(d); }

/* Where row i of the token's list lies. */
uvec4 find_row(Row row, Seq seq, uint i, uint window_rows, uint t) {
    uvec2 store;
    uint capacity, index;
    if (i < window_rows) {
        uint position = row.position + 1u - window_rows + i;
        if (position >= seq.start) {
            store = a.step_store;
            capacity = a.step_capacity;
            index = min(row.first + (position - seq.start), capacity - 1u);
        } else {
            store = add_bytes(seq.state, a.ring_offset);
            capacity = a.ring_capacity;
            index = position % capacity;
        }
    } else {
        uint entry = i - window_rows;
        if (a.ratio == 4u) {
            entry = Words(add_product(a.idx, t, a.k * 4u)).v[entry];
            if (entry >= (row.position + 1u) / 4u) /* -1: none */
                return uvec4(0u);
        }
        capacity = a.page_tokens / a.ratio;
        store = add_bytes(Addrs(seq.pages).v[entry / capacity], a.page_offset);
        index = entry % capacity;
    }
    return uvec4(row_codes(store, index), row_scales(store, capacity, index));
}

/* total_max and total_sum of `splits` splits, and what each of them is multiplied by: the sums so far by slices[2 * i], its own
 * by slices[2 * i + 1], i = split * HEADS + head. Invocation h follows head h. */
void merge_stats(uint cell, uint splits) {
    uint lane = gl_LocalInvocationIndex, n = splits * HEADS;
    for (uint i = lane; i < n; i += 256u) {
        SharedFloats stats = SharedFloats(add_product(a.partial, cell + i / HEADS * gl_NumWorkGroups.x, CELL_BYTES));
        slices[2u * i] = stats.v[HEADS * HEAD_DIM + i % HEADS];
        slices[2u * i + 1u] = stats.v[HEADS * (HEAD_DIM + 1u) + i % HEADS];
    }
    barrier();
    if (lane < HEADS) {
        float sum = 0.0;
        int most = SPARSE_ATTN_EMPTY;
        for (uint i = lane; i < n; i += HEADS) {
            int here = int(slices[2u * i]), both = max(most, here);
            float keep = pow2(most - both), add = pow2(here - both);
            sum = sum * keep + slices[2u * i + 1u] * add;
            most = both;
            slices[2u * i] = keep;
            slices[2u * i + 1u] = add;
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

    uint window_rows = min(row.position + 1u, a.window);
    uint count = window_rows;
    if (a.ratio == 4u)
        count += min((row.position + 1u) / 4u, a.k);
    else if (a.ratio != 0u)
        count += (row.position + 1u) / a.ratio;
    uint segments = (count + ROWS - 1u) / ROWS;
    uint share = (segments + gl_NumWorkGroups.z - 1u) / gl_NumWorkGroups.z, splits = (segments + share - 1u) / share;
    if (split >= splits)
        return;
    uint end = min((split + 1u) * share, segments);

    /* steps 1 and 2: its row, slice of dimensions and heads to finish; step 3: its columns and heads. subgroupMin tells the
     * compiler what is the same for the subgroup. */
    uint r = lane % ROWS, slice = subgroupMin(lane / ROWS), finish = slice * SLICE_HEADS;
    uint quad = lane % GROUP_LANES, group = subgroupMin(lane / GROUP_LANES) * GROUP_HEADS;
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
            source[lane] = lane < rows ? find_row(row, seq, first + lane, window_rows, t) : uvec4(0u);
        barrier();

        uvec4 from = source[r];
        bool live = !is_null(from.xy);
        float dots[HEADS];
        for (uint h = 0u; h < HEADS; h++)
            dots[h] = 0.0;
        for (uint d = slice * 16u; d < HEAD_DIM; d += SLICES * 16u) {
            vec4 v[4];
            v[0] = v[1] = v[2] = v[3] = vec4(0.0);
            if (live)
                row_load16(from.xy, from.zw, d, v);
            for (uint h = 0u; h < HEADS; h++) {
                uint at = min(head0 + h, a.n_heads - 1u) * (HEAD_DIM / 16u) + d / 16u;
                vec4 sum = q.v[at].q[0] * v[0];
                for (uint i = 1u; i < 4u; i++)
                    sum += q.v[at].q[i] * v[i];
                dots[h] += (sum.x + sum.y) + (sum.z + sum.w);
            }
        }
        for (uint h = 0u; h < HEADS; h++)
            slices[(slice * HEADS + h) * ROWS + r] = dots[h];
        barrier();

        float z[SLICE_HEADS];
        for (uint j = 0u; j < SLICE_HEADS; j++) {
            z[j] = 0.0;
            for (uint s = 0u; s < SLICES; s++)
                z[j] += slices[(s * HEADS + finish + j) * ROWS + r];
            z[j] *= a.scale;
            part_max[j * 64u + gl_SubgroupID] = subgroupMax(live && is_finite(z[j]) ? z[j] : -3e38);
        }
        barrier();
        float best[SLICE_HEADS];
        for (uint j = 0u; j < SLICE_HEADS; j++)
            best[j] = -3e38;
        for (uint s = 0u; s < subgroups; s++) /* outside: a loop of unknown length in the other would keep z out of registers */
            for (uint j = 0u; j < SLICE_HEADS; j++)
                best[j] = max(best[j], part_max[j * 64u + slice * subgroups + s]);
        for (uint j = 0u; j < SLICE_HEADS; j++) {
            int most = best[j] > -3e38 ? exp_exponent(best[j]) : SPARSE_ATTN_EMPTY;
            float p = live ? exp_scaled(z[j], most) : 0.0;
            slices[(finish + j) * ROWS + r] = p; /* its own dot product was there */
            part_sum[j * 64u + gl_SubgroupID] = subgroupAdd(p);
            if (r == 0u)
                segment_max[finish + j] = most;
        }
        barrier();

        if (lane < HEADS) {
            float sum = 0.0;
            for (uint s = 0u; s < subgroups; s++)
                sum += part_sum[lane % SLICE_HEADS * 64u + lane / SLICE_HEADS * subgroups + s];
            segment_sum[lane] = sum;
        }
        vec4 sum[GROUP_HEADS];
        for (uint j = 0u; j < GROUP_HEADS; j++)
            sum[j] = vec4(0.0);
        if (quad < QUADS)
            for (uint i = 0u; i < rows; i += FETCH) {
                uvec4 raw[FETCH];
                [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                    uvec4 at = source[i + u];
                    raw[u] = uvec4(0u); /* no row, whose p is 0 */
                    if (!is_null(at.xy))
                        raw[u] = row_fetch4(at.xy, at.zw, quad * 4u);
                }
                [[unroll]] for (uint u = 0u; u < FETCH; u++) {
                    vec4 v = row_decode4(raw[u], quad * 4u);
                    for (uint j = 0u; j < GROUP_HEADS; j++)
                        sum[j] += slices[(group + j) * ROWS + i + u] * v;
                }
            }
        /* Splits are added by the same operations. */
        for (uint j = 0u; j < GROUP_HEADS; j++) {
            int old = total_max[group + j], here = segment_max[group + j], both = max(old, here);
            total[j] = total[j] * pow2(old - both) + sum[j] * pow2(here - both);
        }
        barrier();
        if (lane < HEADS) {
            int old = total_max[lane], here = segment_max[lane], both = max(old, here);
            total_sum[lane] = total_sum[lane] * pow2(old - both) + segment_sum[lane] * pow2(here - both);
            total_max[lane] = both;
        }
    }

    if (splits > 1u) {
        uint cell0 = t * gl_NumWorkGroups.z * gl_NumWorkGroups.x + gl_WorkGroupID.x; /* of split 0 */
        SharedVec4s sums = SharedVec4s(add_product(a.partial, cell0 + split * gl_NumWorkGroups.x, CELL_BYTES));
        if (quad < QUADS)
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
            vec4 add[GROUP_HEADS];
            for (uint j = 0u; j < GROUP_HEADS; j++)
                add[j] = part.v[(group + j) * QUADS + min(quad, QUADS - 1u)];
            for (uint j = 0u; j < GROUP_HEADS; j++) {
                uint i = s * HEADS + group + j;
                total[j] = total[j] * slices[2u * i] + add[j] * slices[2u * i + 1u];
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
    if (quad >= QUADS)
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
