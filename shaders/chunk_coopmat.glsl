/* multiply() by cooperative matrices (VK_KHR_cooperative_matrix): products of M x K and K x N halves, summed in f32.
 *
 * Nothing of accuracy is given up. In slabs of 32 inputs,
 *   x = (high + low) * 2^ex: two halves hold 22 bits, and both are multiplied. ex is chosen per slab and M rows of x so that the
 *       largest finite one is in [2^14, 2^15); what is down to 2^-18 of it keeps all 22 bits, less still 2^-40 of the largest.
 *   w = (half) * scale: e4m3 codes are halves, scale their block's; e2m1 codes times their ue8m0 relative to the largest of their
 *       output row are halves down to 2^-35, scale that largest one, applied at the end; BF16 has fewer bits than a half,
 *       scale 2^ew chosen as for x of N output rows.
 * The products of a slab are exact but for the rounding of their f32 sums; times both scales they are added to the totals.
 *
 * Shared memory holds, per row of x and per output row, 32 halves and a gap that keeps lanes out of each other's banks; afterwards,
 * in the same place, results on their way to finish(). */
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#include "halves.glsl"

layout(constant_id = CHUNK_M) const uint M = 16u;
layout(constant_id = CHUNK_N) const uint N = 16u;
layout(constant_id = CHUNK_K) const uint K = 16u;
layout(constant_id = CHUNK_SUBGROUP) const uint SUBGROUP = 32u;

const uint OUTS = 32u * TILES, INVOCATIONS = 128u * TILES;
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;
/* The results are ROWS / M times OUTS / N matrices. WIDE subgroups stand side by side over them, HIGH above each other. */
const uint ROW_MATRICES = ROWS / M, OUT_MATRICES = OUTS / N;
const uint WIDE = OUT_MATRICES / 2u < SUBGROUPS ? OUT_MATRICES / 2u : SUBGROUPS;
const uint ROOM = SUBGROUPS / WIDE;
const uint HIGH = ROOM < ROW_MATRICES ? ROOM : ROW_MATRICES; /* further subgroups only copy */
const uint ACROSS = OUT_MATRICES / WIDE, DOWN = ROW_MATRICES / HIGH; /* matrices of a subgroup */

const uint EIGHTS = SLAB / 8u;      /* uvec4 of halves in a row's slab */
const uint STRIDE = EIGHTS + 1u;    /* uvec4 between rows */
const uint HIGH_AT = 0u, LOW_AT = ROWS * STRIDE, W_AT = 2u * ROWS * STRIDE;
const uint STAGE = (2u * ROWS + OUTS) * STRIDE, BAND = HIGH * M * (OUTS / 4u); /* uvec4 */
const uint X_COPIES = ROWS * EIGHTS / INVOCATIONS > 0u ? ROWS * EIGHTS / INVOCATIONS : 1u;
const uint WORDS8 = 8u >> TYPE; /* 32-bit words that hold eight weights */

shared uvec4 memory[STAGE > BAND ? STAGE : BAND];
shared uint x_most[2u * ROW_MATRICES], w_most[2u * OUT_MATRICES]; /* by the slab's parity: the exponents of largest values */
shared uint fp4_most[OUTS];                                       /* the largest ue8m0 of each output row */

/* ue8m0 bytes of FP4 become powers of two relative to the largest, which becomes 2^12 where the factor it leaves is normal. */
int fp4_top(uint most) { return min(12, int(most) - 1); }
float fp4_relative(uint e, uint most) {
    return e == 255u ? uintBitsToFloat(0x7fc00000u) : ldexp(1.0, max(int(e) - int(most), -100) + fp4_top(most));
}
float fp4_factor(uint most) { return exp2_int(int(most) - 127 - fp4_top(most)); }

/* ---- what an invocation copies: of the slab of 32 inputs from k on, eight weights of one output row, eights of x ---- */

uint w_bits[WORDS8], w_byte; /* codes; FP4: their scale */
vec4 x_values[2u * X_COPIES];
uint x_place[X_COPIES];      /* where its eights of x begin, in vec4 */

