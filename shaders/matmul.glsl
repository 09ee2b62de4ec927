/* One tile of 32 output rows times ROWS rows of x: the body of matmul.comp, moe_expert.comp and the fused ops of small steps.
 *
 * A workgroup is 8 lanes times 32 splits. Split y takes the 16-byte weight words y, y + 32, ... of the input dimension; in it,
 * lane l works on the tile's rows l, l + 8, l + 16, l + 24, so that eight lanes read 128 contiguous bytes four times, the
 * whole group streams the tile front to back, and every value of x in a register serves four output rows. A weight word
 * is read and decoded once for all ROWS rows of x.
 *
 * A processor has four splits: it does one after the other, and pays for every sum that passes through shared memory. Invocations
 * beyond them, which the includer wants for something else, are idle here.
 *
 * With weights in columns (weights.glsl) a split takes consecutive words instead, which CPUs read ahead best, and products are
 * rounded before they are added, so that they can come out of a table.
 *
 * Sums: products of one word in order of the input (f32, fused), times the word's scale, added to the split's total in
 * order; then the totals, in groups of four. Nothing of that depends on ROWS, on a row's place, or on the other rows, so
 * a row's result is the same in every batch, bit for bit; `precise` keeps compilers from changing one variant only.
 *
 * The includer calls multiply(), then for every PASS_ROWS rows add_splits() and row_total(). */
#extension GL_KHR_shader_subgroup_basic : require
#include "weights.glsl"

layout(local_size_x = 256, local_size_x_id = MATMUL_WORKGROUP) in;
layout(constant_id = MATMUL_WORKGROUP) const uint WORKGROUP = 256u;
layout(constant_id = MATMUL_TYPE) const uint TYPE = 0u;
layout(constant_id = MATMUL_TYPE_B) const uint TYPE_B = 0u;
layout(constant_id = MATMUL_ROWS) const uint ROWS = 1u;
layout(constant_id = MATMUL_EPILOGUE) const uint EPILOGUE = 0u;
layout(constant_id = MATMUL_SUBGROUP_8) const uint SUBGROUP_8 = 0u;
layout(constant_id = MATMUL_COLUMNS) const uint COLUMNS = 0u;

const uint MAX_ROWS = 8u;
const uint SPLITS = SOFTWARE ? 4u : WORKGROUP / 8u;
/* Rows added up at a time, an invocation for each of their outputs; at most 4, which bounds shared memory. */
const uint MOST_PASS = WORKGROUP < 128u ? WORKGROUP / 32u : 4u, PASS_ROWS = ROWS < MOST_PASS ? ROWS : MOST_PASS;

shared float partial[PASS_ROWS * SPLITS * 32u];

/* With subgroups of exactly 8 the split is uniform in a subgroup, and saying so makes addresses that are the same for all its lanes
 * scalars. */
uint split_index() { return SUBGROUP_8 != 0u ? gl_SubgroupID : invocation() / 8u; }
bool idle() { return 8u * SPLITS < WORKGROUP && split_index() >= SPLITS; }
uint lane_index() { return SUBGROUP_8 != 0u ? gl_SubgroupInvocationID : invocation() % 8u; }

/* The scales of weight word k for the lane's four output rows. */
vec4 word_scales(uint type, uvec2 scales, uint tile, uint words, uint k, uint lane) {
    if (type == TYPE_FP8) {
        const uint at = (tile * ((words + 7u) / 8u) + k / 8u) * 2u;
        return vec4(Floats(scales).v[at], Floats(scales).v[at], Floats(scales).v[at + 1u], Floats(scales).v[at + 1u]);
    }
    const uint at = (tile * ((words + 3u) / 4u) + k / 4u) * 32u + lane;
    vec4 result;
    [[unroll]] for (uint j = 0u; j < 4u; j++)
        result[j] = ue8m0((Words(scales).v[at + 8u * j] >> (k % 4u * 8u)) & 255u);
    return result;
}

/* Inputs 4 * q .. 4 * q + 3 of weight word k, out of a row of x at `row`: one address for all q. */
vec4 load_x(uint type, uvec2 row, uint k, uint q) {
    if (type == TYPE_BF16)
        return Vec4x2s(row).v[k].q[q];
    if (type == TYPE_FP8)
        return Vec4x4s(row).v[k].q[q];
    if (type == TYPE_FP4)
        return Vec4x8s(row).v[k].q[q];
    return Vec4s(row).v[k];
}

