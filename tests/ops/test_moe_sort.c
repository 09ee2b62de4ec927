/* moe_sort against a stable sort. Edges: one pair, one expert, all rows to one expert, every pair its own expert, more experts
 * than invocations, tiles of 1, 4 and 8 exactly and not exactly filled, the largest step (4096 rows of 16). Exact; the order
 * of the pairs of one expert is free, so they are sorted before they are compared. */
#include "harness.h"

static int ascending(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void run(test *t, const uint32_t *idx, uint32_t n, uint32_t k, uint32_t n_experts, uint32_t tile) {
    const uint32_t n_pairs = n * k, max_tiles = dsvk_moe_max_tiles(n, k, n_experts, tile);
    uint32_t *want = test_alloc(t, n_pairs * 4), (*want_tiles)[4] = test_alloc(t, max_tiles * 16);
    const dsvk_buffer pairs = test_output(t, n_pairs * 4), tiles = test_output(t, max_tiles * 16);
    ref_moe_sort(idx, n_pairs, n_experts, tile, want, want_tiles, max_tiles);
    dsvk_moe_sort(t->cmd, &(dsvk_moe_sort_params){ .idx = test_upload(t, idx, n_pairs * 4).addr,
                                                   .pairs = pairs.addr,
                                                   .tiles = tiles.addr,
                                                   .n = n,
                                                   .k = k,
                                                   .n_experts = n_experts,
                                                   .tile = tile });
    if (!test_run(t))
        return;
    uint32_t *got = test_download(t, &pairs);
    test_compare_words(t, "tiles", test_download(t, &tiles), want_tiles, (size_t)max_tiles * 4);
    for (uint32_t first = 0, next; first < n_pairs; first = next) { /* the reference's runs of one expert */
        for (next = first; next < n_pairs && idx[want[next]] == idx[want[first]]; next++)
            continue;
        qsort(got + first, next - first, 4, ascending);
    }
    test_compare_words(t, "pairs", got, want, n_pairs);
}

int main(int argc, char **argv) {
    static const struct { uint32_t n, k, n_experts; } shapes[] = {
        { 1, 1, 1 }, { 1, 6, 256 }, { 5, 3, 3 }, { 33, 6, 384 }, { 8, 8, 8 }, { 61, 2, 300 }, { 512, 6, 256 }, { 9, 16, 4096 },
    };
    static const uint32_t tiles[] = { 1, 4, 8 };
    static const char *const ways[] = { "random", "all to the last expert", "round robin" };
    test t;
    test_begin(&t, "moe_sort", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++)
        for (uint32_t i = 0; i < DSVK_COUNT(tiles); i++)
            for (uint32_t way = 0; way < DSVK_COUNT(ways); way++) {
                const uint32_t n = shapes[s].n, k = shapes[s].k, experts = shapes[s].n_experts;
                test_case(&t, "%s: n=%u k=%u n_experts=%u tile=%u", ways[way], n, k, experts, tiles[i]);
                uint32_t *idx = test_alloc(&t, n * k * 4);
                for (uint32_t p = 0; p < n * k; p++)
                    idx[p] = way == 0 ? test_below(&t, experts) : way == 1 ? experts - 1 : experts - 1 - p % experts;
                run(&t, idx, n, k, experts, tiles[i]);
            }
    test_case(&t, "largest step: n=4096 k=16 n_experts=384 tile=8");
    uint32_t *idx = test_alloc(&t, 65536 * 4);
    for (uint32_t p = 0; p < 65536; p++)
        idx[p] = test_below(&t, 384);
    run(&t, idx, 4096, 16, 384, 8);
    test_case(&t, "wrong shapes");
    dsvk_moe_sort(t.cmd, &(dsvk_moe_sort_params){ .n = 1, .k = 1, .n_experts = 4097, .tile = 1 });
    test_run_fails(&t, "out of 4097 (at most 4096)");
    return test_end(&t);
}
