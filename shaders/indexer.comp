/* Index scores as indexer.glsl says, from f32 queries and keys of either format. An invocation goes through the heads of its slice,
 * HEADS at a time for all rows, with their dot products in registers: it decodes 32 values of its key and multiplies them with the
 * queries, so a value is decoded once for ROWS * HEADS products.
 * Sums of a block: every fourth value of 32 in order, those four. Nothing of that depends on HEADS. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "indexer.h"
layout(local_size_x = INDEXER_WORKGROUP) in;
#include "indexer.glsl"

layout(constant_id = INDEXER_CONSTANT_HEADS) const uint HEADS = 1u;

const uint MAX_PRODUCTS = INDEXER_MAX_PRODUCTS;

/* Adds the products of 32 values of the key and of the queries from head `begin` on. */
void multiply_block(uint block, uint begin, const uvec2 iq[MAX_ROWS], uvec2 codes, uvec2 scales, inout float dot[MAX_PRODUCTS]) {
    vec4 key[8];
    key_load32(codes, scales, block, key);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        Vec4x8s queries = Vec4x8s(add_bytes(iq[r], (begin * INDEX_DIM + block * 32u) * 4u));
        [[unroll]] for (uint h = 0u; h < HEADS; h++) {
            precise vec4 d = queries.v[h * (INDEX_DIM / 32u)].q[0] * key[0];
            [[unroll]] for (uint i = 1u; i < 8u; i++)
                d = fma(queries.v[h * (INDEX_DIM / 32u)].q[i], key[i], d);
            precise float sum = dot[r * HEADS + h] + ((d.x + d.y) + (d.z + d.w));
            dot[r * HEADS + h] = sum;
        }
    }
}

void multiply(uint t, uint slice, uint lane, uvec2 codes, uvec2 scales, out float sums[MAX_ROWS]) {
    uvec2 iq[MAX_ROWS], weights[MAX_ROWS]; /* not Floats: SwiftShader loses half of an address in an array */
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint row = min(t + r, a.n - 1u);
        iq[r] = add_product(a.iq, row, a.iq_stride * 4u);
        weights[r] = add_product(a.weights, row, a.weights_stride * 4u);
        sums[r] = 0.0;
    }
    uint last = (slice + 1u) * a.n_heads / SLICES;
    for (uint first = slice * a.n_heads / SLICES; first < last; first += HEADS) {
        /* The last group begins early rather than end late, so that every head of a group lies at a constant distance. */
        uint begin = min(first, a.n_heads - HEADS);
        precise float dot[MAX_PRODUCTS];
        [[unroll]] for (uint i = 0u; i < ROWS * HEADS; i++)
            dot[i] = 0.0;
        if (FEW_REGISTERS)
            [[dont_unroll]] for (uint block = 0u; block < INDEX_DIM / 32u; block++)
                multiply_block(block, begin, iq, codes, scales, dot);
        else
            for (uint block = 0u; block < INDEX_DIM / 32u; block++)
                multiply_block(block, begin, iq, codes, scales, dot);
        [[unroll]] for (uint h = 0u; h < HEADS; h++)
            if (begin + h >= first && begin + h < last)
                [[unroll]] for (uint r = 0u; r < ROWS; r++)
                    sums[r] = fma(Floats(weights[r]).v[begin + h], max(dot[r * HEADS + h], 0.0), sums[r]);
    }
}

