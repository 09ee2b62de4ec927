/* sparse_attn for steps of many rows on matrix units (VK_KHR_cooperative_matrix). One row serves all heads, so what sparse_attn.comp
 * computes for one token is two products of matrices: scores = q [heads x dims] * rows^T, and o = p [heads x rows] * rows. Lists of
 * different tokens need not have anything in common, and a token's result depends on nothing but its own list.
 *
 * Nothing of accuracy is given up (halves.glsl):
 *   q of a head  = (high + low) * 2^eq: two halves hold 22 bits, and both are multiplied,
 *   row_i        = half * 2^e_i: e4m3 codes and BF16 have fewer bits than a half, and only what is below 2^-38 of the row's largest
 *                  is lost. (Rows of a float32 cache have too many: they are left to sparse_attn.comp.)
 *   p_i * 2^e_i  = (high + low) * 2^(W - 15), W = the largest of ceil(z_i / ln 2) + e_i: what is added up is p_i * row_i all the same.
 * Sums run in f32: those of a slab of 64 dimensions, or of a block of 16 rows, in the matrix unit, whose rounding may be coarse, and
 * of these in ordinary additions. M, W and all scales are integers, so rescaling is exact.
 *
 * One workgroup: HEADS heads of one token, over segments of 128 rows of its list. For a segment
 *   1. rows are found, and the exponent of each row's largest value,
 *   2. slab by slab q and rows become halves in shared memory, and are multiplied to scores [heads x rows] in registers,
 *   3. eight invocations share a head: M, W, the denominator, and p as halves,
 *   4. block by block rows become halves once more, and p * rows is added to o [heads x dims] in registers.
 * Rows are decoded twice, and once per HEADS heads: both together cost less than the products, and so would not be saved by sharing
 * rows between tokens, whose lists would have to be merged for it. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
layout(local_size_x = 256) in;
#include "sparse_attn.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "halves.glsl"
#include "sparse_attn.glsl"

layout(constant_id = SPARSE_ATTN_CONSTANT_M) const uint M = 16u; /* heads, rows or dimensions, rows or dimensions of a product */
layout(constant_id = SPARSE_ATTN_CONSTANT_N) const uint N = 16u;
layout(constant_id = SPARSE_ATTN_CONSTANT_K) const uint K = 16u;
layout(constant_id = SPARSE_ATTN_CONSTANT_SUBGROUP) const uint SUBGROUP = 32u;

const uint TAIL = HEAD_DIM - ROPE_DIM; /* where it begins */
const uint ROWS = 128u;  /* of a segment */
const uint SLAB = 64u;   /* dimensions in step 2 */
const uint BLOCK = 16u;  /* rows in step 4, */
const uint COLUMNS = HEAD_DIM % 256u == 0u ? 256u : HEAD_DIM % 128u == 0u ? 128u : 64u; /* so many dimensions of them at a time */
const uint PARTS = HEAD_DIM / COLUMNS, QUADS = COLUMNS / 4u;

/* Subgroups over the matrices of scores and of o: so many side by side and above each other; further ones only copy. */
const uint SUBGROUPS = 256u / SUBGROUP, HEAD_MATRICES = HEADS / M;
const uint S_MATRICES = ROWS / N;
const uint S_WIDE = S_MATRICES / 2u < SUBGROUPS ? S_MATRICES / 2u : SUBGROUPS;
const uint S_HIGH = SUBGROUPS / S_WIDE < HEAD_MATRICES ? SUBGROUPS / S_WIDE : HEAD_MATRICES;
const uint S_ACROSS = S_MATRICES / S_WIDE, S_DOWN = HEAD_MATRICES / S_HIGH; /* matrices of a subgroup */
const uint O_MATRICES = COLUMNS / N;
const uint O_WIDE = O_MATRICES < SUBGROUPS ? O_MATRICES : SUBGROUPS;
const uint O_HIGH = SUBGROUPS / O_WIDE < HEAD_MATRICES ? SUBGROUPS / O_WIDE : HEAD_MATRICES;
const uint O_ACROSS = O_MATRICES / O_WIDE, O_DOWN = HEAD_MATRICES / O_HIGH; /* of each part */

