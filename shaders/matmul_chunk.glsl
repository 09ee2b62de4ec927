/* The op around a body of chunk.glsl: matmul (matmul.comp has its formula). One workgroup: TILES tiles (y) of 32 weight rows
 * times ROWS rows of x (x), so that neighbours share weights in the cache. The tiles of a workgroup are in one group. */
layout(push_constant, scalar) uniform Args { matmul_args a; };

uint group() { return a.group_tiles > 0u ? gl_WorkGroupID.y * TILES / a.group_tiles : 0u; }

uint x_at(uint r) {
    return min(gl_WorkGroupID.x * ROWS + r, a.n - 1u) * (a.x_stride / 4u) + group() * a.group_quads;
}

void finish(uint r, uint lane, vec4 sums) {
    const uint row = gl_WorkGroupID.x * ROWS + r, tile = gl_WorkGroupID.y * TILES + lane / 8u;
    if (row >= a.n)
        return;
    if (EPILOGUE != EPILOGUE_STORE) {
        const uint at = row * a.out_stride, column = tile * 16u + lane % 8u;
        [[unroll]] for (uint j = 0u; j < 2u; j++)
            if (column + 8u * j < a.n_out)
                FloatsOut(a.result).v[at + column + 8u * j] = swiglu(sums[j], sums[j + 2u], a.limit);
        return;
    }
    const uint at = row * a.out_stride, column = tile * 32u + lane % 8u;
    [[unroll]] for (uint j = 0u; j < 4u; j++)
        if (column + 8u * j < a.n_out)
            FloatsOut(a.result).v[at + column + 8u * j] = sums[j];
}

void main() { multiply(a.w, a.scales, gl_WorkGroupID.y * TILES, a.words, a.x); }
