/* Index scores (spec 4.7, indexer.glsl) of many rows on matrix units (VK_KHR_cooperative_matrix), from byte queries and native keys:
 * for one token the products of its heads with all keys are a product of matrices, [heads x dims] * [dims x keys].
 *
 * Nothing of accuracy is given up: both sides are whole numbers up to 12 with a power of two per block of 32. As halves they are
 * relative to the largest block of their vector, which is exact down to 2^-34 of it; the powers of two of a query go into the head's
 * weight, those of a key behind the sum over heads. Products are exact, sums run in f32.
 *
 * One workgroup: KEYS keys, as matrices in registers, of ROWS rows (tokens) one after the other. Of a token up to GROUP heads become
 * halves in shared memory; what a matrix of heads gives is cut at 0, multiplied with the heads' weights and added up in registers, so
 * that M numbers per key are left to add up through shared memory. Where there are more subgroups than KEYS / N, they share the heads.
 * Rows of different sequences have different keys: each sequence gets its own turn. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#include "indexer.h"
layout(local_size_x = INDEXER_WORKGROUP) in;
#include "memory.glsl"
#include "numbers.glsl"
#include "order.glsl"

layout(constant_id = INDEXER_CONSTANT_INDEX_DIM) const uint INDEX_DIM = 128u;
layout(constant_id = INDEXER_CONSTANT_ROWS) const uint ROWS = INDEXER_MATRIX_ROWS;
layout(constant_id = INDEXER_CONSTANT_M) const uint M = 16u; /* heads, keys, dimensions of a product */
layout(constant_id = INDEXER_CONSTANT_N) const uint N = 16u;
layout(constant_id = INDEXER_CONSTANT_K) const uint K = 16u;
layout(constant_id = INDEXER_CONSTANT_SUBGROUP) const uint SUBGROUP = 32u;
layout(constant_id = INDEXER_CONSTANT_NATIVE) const bool NATIVE = true; /* always; kv.glsl wants these */
const uint HEAD_DIM = 512u, ROPE_DIM = 64u;
#include "kv.glsl"
#include "indexer_rows.glsl"

const uint BLOCKS = INDEX_DIM / 32u, PARTS = INDEX_DIM / K, BLOCK_PARTS = 32u / K;
const uint KEYS = INDEXER_MATRIX_KEYS(SUBGROUP, INDEX_DIM);
const uint GROUP = INDEX_DIM <= 128u ? 64u : 32u;
const uint SUBGROUPS = INDEXER_WORKGROUP / SUBGROUP, KEY_MATRICES = KEYS / N, HEAD_MATRICES = GROUP / M;
const uint WIDE = KEY_MATRICES < SUBGROUPS ? KEY_MATRICES : SUBGROUPS; /* subgroups side by side over keys, */
const uint HIGH = SUBGROUPS / WIDE > 1u ? 2u : 1u;                     /* and above each other over heads; further ones only copy */
const uint ACROSS = KEY_MATRICES / WIDE, DOWN = HEAD_MATRICES / HIGH;  /* matrices of a subgroup */

/* Shared memory in uvec4, of eight halves or four floats; the gap behind a row keeps lanes out of each other's banks. */
const uint QUERY_STRIDE = INDEX_DIM / 8u + 1u, KEY_STRIDE = 32u / 8u + 1u, SUM_STRIDE = KEYS / 4u + 1u;
const uint QUERIES_END = GROUP * QUERY_STRIDE, KEYS_END = KEYS * KEY_STRIDE, SUMS_END = HIGH * M * SUM_STRIDE;
const uint LONGER = QUERIES_END > KEYS_END ? QUERIES_END : KEYS_END;
const uint WEIGHTS_AT = LONGER > SUMS_END ? LONGER : SUMS_END; /* of heads, each N times */
shared uvec4 memory[WEIGHTS_AT + GROUP * N / 4u];

#define ACCUMULATOR coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>

const uint TOP = 10u; /* the largest block's numbers are multiplied by 2^TOP */

/* 2^(e - 127 - TOP) for a biased exponent e */
float grow(uint e) { return uintBitsToFloat(uint(clamp(int(e) - int(TOP), 1, 254)) << 23); }
/* What numbers of a block of exponent e are multiplied by, when the largest exponent is `most`. */
float16_t shrink(uint e, uint most) { return float16_t(exp2_int(max(int(TOP) + int(e) - int(most), -30))); }

/* Four signed bytes as halves, times a factor: 1024 + 128 + byte is a half's bits beside each other. */
uvec2 byte_halves(uint bytes, float16_t factor) {
    const f16vec2 unit = f16vec2(1152.0);
    return uvec2(packFloat2x16((unpackFloat2x16((bytes & 0x00ff00ffu) ^ 0x64806480u) - unit) * factor),
                 packFloat2x16((unpackFloat2x16((bytes >> 8 & 0x00ff00ffu) ^ 0x64806480u) - unit) * factor));
}

void stage_block(uint at, const uint bytes[8], float16_t factor) {
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        memory[at + i] = uvec4(byte_halves(bytes[2u * i], factor), byte_halves(bytes[2u * i + 1u], factor));
}

uint key_exponent(uvec2 scales, uint block) { return Words(scales).v[block >> 2] >> ((block & 3u) * 8u) & 0xffu; }

