/* One step: rows of any mix of sessions go through the model together. The host writes rows, sequences and choices into an
 * inbox the device reads; a submit covers as many stages as keep it near 100 ms (faults D10), measured and corrected. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine.h"

double dsvk_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- inbox and outbox ---- */

typedef struct part {
    void **host;
    uint64_t each;
} part;

static void inbox_free(dsvk_model *m) {
    dsvk_buffer_destroy(m->device, &m->inbox.buffer);
    dsvk_free(m->inbox.keep);
    memset(&m->inbox, 0, sizeof m->inbox);
}

static dsvk_status inbox_reserve(dsvk_model *m, uint32_t rows, dsvk_error *err) {
    dsvk_inbox *in = &m->inbox;
    if (rows <= in->capacity)
        return DSVK_OK;
    uint32_t capacity = in->capacity ? in->capacity : 32;
    while (capacity < rows)
        capacity *= 2;
    dsvk_inbox next = { .capacity = capacity };
    part parts[] = {
        { (void **)&next.rows, sizeof *next.rows },       { (void **)&next.mtp_rows, sizeof *next.mtp_rows },
        { (void **)&next.seqs, sizeof *next.seqs },       { (void **)&next.mtp_seqs, sizeof *next.mtp_seqs },
        { (void **)&next.select, sizeof *next.select },   { (void **)&next.mtp_select, sizeof *next.mtp_select },
        { (void **)&next.source, sizeof *next.source },   { (void **)&next.sample, sizeof *next.sample },
    };
    uint64_t bytes = 0;
    for (size_t i = 0; i < DSVK_COUNT(parts); i++)
        bytes += dsvk_align(parts[i].each * capacity, 256);
    next.keep = dsvk_alloc_zero(capacity, sizeof *next.keep);
    if (!next.keep)
        return dsvk_fail_nomem(err, capacity * sizeof *next.keep);
    dsvk_status status = dsvk_buffer_create(m->device, DSVK_STAGING, bytes, "step inbox", &next.buffer, err);
    if (status != DSVK_OK) {
        dsvk_free(next.keep);
        return status;
    }
    char *at = next.buffer.host;
    for (size_t i = 0; i < DSVK_COUNT(parts); i++) {
        *parts[i].host = at;
        at += dsvk_align(parts[i].each * capacity, 256);
    }
    inbox_free(m); /* only now: the old one serves on when there is no memory for a larger one */
    *in = next;
    return DSVK_OK;
}

static dsvk_addr inbox_addr(const dsvk_model *m, const void *host) {
    return m->inbox.buffer.addr + (uint64_t)((const char *)host - (const char *)m->inbox.buffer.host);
}

dsvk_status dsvk_step_lock(dsvk_model *m, dsvk_error *err) {
    return pthread_mutex_lock(&m->step_lock) == 0
               ? DSVK_OK : dsvk_fail(err, DSVK_BUSY, "this model is in the middle of a step that this thread is in");
}

dsvk_status dsvk_step_open(dsvk_model *m, dsvk_error *err) {
    uint64_t logits = (uint64_t)DSVK_LOGIT_ROWS * m->config.vocab_size * sizeof(float);
    m->stages_per_submit = 1;
    pthread_mutexattr_t kind; /* error-checking: a progress callback that uses the model gets BUSY, not a deadlock */
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
    m->step_lock_made = pthread_mutex_init(&m->step_lock, &kind) == 0;
    pthread_mutexattr_destroy(&kind);
    if (!m->step_lock_made)
        return dsvk_fail(err, DSVK_NOMEM, "a lock could not be made");
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_SCRATCH, logits, "logits", &m->logits, err));
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_READBACK, logits, "logits readback", &m->outbox, err));
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_SCRATCH, DSVK_COUNTERS * sizeof(uint32_t), "counters", &m->counters, err));
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_SCRATCH, dsvk_topk_bins_bytes(DSVK_SELECT_ROWS), "bins", &m->bins, err));
    DSVK_TRY(dsvk_cmd_begin(m->cmd, err));
    dsvk_cmd_fill(m->cmd, &m->counters, 0, m->counters.size, 0);
    dsvk_cmd_fill(m->cmd, &m->bins, 0, m->bins.size, 0);
    DSVK_TRY(dsvk_cmd_run(m->cmd, err));
    DSVK_TRY(dsvk_decode_open(m, err));
    return inbox_reserve(m, 32, err);
}

