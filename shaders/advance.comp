/* Between two tokens of sequences that decode without the host: ids [n] were chosen for the rows [n], each the only row of its
 * sequence; they become the rows' tokens, one position further on.
 *   chosen[step][i] = ids[i], step + 1 for the next time
 *   if no running row's id is outside the vocabulary, for every running row i:
 *     row.token = ids[i], row.position = seq.start = sample.position, sample.position + 1, ended if ids[i] is a stop of its own
 *   index_grid = workgroups of indexer.comp for the furthest position; none while it sees at most index_topk entries
 * A row that does not move on runs its last token again where it stands: that writes what is there already, so rings, pages
 * and logits of an ended sequence stay what they are, whatever the others do.
 * One workgroup, an invocation per row. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "advance.h"
#include "memory.glsl"

layout(local_size_x = ADVANCE_ROWS) in;
layout(push_constant, scalar) uniform Args { advance_args a; };

struct SampleRow { float temperature, top_p, min_p; uint top_k, seed_lo, seed_hi, position, pad; }; /* ops.h */
struct EndRow { uint first_stop, n_stops, ended, pad; };
layout(buffer_reference, scalar, buffer_reference_align = 16) restrict buffer RowsInOut { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) restrict buffer SeqsInOut { Seq v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) restrict buffer SampleRowsInOut { SampleRow v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) restrict buffer EndRowsInOut { EndRow v[]; };

shared uint impossible; /* ids of running rows outside the vocabulary */
shared uint furthest;   /* largest number of positions of any row, its own included */

bool is_stop(EndRow end, uint id) {
    bool found = false;
    for (uint s = 0u; s < end.n_stops; s++)
        found = found || Words(a.stops).v[end.first_stop + s] == id;
    return found;
}

void main() {
    const uint i = invocation(), step = WordsInOut(a.step).v[0];
    const bool mine = i < a.n;
    RowsInOut rows = RowsInOut(a.rows);
    EndRow end = EndRow(0u, 0u, 1u, 0u);
    uint id = 0u;
    if (i == 0u)
        impossible = furthest = 0u;
    barrier();
    if (mine) {
        id = Words(a.ids).v[i];
        end = EndRowsInOut(a.ends).v[i];
        if (step < a.steps)
            WordsOut(a.chosen).v[step * a.n + i] = id;
        if (end.ended == 0u && id >= a.vocab)
            atomicAdd(impossible, 1u);
    }
    barrier();
    if (impossible == 0u && end.ended == 0u) {
        SampleRowsInOut sampled = SampleRowsInOut(a.sampling);
        const uint position = sampled.v[i].position;
        sampled.v[i].position = position + 1u;
        rows.v[i].token = id;
        rows.v[i].position = position;
        SeqsInOut(a.seqs).v[rows.v[i].sequence].start = position;
        if (is_stop(end, id))
            EndRowsInOut(a.ends).v[i].ended = 1u;
    }
    if (mine)
        atomicMax(furthest, rows.v[i].position + 1u);
    barrier();
    if (i == 0u) {
        const uint visible = min(furthest / 4u, a.max_visible);
        WordsOut grid = WordsOut(a.index_grid);
        grid.v[0] = visible > a.index_topk ? (visible + a.index_keys - 1u) / a.index_keys : 0u;
        grid.v[1] = a.n;
        grid.v[2] = 1u;
        WordsInOut(a.step).v[0] = step + 1u;
    }
}