/* Shared memory in uvec4, of eight halves or four floats; the gap behind a row keeps lanes out of each other's banks. */
const uint SLAB_STRIDE = SLAB / 8u + 1u, SCORE_STRIDE = ROWS / 4u + 1u, P_STRIDE = ROWS / 8u + 1u;
const uint Q_LOW_AT = HEADS * SLAB_STRIDE, SLAB_AT = 2u * Q_LOW_AT;          /* step 2: q high, q low, rows */
const uint P_LOW_AT = HEADS * P_STRIDE, BLOCK_AT = 2u * P_LOW_AT;            /* step 4: p high, p low, rows, */
const uint FACTOR_AT = BLOCK_AT + COLUMNS * BLOCK / 8u;                     /* factors of heads, N columns of the same */
const uint SLAB_END = SLAB_AT + ROWS * SLAB_STRIDE, BLOCK_END = FACTOR_AT + HEADS * N / 4u, STORE_END = O_HIGH * M * QUADS;
const uint LONGER = SLAB_END > BLOCK_END ? SLAB_END : BLOCK_END;
shared uvec4 memory[LONGER > STORE_END ? LONGER : STORE_END];
shared uvec2 source[ROWS];                        /* address of the codes */
shared uint code_factors[ROWS * 4u];              /* of each 64 codes, a half: what codes are multiplied by */
shared uint row_most[ROWS];                       /* the biased exponent of the largest value, + 256 for a row of the list */
shared float result_factor[2u * HEADS], denominator[HEADS];

#define ACCUMULATOR coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

/* The largest biased exponent of a row of these scales and codes, bounded: a block's codes are below 2^9 times its scale. A pair of
 * invocations looks through a row's tail. */
uint find_most(uvec4 from, uint part) {
    uint most = HALF_TOP + 1u; /* shrink() and grow() are inverse from here on */
    [[unroll]] for (uint d = 0u; d < HEAD_DIM - ROPE_DIM; d += 64u) {
        const uint byte = row_scale(from.zw, d);
        most = max(most, byte == 255u ? 0u : byte + 8u);
    }
    const uint at = (HEAD_DIM - ROPE_DIM) / 16u;
    [[unroll]] for (uint i = 0u; i < ROPE_DIM / 16u; i++) {
        const uvec4 w = Words4(from.xy).v[at + part * (ROPE_DIM / 16u) + i];
        most = max(most, max(exponent_of(uintBitsToFloat(w << 16u)), exponent_of(uintBitsToFloat(w))));
    }
    most = min(most, 254u);
    return max(most, subgroupShuffleXor(most, 1u));
}

/* What codes times 2^-8 (numbers.glsl) are multiplied by to become the row's halves: the scales of blocks 2 i and 2 i + 1, relative. */
uint pair_factors(uvec2 scale_words, uint i, uint most) {
    vec2 factors;
    [[unroll]] for (uint j = 0u; j < 2u; j++) {
        const uint scale = row_scale(scale_words, (2u * i + j) * 64u);
        factors[j] = scale == 255u ? uintBitsToFloat(0x7fc00000u) : exp2_int(max(int(scale) - int(most) + 8 + int(HALF_TOP), -100));
    }
    return packFloat2x16(f16vec2(factors));
}
float16_t code_factor(uint r, uint d) { return unpackFloat2x16(code_factors[r * 4u + d / 128u])[d / 64u % 2u]; }

/* Four values as two pairs of halves: 0 and 2, 1 and 3. */
uvec2 code_pairs(uint codes, float16_t factor) {
    return uvec2(packFloat2x16(unpackFloat2x16(e4m3_halves(codes << 8)) * factor),
                 packFloat2x16(unpackFloat2x16(e4m3_halves(codes)) * factor));
}
uvec2 pairs(vec4 v) { return halves(v.xzyw); }
uvec2 tail_pairs(uint a, uint b, float factor) { return pairs(vec4(bf16_pair(a), bf16_pair(b)) * factor); }
float tail_factor(uint r) { return shrink(row_most[r] & 255u); }

/* 16 values of row r from d of the slab on, in two steps: what is read, and pairs in [at] and [at + 1]. */
void fetch16(uint r, uint slab, uint d, out uvec4 raw[2]) {
    if (slab < TAIL) {
        raw[0] = Words4(source[r]).v[(slab + d) / 16u];
    } else {
        raw[0] = Words4(source[r]).v[(2u * (slab + d) - TAIL) / 16u];
        raw[1] = Words4(source[r]).v[(2u * (slab + d) - TAIL) / 16u + 1u];
    }
}
void stage16(uint r, uint slab, uvec4 raw[2], uint at) {
    if (slab < TAIL) {
        const float16_t factor = code_factor(r, slab);
        memory[at] = uvec4(code_pairs(raw[0].x, factor), code_pairs(raw[0].y, factor));
        memory[at + 1u] = uvec4(code_pairs(raw[0].z, factor), code_pairs(raw[0].w, factor));
    } else {
        const float factor = tail_factor(r);
        [[unroll]] for (uint i = 0u; i < 2u; i++)
            memory[at + i] = uvec4(tail_pairs(raw[i].x, raw[i].y, factor), tail_pairs(raw[i].z, raw[i].w, factor));
    }
}

