/* Weights in device memory and how they become numbers: the layouts of ops.h (dsvk_matrix), for all kernels that multiply.
 * Include after memory.glsl and numbers.glsl. `type` is a dsvk_weight_type, a constant, so that a variant holds the code of its
 * types only.
 *
 * In words, lane l of eight reads the 16-byte words of output rows l, l + 8, l + 16, l + 24 of a tile. In columns the 32 rows of
 * a tile lie side by side for every input, so that all lanes read one address and each picks its rows: drivers that run on a CPU
 * turn reads at addresses that differ into one load per lane. Columns need subgroups of exactly 8. */
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require

const uint TYPE_BF16 = 1u, TYPE_FP8 = 2u, TYPE_FP4 = 3u; /* 0 is f32 */

/* silu(min(gate, limit)) * clamp(up, -limit, limit) (spec 4.10); limit 0 clamps nothing, NaN stays NaN. */
float swiglu(float gate, float up, float limit) {
    if (limit > 0.0) {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
    }
    return gate * sigmoid(gate) * up;
}

/* ---- words ---- */

/* Word k of a tile: of 32 rows. */
struct Rows8 { uvec4 lane[8]; };
struct TileWord { Rows8 rows[4]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer TileWords { TileWord v[]; };

/* Inputs 4 * quad .. 4 * quad + 3 of a weight word, without scale and unit. */
vec4 decode_quad(uint type, uvec4 word, uint quad) {
    if (type == TYPE_BF16)
        return vec4(bf16_pair(word[2u * quad]), bf16_pair(word[2u * quad + 1u]));
    if (type == TYPE_FP8)
        return e4m3_word(word[quad]);
    if (type == TYPE_FP4) {
        vec4 low, high;
        e2m1_word(word[quad / 2u], low, high);
        return quad % 2u == 0u ? low : high;
    }
    return uintBitsToFloat(word);
}

/* ---- columns ---- */

/* As many inputs as a word has (4 << type), 32 rows each; and the FP4 scales of 32 rows. */
struct ColumnWord { uvec4 q[32]; };
struct ColumnScales { uvec4 q[2]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Columns { ColumnWord v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer ColumnScalesOf { ColumnScales v[]; };

/* e2m1 magnitude of code `lane`: the table that column_input looks up in, one entry per lane. */
float e2m1_magnitude(uint lane) { return lane < 2u ? 0.5 * float(lane) : (1.0 + 0.5 * float(lane & 1u)) * float(1u << (lane / 2u - 1u)); }

/* The lane's byte of eight. */
uint lane_byte(uint low, uint high, uint lane) { return ((lane < 4u ? low : high) >> (8u * (lane & 3u))) & 255u; }

/* Input i of word k for output rows lane + 0, 8, 16, 24, without scale and, for FP8, without unit. FP4: the lane's nibble has its
 * sign below its magnitude, so that turning the word brings one to the top and the other to the bottom; table is
 * e2m1_magnitude(lane), or that times x to get products. */
vec4 column_input(uint type, Columns tile, uint k, uint i, uint lane, float table) {
    vec4 result;
    if (type == TYPE_FP4) {
        const uvec4 q = tile.v[k].q[i];
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            const uint turned = (q[j] >> (4u * lane + 1u)) | (q[j] << (31u - 4u * lane));
            result[j] = uintBitsToFloat(floatBitsToUint(subgroupShuffle(table, turned & 7u)) ^ (turned & 0x80000000u));
        }
    } else if (type == TYPE_FP8) {
        const uvec4 q[2] = { tile.v[k].q[2u * i], tile.v[k].q[2u * i + 1u] };
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            const uint w = (lane < 4u ? q[j / 2u][j % 2u * 2u] : q[j / 2u][j % 2u * 2u + 1u]) << (24u - 8u * (lane & 3u));
            result[j] = unpackHalf2x16(uint(int(w) >> 1) & 0xbf800000u).y; /* as e4m3_pair */
        }
    } else if (type == TYPE_BF16) {
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            const uvec4 q = tile.v[k].q[4u * i + j];
            const uint w = lane < 4u ? (lane < 2u ? q.x : q.y) : (lane < 6u ? q.z : q.w);
            result[j] = uintBitsToFloat((w << (16u - 16u * (lane & 1u))) & 0xffff0000u);
        }
    } else {
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            const uvec4 low = tile.v[k].q[8u * i + 2u * j], high = tile.v[k].q[8u * i + 2u * j + 1u];
            const uint even = lane < 4u ? (lane < 2u ? low.x : low.z) : (lane < 6u ? high.x : high.z);
            const uint odd = lane < 4u ? (lane < 2u ? low.y : low.w) : (lane < 6u ? high.y : high.w);
            result[j] = uintBitsToFloat((lane & 1u) == 0u ? even : odd);
        }
    }
    return result;
}

/* FP4 scales of word k of a tile of `words` for output rows lane + 0, 8, 16, 24. */
vec4 column_scales(uvec2 scales, uint tile, uint words, uint k, uint lane) {
    const ColumnScales s = ColumnScalesOf(scales).v[tile * ((words + 3u) & ~3u) + k];
    return vec4(ue8m0(lane_byte(s.q[0].x, s.q[0].y, lane)), ue8m0(lane_byte(s.q[0].z, s.q[0].w, lane)),
                ue8m0(lane_byte(s.q[1].x, s.q[1].y, lane)), ue8m0(lane_byte(s.q[1].z, s.q[1].w, lane)));
}