void dsvk_step_close(dsvk_model *m) {
    dsvk_decode_close(m);
    dsvk_cmd_destroy(m->cmd);
    dsvk_scratch_free(m);
    inbox_free(m);
    dsvk_buffer_destroy(m->device, &m->outbox);
    dsvk_buffer_destroy(m->device, &m->logits);
    dsvk_buffer_destroy(m->device, &m->edits);
    dsvk_buffer_destroy(m->device, &m->counters);
    dsvk_buffer_destroy(m->device, &m->bins);
    if (m->step_lock_made)
        pthread_mutex_destroy(&m->step_lock);
}

/* ---- preparing ---- */

dsvk_status dsvk_page_create(dsvk_model *m, dsvk_page **page, dsvk_error *err) {
    dsvk_page *p = dsvk_alloc_zero(1, sizeof *p);
    if (!p)
        return dsvk_fail_nomem(err, sizeof *p);
    atomic_init(&p->references, 1);
    dsvk_status status = dsvk_buffer_create(m->device, DSVK_CACHE, m->layout.page_bytes, "cache page", &p->buffer, err);
    if (status == DSVK_OK)
        *page = p;
    else
        dsvk_free(p);
    return status;
}

void dsvk_page_release(dsvk_model *m, dsvk_page *page) {
    if (!page || atomic_fetch_sub(&page->references, 1) > 1)
        return;
    dsvk_buffer_destroy(m->device, &page->buffer);
    dsvk_free(page);
}

dsvk_status dsvk_grow_pages(dsvk_session *s, uint64_t tokens, dsvk_error *err) {
    dsvk_device *device = s->model->device;
    uint32_t need = (uint32_t)dsvk_ceil_div(tokens, s->model->layout.page_tokens);
    while (s->n_pages < need) {
        dsvk_page *page;
        DSVK_TRY(dsvk_page_create(s->model, &page, err));
        dsvk_status status = dsvk_buffer_write(device, &s->page_table, s->n_pages * sizeof(dsvk_addr), &page->buffer.addr,
                                               sizeof page->buffer.addr, err);
        if (status != DSVK_OK) {
            dsvk_page_release(s->model, page);
            return status;
        }
        s->pages[s->n_pages++] = page;
    }
    return DSVK_OK;
}

/* Everything that can fail before the device is touched. */
static dsvk_status prepare(dsvk_model *m, const dsvk_run *runs, uint32_t n_runs, dsvk_step *step, dsvk_error *err) {
    *step = (dsvk_step){ .n_seqs = n_runs };
    m->ticket++;
    for (uint32_t i = 0; i < n_runs; i++) {
        dsvk_session *s = runs[i].session;
        uint64_t end = s->n + runs[i].n;
        if (end > s->context)
            return dsvk_fail(err, DSVK_LIMIT, "%llu tokens would not fit this session's context of %llu",
                             (unsigned long long)end, (unsigned long long)s->context);
        DSVK_TRY(dsvk_grow_pages(s, end, err));
        step->n += runs[i].n;
        step->positions = end > step->positions ? (uint32_t)end : step->positions;
    }
    DSVK_TRY(dsvk_rope_table_cover(&m->rope[0], m->device, step->positions, err));
    DSVK_TRY(dsvk_rope_table_cover(&m->rope[1], m->device, step->positions, err));
    DSVK_TRY(dsvk_scratch_reserve(m, step->n, step->positions, err));
    DSVK_TRY(inbox_reserve(m, step->n, err));
    step->rows = inbox_addr(m, m->inbox.rows);
    step->seqs = inbox_addr(m, m->inbox.seqs);
    return DSVK_OK;
}

static void fill_rows(dsvk_model *m, const dsvk_run *runs, uint32_t n_runs) {
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        const dsvk_session *s = runs[i].session;
        uint32_t first = row, start = (uint32_t)s->n;
        m->inbox.seqs[i] = (struct dsvk_seq){ .state = s->state.addr, .pages = s->page_table.addr, .first = first,
                                              .rows = runs[i].n, .start = start };
        for (uint32_t j = 0; j < runs[i].n; j++, row++)
            m->inbox.rows[row] = (struct dsvk_row){ .token = (uint32_t)runs[i].tokens[j], .position = start + j,
                                                    .sequence = i, .first = first };
    }
}

