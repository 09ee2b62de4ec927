/* dsvk_op, dsvk_tensor and dsvk_trace from C: arguments that are wrong, every host allocation failing once, device memory at its
 * end. What they compute is for tests/python/test_ops.py and test_trace.py. */
#include <stdio.h>
#include <string.h>

#include "common.h"

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, err.message); \
            return 1;                                                              \
        }                                                                          \
    } while (0)

static dsvk_error err;
static float numbers[64 * 64];

static dsvk_tensor_options options_of(dsvk_form form, uint64_t rows, uint64_t cols) {
    return (dsvk_tensor_options){ .size = sizeof(dsvk_tensor_options), .form = form, .dtype = DSVK_DTYPE_F32, .rank = 2,
                                  .shape = { rows, cols }, .data = numbers };
}

static dsvk_status product(dsvk_device *device, float *out) {
    const dsvk_tensor_options of_x = options_of(DSVK_FORM_VALUES, 2, 64), of_w = options_of(DSVK_FORM_MATRIX, 64, 64);
    dsvk_tensor *x = NULL, *w = NULL, *results[DSVK_OP_RESULTS] = { 0 };
    dsvk_status status = dsvk_tensor_open(&x, device, &of_x, &err);
    if (status == DSVK_OK)
        status = dsvk_tensor_open(&w, device, &of_w, &err);
    if (status == DSVK_OK)
        status = dsvk_op(device, "matmul", (dsvk_op_argument[]){ { "x", x, 0 }, { "w", w, 0 } }, 2, results, NULL, NULL, &err);
    if (status == DSVK_OK)
        status = dsvk_tensor_read(results[0], out, 2 * 64 * sizeof *out, NULL, NULL, &err);
    dsvk_tensor_close(results[0]);
    dsvk_tensor_close(w);
    dsvk_tensor_close(x);
    return status;
}

static int test_A06_every_allocation_fails_once(dsvk_device *device) {
    float expected[128], out[128];
    CHECK(product(device, expected) == DSVK_OK);
    const int64_t live = dsvk_alloc_live();
    dsvk_alloc_fail_after(-1);
    CHECK(product(device, out) == DSVK_OK);
    const int64_t count = dsvk_alloc_fail_after(-1);
    CHECK(count > 5);
    for (int64_t n = 0; n < count; n++) {
        dsvk_alloc_fail_after(n);
        const dsvk_status status = product(device, out);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_NOMEM);
        CHECK(dsvk_alloc_live() == live);
    }
    CHECK(product(device, out) == DSVK_OK && memcmp(out, expected, sizeof out) == 0);
    return 0;
}

