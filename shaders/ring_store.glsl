/* Spec 4.12, step 5, for one row and one ring by a whole workgroup. Of every sequence only the last min(rows, capacity) rows of
 * the step are copied, so that no slot is written twice. Row t goes to slot position % capacity, in 16-byte words where source
 * and ring are aligned to them. Include after types.h (with ring_store_item) and memory.glsl. */
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Words4Out { uvec4 v[]; };

void ring_store_row(uint row, uvec2 rows, uvec2 seqs, const ring_store_item item) {
    uint lane = invocation();
    Row me = Rows(rows).v[row];
    Seq sequence = Seqs(seqs).v[me.sequence];
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
