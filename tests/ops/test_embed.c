/* embed, exact. Edges: one row, one value group (8), widths not a multiple of a workgroup's 2048, first and last token,
 * a token beyond the vocabulary (clamped), 1 and 4 copies, BF16 subnormals, infinity and NaN; Flash and Pro widths. */
#include "harness.h"

int main(int argc, char **argv) {
    static const struct { uint32_t n, dim, copies, vocab; } shapes[] = {
        { 1, 8, 1, 1 }, { 3, 40, 4, 61 }, { 33, 2048, 4, 69 }, { 5, 2056, 3, 7 }, { 9, 4096, 4, 300 }, { 2, 7168, 4, 300 },
    };
    test t;
    test_begin(&t, "embed", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
        const uint32_t n = shapes[s].n, dim = shapes[s].dim, copies = shapes[s].copies, vocab = shapes[s].vocab;
        test_case(&t, "n=%u dim=%u copies=%u vocab=%u", n, dim, copies, vocab);
        uint16_t *table = test_alloc(&t, (size_t)vocab * dim * 2);
        struct dsvk_row *rows = test_alloc(&t, n * sizeof *rows);
        const size_t row = (size_t)copies * dim;
        float *want = test_alloc(&t, n * row * 4);
        for (size_t i = 0; i < (size_t)vocab * dim; i++)
            table[i] = (uint16_t)test_random(&t); /* any bits at all */
        for (uint32_t r = 0; r < n; r++) {
            rows[r].token = r == 0 ? 0 : r == 1 ? vocab - 1 : r == 2 ? 0xffffffff : test_below(&t, vocab);
            ref_embed(table, rows[r].token < vocab ? rows[r].token : vocab - 1, dim, copies, want + r * row);
        }
        const dsvk_buffer out = test_output(&t, n * row * 4);
        dsvk_embed(t.cmd, &(dsvk_embed_params){ .rows = test_upload(&t, rows, n * sizeof *rows).addr,
                                                .table = test_upload(&t, table, (size_t)vocab * dim * 2).addr,
                                                .out = out.addr,
                                                .n = n,
                                                .dim = dim,
                                                .copies = copies,
                                                .vocab = vocab });
        if (test_run(&t))
            test_compare(&t, "rows", test_download(&t, &out), want, n * row, 0, 0);
    }
    test_case(&t, "wrong shapes");
    dsvk_embed(t.cmd, &(dsvk_embed_params){ .n = 1, .dim = 12, .copies = 4, .vocab = 1 });
    test_run_fails(&t, "4 copies of 12 values");
    return test_end(&t);
}