void read_slab(Words w_words, uvec2 scales, uvec2 x, uint tile, uint n_in, uint k) {
    const uint w_row = invocation() % 32u, first = (k / 8u + invocation() / (32u * TILES)) * WORDS8;
    [[unroll]] for (uint i = 0u; i < WORDS8; i++)
        w_bits[i] = w_words.v[((first + i) / 4u * 32u + w_row) * 4u + (first + i) % 4u];
    if (TYPE == TYPE_FP4)
        w_byte = fp4_scale(scales, tile, n_in, k, w_row);
    [[unroll]] for (uint i = 0u; i < 2u * X_COPIES; i++)
        x_values[i] = Vec4s(x).v[x_place[i / 2u] + k / 4u + i % 2u];
}

vec4 w_values(uint half_of_eight) {
    if (TYPE == TYPE_BF16)
        return vec4(bf16_pair(w_bits[2u * half_of_eight]), bf16_pair(w_bits[2u * half_of_eight + 1u]));
    if (TYPE == TYPE_FP8)
        return e4m3_word(w_bits[half_of_eight]) * UNIT;
    vec4 low, high;
    e2m1_word(w_bits[0], low, high);
    return (half_of_eight == 0u ? low : high) * UNIT;
}

/* Four invocations per output row look through its scales. */
void find_fp4_most(uvec2 scales, uint tile, uint n_in, uint row, uint out_row, uint part) {
    uint most = 1u;
    for (uint k = 32u * part; k < n_in; k += 128u) {
        const uint byte = fp4_scale(scales, tile, n_in, k, row);
        most = max(most, byte == 255u ? 0u : byte);
    }
    if (part == 0u)
        fp4_most[out_row] = 0u;
    barrier();
    atomicMax(fp4_most[out_row], most);
    barrier();
}

