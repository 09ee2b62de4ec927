/* advance against ref_advance, exact, over several steps in a row. Edges: one row and the most; sequences in another order than
 * the rows; no stops, stops shared by rows, the first and the last of a list; every row ended; an impossible id of a running row
 * (nothing moves, the id is reported) and of an ended one (nothing of it); more steps than there is room for ids; positions
 * around where the indexer begins to be needed, where its grid grows by one, and beyond what it is kept to. */
#include "harness.h"

enum { STEPS = 5, VOCAB = 61, STOPS = 9, TOPK = 16 };

static dsvk_buffer in_place(test *t, const void *data, size_t bytes) {
    const dsvk_buffer buffer = test_output(t, bytes);
    test_check(t, dsvk_buffer_write(t->device, &buffer, 0, data, bytes, NULL) == DSVK_OK, "upload");
    return buffer;
}

static void run(test *t, uint32_t n, uint32_t position, uint32_t max_visible, uint32_t bad_step, uint32_t stops_each) {
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    struct dsvk_seq *seqs = test_alloc(t, n * sizeof *seqs);
    struct dsvk_sample_row *sample = test_alloc(t, n * sizeof *sample);
    struct dsvk_end_row *ends = test_alloc(t, n * sizeof *ends);
    uint32_t *stops = test_alloc(t, STOPS * 4), *ids = test_alloc(t, (STEPS + 1) * n * 4), grid[3];
    for (uint32_t s = 0; s < STOPS; s++)
        stops[s] = test_below(t, VOCAB);
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = (struct dsvk_row){ test_below(t, VOCAB), position - test_below(t, position < 9 ? 1 : 9), n - 1 - i, i };
        seqs[n - 1 - i] = (struct dsvk_seq){ .state = test_random(t), .pages = test_random(t), i, 1, rows[i].position };
        sample[i] = (struct dsvk_sample_row){ .temperature = 1, .seed_lo = test_random(t), .position = rows[i].position + 1 };
        ends[i] = (struct dsvk_end_row){ test_below(t, STOPS - stops_each + 1), stops_each, test_below(t, 8) == 0, 0 };
    }
    for (uint32_t i = 0; i < (STEPS + 1) * n; i++)
        ids[i] = test_below(t, VOCAB);
    for (uint32_t i = 0; stops_each > 0 && i < n; i += 2) /* some end now, by the last of their list, whatever the draw */
        ids[n + i] = stops[ends[i].first_stop + stops_each - 1];
    if (bad_step < STEPS)
        for (uint32_t i = bad_step % 2; i < n; i += 3) /* of running rows and of ended ones */
            ids[bad_step * n + i] = i % 2 ? VOCAB : 0xffffffffu;
    const dsvk_buffer d_rows = in_place(t, rows, n * sizeof *rows), d_seqs = in_place(t, seqs, n * sizeof *seqs);
    const dsvk_buffer d_sample = in_place(t, sample, n * sizeof *sample), d_ends = in_place(t, ends, n * sizeof *ends);
    const dsvk_buffer d_ids = test_upload(t, ids, (STEPS + 1) * n * 4), d_grid = test_output(t, 12);
    const dsvk_buffer d_step = in_place(t, &(uint32_t){ 0 }, 4), chosen = test_output(t, STEPS * n * 4);
    const dsvk_addr d_stops = test_upload(t, stops, STOPS * 4).addr;
    const ref_advance_batch batch = { rows, seqs, sample, ends, stops, n, VOCAB, TOPK, max_visible, dsvk_indexer_keys(t->cmd) };
    for (uint32_t step = 0; step <= STEPS; step++) { /* the last one finds no room for its ids */
        dsvk_advance(t->cmd, &(dsvk_advance_params){ .ids = d_ids.addr + step * n * 4,
                                                     .rows = d_rows.addr,
                                                     .seqs = d_seqs.addr,
                                                     .sample = d_sample.addr,
                                                     .ends = d_ends.addr,
                                                     .stops = d_stops,
                                                     .step = d_step.addr,
                                                     .chosen = chosen.addr,
                                                     .index_grid = d_grid.addr,
                                                     .n = n,
                                                     .vocab = VOCAB,
                                                     .steps = STEPS,
                                                     .index_topk = TOPK,
                                                     .max_visible = max_visible });
        if (!test_run(t))
            return;
        ref_advance(&batch, ids + step * n, grid);
        test_compare_words(t, "rows", test_download(t, &d_rows), rows, n * sizeof *rows / 4);
        test_compare_words(t, "seqs", test_download(t, &d_seqs), seqs, n * sizeof *seqs / 4);
        test_compare_words(t, "sample", test_download(t, &d_sample), sample, n * sizeof *sample / 4);
        test_compare_words(t, "ends", test_download(t, &d_ends), ends, n * sizeof *ends / 4);
        test_compare_words(t, "grid", test_download(t, &d_grid), grid, 3);
        test_compare_words(t, "step", test_download(t, &d_step), &(uint32_t){ step + 1 }, 1);
    }
    test_compare_words(t, "chosen", test_download(t, &chosen), ids, STEPS * n);
}

int main(int argc, char **argv) {
    static const uint32_t sizes[] = { 1, 2, 31, 32, 256 };
    static const struct { uint32_t position, max_visible; } places[] = {
        { 0, 256 }, { 4 * TOPK - 1, 256 }, { 4 * TOPK, 256 }, { 1021, 4096 }, { 1024, 4096 }, { 1u << 20, 4096 },
    };
    test t;
    test_begin(&t, "advance", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(sizes); s++)
        for (uint32_t p = 0; p < DSVK_COUNT(places); p++)
            for (uint32_t stops = 0; stops <= 3; stops += 3)
                for (uint32_t bad = 2; bad <= STEPS; bad++) {
                    test_case(&t, "n=%u position=%u max_visible=%u, %u stops each, impossible ids at step %u", sizes[s],
                              places[p].position, places[p].max_visible, stops, bad);
                    run(&t, sizes[s], places[p].position, places[p].max_visible, bad, stops);
                }
    test_case(&t, "wrong shapes");
    dsvk_advance(t.cmd, &(dsvk_advance_params){ .n = 257, .vocab = VOCAB });
    test_run_fails(&t, "257 rows");
    dsvk_advance(t.cmd, &(dsvk_advance_params){ .n = 1 });
    test_run_fails(&t, "vocabulary of 0");
    return test_end(&t);
}
