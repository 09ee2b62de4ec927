/* Sparse attention, spec 4.8, up to the division: for head h of token t over the rows of the token,
 *   z_i = scale * (q[t][h] . row_i),  p_i = exp(z_i) * 2^-M,  sum of p_i,  sum of p_i * row_i,   M = ceil(max z / ln 2)
 * K = V and one row serves all heads. The rows of a token form a list: window positions max(0, pos - window + 1) .. pos,
 * then compressed entries; the list is cut into segments of 64.
 *
 * One workgroup: 16 heads of one token, over one segment (n_splits > 1) or all of them. In tiles of TILE_ROWS rows it
 *   1. decodes the rows into shared memory (BF16 pairs hold native rows exactly),
 *   2. forms the dot products: an invocation takes 4 heads x 2 rows x every SLICES-th group of 4 dimensions,
 *   3. adds the slices and turns the scores into p,
 *   4. adds p * row: an invocation owns 4 columns of HEADS / GROUPS heads.
 * Sums are formed per segment and segments are added in order, here or by the merge: M is an integer, so rescaling is exact
 * and the result has the same bits for every n_splits that gives each segment its own split, and for 1. */
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256) in;
#include "sparse_attn.h"
#include "memory.glsl"
#include "numbers.glsl"

layout(constant_id = SPARSE_ATTN_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512;
layout(constant_id = SPARSE_ATTN_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64;
layout(constant_id = SPARSE_ATTN_CONSTANT_NATIVE) const bool NATIVE = true;
const uint INDEX_DIM = 128; /* kv.glsl wants one */
#include "kv.glsl"

layout(push_constant, scalar) uniform Args { sparse_attn_args a; };

const uint HEADS = SPARSE_ATTN_HEADS;
const uint TILE_ROWS = NATIVE ? 16 : 8;
const uint QUADS = HEAD_DIM / 4;
const uint QUAD_WORDS2 = NATIVE ? 1 : 2;              /* a quad of values in uvec2 words of the tile */
const uint STRIDE = QUADS * QUAD_WORDS2 + 4;          /* uvec2 words between rows; + 4: two rows meet in no bank */
const uint PAIRS = HEADS * TILE_ROWS;                 /* (head, row) */
const uint SLICES = 256 / (PAIRS / 8);
const uint GROUPS = QUADS > 64 ? 2 : QUADS > 32 ? 4 : QUADS > 16 ? 8 : 16; /* GROUPS * QUADS <= 256 */
const uint GROUP_HEADS = HEADS / GROUPS;

shared uvec2 tile[TILE_ROWS * STRIDE];
shared float slices[PAIRS * (SLICES + 1)];
shared float scores[PAIRS];                           /* [head][row] */
shared float probs[PAIRS];                            /* [row][head] */
shared uvec4 source[SPARSE_ATTN_SEGMENT];             /* addresses of codes and scales, 0: no row */
shared float rescale[HEADS];                          /* of this tile: 2^(old - new maximum) */
shared int new_max[HEADS], segment_max[HEADS], total_max[HEADS];
shared float segment_sum[HEADS], total_sum[HEADS];

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

uint bf16_exact(float low, float high) { return floatBitsToUint(low) >> 16 | (floatBitsToUint(high) & 0xffff0000u); }

void decode_tile(uint first) {
    const uint parts = HEAD_DIM / 16u;
    for (uint i = gl_LocalInvocationIndex; i < TILE_ROWS * parts; i += 256u) {
        uint r = i / parts, part = i % parts;
        uvec4 from = source[first + r];
        vec4 v[4];
        if (is_null(from.xy))
            v[0] = v[1] = v[2] = v[3] = vec4(0.0);
        else
            row_load16(from.xy, from.zw, part * 16u, v);
        uint at = r * STRIDE + part * 4u * QUAD_WORDS2;
        for (uint j = 0u; j < 4u; j++) {
            if (NATIVE) {
                tile[at + j] = uvec2(bf16_exact(v[j].x, v[j].y), bf16_exact(v[j].z, v[j].w));
            } else {
                tile[at + 2u * j] = floatBitsToUint(v[j].xy);
                tile[at + 2u * j + 1u] = floatBitsToUint(v[j].zw);
            }
        }
    }
}

vec4 tile_quad(uint r, uint quad) {
    uint at = r * STRIDE + quad * QUAD_WORDS2;
    uvec2 w = tile[at];
    if (NATIVE)
        return vec4(bf16_pair(w.x), bf16_pair(w.y));
    return uintBitsToFloat(uvec4(w, tile[at + 1u]));
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
    uint segments = (count + SPARSE_ATTN_SEGMENT - 1u) / SPARSE_ATTN_SEGMENT;
    uint end = split + 1u == a.n_splits ? segments : min(split + 1u, segments);

    /* step 2: this invocation's heads, rows and slice of dimensions */
    uint slice = lane % SLICES, block = lane / SLICES;
    uint r0 = block % (TILE_ROWS / 2u) * 2u, h0 = block / (TILE_ROWS / 2u) * 4u;
    Vec4s q = Vec4s(add_product(a.q, t, a.q_stride * 4u));
    uint q_at[4];
    for (uint h = 0u; h < 4u; h++)
        q_at[h] = min(head0 + h0 + h, a.n_heads - 1u) * QUADS;
    /* step 4: its columns and heads */
    uint quad = lane % QUADS, group = lane / QUADS * GROUP_HEADS;
    bool owner = lane < GROUPS * QUADS;

    vec4 total[GROUP_HEADS], sum[GROUP_HEADS];
    for (uint h = 0u; h < GROUP_HEADS; h++)
        total[h] = vec4(0.0);
    if (lane < HEADS) {
        total_max[lane] = SPARSE_ATTN_EMPTY;
        total_sum[lane] = 0.0;
    }

    for (uint segment = split; segment < end; segment++) {
        uint first = segment * SPARSE_ATTN_SEGMENT, rows = min(count - first, SPARSE_ATTN_SEGMENT);
        if (lane < SPARSE_ATTN_SEGMENT)
            source[lane] = lane < rows ? find_row(row, seq, first + lane, window_rows, t) : uvec4(0u);
        if (lane < HEADS) {
            segment_max[lane] = SPARSE_ATTN_EMPTY;
            segment_sum[lane] = 0.0;
        }
        for (uint h = 0u; h < GROUP_HEADS; h++)
            sum[h] = vec4(0.0);
        barrier();

        for (uint r1 = 0u; r1 < rows; r1 += TILE_ROWS) {
            decode_tile(r1);
            barrier();

            float dots[4][2];
            for (uint h = 0u; h < 4u; h++)
                dots[h][0] = dots[h][1] = 0.0;
            for (uint c = slice; c < QUADS; c += SLICES) {
                vec4 x = tile_quad(r0, c), y = tile_quad(r0 + 1u, c);
                for (uint h = 0u; h < 4u; h++) {
                    vec4 w = q.v[q_at[h] + c];
                    dots[h][0] += dot(w, x);
                    dots[h][1] += dot(w, y);
                }
            }
            for (uint h = 0u; h < 4u; h++) {
                uint pair = (h0 + h) * TILE_ROWS + r0;
                slices[pair * (SLICES + 1u) + slice] = dots[h][0];
                slices[(pair + 1u) * (SLICES + 1u) + slice] = dots[h][1];
            }
            barrier();

            uint r = lane % TILE_ROWS, h = lane / TILE_ROWS; /* of the pair `lane` */
            bool live = false;
            float z = 0.0;
            if (lane < PAIRS) {
                for (uint s = 0u; s < SLICES; s++)
                    z += slices[lane * (SLICES + 1u) + s];
                z *= a.scale;
                live = !is_null(source[r1 + r].xy);
                scores[lane] = live && is_finite(z) ? z : -3e38;
            }
            barrier();
            if (lane < PAIRS) {
                float best = -3e38;
                for (uint i = 0u; i < TILE_ROWS; i++)
                    best = max(best, scores[h * TILE_ROWS + i]);
                int before = segment_max[h], after = best > -3e38 ? max(before, exp_exponent(best)) : before;
                probs[r * HEADS + h] = live ? exp_scaled(z, after) : 0.0;
                if (r == 0u) {
                    rescale[h] = pow2(before - after);
                    new_max[h] = after;
                }
            }
            barrier();

            if (owner) {
                for (uint j = 0u; j < GROUP_HEADS; j++)
                    sum[j] *= rescale[group + j];
                for (uint i = 0u; i < TILE_ROWS; i++) {
                    vec4 v = tile_quad(i, quad);
                    for (uint j = 0u; j < GROUP_HEADS; j++)
                        sum[j] += probs[i * HEADS + group + j] * v;
                }
            }
            if (lane < HEADS) {
                float s = segment_sum[lane] * rescale[lane];
                for (uint i = 0u; i < TILE_ROWS; i++)
                    s += probs[i * HEADS + lane];
                segment_sum[lane] = s;
                segment_max[lane] = new_max[lane];
            }
            barrier();
        }

        /* The merge adds splits by the same operations. */
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

    uint cell = (t * a.n_splits + split) * a.n_heads + head0;
    if (owner)
        for (uint j = 0u; j < GROUP_HEADS; j++)
            if (head0 + group + j < a.n_heads)
                Vec4sOut(add_product(a.sums, cell + group + j, HEAD_DIM * 4u)).v[quad] = total[j];
    if (lane < HEADS && head0 + lane < a.n_heads) {
        FloatsOut stats = FloatsOut(add_product(a.stats, cell + lane, 8u));
        stats.v[0] = float(total_max[lane]);
        stats.v[1] = total_sum[lane];
    }
}
