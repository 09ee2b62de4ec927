/* The end of a sublayer inside the dispatch that makes its output y, spec 4.3. A workgroup that owns a tile of 32 values of d has the
 * whole of y there, so it mixes the streams and makes its share of the next HC-pre's reductions (hyper_conn_end); whoever is the
 * last of all tiles goes on with HC-pre and the norm (hyper_conn_pre_row). The same additions in the same order as
 * hyper_conn_mix.comp and hyper_conn_pre.comp, hence the same bits.
 * Include after matmul.glsl (WORKGROUP, MAX_ROWS), last.glsl, streams.glsl and hyper_conn_pre.glsl (DIM, N_MIX). */
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require

const uint DIM_TILES = DIM / 32u;
const uint ROWS_AT_A_TIME = WORKGROUP / 32u, MIXES_AT_A_TIME = WORKGROUP / 8u; /* all, with 256 invocations */

struct Site { uvec2 fn, base, scale, norm; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly restrict buffer Sites { Site v; };

shared float tile_y[MAX_ROWS * 32u];       /* [row][d], set by the includer */
shared vec4 tile_streams[MAX_ROWS * 32u];  /* [row][k][d / 4] */
shared float tile_sums[MAX_ROWS * 2u * (N_MIX + 1u)]; /* [row][half of the tile][m] */

/* Half of the tile's share of mix m (N_MIX: the squares) of row i, by four neighbours; f: the mix's weights. */
void tile_sum(uint i, uint m, uint quad, const Streams f) {
    Streams s;
    [[unroll]] for (uint j = 0u; j < 4u; j++)
        s.k[j] = tile_streams[(i * 4u + j) * 8u + quad];
    float sum = m < N_MIX ? product(f, s) : product(s, s);
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    if (invocation() % 4u == 0u && m <= N_MIX)
        tile_sums[(i * 2u + quad / 4u) * (N_MIX + 1u) + m] = sum;
}

void tile_sums_of(uint count, uint m, uint quad, const Streams f) {
    if (SOFTWARE)
        [[dont_unroll]] for (uint i = 0u; i < count; i++)
            tile_sum(i, m, quad, f);
    else
        for (uint i = 0u; i < count; i++)
            tile_sum(i, m, quad, f);
}

Streams mix_weights(uvec2 fn, uint m, uint d4) {
    Streams f;
    Vec4s weights = Vec4s(add_product(fn, min(m, N_MIX - 1u), DIM * 16u));
    [[unroll]] for (uint j = 0u; j < 4u; j++)
        f.k[j] = weights.v[j * (DIM / 4u) + d4];
    return f;
}

/* Rows first .. first + count - 1 of this tile: streams in place, partials f32 [n][DIM_TILES][N_MIX + 1]. */
void hyper_conn_end(uint first, uint count, uint tile, uvec2 x, uvec2 post, uvec2 comb, uvec2 fn, uvec2 partials) {
    const uint lane = invocation(), quad = lane % 8u, d4 = tile * 8u + quad;
    [[unroll]] for (uint pass = 0u; pass < MAX_ROWS; pass += ROWS_AT_A_TIME) {
        if (pass > 0u && pass >= count)
            break;
        const uint r = pass + lane / 32u, k = lane / 8u % 4u, row = first + min(r, count - 1u);
        SharedVec4s streams = SharedVec4s(add_product(x, row, DIM * 16u));
        Streams old;
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            old.k[j] = streams.v[j * (DIM / 4u) + d4];
        Floats c = Floats(add_product(comb, row, 64u));
        const float weight = Floats(post).v[row * 4u + k];
        barrier(); /* tile_y is there; all of the rows' streams have been read */
        const vec4 y = vec4(tile_y[r * 32u + 4u * quad], tile_y[r * 32u + 4u * quad + 1u], tile_y[r * 32u + 4u * quad + 2u],
                            tile_y[r * 32u + 4u * quad + 3u]);
        const vec4 mixed = post_stream(old, y, weight, vec4(c.v[k], c.v[4u + k], c.v[8u + k], c.v[12u + k]));
        tile_streams[(r * 4u + k) * 8u + quad] = mixed;
        if (r < count)
            streams.v[k * (DIM / 4u) + d4] = mixed;
    }

    /* 8 invocations a mix, 4 values of d in each; those behind the mixes add up the squares. */
    Streams f = mix_weights(fn, lane / 8u, d4);
    barrier();
    tile_sums_of(count, lane / 8u, quad, f);
    [[unroll]] for (uint m = MIXES_AT_A_TIME; m <= N_MIX; m += MIXES_AT_A_TIME)
        tile_sums_of(count, m + lane / 8u, quad, mix_weights(fn, m + lane / 8u, d4));
    barrier();
    for (uint i = lane; i < count * (N_MIX + 1u); i += WORKGROUP) {
        const uint s = i / (N_MIX + 1u), at = i % (N_MIX + 1u);
        SharedFloats(add_product(partials, (first + s) * DIM_TILES + tile, (N_MIX + 1u) * 4u)).v[at] =
            tile_sums[s * 2u * (N_MIX + 1u) + at] + tile_sums[(s * 2u + 1u) * (N_MIX + 1u) + at];
    }
    barrier(); /* tile_y may be set again */
}
