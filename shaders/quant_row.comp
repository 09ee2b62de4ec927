/* Window rows of the cache, spec 4.5: RMSNorm(kv[t], weight) over HEAD_DIM, RoPE on the last ROPE_DIM values, then in the
 * native format FQ8 (3.5, blocks of 64) of the others as e4m3 codes and ue8m0 scales and the tail as BF16 (1.7); in the f32
 * format nothing is rounded. kv [n, kv_stride]. One workgroup does one row, 4 values per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "quant_row.h"
layout(local_size_x = 128, local_size_x_id = QUANT_ROW_CONSTANT_WORKGROUP) in;
layout(constant_id = QUANT_ROW_CONSTANT_WORKGROUP) const uint WORKGROUP = 128u;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"

layout(constant_id = QUANT_ROW_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = QUANT_ROW_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 512u;
layout(constant_id = QUANT_ROW_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
#define INDEX_DIM 128u
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "line_store_row.glsl"

layout(push_constant, scalar) uniform Args { quant_row_args a; };

void main() {
    uint row = gl_WorkGroupID.x, lane = invocation();
    vec4 v = vec4(0.0);
    if (4u * lane < HEAD_DIM)
        v = Vec4s(add_product(a.kv, row, a.kv_stride * 4u)).v[lane];
    v = line_rms_norm(v, a.weight, HEAD_DIM, a.eps);
    line_store_row(v, a.table, Rows(a.rows).v[row].position, a.store, a.capacity, row);
}
