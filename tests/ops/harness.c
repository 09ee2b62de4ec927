/* The op tests' common part; see harness.h. Test code may print and exit, unlike the library. */
#include "harness.h"

#include <stdarg.h>

#define GUARD_BYTES 256

static void stop(const char *what, const dsvk_error *err) {
    printf("%s: %s: %s\n", what, dsvk_status_name(err->status), err->message);
    exit(1);
}

static uint64_t hash_text(const char *text) { /* FNV-1a */
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

void test_begin(test *t, const char *name, int argc, char **argv) {
    dsvk_device_options options = { .size = sizeof options };
    dsvk_error err = { 0 };
    *t = (test){ .name = name };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--validation") == 0)
            t->validation = true;
        else if (strcmp(argv[i], "--bench") == 0)
            t->bench = true;
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
            options.device = argv[++i];
        else if (strcmp(argv[i], "--matmul") == 0 && i + 1 < argc)
            options.matmul = argv[++i];
        else {
            printf("usage: test_%s [--validation] [--bench] [--device NAME] [--matmul VARIANT]\n", name);
            exit(2);
        }
    }
    options.validation = t->validation;
    t->random = hash_text(name);
    if (dsvk_device_open(&t->device, &options, &err) != DSVK_OK)
        stop("open device", &err);
    if (dsvk_cmd_create(t->device, &t->cmd, &err) != DSVK_OK)
        stop("create command", &err);
    printf("%s: seed %016llx\n", name, (unsigned long long)t->random);
}

static void check_validation(test *t) {
    char *text = NULL, first[512] = "";
    dsvk_error err = { 0 };
    if (dsvk_device_describe(t->device, &text, &err) != DSVK_OK)
        stop("describe", &err);
    json_t *root = json_loads(text, 0, NULL);
    test_check(t, json_is_true(json_object_get(root, "validation")), "the validation layer is not installed");
    json_decref(root);
    dsvk_free(text);
    const uint32_t messages = dsvk_device_validation_messages(t->device, first, sizeof first);
    test_check(t, messages == 0, "%u validation messages, the first: %s", messages, first);
}

int test_end(test *t) {
    test_case_end(t);
    dsvk_cmd_destroy(t->cmd);
    if (t->validation)
        check_validation(t);
    dsvk_device_close(t->device);
    printf("%s: %u passed, %u failed\n", t->name, t->passed, t->failed);
    return t->failed > 0;
}

bool test_matmul_columns(test *t) {
    for (uint32_t v = 0; test_matmul_variant(t, v); v++)
        if (dsvk_device_matmul(t->device).kind == DSVK_MATMUL_COLUMNS)
            return true;
    return false;
}

bool test_matmul_variant(test *t, uint32_t i) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    if (i >= dsvk_matmul_variants(t->device, list))
        return false;
    dsvk_device_set_matmul(t->device, list[i]);
    dsvk_matmul_name(list[i], t->variant);
    return true;
}

void test_case(test *t, const char *format, ...) {
    test_case_end(t);
    va_list list;
    va_start(list, format);
    vsnprintf(t->shape, sizeof t->shape, format, list);
    va_end(list);
    t->random = hash_text(t->name) ^ hash_text(t->shape);
}

void test_case_end(test *t) {
    while (t->n_buffers > 0)
        dsvk_buffer_destroy(t->device, &t->buffers[--t->n_buffers]);
    while (t->n_blocks > 0)
        free(t->blocks[--t->n_blocks]);
}

/* ---- random numbers ---- */

