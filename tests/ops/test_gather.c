/* gather, exact. Edges: one row, widths of one word and not a multiple of a workgroup's 1024, first and last source row, the
 * same source for many rows, slots of the rings of two sequences, rows and slots out of range (clamped); Flash and Pro widths
 * (four streams). */
#include "harness.h"

int main(int argc, char **argv) {
    static const struct { uint32_t n, dim, n_in, offset, slots; } shapes[] = {
        { 1, 4, 1, 0, 1 },      { 3, 20, 2, 16, 2 },    { 33, 1024, 61, 4096, 5 },
        { 9, 1028, 9, 32, 3 },  { 4, 16384, 3, 64, 2 }, { 2, 28672, 5, 16, 2 },
    };
    test t;
    test_begin(&t, "gather", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
        const uint32_t n = shapes[s].n, dim = shapes[s].dim, n_in = shapes[s].n_in, offset = shapes[s].offset;
        const uint32_t slots = shapes[s].slots;
        test_case(&t, "n=%u dim=%u n_in=%u state_offset=%u slots=%u", n, dim, n_in, offset, slots);
        const float *x = test_normals(&t, (size_t)n_in * dim, 1);
        float *want = test_alloc(&t, (size_t)n * dim * 4);
        struct dsvk_row *rows = test_alloc(&t, n * sizeof *rows);
        struct dsvk_seq seqs[2] = { 0 };
        const float *rings[2];
        uint32_t *source = test_alloc(&t, n * 4);
        for (uint32_t i = 0; i < 2; i++) {
            const float *state = test_normals(&t, offset / 4 + (size_t)slots * dim, 1);
            rings[i] = state + offset / 4;
            seqs[i].state = test_upload(&t, state, offset + (size_t)slots * dim * 4).addr;
        }
        for (uint32_t r = 0; r < n; r++) {
            rows[r].sequence = r % 2;
            source[r] = r == 1 ? n_in - 1 : r == 2 ? n_in + 7 : test_below(&t, n_in);
            if (r % 3 == 0)
                source[r] = 0x80000000u | (r == 3 ? slots + 2 : test_below(&t, slots));
            ref_gather(x, n_in, rings[r % 2], slots, source[r], dim, want + (size_t)r * dim);
        }
        const dsvk_buffer out = test_output(&t, (size_t)n * dim * 4);
        dsvk_gather(t.cmd, &(dsvk_gather_params){ .rows = test_upload(&t, rows, n * sizeof *rows).addr,
                                                  .seqs = test_upload(&t, seqs, sizeof seqs).addr,
                                                  .source = test_upload(&t, source, n * 4).addr,
                                                  .in = test_upload(&t, x, (size_t)n_in * dim * 4).addr,
                                                  .out = out.addr,
                                                  .n = n,
                                                  .dim = dim,
                                                  .n_in = n_in,
                                                  .state_offset = offset,
                                                  .slots = slots });
        if (test_run(&t))
            test_compare(&t, "rows", test_download(&t, &out), want, (size_t)n * dim, 0, 0);
    }
    test_case(&t, "wrong shapes");
    dsvk_gather(t.cmd, &(dsvk_gather_params){ .n = 1, .dim = 6, .n_in = 1 });
    test_run_fails(&t, "6 values each");
    return test_end(&t);
}
