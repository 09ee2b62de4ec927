/* The op around a body of chunk.glsl: routed experts (moe_expert.comp has the formulas). One workgroup: TILES tiles (y) of 32
 * weight rows times the at most ROWS pairs of one tile of pairs (x), which all go through the same expert. */
layout(push_constant, scalar) uniform Args { moe_expert_args a; };

uvec2 add64(uvec2 x, uvec2 y) { return add_bytes(x, y.x) + uvec2(0u, y.y); }

uint pair_at(uint place) { return min(Words(a.pairs).v[min(place, a.n_pairs - 1u)], a.n_pairs - 1u); }

uvec4 job() { return Words4(a.tiles).v[gl_WorkGroupID.x]; } /* expert, first pair, pairs */

uint x_at(uint r) {
    const uint pair = pair_at(job().y + min(r, job().z - 1u));
    return (EPILOGUE == EPILOGUE_STORE ? pair : pair / a.k) * (a.x_stride / 4u);
}

void finish(uint r, uint lane, vec4 sums) {
    if (r >= job().z)
        return;
    const uint pair = pair_at(job().y + r), tile = gl_WorkGroupID.y * TILES + lane / 8u;
    if (EPILOGUE == EPILOGUE_STORE) {
        const uint at = pair / a.k * a.out_stride + pair % a.k * a.n_out, column = tile * 32u + lane % 8u;
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            if (column + 8u * j < a.n_out)
                FloatsOut(a.result).v[at + column + 8u * j] = sums[j];
        return;
    }
    const uint at = pair * a.out_stride, column = tile * 16u + lane % 8u;
    const float weight = Floats(a.weights).v[pair];
    [[unroll]] for (uint j = 0u; j < 2u; j++)
        if (column + 8u * j < a.n_out)
            FloatsOut(a.result).v[at + column + 8u * j] = weight * swiglu(sums[j], sums[j + 2u], a.limit);
}

void main() {
    if (job().z == 0u) /* the same for the whole workgroup */
        return;
    const uvec2 codes = add64(Addrs(a.experts).v[min(job().x, a.n_experts - 1u)], a.offset);
    multiply(codes, add64(codes, a.scales), gl_WorkGroupID.y * TILES, a.words, a.x);
}