/* Of a part of a block, an invocation's four columns and the first of its four rows. Those of codes come first, so that few subgroups
 * have both kinds. */
uint code_quads(uint part) { return TAIL <= part * COLUMNS ? 0u : TAIL >= (part + 1u) * COLUMNS ? QUADS : (TAIL - part * COLUMNS) / 4u; }
bool has_codes(uint part, uint self) { return code_quads(part) == QUADS || self < code_quads(part) * 4u; }
uvec2 place4x4(uint part, uint self) { /* columns / 4, row */
    const uint codes = code_quads(part), tails = QUADS - codes, i = self - codes * 4u;
    if (has_codes(part, self))
        return uvec2(self % max(codes, 1u), self / max(codes, 1u) * 4u);
    return uvec2(codes + i % max(tails, 1u), i / max(tails, 1u) * 4u);
}

/* These 4 x 4 values in two steps. In memory a column of the block is 16 rows, and the columns' value i of all invocations are side
 * by side. */
void fetch4x4(uint first, uint part, uint self, out uvec2 raw[4]) {
    const uvec2 place = place4x4(part, self);
    const uint d = part * COLUMNS + place.x * 4u;
    [[unroll]] for (uint u = 0u; u < 4u; u++) {
        Words words = Words(source[first + place.y + u]);
        if (has_codes(part, self))
            raw[u].x = words.v[d / 4u];
        else
            raw[u] = uvec2(words.v[(2u * d - TAIL) / 4u], words.v[(2u * d - TAIL) / 4u + 1u]);
    }
}
void stage4x4(uint first, uint part, uint self, uvec2 raw[4]) {
    const uvec2 place = place4x4(part, self);
    uvec2 h[4];
    [[unroll]] for (uint u = 0u; u < 4u; u++) {
        const uint r = first + place.y + u;
        if (has_codes(part, self))
            h[u] = code_pairs(raw[u].x, code_factor(r, part * COLUMNS + place.x * 4u));
        else
            h[u] = tail_pairs(raw[u].x, raw[u].y, tail_factor(r));
    }
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        const uint at = BLOCK_AT + (i * QUADS + place.x) * (BLOCK / 8u) + place.y / 8u, word = place.y % 8u / 2u;
        [[unroll]] for (uint u = 0u; u < 2u; u++) {
            const uint low = h[2u * u][i % 2u], high = h[2u * u + 1u][i % 2u];
            memory[at][word + u] = i < 2u ? (low & 0xffffu) | high << 16u : low >> 16u | (high & 0xffff0000u);
        }
    }
}

/* p * 2^e for p about 1, or NaN */
float times_pow2(float p, int e) {
    const float product = p * exp2_int(clamp(e, -126, 127));
    return e >= -126 || p != p ? product : 0.0;
}

