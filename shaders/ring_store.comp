/* Spec 4.12, step 5: rows of a step into rings of their sequence's state block. Of every sequence only the last
 * min(rows, capacity) rows are copied, so that no slot is written twice. Row t goes to slot position % capacity.
 * Workgroup (t, i) copies row t of item i, in 16-byte words where source and ring are aligned to them. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 128u
layout(local_size_x = 128) in;
#include "memory.glsl"
#include "ring_store.h"

layout(push_constant, scalar) uniform Args { ring_store_args a; };
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Words4Out { uvec4 v[]; };

void main() {
    uint row = gl_WorkGroupID.x, lane = gl_LocalInvocationIndex;
    ring_store_item item = a.items[gl_WorkGroupID.y];
    Row me = Rows(a.rows).v[row];
    Seq sequence = Seqs(a.seqs).v[me.sequence];
    if (row - sequence.first + item.capacity < sequence.rows)
        return;

    uvec2 from = add_product(item.source, row, item.stride);
    uvec2 to = add_product(add_bytes(sequence.state, item.offset), me.position % item.capacity, item.bytes);
    if (((from.x | to.x | item.bytes) & 15u) == 0u)
        for (uint i = lane; i < item.bytes / 16u; i += WORKGROUP)
            Words4Out(to).v[i] = Words4(from).v[i];
    else
        for (uint i = lane; i < item.bytes / 4u; i += WORKGROUP)
            WordsOut(to).v[i] = Words(from).v[i];
}
