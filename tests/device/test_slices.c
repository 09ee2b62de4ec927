/* A recording that may be long runs in slices (D10): rms_norm of rows that are all 3, weight 1, so that the answer is 1 in every place
 * that a workgroup has been at. Edge list: one workgroup; more than fit; along x and along y; several dispatches; stopped in the
 * middle; the same recording afterwards; under a profile; not at all without slices. */
#include <math.h>

#include "harness_device.h"
#include "rms_norm.h"

enum { ROWS = 48, DIM = 64 };

static dsvk_error error;

struct rows {
    dsvk_device *device;
    dsvk_buffer x, weight, result;
    struct rms_norm_args args;
    dsvk_cmd *cmd;
    float got[ROWS * DIM];
    /* of progress */
    uint64_t asked, done, all;
    uint64_t stop_at; /* when so many have run; 0: never */
    bool forwards;
};

static int on_progress(void *user, const char *stage, uint64_t done, uint64_t total) {
    struct rows *r = user;
    r->forwards &= (done > r->done || r->asked == 0) && done < total && strcmp(stage, "rms_norm") == 0;
    r->asked++;
    r->done = done;
    r->all = total;
    return r->stop_at && done >= r->stop_at;
}

static void open_rows(struct rows *r) {
    *r = (struct rows){.device = open_device(NULL)};
    CHECK_OK(dsvk_buffer_create(r->device, DSVK_SCRATCH, sizeof r->got, "x", &r->x, &error));
    CHECK_OK(dsvk_buffer_create(r->device, DSVK_WEIGHTS, 4 * DIM, "weight", &r->weight, &error));
    CHECK_OK(dsvk_buffer_create(r->device, DSVK_SCRATCH, sizeof r->got, "result", &r->result, &error));
    CHECK_OK(dsvk_cmd_create(r->device, &r->cmd, &error));
    dsvk_cmd_fill(r->cmd, &r->x, 0, r->x.size, 0x40400000); /* 3.0 */
    dsvk_cmd_fill(r->cmd, &r->weight, 0, 4 * DIM, 0x3f800000);
    CHECK_OK(dsvk_cmd_run(r->cmd, &error));
    r->args = (struct rms_norm_args){
        .x = r->x.addr, .weight = r->weight.addr, .result = r->result.addr, .dim = DIM, .x_stride = DIM, .eps = 0.0f};
}

static void close_rows(struct rows *r) {
    dsvk_cmd_destroy(r->cmd);
    dsvk_buffer_destroy(r->device, &r->x);
    dsvk_buffer_destroy(r->device, &r->weight);
    dsvk_buffer_destroy(r->device, &r->result);
    close_device(r->device);
}

/* Into NaN, in slices of so many seconds, `operations` of them in `dispatches` that are all the same. */
static dsvk_status run_rows(struct rows *r, double seconds, uint64_t operations, int dispatches) {
    const dsvk_dispatch_info info = {
        .op = "rms_norm", .shader = "rms_norm", .args = &r->args, .args_size = sizeof r->args, .groups = {ROWS, 1, 1}, .flops = operations};
    r->asked = r->done = r->all = 0;
    r->forwards = true;
    CHECK_OK(dsvk_cmd_begin(r->cmd, &error));
    dsvk_cmd_set_slices(r->cmd, (dsvk_slices){seconds, on_progress, r});
    dsvk_cmd_fill(r->cmd, &r->result, 0, r->result.size, 0xffffffff);
    dsvk_barrier(r->cmd);
    for (int i = 0; i < dispatches; i++)
        dsvk_dispatch(r->cmd, &info);
    const dsvk_status status = dsvk_cmd_run(r->cmd, &error);
    dsvk_error other;
    CHECK(dsvk_buffer_read(r->device, &r->result, 0, r->got, sizeof r->got, &other) == DSVK_OK, "%s", other.message);
    return status;
}

/* Rows 0 .. n - 1 have the answer, the others have not been touched. */
static void check_rows(const struct rows *r, uint64_t n) {
    for (uint64_t i = 0; i < ROWS * DIM; i++)
        if (!CHECK(i < n * DIM ? fabsf(r->got[i] - 1) < 1e-6f : isnan(r->got[i]), "row %d of %d: %g", (int)(i / DIM), (int)n,
                   (double)r->got[i]))
            return;
}

static void test_D10_slices_are_the_whole(void) {
    struct rows r;
    open_rows(&r);
    CHECK_OK(run_rows(&r, 0, 1000000000, 1)); /* guessed at one second */
    check_rows(&r, ROWS);
    CHECK(r.asked == 0, "asked %d times without slices", (int)r.asked);
    CHECK_OK(run_rows(&r, 0.05, 1000000000, 1)); /* two workgroups at first, then more as they are quick */
    check_rows(&r, ROWS);
    CHECK(r.asked >= 2 && r.forwards && r.all == ROWS, "asked %d times, last at %d of %d", (int)r.asked, (int)r.done, (int)r.all);
    CHECK_OK(run_rows(&r, 1e-9, 1000000000, 1)); /* one at a time: none is as quick */
    check_rows(&r, ROWS);
    CHECK(r.asked == ROWS && r.done == ROWS - 1, "asked %d times, last at %d", (int)r.asked, (int)r.done);
    CHECK_OK(run_rows(&r, 0.1, 1000, 1)); /* fits */
    check_rows(&r, ROWS);
    CHECK(r.asked == 0, "asked %d times in one submit", (int)r.asked);
    CHECK_OK(run_rows(&r, 0.1, 60000000, 3)); /* each fits, two together do not */
    check_rows(&r, ROWS);
    CHECK(r.asked == 2 && r.done == 0, "asked %d times, last at %d", (int)r.asked, (int)r.done);
    close_rows(&r);
}

static void test_D10_stopped_between_slices(void) {
    struct rows r;
    open_rows(&r);
    r.stop_at = 3;
    CHECK_FAILS(run_rows(&r, 1e-9, 1000000000, 2), DSVK_CANCELLED, "cancelled at rms_norm, after 3 of its 48 workgroups");
    check_rows(&r, 3);
    r.stop_at = 0;
    CHECK_OK(run_rows(&r, 0.05, 1000000000, 1)); /* nothing of it stays */
    check_rows(&r, ROWS);
    close_rows(&r);
}

static void test_slices_in_a_profile(void) {
    struct rows r;
    char *text = NULL;
    open_rows(&r);
    CHECK_OK(dsvk_device_profile_begin(r.device, &error));
    CHECK_OK(run_rows(&r, 1e-9, 48000000, 1));
    CHECK_OK(dsvk_device_profile_end(r.device, &text, &error));
    json_t *root = parse_json(text), *op = json_array_get(json_object_get(root, "ops"), 1);
    CHECK(json_integer_value(json_object_get(root, "dispatches")) == ROWS && json_integer_value(json_object_get(op, "calls")) == ROWS &&
          json_integer_value(json_object_get(op, "flops")) == 48000000, "slices are calls, with their share of the operations");
    json_decref(root);
    close_rows(&r);
}

int main(void) {
    RUN(test_D10_slices_are_the_whole);
    RUN(test_D10_stopped_between_slices);
    RUN(test_slices_in_a_profile);
    return test_result();
}
