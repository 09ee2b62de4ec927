/* bench_fma against the chains in double. Edges: no round, one, several; one workgroup and several. x < 1 lets the errors of
 * earlier links shrink: each of 8 chains is off by at most 2^-24 / (1 - x) of what it tends to, the sum by a few more. */
#include "harness.h"

int main(int argc, char **argv) {
    static const struct { uint32_t groups, rounds; float x, y; } cases[] = {
        { 1, 0, 0.5f, 1 }, { 1, 1, 0.5f, 1 }, { 3, 1, 0.875f, -0.3f }, { 7, 5, 0.96875f, 0.7f },
    };
    test t;
    test_begin(&t, "bench_fma", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(cases); s++) {
        const uint32_t n = 256 * cases[s].groups;
        test_case(&t, "groups=%u rounds=%u x=%g y=%g", cases[s].groups, cases[s].rounds, (double)cases[s].x, (double)cases[s].y);
        float *want = test_alloc(&t, n * sizeof *want);
        for (uint32_t i = 0; i < n; i++)
            want[i] = ref_bench_fma(i, cases[s].x, cases[s].y, cases[s].rounds);
        const dsvk_buffer out = test_output(&t, n * sizeof *want);
        dsvk_bench_fma(t.cmd, &(dsvk_bench_fma_params){ .out = out.addr, .x = cases[s].x, .y = cases[s].y,
                                                        .groups = cases[s].groups, .rounds = cases[s].rounds });
        if (test_run(&t))
            test_compare(&t, "sums", test_download(&t, &out), want, n, 8e-6f, 1e-5f);
    }
    return test_end(&t);
}