static int test_A01_wrong_arguments(dsvk_device *device) {
    dsvk_tensor *x = NULL, *w = NULL, *results[DSVK_OP_RESULTS];
    dsvk_tensor_options o = options_of(DSVK_FORM_VALUES, 2, 64);
    char *json = NULL;
    o.size = 3;
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_INVALID && strstr(err.message, "has size 3"));
    o = options_of(DSVK_FORM_ROWS, 2, 64);
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_INVALID && strstr(err.message, "got cache rows"));
    o = options_of(DSVK_FORM_VALUES, 1ull << 39, 1ull << 39);
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_INVALID && strstr(err.message, "less than 2^40"));
    CHECK(dsvk_tensor_open(NULL, device, &o, &err) == DSVK_INVALID && dsvk_tensor_open(&x, NULL, &o, &err) == DSVK_INVALID);
    o = options_of(DSVK_FORM_VALUES, 2, 64);
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_OK);
    CHECK(dsvk_tensor_read(x, numbers, 7, NULL, NULL, &err) == DSVK_INVALID && strstr(err.message, "the tensor has 512, got 7"));
    CHECK(dsvk_op(device, "topk", NULL, 0, results, NULL, NULL, &err) == DSVK_INVALID &&
          strstr(err.message, "scores: expected F32 values [n, m]"));
    CHECK(dsvk_op(device, NULL, NULL, 0, results, NULL, NULL, &err) == DSVK_INVALID &&
          dsvk_op(NULL, "topk", NULL, 0, results, NULL, NULL, &err) == DSVK_INVALID);
    CHECK(dsvk_op(device, "topk", (dsvk_op_argument[]){ { "scores", x, 0 }, { "k", NULL, __builtin_nan("") } }, 2, results, NULL, NULL,
                  &err) == DSVK_INVALID);
    CHECK(strstr(err.message, "k: expected a whole number from 1 to 65536"));
    CHECK(dsvk_op(device, "topk", (dsvk_op_argument[]){ { "scores", x, 0 }, { "k", NULL, 3 }, { "k", NULL, 5 } }, 3, results, NULL, NULL,
                  &err) == DSVK_INVALID && strstr(err.message, "topk: k: it is given twice"));
    CHECK(dsvk_op(device, "topk", (dsvk_op_argument[]){ { "scores", x, 0 }, { "scores", NULL, 0 } }, 2, results, NULL, NULL, &err) ==
              DSVK_INVALID && strstr(err.message, "scores: it is given twice"));
    CHECK(dsvk_op(device, "rms_norm", (dsvk_op_argument[]){ { "x", x, 0 }, { "weight", NULL, 5 } }, 2, results, NULL, NULL, &err) ==
              DSVK_INVALID && strstr(err.message, "weight: expected a tensor, got the number 5"));
    o.scales = numbers;
    CHECK(dsvk_tensor_open(&w, device, &o, &err) == DSVK_INVALID && strstr(err.message, "values have none, got F32 with scales"));
    o = options_of(DSVK_FORM_VALUES, 2, 64);
    o.w3 = numbers;
    CHECK(dsvk_tensor_open(&w, device, &o, &err) == DSVK_INVALID && strstr(err.message, "w3: only experts have it, got values"));
    o = options_of(DSVK_FORM_MATRIX, 2, 64);
    o.w2_scales = numbers;
    CHECK(dsvk_tensor_open(&w, device, &o, &err) == DSVK_INVALID && strstr(err.message, "w2: only experts have it, got matrix"));
    CHECK(dsvk_ops(&json, &err) == DSVK_OK && strstr(json, "sparse_attention"));
    dsvk_free(json);
    dsvk_tensor_close(x);
    dsvk_tensor_close(NULL);
    return 0;
}

/* Slices of so much work run while it is recorded: what turns out to be wrong meanwhile must not reach the device. */
static int test_A01_wrong_in_much_work(dsvk_device *device) {
    dsvk_tensor_options of_q = options_of(DSVK_FORM_VALUES, 512, 64), of_table = options_of(DSVK_FORM_VALUES, 8, 32);
    dsvk_tensor *q = NULL, *table = NULL, *results[DSVK_OP_RESULTS];
    of_q.rank = of_table.rank = 3;
    of_q.shape[2] = 512;
    of_table.shape[2] = 2;
    of_q.data = of_table.data = NULL;
    CHECK(dsvk_tensor_open(&q, device, &of_q, &err) == DSVK_OK && dsvk_tensor_open(&table, device, &of_table, &err) == DSVK_OK);
    CHECK(dsvk_op(device, "rope", (dsvk_op_argument[]){ { "q", q, 0 }, { "table", table, 0 } }, 2, results, NULL, NULL, &err) ==
              DSVK_INVALID && strstr(err.message, "table: it has the angles of 8 positions, 512 are needed"));
    dsvk_tensor_close(table);
    dsvk_tensor_close(q);
    return 0;
}

static int test_budget_of_device_memory(void) {
    dsvk_device *device = NULL;
    dsvk_device_options small = { .size = sizeof small, .budget = { [DSVK_SCRATCH] = 1 << 20 } };
    dsvk_tensor_options o = options_of(DSVK_FORM_VALUES, 1024, 1024);
    dsvk_tensor *x = NULL;
    o.data = NULL;
    CHECK(dsvk_device_open(&device, &small, &err) == DSVK_OK);
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_DEVMEM && x == NULL && strstr(err.message, "scratch"));
    o.shape[0] = 8;
    CHECK(dsvk_tensor_open(&x, device, &o, &err) == DSVK_OK);
    dsvk_device_close(device); /* the tensor keeps it */
    float first = 1;
    dsvk_tensor_info info = { .size = sizeof info };
    CHECK(dsvk_tensor_describe(x, &info, &err) == DSVK_OK && info.read_bytes == 8 * 1024 * 4);
    if (info.host)
        memcpy(&first, info.host, sizeof first);
    CHECK(!info.host || first == 0);
    dsvk_tensor_close(x);
    return 0;
}

