/* The compressor, spec 4.6 (kv_compress.glsl has the formula): cache rows, or with INDEX index keys. Workgroup t works when row t
 * completes a window; 4 channels per invocation. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kv_compress.h"
layout(local_size_x = 128, local_size_x_id = COMPRESS_CONSTANT_WORKGROUP) in;
layout(constant_id = COMPRESS_CONSTANT_WORKGROUP) const uint WORKGROUP = 128u;
#include "memory.glsl"
#include "numbers.glsl"
#include "reduce.glsl"

layout(constant_id = COMPRESS_CONSTANT_NATIVE) const bool NATIVE = true;
layout(constant_id = COMPRESS_CONSTANT_WIDTH) const uint WIDTH = 512u;
layout(constant_id = COMPRESS_CONSTANT_ROPE_DIM) const uint ROPE_DIM = 64u;
layout(constant_id = COMPRESS_CONSTANT_RATIO) const uint RATIO = 4u;
layout(constant_id = COMPRESS_CONSTANT_INDEX) const bool INDEX = false;
#define HEAD_DIM WIDTH
#define INDEX_DIM WIDTH
#include "rope.glsl"
#include "kv.glsl"
#include "line.glsl"
#include "line_store_row.glsl"
#include "kv_compress.glsl"

layout(push_constant, scalar) uniform Args { kv_compress_args a; };

void main() {
    const Compressor c = Compressor(a.rows, a.seqs, a.ks, a.ape, a.norm, a.ks_stride, a.ring_offset, a.ring_capacity, a.page_capacity,
                                    a.page_offset, INDEX);
    if (!compress_completes(gl_WorkGroupID.x, c))
        return;
    vec4 v;
    const Entry entry = compress_entry(gl_WorkGroupID.x, c, v);
    store_entry(v, entry, a.table, a.eps, INDEX);
}
