/* bench_copy, exact. Edges: one word, one more and one less than a workgroup's 2048, several workgroups, none. */
#include "harness.h"

int main(int argc, char **argv) {
    static const uint32_t sizes[] = { 0, 1, 255, 2047, 2048, 2049, 10007 };
    test t;
    test_begin(&t, "bench_copy", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(sizes); s++) {
        const uint32_t n = sizes[s];
        test_case(&t, "n=%u", n);
        uint32_t *source = test_alloc(&t, 16ull * n), *want = test_alloc(&t, 16ull * n);
        for (uint32_t i = 0; i < 4 * n; i++)
            source[i] = test_random(&t);
        ref_bench_copy(source, n, want);
        const dsvk_buffer out = test_output(&t, 16ull * n);
        dsvk_bench_copy(t.cmd, &(dsvk_bench_copy_params){
            .source = test_upload(&t, source, 16ull * n).addr, .out = out.addr, .n = n });
        if (test_run(&t))
            test_compare_words(&t, "words", test_download(&t, &out), want, 4 * n);
    }
    return test_end(&t);
}
