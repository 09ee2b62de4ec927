/* What a device can do at best, to hold every op against: copying large buffers by the driver's command and by a kernel, float32
 * arithmetic in registers, and products of cooperative matrices in each shape that the device has. Each is repeated until it takes
 * long enough for a clock, then the best of several counts. */
#include <time.h>

#include "bench_coopmat.h"
#include "bench_fma.h"
#include "engine.h"

#define LARGEST_BUFFER (256ull << 20) /* beyond any cache; halved where there is less memory */
#define SMALLEST_BUFFER (1ull << 20)
#define MOST_GROUPS 4096u             /* a million invocations: all of any device */
#define LEAST_GROUPS 64u              /* to begin with: a CPU needs no more */
#define AIM_S 0.02                    /* of one run: long against a submit, short against what a desktop bears */
#define TOTAL_S 0.4
#define LEAST_RUNS 4u

typedef struct bench {
    dsvk_device *device;
    dsvk_cmd *cmd;
    dsvk_buffer from, to;
    dsvk_matmul_variant shape; /* of matrix_products */
    dsvk_progress_fn progress;
    void *user;
} bench;

/* Records `amount` times the work; returns how much of it that is, in bytes or operations. */
typedef double (*work_fn)(const bench *b, uint32_t amount);

static double transfers(const bench *b, uint32_t amount) {
    for (uint32_t i = 0; i < amount; i++) {
        dsvk_cmd_copy(b->cmd, &b->from, 0, &b->to, 0, b->from.size);
        dsvk_barrier(b->cmd);
    }
    return 2.0 * (double)b->from.size * amount;
}

static double kernel_copies(const bench *b, uint32_t amount) {
    for (uint32_t i = 0; i < amount; i++) {
        dsvk_bench_copy(b->cmd, &(dsvk_bench_copy_params){ .source = b->from.addr, .out = b->to.addr,
                                                           .n = (uint32_t)(b->from.size / 16) });
        dsvk_barrier(b->cmd);
    }
    return 2.0 * (double)b->from.size * amount;
}

/* More work is first more workgroups, whose results have to fit into the buffer, then more rounds of each; on a CPU more rounds alone, as
 * it does its workgroups one after the other, and beginning one would be a part of the time. */
static uint32_t spread(const bench *b, uint32_t amount, uint64_t result_bytes, uint32_t *rounds) {
    const uint32_t most = dsvk_device_get_limits(b->device)->software ? LEAST_GROUPS : MOST_GROUPS;
    uint32_t groups = LEAST_GROUPS;
    while (groups < most && groups < (uint64_t)LEAST_GROUPS * amount && 2 * groups * result_bytes <= b->to.size)
        groups *= 2;
    *rounds = (uint32_t)((uint64_t)LEAST_GROUPS * amount / groups);
    return groups;
}

static double multiply_adds(const bench *b, uint32_t amount) {
    uint32_t rounds;
    const uint32_t groups = spread(b, amount, 256 * sizeof(float), &rounds);
    dsvk_bench_fma(b->cmd, &(dsvk_bench_fma_params){ .out = b->to.addr, .x = 0.5f, .y = 1, .groups = groups, .rounds = rounds });
    return 2.0 * 256 * DSVK_BENCH_FMA_CHAINS * DSVK_BENCH_FMA_UNROLL * groups * rounds;
}