/* The workgroup's tiles from `tile` on times its rows of x, which begin at address x. words: 16-byte words of a weight row. */
void multiply(uvec2 codes, uvec2 scales, uint tile, uint words, uvec2 x) {
    const uint n_in = words * (4u << TYPE), self = invocation();
    const uint w_row = self % 32u, w_tile = self / 32u % TILES, w_eight = self / (32u * TILES);
    const uint w_out = w_tile * 32u + w_row; /* the row of the staged weights */
    Words w_words = Words(add_product(codes, tile + w_tile, words * 512u));
    const bool copies_x = self / EIGHTS < ROWS; /* not all, where x is smaller than the workgroup */
    [[unroll]] for (uint i = 0u; i < X_COPIES; i++)
        x_place[i] = x_at(min((self + i * INVOCATIONS) / EIGHTS, ROWS - 1u)) + self % EIGHTS * 2u;

    const uint across = gl_SubgroupID % WIDE * ACROSS, down = gl_SubgroupID / WIDE * DOWN;
    const bool multiplies = gl_SubgroupID / WIDE < HIGH;
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> total[DOWN * ACROSS];
    [[unroll]] for (uint i = 0u; i < DOWN * ACROSS; i++)
        total[i] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0.0);
    if (self < 2u * ROW_MATRICES)
        x_most[self] = 0u;
    if (self < 2u * OUT_MATRICES)
        w_most[self] = 0u;
    if (TYPE == TYPE_FP4)
        find_fp4_most(scales, tile + w_tile, n_in, w_row, w_out, w_eight);

    read_slab(w_words, scales, x, tile + w_tile, n_in, 0u);
    for (uint k = 0u; k < n_in; k += SLAB) {
        const uint parity = k / SLAB % 2u;
        barrier(); /* the slab before has been multiplied, its parity's largest values are zero */
        [[unroll]] for (uint i = 0u; i < X_COPIES; i++)
            atomicMax(x_most[parity * ROW_MATRICES + min((self + i * INVOCATIONS) / EIGHTS, ROWS - 1u) / M],
                      max(exponent_of(x_values[2u * i]), exponent_of(x_values[2u * i + 1u])));
        if (TYPE == TYPE_BF16)
            atomicMax(w_most[parity * OUT_MATRICES + w_out / N], max(exponent_of(w_values(0u)), exponent_of(w_values(1u))));
        barrier();
        if (self < ROW_MATRICES)
            x_most[(1u - parity) * ROW_MATRICES + self] = 0u;
        if (self < OUT_MATRICES)
            w_most[(1u - parity) * OUT_MATRICES + self] = 0u;
        [[unroll]] for (uint i = 0u; i < X_COPIES; i++) {
            const uint row = (self + i * INVOCATIONS) / EIGHTS, at = row * STRIDE + self % EIGHTS;
            const float factor = shrink(x_most[parity * ROW_MATRICES + min(row, ROWS - 1u) / M]);
            const vec4 a = x_values[2u * i] * factor, b = x_values[2u * i + 1u] * factor;
            const vec4 a_high = half_part(a), b_high = half_part(b);
            if (copies_x) {
                memory[HIGH_AT + at] = uvec4(halves(a_high), halves(b_high));
                memory[LOW_AT + at] = uvec4(halves(a - a_high), halves(b - b_high));
            }
        }
        float factor = 1.0;
        if (TYPE == TYPE_BF16)
            factor = shrink(w_most[parity * OUT_MATRICES + w_out / N]);
        if (TYPE == TYPE_FP4)
            factor = fp4_relative(w_byte, fp4_most[w_out]);
        memory[W_AT + w_out * STRIDE + w_eight] = uvec4(halves(w_values(0u) * factor), halves(w_values(1u) * factor));
        barrier();
        if (k + SLAB < n_in) /* on its way while this one is multiplied */
            read_slab(w_words, scales, x, tile + w_tile, n_in, k + SLAB);
        if (!multiplies)
            continue;
        coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> part[DOWN * ACROSS];
        [[unroll]] for (uint i = 0u; i < DOWN * ACROSS; i++)
            part[i] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0.0);
        [[unroll]] for (uint step = 0u; step < SLAB / K; step++) {
            coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> w[ACROSS];
            [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                coopMatLoad(w[c], memory, W_AT + (across + c) * N * STRIDE + step * K / 8u, STRIDE,
                            gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint r = 0u; r < DOWN; r++)
                [[unroll]] for (uint piece = 0u; piece < 2u; piece++) {
                    coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> v;
                    coopMatLoad(v, memory, (piece == 0u ? HIGH_AT : LOW_AT) + (down + r) * M * STRIDE + step * K / 8u, STRIDE,
                                gl_CooperativeMatrixLayoutRowMajor);
                    [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                        part[r * ACROSS + c] = coopMatMulAdd(v, w[c], part[r * ACROSS + c]);
                }
        }
        [[unroll]] for (uint c = 0u; c < ACROSS; c++) {
                        float w_grow = 1.0;
            if (TYPE == TYPE_FP8)
                w_grow = fp8_scale(scales, tile + (across + c) * N / 32u, n_in, k, (across + c) * N % 32u);
            if (TYPE == TYPE_BF16)
                w_grow = grow(w_most[parity * OUT_MATRICES + across + c]);
            [[unroll]] for (uint r = 0u; r < DOWN; r++)
                total[r * ACROSS + c] += part[r * ACROSS + c] * grow(x_most[parity * ROW_MATRICES + down + r]) * w_grow;
        }
    }

    /* Bands of HIGH * M rows: the r-th matrices of all subgroups. */
    [[unroll]] for (uint r = 0u; r < DOWN; r++) {
        barrier();
        if (multiplies)
            [[unroll]] for (uint c = 0u; c < ACROSS; c++)
                coopMatStore(total[r * ACROSS + c], memory, gl_SubgroupID / WIDE * M * (OUTS / 4u) + (across + c) * N / 4u, OUTS / 4u,
                             gl_CooperativeMatrixLayoutRowMajor);
        barrier();
        for (uint i = self; i < HIGH * M * LANES; i += INVOCATIONS) {
            const uint band_row = i / LANES, lane = i % LANES;
            vec4 sums;
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                const uint o = lane / 8u * 32u + lane % 8u + 8u * j;
                sums[j] = uintBitsToFloat(memory[band_row * (OUTS / 4u) + o / 4u][o % 4u]);
                if (TYPE == TYPE_FP4)
                    sums[j] *= fp4_factor(fp4_most[o]);
            }
            finish((band_row / M * DOWN + r) * M + band_row % M, lane, sums);
        }
    }
}