uint32_t test_random(test *t) { /* splitmix64 */
    uint64_t z = t->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t test_below(test *t, uint32_t limit) { return (uint32_t)(((uint64_t)test_random(t) * limit) >> 32); }

float test_uniform(test *t) { return (float)(test_random(t) >> 8) * 0x1p-24f; }

float test_normal(test *t) { /* twelve uniforms: no tails beyond 6, which is what a test wants */
    float sum = -6.0f;
    for (int i = 0; i < 12; i++)
        sum += test_uniform(t);
    return sum;
}

/* ---- memory of the case ---- */

void *test_alloc(test *t, size_t bytes) {
    void *block = calloc(1, bytes > 0 ? bytes : 1);
    if (block == NULL || t->n_blocks == TEST_MAX_BUFFERS) {
        printf("test_%s: no host memory for %zu bytes\n", t->name, bytes);
        exit(1);
    }
    return t->blocks[t->n_blocks++] = block;
}

float *test_normals(test *t, size_t n, float scale) {
    float *x = test_alloc(t, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * test_normal(t);
    return x;
}

static dsvk_buffer make_buffer(test *t, size_t bytes) {
    dsvk_error err = { 0 };
    dsvk_buffer buffer = { 0 };
    if (t->n_buffers == TEST_MAX_BUFFERS) {
        printf("test_%s: more than %d buffers in one case\n", t->name, TEST_MAX_BUFFERS);
        exit(1);
    }
    if (dsvk_buffer_create(t->device, DSVK_SCRATCH, bytes, t->name, &buffer, &err) != DSVK_OK)
        stop("create buffer", &err);
    return t->buffers[t->n_buffers++] = buffer;
}

dsvk_buffer test_upload(test *t, const void *data, size_t bytes) {
    dsvk_error err = { 0 };
    dsvk_buffer buffer = make_buffer(t, dsvk_align(bytes > 0 ? bytes : 1, 16));
    if (bytes > 0 && dsvk_buffer_write(t->device, &buffer, 0, data, bytes, &err) != DSVK_OK)
        stop("upload", &err);
    return buffer;
}

void test_poison(test *t, const dsvk_buffer *output) {
    dsvk_error err = { 0 };
    void *ones = malloc(output->size + GUARD_BYTES);
    if (ones == NULL)
        exit(1);
    memset(ones, 0xff, output->size + GUARD_BYTES);
    if (dsvk_buffer_write(t->device, output, 0, ones, output->size, &err) != DSVK_OK)
        stop("poison", &err);
    free(ones);
}

/* The returned buffer's size includes the guard, which test_download takes off again. */
dsvk_buffer test_output(test *t, size_t bytes) {
    dsvk_buffer buffer = make_buffer(t, bytes + GUARD_BYTES);
    test_poison(t, &buffer);
    return buffer;
}

void *test_download(test *t, const dsvk_buffer *output) {
    dsvk_error err = { 0 };
    uint8_t *data = test_alloc(t, output->size);
    if (dsvk_buffer_read(t->device, output, 0, data, output->size, &err) != DSVK_OK)
        stop("download", &err);
    for (uint64_t i = output->size - GUARD_BYTES; i < output->size; i++)
        if (data[i] != 0xff) {
            test_check(t, false, "written %llu bytes behind the output's end",
                       (unsigned long long)(i - (output->size - GUARD_BYTES)));
            break;
        }
    return data;
}

/* ---- weights ---- */

ref_matrix test_matrix(test *t, dsvk_weight_type type, uint32_t n_out, uint32_t n_in, float scale) {
    const size_t n = (size_t)n_out * n_in;
    ref_matrix m = { .type = type, .n_out = n_out, .n_in = n_in };
    if (type == DSVK_TYPE_F32) {
        m.codes = test_normals(t, n, scale);
    } else if (type == DSVK_TYPE_BF16) {
        uint16_t *codes = test_alloc(t, n * 2);
        for (size_t i = 0; i < n; i++)
            codes[i] = ref_bf16_bits(scale * test_normal(t));
        m.codes = codes;
    } else if (type == DSVK_TYPE_FP8) {
        const size_t blocks = dsvk_ceil_div(n_out, 16) * dsvk_ceil_div(n_in, 128);
        uint8_t *codes = test_alloc(t, n);
        float *scales = test_alloc(t, blocks * 4);
        for (size_t i = 0; i < n; i++) {
            codes[i] = (uint8_t)test_random(t);
            if ((codes[i] & 0x7f) == 0x7f)
                codes[i] ^= 1;
        }
        for (size_t i = 0; i < blocks; i++) /* powers of two and others: files hold both */
            scales[i] = scale / 64.0f * (test_below(t, 2) ? 1.0f : 0.5f + test_uniform(t));
        m.codes = codes;
        m.scales = scales;
    } else {
        uint8_t *codes = test_alloc(t, n / 2), *scales = test_alloc(t, n / 32);
        for (size_t i = 0; i < n / 2; i++)
            codes[i] = (uint8_t)test_random(t);
        const int middle = 127 + (int)lroundf(log2f(scale));
        for (size_t i = 0; i < n / 32; i++)
            scales[i] = (uint8_t)(middle - 3 + (int)test_below(t, 4));
        m.codes = codes;
        m.scales = scales;
    }
    return m;
}

dsvk_matrix test_upload_matrix(test *t, const ref_matrix *m) {
    const uint64_t bytes = dsvk_matrix_bytes(m->type, m->n_out, m->n_in);
    void *blob = malloc(bytes);
    if (blob == NULL)
        exit(1);
    const bool columns = dsvk_device_matmul(t->device).kind == DSVK_MATMUL_COLUMNS;
    ref_pack_tiles(m, columns, blob);
    const dsvk_buffer buffer = test_upload(t, blob, bytes);
    free(blob);
    return (dsvk_matrix){ .addr = buffer.addr,
                          .scales = dsvk_matrix_scales(m->type, m->n_out, m->n_in),
                          .n_out = m->n_out,
                          .n_in = m->n_in,
                          .type = m->type,
                          .columns = columns };
}

/* ---- running ---- */

static void begin_again(test *t) {
    dsvk_error err = { 0 };
    if (dsvk_cmd_begin(t->cmd, &err) != DSVK_OK)
        stop("begin", &err);
}

bool test_run(test *t) {
    dsvk_error err = { 0 };
    const dsvk_status status = dsvk_cmd_run(t->cmd, &err);
    begin_again(t);
    return status == DSVK_OK || test_check(t, false, "run: %s: %s", dsvk_status_name(status), err.message);
}

bool test_run_fails(test *t, const char *part) {
    dsvk_error err = { 0 };
    const dsvk_status status = dsvk_cmd_run(t->cmd, &err);
    begin_again(t);
    return test_check(t, status == DSVK_INVALID && strstr(err.message, part) != NULL,
                      "expected INVALID with \"%s\", got %s: %s", part, dsvk_status_name(status), err.message);
}

void test_bench(test *t, void (*record)(dsvk_cmd *cmd, void *context), void *context) {
    struct line {
        char name[32];
        double us, bytes, flops;
    } best[16] = { 0 };
    dsvk_error err = { 0 };
    if (!t->bench)
        return;
    for (int run = 0; run < 6; run++) { /* the first builds pipelines and warms up */
        char *text = NULL;
        if (dsvk_device_profile_begin(t->device, &err) != DSVK_OK)
            stop("profile", &err);
        record(t->cmd, context);
        if (!test_run(t) || dsvk_device_profile_end(t->device, &text, &err) != DSVK_OK)
            stop("profile", &err);
        json_t *root = json_loads(text, 0, NULL), *op;
        size_t i;
        json_array_foreach(json_object_get(root, "ops"), i, op) {
            const double us = json_number_value(json_object_get(op, "us"));
            if (run > 0 && i < DSVK_COUNT(best) && (best[i].us == 0 || us < best[i].us)) {
                snprintf(best[i].name, sizeof best[i].name, "%s", json_string_value(json_object_get(op, "name")));
                best[i].us = us;
                best[i].bytes = json_number_value(json_object_get(op, "bytes"));
                best[i].flops = json_number_value(json_object_get(op, "flops"));
            }
        }
        json_decref(root);
        dsvk_free(text);
    }
    for (size_t i = 0; i < DSVK_COUNT(best) && best[i].us > 0; i++)
        printf("  bench %-16s %-60s %10.1f us %8.2f GB/s %9.2f GFLOP/s\n", best[i].name, t->shape, best[i].us,
               best[i].bytes / best[i].us * 1e-3, best[i].flops / best[i].us * 1e-3);
}

/* ---- judging ---- */

bool test_check(test *t, bool ok, const char *format, ...) {
    if (ok) {
        t->passed++;
        return true;
    }
    t->failed++;
    printf("FAIL %s [%s]: ", t->name, t->shape);
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    fflush(stdout);
    return false;
}

static bool same_class(float got, float want) {
    if (isnan(want))
        return isnan(got);
    if (isinf(want))
        return got == want;
    return isfinite(got);
}

bool test_compare_sums(test *t, const char *what, const float *got, const float *want, const float *magnitude, size_t n,
                       float tolerance) {
    size_t wrong = 0, first = 0;
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const bool in_place = same_class(got[i], want[i]);
        const double error = in_place && isfinite(want[i]) ? fabs((double)got[i] - want[i]) : 0;
        const double limit = magnitude == NULL ? 0 : (double)tolerance * magnitude[i];
        if (in_place && error <= limit)
            continue;
        if (wrong++ == 0)
            first = i;
        if (error > worst)
            worst = error;
    }
    if (wrong == 0)
        return test_check(t, true, "%s", what);
    return test_check(t, false, "%s: %zu of %zu wrong, first at %zu: got %.9g want %.9g (limit %.3g), largest error %.3g",
                      what, wrong, n, first, got[first], want[first],
                      magnitude == NULL ? 0.0 : (double)tolerance * magnitude[first], worst);
}

bool test_compare(test *t, const char *what, const float *got, const float *want, size_t n, float relative, float absolute) {
    float *limit = malloc((n > 0 ? n : 1) * sizeof *limit);
    if (limit == NULL)
        exit(1);
    for (size_t i = 0; i < n; i++)
        limit[i] = isfinite(want[i]) ? absolute + relative * fabsf(want[i]) : 0;
    const bool ok = test_compare_sums(t, what, got, want, limit, n, 1.0f);
    free(limit);
    return ok;
}

bool test_compare_words(test *t, const char *what, const void *got, const void *want, size_t n) {
    const uint32_t *a = got, *b = want;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return test_check(t, false, "%s: word %zu of %zu: got %u (0x%08x) want %u (0x%08x)", what, i, n, a[i], a[i],
                              b[i], b[i]);
    return test_check(t, true, "%s", what);
}

double test_cosine(const float *a, const float *b, size_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}
