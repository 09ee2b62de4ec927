/* multiply() in f32 arithmetic. Weights are scaled as they are decoded: exact for FP4, one rounding for FP8. Each result is one
 * chain of fused products in the order of the input; not staged, a chain of sums of four products, for processors, whose
 * instructions wait for each other along a chain and whose drivers multiply and add apart.
 *
 * Staged: slabs of 32 inputs of the rows of x and of the decoded tiles go through shared memory, the next slab's reads on
 * their way while one is multiplied; every invocation has 4 output rows times ROWS / 16 rows of x.
 * Not staged: for drivers on which a barrier costs more than decoding. A workgroup is the 8 invocations of one tile, x is read
 * at addresses that are the same for all of them, and every invocation has 4 output rows times all ROWS rows of x. */
layout(constant_id = CHUNK_STAGED) const uint STAGED = 1u;
layout(constant_id = CHUNK_COLUMNS) const uint COLUMNS = 0u; /* weights in columns (weights.glsl); not staged only */

layout(constant_id = CHUNK_SUBGROUP_8) const uint SUBGROUP_8 = 0u;

const uint EACH = STAGED != 0u ? ROWS / 16u : ROWS; /* rows of x per invocation */
vec4 sums[EACH];                                    /* [row of x], one component per output row */

/* ---- registers only ---- */

const uint PART_QUADS = TYPE == 0u ? 1u : 2u;                                    /* groups of four inputs decoded at a time */
const uint WORD_PARTS = TYPE == TYPE_FP4 ? 4u : TYPE == TYPE_FP8 ? 2u : 1u;
struct RowOfX { Vec4s at; }; /* in an array; one of references themselves is no valid SPIR-V */
const uint TOGETHER = 4u; /* rows of x whose sums are in registers; the others' wait on the stack */

void multiply_in_registers(uvec2 codes, uvec2 scales, uint tile, uint words, uint n_in, uvec2 x) {
    const uint lane = SUBGROUP_8 != 0u ? gl_SubgroupInvocationID : invocation();
    TileWords tile_codes = TileWords(add_product(codes, tile, words * 512u));
    const float magnitude = e2m1_magnitude(lane), unit = COLUMNS != 0u && TYPE == TYPE_FP4 ? 1.0 : UNIT;
    /* With subgroups of 8, a lane reads one of 4 rows times 2 quads and the others get it from there; with columns they read it
     * themselves, as such drivers read once what all lanes share. */
    const bool shared_x = SUBGROUP_8 != 0u && COLUMNS == 0u;
    RowOfX row[EACH];
    [[unroll]] for (uint r = 0u; r < (shared_x ? EACH / TOGETHER : EACH); r++)
        row[r].at = Vec4s(add_product(x, x_at(shared_x ? r * TOGETHER + lane % TOGETHER : r), 16u));
    for (uint k = 0u; k < words; k++) {
        uvec4 word[4];
        vec4 scale = vec4(1.0);
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            if (COLUMNS == 0u)
                word[j] = tile_codes.v[k].rows[j].lane[lane];
            if (TYPE == TYPE_FP8 || (TYPE == TYPE_FP4 && COLUMNS == 0u))
                scale[j] = row_scale(scales, tile, n_in, k * (TYPE == TYPE_FP8 ? 16u : 32u), lane + 8u * j);
        }
        if (TYPE == TYPE_FP4 && COLUMNS != 0u)
            scale = column_scales(scales, tile, words, k, lane);
        for (uint part = 0u; part < WORD_PARTS; part++) {
            mat4 w[PART_QUADS]; /* [quad][input], one component per output row */
            [[unroll]] for (uint q = 0u; q < PART_QUADS; q++) {
                const uint quad = part * PART_QUADS + q;
                if (COLUMNS != 0u)
                    [[unroll]] for (uint i = 0u; i < 4u; i++)
                        w[q][i] = column_input(TYPE, Columns(uvec2(tile_codes)), k, 4u * quad + i, lane, magnitude);
                else
                    w[q] = transpose(mat4(decode_quad(TYPE, word[0], quad), decode_quad(TYPE, word[1], quad),
                                          decode_quad(TYPE, word[2], quad), decode_quad(TYPE, word[3], quad)));
                if (TYPE >= TYPE_FP8)
                    [[unroll]] for (uint i = 0u; i < 4u; i++)
                        w[q][i] = w[q][i] * unit * scale;
            }
            const uint at = (k * WORD_PARTS + part) * PART_QUADS;
            [[unroll]] for (uint first = 0u; first < EACH; first += TOGETHER) {
                vec4 mine;
                if (shared_x)
                    mine = row[first / TOGETHER].at.v[at + lane / TOGETHER % PART_QUADS];
                [[unroll]] for (uint q = 0u; q < PART_QUADS; q++) {
                    mat4 v;
                    [[unroll]] for (uint r = 0u; r < TOGETHER; r++)
                        v[r] = shared_x ? subgroupBroadcast(mine, q * TOGETHER + r) : row[first + r].at.v[at + q];
                    [[unroll]] for (uint r = 0u; r < TOGETHER; r++) {
                        precise vec4 low = w[q][0] * v[r].x + w[q][1] * v[r].y, high = w[q][2] * v[r].z + w[q][3] * v[r].w;
                        precise vec4 sum = sums[first + r] + (low + high);
                        sums[first + r] = sum;
                    }
                }
            }
        }
    }
}