static double matrix_products(const bench *b, uint32_t amount) {
    const uint32_t matrices = 256 / dsvk_matmul_subgroup(b->device), m = b->shape.m, n = b->shape.n, k = b->shape.k;
    uint32_t rounds;
    const uint32_t groups = spread(b, amount, matrices * m * n * sizeof(float), &rounds);
    dsvk_bench_coopmat(b->cmd, &(dsvk_bench_coopmat_params){ .a = b->from.addr, .b = b->from.addr, .out = b->to.addr,
                                                             .shape = b->shape, .groups = groups, .rounds = rounds });
    return 2.0 * m * n * k * matrices * BENCH_COOPMAT_CHAINS * BENCH_COOPMAT_UNROLL * groups * rounds;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best rate of several runs. The first ones find how much work is worth timing, and let the driver compile. */
static dsvk_status measure(const bench *b, work_fn work, double *rate, dsvk_error *err) {
    const double began = now_s();
    uint32_t amount = 1;
    *rate = 0;
    for (uint32_t run = 0; run < LEAST_RUNS || now_s() - began < TOTAL_S; run++) {
        DSVK_TRY(dsvk_cmd_begin(b->cmd, err));
        const double done = work(b, amount), start = now_s();
        DSVK_TRY(dsvk_cmd_run(b->cmd, err));
        const double seconds = now_s() - start;
        if (done / seconds > *rate)
            *rate = done / seconds;
        if (b->progress && b->progress(b->user, "measure", run + 1, 0) != 0)
            return dsvk_fail(err, DSVK_CANCELLED, "cancelled while measuring");
        if (seconds < AIM_S / 2 && amount < 1u << 24)
            amount *= seconds < AIM_S / 16 ? 8 : 2;
    }
    return DSVK_OK;
}

static dsvk_status make_buffers(bench *b, dsvk_error *err) {
    for (uint64_t size = LARGEST_BUFFER;; size /= 2) {
        dsvk_status status = dsvk_buffer_create(b->device, DSVK_SCRATCH, size, "measured copy, from", &b->from, err);
        if (status == DSVK_OK)
            status = dsvk_buffer_create(b->device, DSVK_SCRATCH, size, "measured copy, to", &b->to, err);
        if (status == DSVK_OK || (status != DSVK_DEVMEM && status != DSVK_LIMIT) || size <= SMALLEST_BUFFER)
            return status;
        dsvk_buffer_destroy(b->device, &b->from);
    }
}

/* The best of all shapes: *rate and its name, or 0. */
static dsvk_status measure_matrices(bench *b, double *rate, char name[DSVK_MATMUL_NAME], dsvk_error *err) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    *rate = 0;
    for (uint32_t i = 0, n = dsvk_matmul_variants(b->device, list); i < n; i++) {
        double found;
        if (list[i].kind != DSVK_MATMUL_COOPMAT)
            continue;
        b->shape = list[i];
        DSVK_TRY(measure(b, matrix_products, &found, err));
        if (found > *rate) {
            *rate = found;
            dsvk_matmul_name(list[i], name);
        }
    }
    return DSVK_OK;
}

static dsvk_status measure_all(bench *b, char **json, dsvk_error *err) {
    double transfer, kernel, flops, matrix;
    char shape[DSVK_MATMUL_NAME];
    DSVK_TRY(make_buffers(b, err));
    DSVK_TRY(dsvk_cmd_create(b->device, &b->cmd, err));
    dsvk_cmd_fill(b->cmd, &b->from, 0, b->from.size, 0x3f800000);
    DSVK_TRY(dsvk_cmd_run(b->cmd, err));
    DSVK_TRY(measure(b, transfers, &transfer, err));
    DSVK_TRY(measure(b, kernel_copies, &kernel, err));
    DSVK_TRY(measure(b, multiply_adds, &flops, err));
    DSVK_TRY(measure_matrices(b, &matrix, shape, err));
    return dsvk_json_text(json_pack("{s:f, s:f, s:f, s:I, s:f, s:o, s:s?}", "copy_bytes_per_s",
                                    transfer > kernel ? transfer : kernel, "transfer_bytes_per_s", transfer,
                                    "kernel_bytes_per_s", kernel, "copy_buffer_bytes", (json_int_t)b->from.size,
                                    "f32_flops_per_s", flops, "matrix_flops_per_s", matrix > 0 ? json_real(matrix) : json_null(),
                                    "matrix_kernel", matrix > 0 ? shape : NULL), json, err);
}

dsvk_status dsvk_device_measure(dsvk_device *device, char **json, dsvk_progress_fn progress, void *user, dsvk_error *err) {
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_measure: json must not be NULL");
    DSVK_TRY(dsvk_device_status(device, err));
    bench b = { .device = device, .progress = progress, .user = user };
    const dsvk_status status = measure_all(&b, json, err);
    dsvk_cmd_destroy(b.cmd);
    dsvk_buffer_destroy(device, &b.from);
    dsvk_buffer_destroy(device, &b.to);
    return status;
}
