/* Decoding at long contexts without the prefill: what a token costs depends on how much the cache holds and hardly on what, so a
 * session is put at a position by filling its pages with random codes of ordinary size (f32 caches are not offered), and decodes
 * there. Prints JSON: the device, as dsvk_device_describe has it, then one object per position: {"position", "tokens", "seconds", "device_us", "ops", ...}.
 *
 *     context_decode MODEL TOKENS POSITION...
 *
 * This reaches into the engine on purpose (session lengths, pages) and is no way to use the library. bench/context.py runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine.h"

#define PAGE_TOKENS 4096u

/* CLOCK_MONOTONIC, or CLOCK_PROCESS_CPUTIME_ID: what a software driver computes for is this process's time, whoever else runs. */
static double now_s(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t random_word(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

/* `n` bytes of random words of which `mask` bits are kept and `set` bits are set. */
static void fill(uint8_t *at, uint64_t n, uint32_t mask, uint32_t set, uint64_t *state) {
    for (uint64_t i = 0; i + 4 <= n; i += 4) {
        const uint32_t word = (random_word(state) & mask) | set;
        memcpy(at + i, &word, 4);
    }
}

/* The compressed rows and index keys of one page. No code is a NaN; rows and keys are of about unit size. */
static void fill_page(const dsvk_model *m, uint8_t *page, uint64_t *state) {
    const dsvk_row_format *f = &m->layout.format;
    const uint32_t plain = f->head_dim - f->rope_dim, row = dsvk_row_code_bytes(f), key = dsvk_key_code_bytes(f);
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        const dsvk_layer_layout *at = &m->layout.layers[l];
        const uint32_t n = at->ratio ? m->layout.page_tokens / at->ratio : 0;
        for (uint32_t i = 0; i < n; i++) {
            fill(page + at->rows_offset + (uint64_t)i * row, plain, 0xf7f7f7f7u, 0, state);
            fill(page + at->rows_offset + (uint64_t)i * row + plain, row - plain, 0x80ff80ffu, 0x3e003e00u, state);
        }
        fill(page + at->rows_offset + (uint64_t)n * row, (uint64_t)n * dsvk_row_scale_bytes(f), 0x01010101u, 0x78787878u, state);
        if (at->ratio != 4)
            continue;
        fill(page + at->keys_offset, (uint64_t)n * key, 0xffffffffu, 0, state);
        fill(page + at->keys_offset + (uint64_t)n * key, (uint64_t)n * dsvk_key_scale_bytes(f), 0x01010101u, 0x7c7c7c7cu, state);
    }
}

static dsvk_status add_page(dsvk_session *s, uint8_t *host, uint64_t *state, dsvk_error *err) {
    dsvk_model *m = s->model;
    fill_page(m, host, state);
    DSVK_TRY(dsvk_grow_pages(s, (s->n_pages + 1ull) * m->layout.page_tokens, err));
    return dsvk_buffer_write(m->device, &s->pages[s->n_pages - 1]->buffer, 0, host, m->layout.page_bytes, err);
}

/* Puts the session at `position`, which is further than it has been: as if so many tokens 0 had been evaluated. */
static dsvk_status place(dsvk_session *s, uint64_t position, uint8_t *host, uint64_t *state, dsvk_error *err) {
    while (s->n_pages < dsvk_ceil_div(position, PAGE_TOKENS))
        DSVK_TRY(add_page(s, host, state, err));
    memset(s->tokens, 0, position * sizeof *s->tokens);
    s->n = s->high = position;
    s->have_logits = s->have_mtp_logits = false;
    return DSVK_OK;
}

static dsvk_status measure(dsvk_session *s, uint64_t position, int n, dsvk_error *err) {
    dsvk_device *device = s->model->device;
    json_t *best = NULL;
    double seconds = 0, cpu_seconds = 0;
    int32_t *ids = dsvk_alloc((size_t)n * sizeof *ids);
    size_t n_ids;
    dsvk_status status = ids ? dsvk_session_decode(s, 1, NULL, ids, &n_ids, err) : dsvk_fail_nomem(err, sizeof *ids);
    for (int run = 0; run < 3 && status == DSVK_OK; run++) {
        char *text = NULL;
        json_t *report = NULL;
        DSVK_GOTO(dsvk_device_profile_begin(device, err));
        const double start = now_s(CLOCK_MONOTONIC), cpu_start = now_s(CLOCK_PROCESS_CPUTIME_ID);
        DSVK_GOTO(dsvk_session_decode(s, (size_t)n, NULL, ids, &n_ids, err));
        const double took = now_s(CLOCK_MONOTONIC) - start, cpu = now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
        cpu_seconds = run == 0 || cpu < cpu_seconds ? cpu : cpu_seconds;
        DSVK_GOTO(dsvk_device_profile_end(device, &text, err));
        DSVK_GOTO(dsvk_json_parse(&report, text, strlen(text), "profile", err));
        dsvk_free(text);
        if (best && took >= seconds) {
            json_decref(report);
            continue;
        }
        json_decref(best);
        best = report;
        seconds = took;
    }
    if (status == DSVK_OK) {
        json_object_update_new(best, json_pack("{s:I, s:i, s:f, s:f, s:I, s:I, s:I}", "position", (json_int_t)position, "tokens", n,
                                               "seconds", seconds, "cpu_seconds", cpu_seconds, "pages", (json_int_t)s->n_pages, "page_bytes",
                                               (json_int_t)s->model->layout.page_bytes, "state_bytes",
                                               (json_int_t)s->model->layout.state_bytes));
        json_dumpf(best, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
    }
fail:
    json_decref(best);
    dsvk_free(ids);
    return status;
}

static dsvk_status run(const char *path, int n, int n_positions, char **positions, dsvk_error *err) {
    dsvk_model_options options = { .size = sizeof options, .page_tokens = PAGE_TOKENS };
    dsvk_device *device = NULL;
    char *text;
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    uint8_t *host = NULL;
    uint64_t state = 1;
    dsvk_status status;
    DSVK_GOTO(dsvk_device_open(&device, NULL, err));
    DSVK_GOTO(dsvk_device_describe(device, &text, err));
    for (char *c = text; *c; c++)
        putchar(*c == '\n' ? ' ' : *c); /* on one line */
    putchar('\n');
    dsvk_free(text);
    DSVK_GOTO(dsvk_model_open(&model, device, path, &options, err));
    DSVK_GOTO(dsvk_session_open(&session, model, NULL, err));
    host = dsvk_alloc_zero(model->layout.page_bytes, 1);
    status = host ? DSVK_OK : dsvk_fail_nomem(err, model->layout.page_bytes);
    if (status == DSVK_OK && session->state.size > 0) { /* rings of zeros: finite, which is all that is asked of them */
        DSVK_GOTO(dsvk_cmd_begin(model->cmd, err));
        dsvk_cmd_fill(model->cmd, &session->state, 0, session->state.size & ~3ull, 0);
        DSVK_GOTO(dsvk_cmd_run(model->cmd, err));
    }
    for (int i = 0; i < n_positions && status == DSVK_OK; i++) {
        const uint64_t position = strtoull(positions[i], NULL, 10);
        status = place(session, position, host, &state, err);
        if (status == DSVK_OK)
            status = measure(session, position, n, err);
    }
fail:
    dsvk_free(host);
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
    return status;
}

int main(int argc, char **argv) {
    dsvk_error err = { 0 };
    if (argc < 4) {
        fprintf(stderr, "usage: context_decode MODEL TOKENS POSITION...\n");
        return 2;
    }
    if (run(argv[1], atoi(argv[2]), argc - 3, argv + 3, &err) == DSVK_OK)
        return 0;
    fprintf(stderr, "context_decode: %s: %s\n", dsvk_status_name(err.status), err.message);
    return 1;
}