/* ---- through shared memory ---- */

const uint UINTS = 8u >> TYPE;                                 /* 32-bit words of weights an invocation decodes per slab */
const uint VALUES = 1u << TYPE;                                /* weights in each of them */
const uint X_QUADS = STAGED != 0u ? ROWS / (16u * TILES) : 1u; /* vec4 of x it copies */
const uint X_STRIDE = SLAB / 4u + 1u;                          /* vec4 between rows: no two lanes meet in a bank */
shared float staged_w[STAGED != 0u ? SLAB * LANES * 4u : 1u];  /* [input][lane][4] */
shared vec4 staged_x[STAGED != 0u ? ROWS * X_STRIDE : 1u];     /* [row][input / 4] */

void multiply_staged(uvec2 codes, uvec2 scales, uint tile, uint words, uint n_in, uvec2 x) {
    const uint self = invocation(), workgroup = 128u * TILES;
    /* What it copies: a quarter of a weight row's slab, and vec4s of x. */
    const uint w_row = self % 32u, w_tile = self / 32u % TILES, w_first = self / (32u * TILES) * UINTS;
    const uint w_lane = w_tile * 8u + w_row % 8u, w_component = w_row / 8u;
    Words w_words = Words(add_product(codes, tile + w_tile, words * 512u));
    uint x_place[X_QUADS];
    [[unroll]] for (uint i = 0u; i < X_QUADS; i++)
        x_place[i] = x_at((self + i * workgroup) / 8u) + self % 8u;
    /* What it multiplies. */
    const uint lane = self % LANES, row = self / LANES * EACH;

    uint w[UINTS];
    float scale = 1.0;
    vec4 v[X_QUADS];
    for (uint k = 0u; k <= n_in; k += SLAB) { /* each round multiplies the slab that the one before read */
        if (k > 0u) {
            barrier(); /* the slab before has been used */
            [[unroll]] for (uint u = 0u; u < UINTS; u++) {
                float values[VALUES < 4u ? 4u : VALUES];
                if (TYPE == TYPE_BF16) {
                    const vec2 pair = bf16_pair(w[u]);
                    values[0] = pair.x;
                    values[1] = pair.y;
                } else
                    [[unroll]] for (uint q = 0u; q < (VALUES + 3u) / 4u; q++) {
                        const vec4 four = TYPE == 0u ? vec4(uintBitsToFloat(w[u])) : decode_quad(TYPE, uvec4(w[u]), q) * UNIT * scale;
                        [[unroll]] for (uint i = 0u; i < 4u; i++)
                            values[4u * q + i] = four[i];
                    }
                [[unroll]] for (uint i = 0u; i < VALUES; i++)
                    staged_w[(((w_first + u) * VALUES + i) * LANES + w_lane) * 4u + w_component] = values[i];
            }
            [[unroll]] for (uint i = 0u; i < X_QUADS; i++)
                staged_x[(self + i * workgroup) / 8u * X_STRIDE + self % 8u] = v[i];
            barrier();
        }
        if (k < n_in) {
            const uint word = k / SLAB * UINTS;
            if (TYPE >= TYPE_FP8)
                scale = row_scale(scales, tile + w_tile, n_in, k, w_row);
            [[unroll]] for (uint u = 0u; u < UINTS; u++)
                w[u] = w_words.v[((word + (w_first + u) / 4u) * 32u + w_row) * 4u + (w_first + u) % 4u];
            [[unroll]] for (uint i = 0u; i < X_QUADS; i++)
                v[i] = Vec4s(x).v[x_place[i] + k / 4u];
        }
        if (k > 0u)
            [[unroll]] for (uint quad = 0u; quad < SLAB / 4u; quad++) {
                vec4 w4[4];
                [[unroll]] for (uint i = 0u; i < 4u; i++) {
                    const uint at = ((4u * quad + i) * LANES + lane) * 4u;
                    w4[i] = vec4(staged_w[at], staged_w[at + 1u], staged_w[at + 2u], staged_w[at + 3u]);
                }
                [[unroll]] for (uint r = 0u; r < EACH; r++) {
                    const vec4 four = staged_x[(row + r) * X_STRIDE + quad];
                    [[unroll]] for (uint i = 0u; i < 4u; i++)
                        sums[r] = fma(w4[i], vec4(four[i]), sums[r]);
                }
            }
    }
}

/* The workgroup's tiles from `tile` on times its rows of x, which begin at address x. words: 16-byte words of a weight row. */
void multiply(uvec2 codes, uvec2 scales, uint tile, uint words, uvec2 x) {
    const uint n_in = words * (4u << TYPE);
    [[unroll]] for (uint r = 0u; r < EACH; r++)
        sums[r] = vec4(0.0);
    if (STAGED != 0u)
        multiply_staged(codes, scales, tile, words, n_in, x);
    else
        multiply_in_registers(codes, scales, tile, words, n_in, x);
    const uint first = invocation() / LANES * EACH;
    [[unroll]] for (uint r = 0u; r < EACH; r++)
        finish(first + r, invocation() % LANES, sums[r]);
}
