/* What the kernels for steps of many rows share (chunk.h): ROWS rows of x times TILES tiles of 32 output rows, and how weights
 * become numbers. The kernels for few rows, matmul.glsl, decode a weight for at most eight rows of x; these for ROWS.
 *
 * A body, chunk_tiled.glsl or chunk_coopmat.glsl, defines multiply(); an op, matmul_chunk.glsl or moe_expert_chunk.glsl, says
 * where rows of x begin and what becomes of a result. */
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "weights.glsl"

layout(local_size_x_id = CHUNK_WORKGROUP) in;
layout(constant_id = CHUNK_TYPE) const uint TYPE = 0u;
layout(constant_id = CHUNK_EPILOGUE) const uint EPILOGUE = 0u;
layout(constant_id = CHUNK_ROWS) const uint ROWS = 64u;
layout(constant_id = CHUNK_TILES) const uint TILES = 2u;

const float UNIT = TYPE == TYPE_FP8 ? E4M3_UNIT : E2M1_UNIT; /* of decoded codes */
const uint SLAB = 32u;                                       /* inputs that are in shared memory at a time */
const uint LANES = 8u * TILES; /* invocation `lane` of them has output rows lane % 8 + 0, 8, 16, 24 of tile lane / 8 */

/* Where row r of the workgroup's x begins, in vec4. Rows beyond the last repeat it: they are computed and not stored. */
uint x_at(uint r);
/* Takes the results of row r of x for output rows lane % 8 + 0, 8, 16, 24 of the workgroup's tile lane / 8. */
void finish(uint r, uint lane, vec4 sums);

/* The scale of output row `row` of a tile in an FP8 block of 128 inputs; the ue8m0 byte of one in an FP4 block of 32. */
float fp8_scale(uvec2 scales, uint tile, uint n_in, uint k, uint row) {
    return Floats(scales).v[(tile * ((n_in + 127u) / 128u) + k / 128u) * 2u + row / 16u];
}
uint fp4_scale(uvec2 scales, uint tile, uint n_in, uint k, uint row) {
    const uint word = Words(scales).v[(tile * ((n_in + 127u) / 128u) + k / 128u) * 32u + row];
    return (word >> (k / 32u % 4u * 8u)) & 255u;
}
float row_scale(uvec2 scales, uint tile, uint n_in, uint k, uint row) {
    return TYPE == TYPE_FP8 ? fp8_scale(scales, tile, n_in, k, row) : ue8m0(fp4_scale(scales, tile, n_in, k, row));
}
