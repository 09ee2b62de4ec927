/* Index scores as indexer.glsl says, from byte queries (ops.h) and native keys: an instruction multiplies four pairs of bytes and adds
 * them to a whole number. In a block of 32 both sides are small whole numbers times a power of two, so its sum is exact here and
 * in indexer.comp, and the scores are the same bits.
 * An invocation keeps its whole key as bytes. Its slices share the decoding through shared memory. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_spirv_intrinsics : require
#include "indexer.h"
layout(local_size_x = INDEXER_WORKGROUP) in;
#include "indexer.glsl"

/* OpSDot of four signed bytes in a word each (SPIR-V 1.6): capabilities DotProduct and DotProductInput4x8BitPacked. */
spirv_instruction(capabilities = [6019, 6018], id = 4450) int dot_bytes(uint a, uint b, spirv_literal int packed_4x8);

const uint BLOCKS = INDEX_DIM / 32u;

shared uvec4 decoded[SLICES == 1u ? 1u : 2u * BLOCKS * KEYS];
shared float decoded_scale[SLICES == 1u ? 1u : BLOCKS * KEYS];

void multiply(uint t, uint slice, uint lane, uvec2 codes, uvec2 scales, out float sums[MAX_ROWS]) {
    uint key[8u * BLOCKS], bytes[8];
    float key_scale[BLOCKS];
    if (SLICES == 1u) {
        [[unroll]] for (uint block = 0u; block < BLOCKS; block++) {
            key_bytes32(codes, block, bytes);
            [[unroll]] for (uint i = 0u; i < 8u; i++)
                key[8u * block + i] = bytes[i];
            key_scale[block] = key_bytes_scale(scales, block);
        }
    } else {
        barrier(); /* an earlier sequence's keys may still be read */
        for (uint block = slice; block < BLOCKS; block += SLICES) {
            key_bytes32(codes, block, bytes);
            decoded[2u * block * KEYS + lane] = uvec4(bytes[0], bytes[1], bytes[2], bytes[3]);
            decoded[(2u * block + 1u) * KEYS + lane] = uvec4(bytes[4], bytes[5], bytes[6], bytes[7]);
            decoded_scale[block * KEYS + lane] = key_bytes_scale(scales, block);
        }
        barrier();
        [[unroll]] for (uint i = 0u; i < 2u * BLOCKS; i++) {
            const uvec4 w = decoded[i * KEYS + lane];
            [[unroll]] for (uint j = 0u; j < 4u; j++)
                key[4u * i + j] = w[j];
        }
        [[unroll]] for (uint block = 0u; block < BLOCKS; block++)
            key_scale[block] = decoded_scale[block * KEYS + lane];
    }
    for (uint r = 0u; r < ROWS; r++) {
        const uint row = min(t + r, a.n - 1u);
        const uvec2 iq = add_product(a.iq, row, a.iq_stride * 4u);
        Floats weights = Floats(add_product(a.weights, row, a.weights_stride * 4u));
        precise float sum = 0.0;
        for (uint head = slice * a.n_heads / SLICES; head < (slice + 1u) * a.n_heads / SLICES; head++) {
            const uvec2 query = add_bytes(iq, head * INDEX_DIM * 4u);
            precise float dot = 0.0;
            [[unroll]] for (uint block = 0u; block < BLOCKS; block++) {
                int whole = 0;
                [[unroll]] for (uint i = 0u; i < 8u; i++)
                    whole += dot_bytes(Words(query).v[8u * block + i], key[8u * block + i], 0);
                dot = fma(float(whole), Floats(query).v[INDEX_DIM / 4u + block] * key_scale[block], dot);
            }
            sum = fma(weights.v[head], max(dot, 0.0), sum);
        }
        [[unroll]] for (uint i = 0u; i < ROWS; i++) /* an index that is no constant would put the array into memory */
            if (i == r)
                sums[i] = sum;
    }
}