static dsvk_status traced(dsvk_model *model, float *last) {
    dsvk_trace *trace = NULL;
    const dsvk_status status = dsvk_model_trace(&trace, model, (const int32_t[]){ 5, 6, 7, 8, 9 }, 5, NULL, NULL, &err);
    if (status == DSVK_OK) {
        const dsvk_trace_entry *logits = dsvk_trace_get(trace, dsvk_trace_count(trace) - 1);
        memcpy(last, (const float *)logits->data + 4 * logits->shape[1], 4 * sizeof *last);
    }
    dsvk_trace_close(trace);
    return status;
}

static int test_A06_every_allocation_of_a_trace_fails_once(dsvk_device *device) {
    dsvk_model *model = NULL;
    float expected[4], last[4];
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, NULL, &err) == DSVK_OK);
    CHECK(traced(model, expected) == DSVK_OK);
    const int64_t live = dsvk_alloc_live();
    dsvk_alloc_fail_after(-1);
    CHECK(traced(model, last) == DSVK_OK);
    const int64_t count = dsvk_alloc_fail_after(-1);
    for (int64_t n = 0; n < count; n++) {
        dsvk_alloc_fail_after(n);
        const dsvk_status status = traced(model, last);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_NOMEM);
        CHECK(dsvk_alloc_live() == live);
    }
    CHECK(traced(model, last) == DSVK_OK && memcmp(last, expected, sizeof last) == 0);
    dsvk_model_close(model);
    return 0;
}

static int stop_at_once(void *user, const char *stage, uint64_t done, uint64_t total) {
    (void)stage, (void)done, (void)total;
    ++*(int *)user;
    return 1;
}

/* A progress function that says so stops an op, a matrix that is read, and the host's part of an op; nothing is left. */
static int test_D10_stopped(dsvk_device *device) {
    static float big[512 * 512];
    dsvk_tensor_options of_x = options_of(DSVK_FORM_VALUES, 512, 512), of_w = options_of(DSVK_FORM_MATRIX, 512, 512);
    dsvk_tensor *x = NULL, *w = NULL, *results[DSVK_OP_RESULTS];
    int asked = 0;
    of_x.data = of_w.data = big;
    CHECK(dsvk_tensor_open(&x, device, &of_x, &err) == DSVK_OK && dsvk_tensor_open(&w, device, &of_w, &err) == DSVK_OK);
    const dsvk_op_argument product_of[] = { { "x", x, 0 }, { "w", w, 0 } }, scores = { "scores", x, 0 };
    CHECK(dsvk_op(device, "matmul", product_of, 2, results, NULL, NULL, &err) == DSVK_OK); /* kernels stay */
    dsvk_tensor_close(results[0]);
    CHECK(dsvk_op(device, "topk", &scores, 1, results, NULL, NULL, &err) == DSVK_OK);
    dsvk_tensor_close(results[0]);
    CHECK(dsvk_tensor_read(w, big, sizeof big, NULL, NULL, &err) == DSVK_OK);
    const int64_t live = dsvk_alloc_live();
    CHECK(dsvk_op(device, "matmul", product_of, 2, results, stop_at_once, &asked, &err) == DSVK_CANCELLED && asked == 1);
    CHECK(!results[0] && strstr(err.message, "cancelled at matmul, after "));
    CHECK(dsvk_op(device, "topk", &scores, 1, results, stop_at_once, &asked, &err) == DSVK_CANCELLED && asked == 2);
    CHECK(!results[0] && strstr(err.message, "topk: cancelled after 0 of 512 rows"));
    CHECK(dsvk_tensor_read(w, big, sizeof big, stop_at_once, &asked, &err) == DSVK_CANCELLED && asked == 3);
    CHECK(strstr(err.message, " of 512 columns") && dsvk_alloc_live() == live);
    CHECK(dsvk_op(device, "matmul", product_of, 2, results, NULL, NULL, &err) == DSVK_OK);
    dsvk_tensor_close(results[0]);
    dsvk_tensor_close(w);
    dsvk_tensor_close(x);
    return 0;
}

int main(void) {
    dsvk_device *device = NULL;
    for (size_t i = 0; i < DSVK_COUNT(numbers); i++)
        numbers[i] = (float)(i % 13) - 6;
    if (dsvk_device_open(&device, NULL, &err) != DSVK_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    int failed = test_A01_wrong_arguments(device) || test_A01_wrong_in_much_work(device) || test_D10_stopped(device) ||
                 test_budget_of_device_memory() || test_A06_every_allocation_fails_once(device) ||
                 test_A06_every_allocation_of_a_trace_fails_once(device);
    dsvk_device_close(device);
    return failed;
}