/* multiply() with weights in columns. */
void multiply_columns(uint type, Columns tile_codes, uvec2 scales, uint tile, uint words, const uvec2 row[MAX_ROWS], out vec4 sums[MAX_ROWS]) {
    const uint lane = lane_index(), share = (words + SPLITS - 1u) / SPLITS, first = split_index() * share;
    const float unit = type == TYPE_FP8 ? E4M3_UNIT : 1.0, magnitude = e2m1_magnitude(lane);
    precise vec4 total[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        total[r] = vec4(0.0);
    for (uint k = first; k < min(first + share, words); k++) {
        precise vec4 part[MAX_ROWS];
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            part[r] = type >= TYPE_FP8 ? vec4(0.0) : total[r];
        [[unroll]] for (uint q = 0u; q < 1u << type; q++) {
            vec4 v[MAX_ROWS];
            [[unroll]] for (uint r = 0u; r < ROWS; r++)
                v[r] = load_x(type, row[r], k, q);
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                const bool products = ROWS == 1u && type == TYPE_FP4;
                const vec4 w = column_input(type, tile_codes, k, 4u * q + i, lane, products ? v[0][i] * magnitude : magnitude);
                [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                    precise vec4 product = products ? w : w * v[r][i];
                    part[r] += product;
                }
            }
        }
        vec4 scale = vec4(1.0);
        if (type == TYPE_FP8)
            scale = word_scales(type, scales, tile, words, k, lane);
        else if (type == TYPE_FP4)
            scale = column_scales(scales, tile, words, k, lane);
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            total[r] = type >= TYPE_FP8 ? fma(part[r] * unit, scale, total[r]) : part[r];
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        sums[r] = total[r];
}

/* sums[r]: this split's share of the lane's four output rows times row r of x. x_at[r]: where row r of x begins, in vec4.
 * Nothing for idle invocations. */
void multiply(uint type, uvec2 codes, uvec2 scales, uint tile, uint words, uvec2 x, const uint x_at[MAX_ROWS],
              out vec4 sums[MAX_ROWS]) {
    if (idle())
        return;
    const uint lane = lane_index();
    const float unit = type == TYPE_FP8 ? E4M3_UNIT : E2M1_UNIT; /* of decoded codes; not part of the scale, which it could overflow */
    TileWords tile_codes = TileWords(add_product(codes, tile, words * 512u));
    uvec2 row[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        row[r] = add_product(x, x_at[r], 16u);
    if (COLUMNS != 0u) {
        multiply_columns(type, Columns(uvec2(tile_codes)), scales, tile, words, row, sums);
        return;
    }
    precise vec4 total[MAX_ROWS]; /* [row of x], one component per output row */
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        total[r] = vec4(0.0);
    for (uint k = split_index(); k < words; k += SPLITS) {
        uvec4 word[4];
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            word[j] = tile_codes.v[k].rows[j].lane[lane];
        vec4 some[MAX_ROWS]; /* with subgroups of 8: the lane's quad of each row of x */
        precise vec4 part[MAX_ROWS];
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            part[r] = type >= TYPE_FP8 ? vec4(0.0) : total[r];
            if (SUBGROUP_8 != 0u)
                some[r] = load_x(type, row[r], k, lane & ((1u << type) - 1u));
        }
        [[unroll]] for (uint q = 0u; q < 1u << type; q++) {
            const mat4 w = transpose(mat4(decode_quad(type, word[0], q), decode_quad(type, word[1], q), decode_quad(type, word[2], q),
                                          decode_quad(type, word[3], q)));
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                const vec4 v = SUBGROUP_8 != 0u ? subgroupBroadcast(some[r], q) : load_x(type, row[r], k, q);
                part[r] = fma(w[0], v.xxxx, part[r]);
                part[r] = fma(w[1], v.yyyy, part[r]);
                part[r] = fma(w[2], v.zzzz, part[r]);
                part[r] = fma(w[3], v.wwww, part[r]);
            }
        }
        const vec4 scale = type >= TYPE_FP8 ? word_scales(type, scales, tile, words, k, lane) : vec4(1.0);
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            total[r] = type >= TYPE_FP8 ? fma(part[r] * unit, scale, total[r]) : part[r];
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        sums[r] = total[r];
}

/* Where split y keeps output row o of row r of the pass; turned by the split so that no two lanes meet in a bank. */
uint partial_at(uint r, uint y, uint o) { return (r * SPLITS + y) * 32u + ((o + 8u * y) & 31u); }

float four_splits(uint r, uint four, uint o) {
    precise float sum = partial[partial_at(r, four, o)];
    [[unroll]] for (uint i = 1u; i < 4u; i++)
        sum += partial[partial_at(r, four + i, o)];
    return sum;
}

/* Adds up the splits of rows first .. first + PASS_ROWS - 1 of x. Afterwards row_total(r, o) is the sum of row first + r and
 * output row o of the tile. Every invocation must call it. */
void add_splits(uint first, const vec4 sums[MAX_ROWS]) {
    const uint lane = lane_index(), y = split_index();
    if (first > 0u)
        barrier(); /* the pass before may still be read */
    if (!idle())
        [[unroll]] for (uint r = 0u; r < PASS_ROWS; r++)
            [[unroll]] for (uint j = 0u; j < 4u; j++)
                partial[partial_at(r, y, lane + 8u * j)] = sums[first + r][j];
    barrier();
    if (SOFTWARE)
        return;
    const uint o = invocation() % 32u, four = invocation() / 32u * 4u;
    [[unroll]] for (uint r = 0u; r < PASS_ROWS; r++)
        partial[partial_at(r, four, o)] = four_splits(r, four, o);
    barrier();
}

float row_total(uint r, uint o) {
    if (SOFTWARE)
        return four_splits(r, 0u, o);
    precise float sum = partial[partial_at(r, 0u, o)];
    [[unroll]] for (uint four = 4u; four < SPLITS; four += 4u)
        sum += partial[partial_at(r, four, o)];
    return sum;
}
