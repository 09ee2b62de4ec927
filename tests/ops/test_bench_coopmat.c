/* bench_coopmat in every shape the device has, exact: small whole numbers have no rounding in any order. Edges: no round, one,
 * several; one workgroup and several. Where there are no cooperative matrices it must say so. */
#include "harness.h"

static uint16_t half_of(int number) { /* of |number| < 16 */
    uint16_t bits = number < 0 ? 0x8000 : 0;
    uint32_t magnitude = (uint32_t)abs(number), exponent = 15;
    if (magnitude == 0)
        return bits;
    while (magnitude >> (exponent - 15) > 1)
        exponent++;
    return (uint16_t)(bits | exponent << 10 | (magnitude << (25 - exponent) & 0x3ff));
}

/* rows [n, k] of whole numbers, as floats and, uploaded, as halves. */
static dsvk_addr make_operand(test *t, uint32_t n, float **values) {
    uint16_t *halves = test_alloc(t, n * sizeof *halves);
    *values = test_alloc(t, n * sizeof **values);
    for (uint32_t i = 0; i < n; i++) {
        const int number = (int)test_below(t, 13) - 6;
        (*values)[i] = (float)number;
        halves[i] = half_of(number);
    }
    return test_upload(t, halves, n * sizeof *halves).addr;
}

static void check(test *t, dsvk_matmul_variant shape, uint32_t groups, uint32_t rounds) {
    const uint32_t m = shape.m, n = shape.n, k = shape.k, matrices = groups * 256 / dsvk_matmul_subgroup(t->device);
    float *a, *b;
    test_case(t, "%ux%ux%u groups=%u rounds=%u", m, n, k, groups, rounds);
    const dsvk_addr left = make_operand(t, m * k, &a), right = make_operand(t, n * k, &b);
    float *want = test_alloc(t, (size_t)matrices * m * n * sizeof *want);
    for (uint32_t i = 0; i < matrices * m * n; i++)
        want[i] = ref_bench_coopmat(a + i / n % m * k, b + i % n * k, k, rounds);
    const dsvk_buffer out = test_output(t, (size_t)matrices * m * n * sizeof *want);
    dsvk_bench_coopmat(t->cmd, &(dsvk_bench_coopmat_params){ .a = left, .b = right, .out = out.addr, .shape = shape,
                                                             .groups = groups, .rounds = rounds });
    if (test_run(t))
        test_compare(t, "sums", test_download(t, &out), want, (size_t)matrices * m * n, 0, 0);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "bench_coopmat", argc, argv);
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    for (uint32_t i = 0, n = dsvk_matmul_variants(t.device, list); i < n; i++)
        for (uint32_t rounds = 0; list[i].kind == DSVK_MATMUL_COOPMAT && rounds < 3; rounds++)
            check(&t, list[i], 1 + 2 * rounds, rounds);
    test_case(&t, "no matrices");
    dsvk_bench_coopmat(t.cmd, &(dsvk_bench_coopmat_params){ .shape = { .kind = DSVK_MATMUL_TILED }, .groups = 1 });
    test_run_fails(&t, "no cooperative matrices");
    return test_end(&t);
}
