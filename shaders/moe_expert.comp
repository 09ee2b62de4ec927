/* Routed experts, spec 4.10, over the tiles of moe_sort: every pair (row, slot) of a tile goes through the same expert.
 *   up   (EPILOGUE_ROUTED_SWIGLU): result[pair][o] = weights[pair] * silu(min(a, limit)) * clamp(b, -limit, limit),
 *                                  a and b rows o of w1 and w3 times x[pair / k]
 *   down (EPILOGUE_STORE):         result[pair / k][pair % k][o] = w2 row o times x[pair]
 * One workgroup: one tile (y) of 32 weight rows times the ROWS pairs of one tile of pairs (x). */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "matmul.h"
#include "moe_expert.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "matmul.glsl"

layout(push_constant, scalar) uniform Args { moe_expert_args a; };

uvec2 add64(uvec2 x, uvec2 y) { return add_bytes(x, y.x) + uvec2(0u, y.y); }

uint pair_at(uint place) { return min(Words(a.pairs).v[min(place, a.n_pairs - 1u)], a.n_pairs - 1u); }

void store(uint pair, uint r, uint o, uint column) {
    const float value = row_total(r, o);
    if (EPILOGUE == EPILOGUE_STORE)
        FloatsOut(a.result).v[pair / a.k * a.out_stride + pair % a.k * a.n_out + column] = value;
    else
        FloatsOut(a.result).v[pair * a.out_stride + column] =
            Floats(a.weights).v[pair] * swiglu(value, row_total(r, o + 16u), a.limit);
}

void main() {
    const uint tile = gl_WorkGroupID.y;
    const uvec4 job = Words4(a.tiles).v[gl_WorkGroupID.x];
    const uint count = min(job.z, ROWS);
    if (count == 0u) /* the same for the whole workgroup */
        return;
    const uvec2 codes = add64(Addrs(a.experts).v[min(job.x, a.n_experts - 1u)], a.offset);
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) { /* places beyond the last pair repeat it and are not stored */
        const uint pair = pair_at(job.y + min(r, count - 1u));
        x_at[r] = (EPILOGUE == EPILOGUE_STORE ? pair : pair / a.k) * (a.x_stride / 4u);
    }
    vec4 sums[MAX_ROWS];
    multiply(TYPE, codes, add64(codes, a.scales), tile, a.words, a.x, x_at, sums);

    const uint columns = EPILOGUE == EPILOGUE_STORE ? 32u : 16u;
    const uint r = invocation() / 32u, o = invocation() % 32u, column = tile * columns + o;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        if (r < PASS_ROWS && first + r < count && o < columns && column < a.n_out)
            store(pair_at(job.y + first + r), r, o, column);
    }
}
