/* result[t][o] = sum_i x[t][g * n_in + i] * w[o][i]   (spec 3.8), or with swiglu over tile rows (a 0-15, b 16-31):
 * result[t][16 tile + o] = silu(min(a, limit)) * clamp(b, -limit, limit)   (spec 4.10)
 * x f32 [n, x_stride], w tiled [n_out, n_in] of any dsvk_weight_type, result f32 [n, out_stride].
 * One workgroup: one tile (y) of 32 weight rows times ROWS rows of x (x), so that neighbours share a tile in the cache. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "matmul.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "matmul.glsl"

layout(push_constant, scalar) uniform Args { matmul_args a; };

void main() {
    const uint tile = gl_WorkGroupID.y, first_row = gl_WorkGroupID.x * ROWS;
    const uint group = a.group_tiles > 0u ? tile / a.group_tiles : 0u;
    uint x_at[MAX_ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) /* rows beyond the last repeat it and are not stored */
        x_at[r] = min(first_row + r, a.n - 1u) * (a.x_stride / 4u) + group * a.group_quads;
    vec4 sums[MAX_ROWS];
    multiply(TYPE, a.w, a.scales, tile, a.words, a.x, x_at, sums);

    const uint columns = EPILOGUE == EPILOGUE_STORE ? 32u : 16u; /* of the result that a tile makes */
    const uint r = invocation() / 32u, o = invocation() % 32u, column = tile * columns + o;
    [[unroll]] for (uint first = 0u; first < ROWS; first += PASS_ROWS) {
        add_splits(first, sums);
        const uint row = first_row + first + r;
        if (r < PASS_ROWS && o < columns && column < a.n_out && row < a.n) {
            float value = row_total(r, o);
            if (EPILOGUE != EPILOGUE_STORE)
                value = swiglu(value, row_total(r, o + 16u), a.limit);
            FloatsOut(a.result).v[row * a.out_stride + column] = value;
        }
    }
}
