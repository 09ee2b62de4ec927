/* Chosen ids become tokens: row by row. */
#include "ref.h"

static bool is_stop(const ref_advance_batch *b, const struct dsvk_end_row *end, uint32_t id) {
    for (uint32_t s = 0; s < end->n_stops; s++)
        if (b->stops[end->first_stop + s] == id)
            return true;
    return false;
}

void ref_advance(const ref_advance_batch *b, const uint32_t *ids, uint32_t grid[3]) {
    bool possible = true;
    uint32_t most = 0;
    for (uint32_t i = 0; i < b->n; i++)
        possible = possible && (b->ends[i].ended || ids[i] < b->vocab);
    for (uint32_t i = 0; i < b->n; i++) {
        struct dsvk_row *row = &b->rows[i];
        if (possible && !b->ends[i].ended) {
            row->token = ids[i];
            row->position = b->seqs[row->sequence].start = b->sample[i].position++;
            b->ends[i].ended = is_stop(b, &b->ends[i], ids[i]);
        }
        most = row->position + 1 > most ? row->position + 1 : most;
    }
    const uint32_t visible = most / 4 < b->max_visible ? most / 4 : b->max_visible;
    grid[0] = visible > b->index_topk ? (visible + b->index_keys - 1) / b->index_keys : 0;
    grid[1] = b->n;
    grid[2] = 1;
}