void main() {
    const uint self = gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID, t = gl_WorkGroupID.y, head0 = gl_WorkGroupID.x * HEADS;
    const List list = list_rows(t, 1u);

    /* Of steps 2 and 3: its head, and which eighth of the slab's dimensions or of the rows. */
    const uint head = min(self / 8u, HEADS - 1u), eighth = self % 8u;
    const bool has_head = self < HEADS * 8u;
    Vec4s q = Vec4s(add_product(add_product(a.q, t, a.q_stride * 4u), min(head0 + head, a.n_heads - 1u), HEAD_DIM * 4u));
    uint q_most = HALF_TOP + 1u;
    for (uint d = eighth * 2u; d < HEAD_DIM / 4u; d += SLAB / 4u)
        q_most = max(q_most, max(exponent_of(q.v[d]), exponent_of(q.v[d + 1u])));
    [[unroll]] for (uint i = 1u; i < 8u; i *= 2u)
        q_most = max(q_most, subgroupShuffleXor(q_most, i));

    const uint s_across = gl_SubgroupID % S_WIDE * S_ACROSS, s_down = gl_SubgroupID / S_WIDE * S_DOWN;
    const uint o_across = gl_SubgroupID % O_WIDE * O_ACROSS, o_down = gl_SubgroupID / O_WIDE * O_DOWN;
    const bool multiplies_s = gl_SubgroupID / S_WIDE < S_HIGH, multiplies_o = gl_SubgroupID / O_WIDE < O_HIGH;
    const uint slab_row = self / 4u, slab_d = self % 4u * 16u; /* copied in step 2, and the row 64 further */
    const bool copies_block = self < COLUMNS; /* 4 x 4 values each, in step 4 */
    ACCUMULATOR total[PARTS * O_DOWN * O_ACROSS];
    [[unroll]] for (uint i = 0u; i < PARTS * O_DOWN * O_ACROSS; i++)
        total[i] = ACCUMULATOR(0.0);
    int most = SPARSE_ATTN_EMPTY, weight_most = SPARSE_ATTN_EMPTY; /* M and W of its head */
    float sum = 0.0;

    for (uint first = 0u; first < list.count; first += ROWS) {
        /* 1 */
        const uint rows = min(list.count - first, ROWS);
        uint ignored, live;
        const uvec4 from = find_row(list, first + self / 2u, ignored, live);
        const uint from_most = find_most(from, self % 2u);
        barrier(); /* the segment before is done with */
        if (self % 2u == 0u) {
            source[self / 2u] = from.xy;
            row_most[self / 2u] = live << 8u | from_most;
        }
        [[unroll]] for (uint i = 0u; i < 2u; i++)
            code_factors[self * 2u + i] = pair_factors(from.zw, self % 2u * 2u + i, from_most);
        barrier();

        /* 2 */
        ACCUMULATOR score[S_DOWN * S_ACROSS];
        [[unroll]] for (uint i = 0u; i < S_DOWN * S_ACROSS; i++)
            score[i] = ACCUMULATOR(0.0);
        uvec4 raw[2][2];
        uvec2 raw4[4];
        vec4 x[2];
        [[unroll]] for (uint i = 0u; i < 2u; i++) {
            fetch16(slab_row + 64u * i, 0u, slab_d, raw[i]);
            x[i] = q.v[eighth * 2u + i];
        }
        for (uint d = 0u; d < HEAD_DIM; d += SLAB) {
            barrier(); /* the slab before has been multiplied */
            [[unroll]] for (uint i = 0u; i < 2u; i++)
                stage16(slab_row + 64u * i, d, raw[i], SLAB_AT + (slab_row + 64u * i) * SLAB_STRIDE + slab_d / 8u);
            if (has_head) {
                const vec4 low = x[0] * shrink(q_most), high = x[1] * shrink(q_most);
                const vec4 low_part = half_part(low), high_part = half_part(high);
                memory[head * SLAB_STRIDE + eighth] = uvec4(pairs(low_part), pairs(high_part));
                memory[Q_LOW_AT + head * SLAB_STRIDE + eighth] = uvec4(pairs(low - low_part), pairs(high - high_part));
            }
            barrier();
            if (d + SLAB < HEAD_DIM) /* on its way while this one is multiplied */
                [[unroll]] for (uint i = 0u; i < 2u; i++) {
                    fetch16(slab_row + 64u * i, d + SLAB, slab_d, raw[i]);
                    x[i] = q.v[(d + SLAB) / 4u + eighth * 2u + i];
                }
            if (!multiplies_s)
                continue;
            ACCUMULATOR part[S_DOWN * S_ACROSS];
            [[unroll]] for (uint i = 0u; i < S_DOWN * S_ACROSS; i++)
                part[i] = ACCUMULATOR(0.0);
            [[unroll]] for (uint step = 0u; step < SLAB / K; step++) {
                RIGHT v[S_ACROSS];
                [[unroll]] for (uint c = 0u; c < S_ACROSS; c++)
                    coopMatLoad(v[c], memory, SLAB_AT + (s_across + c) * N * SLAB_STRIDE + step * K / 8u, SLAB_STRIDE,
                                gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint r = 0u; r < S_DOWN; r++)
                    [[unroll]] for (uint piece = 0u; piece < 2u; piece++) {
                        LEFT u;
                        coopMatLoad(u, memory, piece * Q_LOW_AT + (s_down + r) * M * SLAB_STRIDE + step * K / 8u, SLAB_STRIDE,
                                    gl_CooperativeMatrixLayoutRowMajor);
                        [[unroll]] for (uint c = 0u; c < S_ACROSS; c++)
                            part[r * S_ACROSS + c] = coopMatMulAdd(u, v[c], part[r * S_ACROSS + c]);
                    }
            }
            [[unroll]] for (uint i = 0u; i < S_DOWN * S_ACROSS; i++)
                score[i] += part[i];
        }
        barrier();
        if (multiplies_s)
            [[unroll]] for (uint r = 0u; r < S_DOWN; r++)
                [[unroll]] for (uint c = 0u; c < S_ACROSS; c++)
                    coopMatStore(score[r * S_ACROSS + c], memory,
                                 (s_down + r) * M * SCORE_STRIDE + (s_across + c) * N / 4u, SCORE_STRIDE,
                                 gl_CooperativeMatrixLayoutRowMajor);
        barrier();

        /* 3: rows 8 * eighth .. + 7 of either half of the segment */
        float z[16];
        float best = -3e38;
        int best_weight = SPARSE_ATTN_EMPTY;
        [[unroll]] for (uint i = 0u; i < 16u; i++) {
            const uint r = i / 8u * 64u + eighth * 8u + i % 8u, info = row_most[r];
            z[i] = uintBitsToFloat(memory[head * SCORE_STRIDE + r / 4u][i % 4u]) * grow(q_most) * grow(info & 255u) * a.scale;
            if (info >= 256u && is_finite(z[i])) {
                best = max(best, z[i]);
                best_weight = max(best_weight, exp_exponent(z[i]) + int(info & 255u));
            }
        }
        [[unroll]] for (uint i = 1u; i < 8u; i *= 2u) {
            best = max(best, subgroupShuffleXor(best, i));
            best_weight = max(best_weight, subgroupShuffleXor(best_weight, i));
        }
        const int now = max(most, best > -3e38 ? exp_exponent(best) : SPARSE_ATTN_EMPTY), weight_now = max(weight_most, best_weight);
        float here = 0.0;
        [[unroll]] for (uint i = 0u; i < 16u; i++) {
            const uint info = row_most[i / 8u * 64u + eighth * 8u + i % 8u];
            int e;
            const float exponential = exp_parts(clamp(z[i], -1e6, 1e6), e);
            const float factor = is_finite(z[i]) ? exponential : uintBitsToFloat(0x7fc00000u);
            const float p = times_pow2(factor, e - now), weight = times_pow2(factor, e + int(info & 255u) - weight_now + 15);
            here += info >= 256u ? p : 0.0;
            z[i] = info >= 256u ? weight : 0.0;
        }
        [[unroll]] for (uint i = 1u; i < 8u; i *= 2u)
            here += subgroupShuffleXor(here, i);
        sum = sum * pow2(most - now) + here;
        const float factor = pow2(weight_most - weight_now);
        most = now;
        weight_most = weight_now;
        barrier(); /* scores have been read */
        if (has_head) {
            [[unroll]] for (uint i = 0u; i < 2u; i++) {
                const vec4 low = vec4(z[8u * i], z[8u * i + 1u], z[8u * i + 2u], z[8u * i + 3u]), low_part = half_part(low);
                const vec4 high = vec4(z[8u * i + 4u], z[8u * i + 5u], z[8u * i + 6u], z[8u * i + 7u]), high_part = half_part(high);
                memory[head * P_STRIDE + 8u * i + eighth] = uvec4(halves(low_part), halves(high_part));
                memory[P_LOW_AT + head * P_STRIDE + 8u * i + eighth] = uvec4(halves(low - low_part), halves(high - high_part));
            }
            for (uint i = eighth; i < N / 4u; i += 8u)
                memory[FACTOR_AT + head * (N / 4u) + i] = floatBitsToUint(vec4(factor));
        }

        /* 4 */
        if (copies_block)
            fetch4x4(0u, 0u, self, raw4);
        barrier();
        if (first > 0u && multiplies_o)
            [[unroll]] for (uint r = 0u; r < O_DOWN; r++) {
                ACCUMULATOR factors;
                coopMatLoad(factors, memory, FACTOR_AT + (o_down + r) * M * N / 4u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
                [[unroll]] for (uint i = 0u; i < PARTS; i++)
                    [[unroll]] for (uint c = 0u; c < O_ACROSS; c++)
                        total[(i * O_DOWN + r) * O_ACROSS + c] = total[(i * O_DOWN + r) * O_ACROSS + c] * factors;
            }
        for (uint k = 0u; k < rows; k += BLOCK)
            [[unroll]] for (uint i = 0u; i < PARTS; i++) {
                barrier(); /* the block before has been multiplied */
                if (copies_block)
                    stage4x4(k, i, self, raw4);
                barrier();
                if (copies_block && (i + 1u < PARTS || k + BLOCK < rows))
                    fetch4x4(i + 1u < PARTS ? k : k + BLOCK, i + 1u < PARTS ? i + 1u : 0u, self, raw4);
                if (multiplies_o) {
                    ACCUMULATOR part[O_DOWN * O_ACROSS];
                    [[unroll]] for (uint j = 0u; j < O_DOWN * O_ACROSS; j++)
                        part[j] = ACCUMULATOR(0.0);
                    [[unroll]] for (uint step = 0u; step < BLOCK / K; step++) {
                        RIGHT v[O_ACROSS];
                        [[unroll]] for (uint c = 0u; c < O_ACROSS; c++)
                            coopMatLoad(v[c], memory, BLOCK_AT + ((o_across + c) * N * BLOCK + step * K) / 8u, BLOCK / 8u,
                                        gl_CooperativeMatrixLayoutColumnMajor);
                        [[unroll]] for (uint r = 0u; r < O_DOWN; r++)
                            [[unroll]] for (uint piece = 0u; piece < 2u; piece++) {
                                LEFT u;
                                coopMatLoad(u, memory, piece * P_LOW_AT + (o_down + r) * M * P_STRIDE + (k + step * K) / 8u, P_STRIDE,
                                            gl_CooperativeMatrixLayoutRowMajor);
                                [[unroll]] for (uint c = 0u; c < O_ACROSS; c++)
                                    part[r * O_ACROSS + c] = coopMatMulAdd(u, v[c], part[r * O_ACROSS + c]);
                            }
                    }
                    [[unroll]] for (uint j = 0u; j < O_DOWN * O_ACROSS; j++)
                        total[i * O_DOWN * O_ACROSS + j] += part[j];
                }
            }
    }

    /* o = total * 2^(W - 15 - 127 - HALF_TOP) / (denominator * 2^M), the power of two in two steps */
    if (has_head && eighth == 0u) {
        const float sink = Floats(a.sink).v[min(head0 + head, a.n_heads - 1u)];
        const int both = is_finite(sink) ? max(most, exp_exponent(sink)) : most;
        const int e = clamp(weight_most - 15 - 127 - int(HALF_TOP) - both, -252, 252);
        result_factor[2u * head] = exp2_int(e >> 1);
        result_factor[2u * head + 1u] = exp2_int(e - (e >> 1));
        denominator[head] = sum * pow2(most - both) + exp_scaled(sink, both);
    }
    Vec4sOut result = Vec4sOut(add_product(a.result, t, a.n_heads * HEAD_DIM * 4u));
    [[dont_unroll]] for (uint i = 0u; i < PARTS * O_DOWN; i++) { /* of a part, the r-th matrices of all subgroups */
        const uint r = i % O_DOWN;
        barrier();
        if (multiplies_o)
            [[unroll]] for (uint c = 0u; c < O_ACROSS; c++)
                coopMatStore(total[c], memory, (gl_SubgroupID / O_WIDE * M * COLUMNS + (o_across + c) * N) / 4u, QUADS,
                             gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint j = 0u; j < (PARTS * O_DOWN - 1u) * O_ACROSS; j++)
            total[j] = total[j + O_ACROSS]; /* the next ones: an array with indices of a loop would not be in registers */
        barrier();
        for (uint j = self; j < O_HIGH * M * QUADS; j += 256u) {
            const uint line = j / QUADS, h = (line / M * O_DOWN + r) * M + line % M, d = i / O_DOWN * COLUMNS + j % QUADS * 4u;
            if (head0 + h >= a.n_heads)
                continue;
            vec4 o;
            [[unroll]] for (uint k = 0u; k < 4u; k++) {
                const uint at = line * COLUMNS + k * QUADS + j % QUADS;
                o[k] = uintBitsToFloat(memory[at / 4u][at % 4u]);
            }
            o = o * result_factor[2u * h] * result_factor[2u * h + 1u] / denominator[h];
            const bool turned = d >= TAIL;
            vec4 angles = vec4(1.0, 0.0, 1.0, 0.0);
            if (turned)
                angles = rope_angles(a.rope, list.row.position, (d - TAIL) / 2u);
            result.v[((head0 + h) * HEAD_DIM + d) / 4u] = turned ? rope_rotate_back(o, angles) : o;
        }
    }
}