/* Pairs (streams of t, token t + 1) for the MTP block of the sessions that keep it; a session's first token ever has none. */
static void fill_pairs(dsvk_model *m, const dsvk_run *runs, uint32_t n_runs, const dsvk_step *step, dsvk_step *pairs) {
    uint32_t row = 0, main_row = 0;
    *pairs = (dsvk_step){ .positions = step->positions, .rows = inbox_addr(m, m->inbox.mtp_rows),
                          .seqs = inbox_addr(m, m->inbox.mtp_seqs) };
    for (uint32_t i = 0; i < n_runs; main_row += runs[i].n, i++) {
        const dsvk_session *s = runs[i].session;
        uint32_t skip = s->n == 0, first = row, start = (uint32_t)s->n + skip - 1;
        if (!s->mtp || runs[i].n <= skip)
            continue;
        m->inbox.mtp_seqs[pairs->n_seqs] = (struct dsvk_seq){ .state = s->state.addr, .pages = s->page_table.addr,
                                                              .first = first, .rows = runs[i].n - skip, .start = start };
        for (uint32_t j = skip; j < runs[i].n; j++, row++) {
            m->inbox.mtp_rows[row] = (struct dsvk_row){ .token = (uint32_t)runs[i].tokens[j], .position = start + row - first,
                                                        .sequence = pairs->n_seqs, .first = first };
            m->inbox.source[row] = j == 0 ? 0x80000000u | start % (DSVK_ROLLBACK + 1) : main_row + j - 1;
        }
        pairs->n_seqs++;
    }
    pairs->n = row;
}

/* ---- running ---- */

/* A step in flight: what is recorded and not yet submitted, and how long the last submit took. */
typedef struct flight {
    dsvk_model *m;
    double began;
    uint32_t stages; /* recorded since the last submit */
    double seconds;  /* of all submits so far */
    dsvk_status status; /* of a cut between stages; recording goes on, into nothing, until it is looked at */
    dsvk_error *err;
    const dsvk_step_result *result;
} flight;

#define MOST_STAGES 4096u /* no model has more in one step worth a submit */

static dsvk_status take_off(flight *f, dsvk_error *err) {
    f->stages = 0;
    f->began = dsvk_now_s();
    return dsvk_cmd_begin(f->m->cmd, err);
}

void dsvk_stages_measured(dsvk_model *m, uint32_t stages, double seconds) {
    uint32_t *most = &m->stages_per_submit;
    if (stages > 0 && seconds > DSVK_SUBMIT_AIM_S)
        *most = (uint32_t)fmax(1, stages * DSVK_SUBMIT_AIM_S / seconds);
    else if (stages >= *most && seconds < DSVK_SUBMIT_AIM_S / 2 && *most < MOST_STAGES)
        *most *= 2;
}

static dsvk_status land(flight *f, dsvk_error *err) {
    DSVK_TRY(dsvk_cmd_run(f->m->cmd, err));
    const double seconds = dsvk_now_s() - f->began;
    f->seconds += seconds;
    dsvk_stages_measured(f->m, f->stages, seconds);
    return DSVK_OK;
}

static void between_stages(void *user) {
    flight *f = user;
    if (++f->stages < f->m->stages_per_submit || f->status != DSVK_OK)
        return;
    f->status = land(f, f->err);
    if (f->status == DSVK_OK && f->result->stop && f->result->stop(f->result->user))
        f->status = dsvk_fail(f->err, DSVK_CANCELLED, "cancelled in the middle of a step");
    if (f->status == DSVK_OK)
        f->status = take_off(f, f->err);
}

static dsvk_status run_layers(flight *f, const dsvk_step *step, dsvk_error *err) {
    DSVK_TRY(take_off(f, err));
    dsvk_forward_begin(f->m, f->m->cmd, step);
    for (uint32_t l = 0; l < f->m->config.n_layers; l++) {
        dsvk_forward_layer(f->m, f->m->cmd, step, l);
        DSVK_TRY(f->status);
    }
    return DSVK_OK;
}

/* The head on rows select[0 .. n-1] in groups. Rows marked as a session's last are copied to it; `host` gets all of them. */
typedef struct head_rows {
    const uint32_t *select;      /* in the inbox */
    uint32_t n, n_in;            /* chosen rows, out of so many */
    const dsvk_buffer **keep;    /* [n] where row i is to be kept on the device, or NULL */
    float *host;                 /* f32 [n, vocab] or NULL */
    void (*take)(void *user, uint32_t first, uint32_t n, const float *logits); /* or told them in groups, or NULL */
    void *user;
    bool mtp;
} head_rows;

