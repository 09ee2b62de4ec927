#include "harness_fused.h"

fused fused_begin(test *t) {
    fused f = { .t = t };
    static const uint32_t zeros[4096];
    f.counters = test_upload(t, zeros, sizeof zeros);
    return f;
}

void fused_output(fused *f, const char *name, size_t bytes, dsvk_addr *want, dsvk_addr *got) {
    f->names[f->n_outputs] = name;
    f->want[f->n_outputs] = test_output(f->t, bytes);
    f->got[f->n_outputs] = test_output(f->t, bytes);
    *want = f->want[f->n_outputs].addr;
    *got = f->got[f->n_outputs++].addr;
}

void fused_in_place(fused *f, const char *name, const void *data, size_t bytes, dsvk_addr *want, dsvk_addr *got) {
    dsvk_error err;
    fused_output(f, name, bytes, want, got);
    f->in_place = true;
    for (int i = 0; i < 2; i++) {
        const dsvk_buffer *to = i ? &f->got[f->n_outputs - 1] : &f->want[f->n_outputs - 1];
        test_check(f->t, dsvk_buffer_write(f->t->device, to, 0, data, bytes, &err) == DSVK_OK, "write");
    }
}

dsvk_matrix fused_matrix(test *t, dsvk_weight_type type, uint32_t n_out, uint32_t n_in) {
    const ref_matrix m = test_matrix(t, type, n_out, n_in, 0.05f);
    return test_upload_matrix(t, &m);
}

dsvk_addr fused_normals(test *t, size_t n, float scale) { return test_upload(t, test_normals(t, n, scale), n * 4).addr; }

static void check_counters(fused *f) {
    uint32_t counters[4096], sum = 0;
    dsvk_error err;
    test_check(f->t, dsvk_buffer_read(f->t->device, &f->counters, 0, counters, sizeof counters, &err) == DSVK_OK, "read");
    for (uint32_t i = 0; i < DSVK_COUNT(counters); i++)
        sum |= counters[i];
    test_check(f->t, sum == 0, "counters are left at 0");
}

void fused_compare(fused *f) {
    for (uint32_t i = 0; i < f->n_outputs; i++)
        test_compare_words(f->t, f->names[i], test_download(f->t, &f->got[i]), test_download(f->t, &f->want[i]),
                           f->want[i].size / 4 - 64);
    check_counters(f);
}

void fused_judge(fused *f, void (*op)(dsvk_cmd *cmd, const void *params), const void *params) {
    test *t = f->t;
    dsvk_barrier(t->cmd);
    op(t->cmd, params);
    if (!test_run(t))
        return;
    fused_compare(f);
    for (uint32_t i = 0; i < f->n_outputs && !f->in_place; i++)
        test_poison(t, &f->got[i]);
    op(t->cmd, params);
    if (!test_run(t))
        return;
    if (f->in_place)
        check_counters(f);
    else
        fused_compare(f);
}