/* Heads group .. group + GROUP - 1 of row t: halves, and the heads' weights; nothing for heads beyond the last. */
void stage_queries(uint t, uint group, uint self) {
    [[unroll]] for (uint i = self; i < GROUP * BLOCKS; i += INDEXER_WORKGROUP) {
        const uint of_group = i / BLOCKS, block = i % BLOCKS, head = group + of_group;
        const uvec2 query = add_bytes(add_product(a.iq, t, a.iq_stride * 4u), min(head, a.n_heads - 1u) * INDEX_DIM * 4u);
        uint most = 0u, bytes[8];
        [[unroll]] for (uint b = 0u; b < BLOCKS; b++)
            most = max(most, Words(query).v[INDEX_DIM / 4u + b] >> 23);
        [[unroll]] for (uint j = 0u; j < 8u; j++)
            bytes[j] = head < a.n_heads ? Words(query).v[8u * block + j] : 0u;
        stage_block(of_group * QUERY_STRIDE + block * 4u, bytes, shrink(Words(query).v[INDEX_DIM / 4u + block] >> 23, most));
        if (block == 0u) {
            const float weight = Floats(add_product(a.weights, t, a.weights_stride * 4u)).v[min(head, a.n_heads - 1u)] * grow(most);
            [[unroll]] for (uint j = 0u; j < N / 4u; j++)
                memory[WEIGHTS_AT + of_group * (N / 4u) + j] = floatBitsToUint(vec4(head < a.n_heads ? weight : 0.0));
        }
    }
}

/* Rows t + first .. t + last - 1, which are of one sequence; the last one sees the most. */
void score(uint t, uint first, uint last, uint self) {
    const Row row = Rows(a.rows).v[t + last - 1u];
    const uint visible = visible_keys(row), key = gl_WorkGroupID.x * KEYS + self, capacity = a.page_tokens / 4u;
    if (gl_WorkGroupID.x * KEYS >= visible) /* the grid is for the longest row there may be */
        return;
    const uint across = gl_SubgroupID % WIDE * ACROSS, high = gl_SubgroupID / WIDE;
    const bool multiplies = high < HIGH, has_key = self < KEYS;

    const uint near = min(key, visible - 1u);
    const uvec2 store = add_bytes(Addrs(Seqs(a.seqs).v[row.sequence].pages).v[near / capacity], a.page_offset);
    const uvec2 codes = key_codes(store, near % capacity), scales = key_scales(store, capacity, near % capacity);
    uint most = 0u;
    [[unroll]] for (uint block = 0u; block < BLOCKS; block++)
        most = max(most, key_exponent(scales, block));
    RIGHT keys[ACROSS * PARTS];
    [[unroll]] for (uint block = 0u; block < BLOCKS; block++) {
        barrier(); /* what is there has been read */
        if (has_key) {
            uint bytes[8];
            key_bytes32(codes, block, bytes);
            stage_block(self * KEY_STRIDE, bytes, shrink(key_exponent(scales, block), most));
        }
        barrier();
        [[unroll]] for (uint c = 0u; c < ACROSS; c++)
            [[unroll]] for (uint i = 0u; i < BLOCK_PARTS; i++)
                coopMatLoad(keys[c * PARTS + block * BLOCK_PARTS + i], memory, (across + c) * N * KEY_STRIDE + i * K / 8u, KEY_STRIDE,
                            gl_CooperativeMatrixLayoutColumnMajor);
    }
    const float key_factor = most == 255u ? uintBitsToFloat(0x7fc00000u) : grow(most) * 0.5 * a.scale; /* bytes are doubled */

    for (uint r = t + first; r < t + last; r++) {
        ACCUMULATOR total[ACROSS];
        [[unroll]] for (uint c = 0u; c < ACROSS; c++)
            total[c] = ACCUMULATOR(0.0);
        for (uint group = 0u; group < a.n_heads; group += GROUP) {
            barrier(); /* what is there has been read */
            stage_queries(r, group, self);
            barrier();
            if (multiplies)
                [[dont_unroll]] for (uint d = high * DOWN; d < (high + 1u) * DOWN; d++) {
                    ACCUMULATOR sum[ACROSS], weight;
                    [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                        sum[c] = ACCUMULATOR(0.0);
                    [[unroll]] for (uint i = 0u; i < PARTS; i++) {
                        LEFT queries;
                        coopMatLoad(queries, memory, d * M * QUERY_STRIDE + i * K / 8u, QUERY_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                        [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                            sum[c] = coopMatMulAdd(queries, keys[c * PARTS + i], sum[c]);
                    }
                    coopMatLoad(weight, memory, WEIGHTS_AT + d * M * N / 4u, N / 4u, gl_CooperativeMatrixLayoutRowMajor);
                    [[unroll]] for (uint c = 0u; c < ACROSS; c++) {
                        for (uint i = 0u; i < sum[c].length(); i++)
                            sum[c][i] = max(sum[c][i], 0.0);
                        total[c] += sum[c] * weight;
                    }
                }
        }
        barrier();
        if (multiplies)
            [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                coopMatStore(total[c], memory, high * M * SUM_STRIDE + (across + c) * N / 4u, SUM_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        barrier();
        if (!has_key || key >= visible_keys(Rows(a.rows).v[r]))
            continue;
        float sum = 0.0;
        [[unroll]] for (uint i = 0u; i < HIGH * M; i++)
            sum += uintBitsToFloat(memory[i * SUM_STRIDE + self / 4u][self % 4u]);
        store_score(r, key, sum * key_factor);
    }
}

void main() {
    const uint self = gl_SubgroupID * SUBGROUP + gl_SubgroupInvocationID, t = gl_WorkGroupID.y * ROWS, rows = min(ROWS, a.n - t);
    uint first = 0u;
    do {
        const uint last = sequence_end(Rows(a.rows), t, first, rows);
        score(t, first, last, self);
        first = last;
    } while (first < rows);
}