static dsvk_status run_head(flight *f, const head_rows *h, dsvk_error *err) {
    dsvk_model *m = f->m;
    uint64_t row_bytes = m->config.vocab_size * sizeof(float);
    for (uint32_t first = 0; first < h->n; first += DSVK_LOGIT_ROWS) {
        uint32_t n = h->n - first < DSVK_LOGIT_ROWS ? h->n - first : DSVK_LOGIT_ROWS;
        dsvk_forward_head(m, m->cmd, h->n_in, inbox_addr(m, h->select + first), n, m->logits.addr, h->mtp);
        for (uint32_t i = 0; i < n; i++)
            if (h->keep[first + i])
                dsvk_cmd_copy(m->cmd, &m->logits, i * row_bytes, h->keep[first + i], 0, row_bytes);
        if (h->host || h->take)
            dsvk_cmd_copy(m->cmd, &m->logits, 0, &m->outbox, 0, n * row_bytes);
        dsvk_barrier(m->cmd);
        if (!h->host && !h->take)
            continue;
        DSVK_TRY(land(f, err));
        if (h->host)
            memcpy(h->host + (uint64_t)first * m->config.vocab_size, m->outbox.host, n * row_bytes);
        else
            h->take(h->user, first, n, (const float *)m->outbox.host);
        DSVK_TRY(take_off(f, err));
    }
    return DSVK_OK;
}

void dsvk_fill_sample(struct dsvk_sample_row *row, const dsvk_sample_options *o, uint64_t position) {
    *row = (struct dsvk_sample_row){ .position = (uint32_t)position };
    if (!o)
        return;
    row->temperature = o->temperature;
    row->top_p = o->top_p;
    row->min_p = o->min_p;
    row->top_k = o->top_k;
    row->seed_lo = (uint32_t)o->seed;
    row->seed_hi = (uint32_t)(o->seed >> 32);
}

dsvk_status dsvk_check_id(uint32_t sequence, uint32_t id, uint32_t vocab, dsvk_error *err) {
    return id < vocab ? DSVK_OK : dsvk_fail(err, DSVK_NUMERIC, "the logits of sequence %u have no finite value to choose from",
                                            sequence);
}

/* Heads of the main model: every row when the caller wants logits, else each run's last. */
static dsvk_status finish_main(flight *f, const dsvk_run *runs, uint32_t n_runs, const dsvk_step_result *result,
                               dsvk_error *err) {
    dsvk_model *m = f->m;
    const dsvk_buffer **keep = m->inbox.keep;
    uint32_t n = 0, row = 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        for (uint32_t j = 0; j < runs[i].n; j++, row++) {
            bool last = j + 1 == runs[i].n;
            if (!last && !result->logits && !result->take)
                continue;
            keep[n] = last ? &runs[i].session->logits : NULL;
            m->inbox.select[n++] = row;
        }
    }
    return run_head(f, &(head_rows){ .select = m->inbox.select, .n = n, .n_in = row, .keep = keep, .host = result->logits,
                                     .take = result->take, .user = result->user }, err);
}

/* The MTP block: every pair's logits when wanted, else each session's last. */
static dsvk_status finish_mtp(flight *f, const dsvk_run *runs, uint32_t n_runs, const dsvk_step *step,
                              const dsvk_step_result *result, dsvk_error *err) {
    dsvk_model *m = f->m;
    const dsvk_buffer **keep = m->inbox.keep;
    dsvk_step pairs;
    fill_pairs(m, runs, n_runs, step, &pairs);
    pairs.between = between_stages;
    pairs.user = f;
    dsvk_forward_mtp(m, m->cmd, step, &pairs, inbox_addr(m, m->inbox.source));
    DSVK_TRY(f->status);
    uint32_t n = 0, row = 0;
    uint64_t out = 0, vocab = m->config.vocab_size;
    float *host = result->mtp_logits;
    for (uint32_t i = 0; i < n_runs; i++) {
        uint32_t skip = runs[i].session->n == 0;
        for (uint32_t j = 0; j < runs[i].n; j++, out++) {
            bool pair = runs[i].session->mtp && j >= skip;
            if (host && !pair)
                for (uint64_t v = 0; v < vocab; v++)
                    host[out * vocab + v] = NAN;
            if (!pair)
                continue;
            bool last = j + 1 == runs[i].n;
            keep[n] = last ? &runs[i].session->mtp_logits : NULL;
            if (last || host)
                m->inbox.mtp_select[n++] = row;
            row++;
        }
    }
    if (host && out != n && n_runs > 1)
        return dsvk_fail(err, DSVK_INVALID, "MTP logits of several sequences at once need every sequence to have begun");
    return run_head(f, &(head_rows){ .select = m->inbox.mtp_select, .n = n, .n_in = row, .keep = keep,
                                     .host = host ? host + (out - n) * vocab : NULL, .mtp = true }, err);
}

static dsvk_status fly(dsvk_model *m, const dsvk_run *runs, uint32_t n_runs, dsvk_step *step,
                       const dsvk_step_result *result, dsvk_error *err) {
    flight f = { .m = m, .err = err, .result = result };
    bool mtp = false;
    step->between = between_stages;
    step->user = &f;
    step->tap = result->tap;
    step->tap_user = result->tap_user;
    for (uint32_t i = 0; i < n_runs; i++)
        mtp |= runs[i].session->mtp;
    DSVK_TRY(run_layers(&f, step, err));
    DSVK_TRY(finish_main(&f, runs, n_runs, result, err));
    if (mtp)
        DSVK_TRY(finish_mtp(&f, runs, n_runs, step, result, err));
    if (dsvk_cmd_dispatches(m->cmd) > 0)
        DSVK_TRY(land(&f, err));
    if (step->n == n_runs)
        dsvk_decode_measured(m, n_runs, f.seconds);
    return DSVK_OK;
}

static void append(const dsvk_run *run) {
    dsvk_session *s = run->session;
    s->have_mtp_logits = s->mtp && s->n + run->n > 1;
    memmove(s->tokens + s->n, run->tokens, run->n * sizeof *run->tokens); /* they may be these very tokens, run again */
    s->n += run->n;
    s->high = s->n > s->high ? s->n : s->high;
    s->have_logits = true;
}

/* The rings may hold part of this run. */
static void cut_short(const dsvk_run *run) {
    dsvk_session *s = run->session;
    s->high = s->n + run->n > s->high ? s->n + run->n : s->high;
    s->have_logits = s->have_mtp_logits = false;
}

dsvk_status dsvk_step_run(dsvk_model *m, const dsvk_run *runs, uint32_t n_runs, const dsvk_step_result *result,
                          dsvk_error *err) {
    dsvk_step step;
    dsvk_step_result none = { 0 };
    result = result ? result : &none;
    DSVK_TRY(dsvk_step_lock(m, err));
    dsvk_status status = prepare(m, runs, n_runs, &step, err);
    if (status == DSVK_OK) {
        fill_rows(m, runs, n_runs);
        status = fly(m, runs, n_runs, &step, result, err);
        for (uint32_t i = 0; i < n_runs; i++) {
            if (status == DSVK_OK)
                append(&runs[i]);
            else
                cut_short(&runs[i]);
        }
    }
    pthread_mutex_unlock(&m->step_lock);
    return status;
}

/* ---- a step in parts ---- */

static dsvk_status begin_part(dsvk_session *s, dsvk_part *p, const int32_t *tokens, dsvk_error *err) {
    if (p->run.n != p->rows)
        p->layer_seconds = p->head_seconds = 0;
    p->ticket = 0;
    p->run = (dsvk_run){ s, tokens + s->n, p->rows };
    p->start = s->n;
    p->layers = 0;
    p->seconds = 0;
    DSVK_TRY(prepare(s->model, &p->run, 1, &p->step, err));
    fill_rows(s->model, &p->run, 1);
    p->ticket = s->model->ticket;
    return DSVK_OK;
}

/* n more layers, and the head. */
static dsvk_status run_units(flight *f, dsvk_part *p, uint32_t n, bool head, dsvk_error *err) {
    p->step.between = between_stages;
    p->step.user = f;
    DSVK_TRY(take_off(f, err));
    if (p->layers == 0)
        dsvk_forward_begin(f->m, f->m->cmd, &p->step);
    for (; n > 0; n--) {
        dsvk_forward_layer(f->m, f->m->cmd, &p->step, p->layers++);
        DSVK_TRY(f->status);
    }
    if (head)
        DSVK_TRY(finish_main(f, &p->run, 1, f->result, err));
    if (head && p->run.session->mtp)
        DSVK_TRY(finish_mtp(f, &p->run, 1, &p->step, f->result, err));
    return dsvk_cmd_dispatches(f->m->cmd) > 0 ? land(f, err) : DSVK_OK;
}

static dsvk_status run_part(dsvk_session *s, dsvk_part *p, const int32_t *tokens, double seconds, dsvk_error *err) {
    const dsvk_step_result none = { 0 };
    flight f = { .m = s->model, .err = err, .result = &none };
    const bool begun = p->ticket != 0 && p->start == s->n, interrupted = begun && p->ticket != s->model->ticket;
    p->done = false;
    if (!begun || interrupted)
        DSVK_TRY(begin_part(s, p, tokens, err));
    const uint32_t left = s->model->config.n_layers - p->layers;
    const double fit = p->layer_seconds > 0 ? seconds / p->layer_seconds : 1, rest = seconds - left * p->layer_seconds;
    uint32_t n = fit < 1 ? 1 : fit < left ? (uint32_t)fit : left;
    if (left == 0 || interrupted) /* interrupted once more it might never end */
        n = left;
    const bool head = n == left && (left == 0 || interrupted || (p->head_seconds > 0 && p->head_seconds <= rest));
    const dsvk_status status = run_units(&f, p, n, head, err);
    if (status != DSVK_OK || head)
        p->ticket = 0;
    if (status != DSVK_OK) {
        cut_short(&p->run);
        return status;
    }
    p->seconds += f.seconds;
    if (n > 0)
        p->layer_seconds = f.seconds / n;
    else
        p->head_seconds = f.seconds;
    p->done = head;
    if (head) {
        append(&p->run);
        if (p->run.n == 1)
            dsvk_decode_measured(s->model, 1, p->seconds);
    } else if (s->high < s->n + p->run.n) {
        s->high = s->n + p->run.n; /* the logits are still those of the last token */
    }
    return DSVK_OK;
}

dsvk_status dsvk_step_part(dsvk_session *s, dsvk_part *p, const int32_t *tokens, double seconds, dsvk_error *err) {
    DSVK_TRY(dsvk_step_lock(s->model, err));
    const dsvk_status status = run_part(s, p, tokens, seconds, err);
    pthread_mutex_unlock(&s->model->step_lock);
    return status;
}

/* ---- sampling from kept logits ---- */

static dsvk_status sample_group(dsvk_model *m, dsvk_session *const *sessions, uint32_t n, const dsvk_sample_options *options,
                                int32_t *ids, dsvk_error *err) {
    uint64_t row_bytes = m->config.vocab_size * sizeof(float);
    DSVK_TRY(dsvk_cmd_begin(m->cmd, err));
    for (uint32_t i = 0; i < n; i++) {
        dsvk_fill_sample(&m->inbox.sample[i], options ? &options[i] : NULL, sessions[i]->n);
        dsvk_cmd_copy(m->cmd, &sessions[i]->logits, 0, &m->logits, i * row_bytes, row_bytes);
    }
    dsvk_barrier(m->cmd);
    DSVK_TRY(dsvk_edit_record(m, m->cmd, sessions, n, options, err));
    dsvk_sample(m->cmd, &(dsvk_sample_params){ .logits = m->logits.addr, .options = inbox_addr(m, m->inbox.sample),
                                               .out = m->outbox.addr, .n = n, .vocab = m->config.vocab_size });
    dsvk_barrier(m->cmd);
    DSVK_TRY(dsvk_cmd_run(m->cmd, err));
    memcpy(ids, m->outbox.host, n * sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        DSVK_TRY(dsvk_check_id(i, (uint32_t)ids[i], m->config.vocab_size, err));
    return DSVK_OK;
}

dsvk_status dsvk_step_sample(dsvk_model *m, dsvk_session *const *sessions, uint32_t n, const dsvk_sample_options *options,
                             int32_t *ids, dsvk_error *err) {
    dsvk_status status = DSVK_OK;
    DSVK_TRY(dsvk_step_lock(m, err));
    for (uint32_t first = 0; status == DSVK_OK && first < n; first += DSVK_LOGIT_ROWS) {
        uint32_t group = n - first < DSVK_LOGIT_ROWS ? n - first : DSVK_LOGIT_ROWS;
        status = sample_group(m, sessions + first, group, options ? options + first : NULL, ids + first, err);
    }
    pthread_mutex_unlock(&m->step_lock);
    return status;
}
