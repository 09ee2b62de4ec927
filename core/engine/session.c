/* A session: one timeline of tokens. The public calls check their arguments, take the session (one call at a time, else
 * BUSY), and turn what the caller wants into steps. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine.h"

#define CLOSE_S 5.0 /* how long close waits for a call that runs in another thread (faults A05) */

/* ---- opening ---- */

static dsvk_status open_buffers(dsvk_session *s, dsvk_error *err) {
    dsvk_device *device = s->model->device;
    uint64_t logits = s->model->config.vocab_size * sizeof(float);
    s->max_pages = (uint32_t)dsvk_ceil_div(s->context, s->model->layout.page_tokens);
    s->pages = dsvk_alloc_zero(s->max_pages, sizeof *s->pages);
    s->tokens = dsvk_alloc(s->context * sizeof *s->tokens);
    if (!s->pages || !s->tokens)
        return dsvk_fail_nomem(err, s->context * sizeof *s->tokens);
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, s->model->layout.state_bytes, "session state", &s->state, err));
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, s->max_pages * sizeof(dsvk_addr), "session page table", &s->page_table,
                                err));
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, logits, "session logits", &s->logits, err));
    if (s->mtp)
        DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, logits, "session MTP logits", &s->mtp_logits, err));
    return DSVK_OK;
}

dsvk_status dsvk_session_open(dsvk_session **session, dsvk_model *model, const dsvk_session_options *options,
                              dsvk_error *err) {
    if (session)
        *session = NULL;
    if (!session || !model)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_session_open: session and model must not be NULL");
    if (options && options->size != sizeof *options)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_session_options has size %zu, this library's is %zu", options->size,
                         sizeof *options);
    uint64_t most = model->config.max_positions, context = options && options->context ? options->context : most;
    if (context > most)
        return dsvk_fail(err, DSVK_INVALID, "a context of %llu tokens was asked for, the model has %llu positions",
                         (unsigned long long)context, (unsigned long long)most);
    DSVK_TRY(dsvk_check_switch("mtp", options ? options->mtp : 0, err));
    if (options && options->mtp && !model->mtp)
        return dsvk_fail(err, DSVK_INVALID, "mtp was asked for, the model has no MTP block");
    DSVK_TRY(dsvk_device_status(model->device, err));
    dsvk_session *s = dsvk_alloc_zero(1, sizeof *s);
    if (!s)
        return dsvk_fail_nomem(err, sizeof *s);
    s->model = dsvk_model_retain(model);
    s->context = context;
    s->mtp = options && options->mtp;
    s->progress = options ? options->progress : NULL;
    s->user = options ? options->user : NULL;
    atomic_init(&s->references, 1);
    atomic_flag_clear(&s->call.taken);
    atomic_flag_clear(&s->goal.poll.taken);
    dsvk_status status = open_buffers(s, err);
    if (status != DSVK_OK) {
        dsvk_session_close(s);
        return status;
    }
    *session = s;
    return DSVK_OK;
}

/* The last one out, be it the handle or a call that was still running, frees it. */
static void release(dsvk_session *s) {
    if (atomic_fetch_sub(&s->references, 1) > 1)
        return;
    dsvk_device *device = s->model->device;
    for (uint32_t i = 0; i < s->n_pages; i++)
        dsvk_page_release(s->model, s->pages[i]);
    dsvk_buffer_destroy(device, &s->state);
    dsvk_buffer_destroy(device, &s->page_table);
    dsvk_buffer_destroy(device, &s->logits);
    dsvk_buffer_destroy(device, &s->mtp_logits);
    dsvk_free(s->pages);
    dsvk_free(s->tokens);
    dsvk_edit_free(&s->edit);
    dsvk_goal_free(&s->goal);
    dsvk_model_close(s->model);
    dsvk_free(s);
}

/* ---- one call at a time ---- */

/* A number that no other thread has. */
static uintptr_t this_thread(void) {
    static _Thread_local char here;
    return (uintptr_t)&here;
}

dsvk_status dsvk_gate_take(dsvk_session *s, dsvk_gate *gate, dsvk_error *err) {
    DSVK_TRY(dsvk_device_own(s->model->device, err)); /* there the gate may be another's for good */
    atomic_fetch_add(&s->references, 1);
    if (atomic_flag_test_and_set(&gate->taken)) {
        release(s);
        return dsvk_fail(err, DSVK_BUSY, "another call is running on this session");
    }
    atomic_store(&gate->thread, this_thread());
    if (!atomic_load(&s->closed))
        return DSVK_OK;
    dsvk_gate_leave(s, gate);
    return dsvk_fail(err, DSVK_STATE, "the session is closed");
}

void dsvk_gate_leave(dsvk_session *s, dsvk_gate *gate) {
    atomic_store(&gate->thread, 0);
    atomic_flag_clear(&gate->taken);
    release(s);
}

static dsvk_status take(dsvk_session *s, dsvk_error *err) {
    if (!s)
        return dsvk_fail(err, DSVK_INVALID, "session must not be NULL");
    DSVK_TRY(dsvk_gate_take(s, &s->call, err));
    atomic_store(&s->cancel, false);
    dsvk_status status = dsvk_device_status(s->model->device, err);
    if (status != DSVK_OK)
        dsvk_gate_leave(s, &s->call);
    return status;
}

static void give_back(dsvk_session *s) { dsvk_gate_leave(s, &s->call); }

void dsvk_session_cancel(dsvk_session *s) {
    if (!s)
        return;
    atomic_store(&s->goal.cancel, true);
    atomic_store(&s->cancel, true);
}

/* Is this thread inside a call on it, and now in a callback? */
static bool inside(dsvk_session *s) {
    return atomic_load(&s->call.thread) == this_thread() || atomic_load(&s->goal.poll.thread) == this_thread();
}

void dsvk_session_close(dsvk_session *s) {
    if (!s)
        return;
    const struct timespec pause = { .tv_nsec = 1000000 };
    const double until = dsvk_now_s() + CLOSE_S;
    atomic_store(&s->closed, true);
    dsvk_session_cancel(s);
    if (dsvk_device_forked(s->model->device))
        atomic_store(&s->references, 1); /* the calls inside are the parent's */
    while (atomic_load(&s->references) > 1 && !inside(s) && dsvk_now_s() < until)
        nanosleep(&pause, NULL);
    release(s);
}

uint64_t dsvk_session_position(const dsvk_session *s) { return s ? s->n : 0; }
uint64_t dsvk_session_context(const dsvk_session *s) { return s ? s->context : 0; }

dsvk_status dsvk_session_tokens(dsvk_session *s, int32_t *tokens, dsvk_error *err) {
    if (!s)
        return dsvk_fail(err, DSVK_INVALID, "session must not be NULL");
    DSVK_TRY(dsvk_gate_take(s, &s->call, err)); /* of a lost device too */
    dsvk_status status = tokens || s->n == 0 ? DSVK_OK : dsvk_fail(err, DSVK_INVALID, "tokens must not be NULL");
    if (status == DSVK_OK && s->n > 0)
        memcpy(tokens, s->tokens, s->n * sizeof *tokens);
    give_back(s);
    return status;
}

dsvk_status dsvk_check_ids(const dsvk_model *m, const char *what, const int32_t *ids, size_t n, dsvk_error *err) {
    const uint32_t vocab = m->config.vocab_size;
    if (!ids && n)
        return dsvk_fail(err, DSVK_INVALID, "%ss must not be NULL when there are %zu of them", what, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return dsvk_fail(err, DSVK_INVALID, "%s %zu is %d, the vocabulary has ids 0 to %u", what, i, ids[i], vocab - 1);
    return DSVK_OK;
}

static dsvk_status check_fits(const dsvk_session *s, uint64_t old, uint64_t new, dsvk_error *err) {
    uint64_t n;
    if (!dsvk_add(old, new, &n))
        n = UINT64_MAX;
    if (n > s->context) /* T11: both counts, before any compute */
        return dsvk_fail(err, DSVK_LIMIT, "%llu tokens do not fit this session's context of %llu", (unsigned long long)n,
                         (unsigned long long)s->context);
    return DSVK_OK;
}

/* Room for n tokens behind `old` and n_more behind those, before any is looked at; then the tokens. */
static dsvk_status check_tokens(const dsvk_session *s, uint64_t old, const int32_t *tokens, size_t n, size_t n_more, dsvk_error *err) {
    DSVK_TRY(check_fits(s, old, n, err));
    DSVK_TRY(check_fits(s, old + n, n_more, err));
    return dsvk_check_ids(s->model, "token", tokens, n, err);
}

/* ---- extending and taking back ---- */

/* How far a call has come, for the caller's progress. */
typedef struct journey {
    dsvk_session **sessions;
    uint32_t n;
    const char *stage;
    uint64_t done, total;
} journey;

/* Does any session's owner want to stop? Asked between submits. */
static bool wants_to_stop(void *user) {
    const journey *j = user;
    bool stop = false;
    for (uint32_t i = 0; i < j->n; i++) {
        dsvk_session *s = j->sessions[i];
        stop |= atomic_load(&s->cancel) || atomic_load(&s->closed) ||
                (s->progress && s->progress(s->user, j->stage, j->done, j->total) != 0);
    }
    return stop;
}

static dsvk_status cancelled(const journey *j, dsvk_error *err) {
    return dsvk_fail(err, DSVK_CANCELLED, "cancelled after %llu of %llu tokens; the session stands at token %llu",
                     (unsigned long long)j->done, (unsigned long long)j->total, (unsigned long long)j->sessions[0]->n);
}

/* Appends tokens in chunks; between submits the caller can stop it. */
static dsvk_status extend(dsvk_session *s, const int32_t *tokens, uint64_t n, uint32_t chunk, float *logits, float *mtp_logits,
                          dsvk_error *err) {
    uint64_t vocab = s->model->config.vocab_size;
    journey j = { &s, 1, "tokens", 0, n };
    while (j.done < n) {
        uint32_t rows = n - j.done < chunk ? (uint32_t)(n - j.done) : chunk;
        dsvk_run run = { s, tokens + j.done, rows };
        dsvk_step_result result = { .logits = logits ? logits + j.done * vocab : NULL,
                                    .mtp_logits = mtp_logits ? mtp_logits + j.done * vocab : NULL,
                                    .stop = wants_to_stop, .user = &j };
        dsvk_status status = dsvk_step_run(s->model, &run, 1, &result, err);
        if (status == DSVK_CANCELLED)
            return cancelled(&j, err);
        DSVK_TRY(status);
        j.done += rows;
        if ((j.done < n || s->progress) && wants_to_stop(&j))
            return cancelled(&j, err);
    }
    return DSVK_OK;
}

/* Do the rings still hold what token n looks back to? */
static bool within_reach(const dsvk_session *s, uint64_t n) { return s->high - n <= DSVK_ROLLBACK; }

/* Takes the timeline back to its first n tokens if the rings still reach, else empties it. */
static void roll_back(dsvk_session *s, uint64_t n) {
    if (!within_reach(s, n))
        n = 0;
    if (n == 0)
        s->high = 0;
    if (n != s->n)
        s->have_logits = s->have_mtp_logits = false;
    s->n = n;
}

/* After a call that was cut short: runs what is missing again, so that rings and logits are those of the timeline. */
static dsvk_status settle(dsvk_session *s, dsvk_error *err) {
    uint64_t n = s->n;
    if (n == 0)
        s->high = 0;
    if (n == 0 || s->have_logits)
        return DSVK_OK;
    roll_back(s, n - 1);
    uint64_t kept = s->n;
    dsvk_status status = extend(s, s->tokens + kept, n - kept, s->model->options.max_chunk, NULL, NULL, err);
    if (status != DSVK_OK) { /* the timeline stays what it was; the next call tries again */
        s->high = s->high > n + DSVK_ROLLBACK + 1 ? s->high : n + DSVK_ROLLBACK + 1;
        s->n = n;
        s->have_logits = s->have_mtp_logits = false;
    }
    return status;
}

/* How much of the prefix tokens [n] stands already, so that sync computes only the rest. */
static uint64_t kept(const dsvk_session *s, const int32_t *tokens, uint64_t n) {
    uint64_t common = 0;
    while (common < n && common < s->n && tokens[common] == s->tokens[common])
        common++;
    if (common == n && n > 0 && !(s->n == n && s->have_logits))
        common = n - 1; /* the last token runs again for its logits */
    return within_reach(s, common) ? common : 0;
}

dsvk_status dsvk_session_kept(dsvk_session *s, const int32_t *tokens, uint64_t n, uint64_t *n_kept, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    *n_kept = kept(s, tokens, n);
    give_back(s);
    return DSVK_OK;
}

dsvk_status dsvk_session_part(dsvk_session *s, dsvk_part *part, const int32_t *tokens, uint64_t n, double seconds,
                              dsvk_error *err) {
    DSVK_TRY(take(s, err));
    roll_back(s, kept(s, tokens, n));
    dsvk_session *sessions[] = { s };
    journey j = { sessions, 1, "tokens", s->n, n };
    dsvk_status status = dsvk_step_part(s, part, tokens, seconds, err);
    if (status == DSVK_OK && wants_to_stop(&j))
        status = cancelled(&j, err);
    give_back(s);
    return status;
}

static dsvk_status sync(dsvk_session *s, const int32_t *tokens, uint64_t n, dsvk_error *err) {
    DSVK_TRY(check_tokens(s, 0, tokens, n, 0, err));
    roll_back(s, kept(s, tokens, n));
    return extend(s, tokens + s->n, n - s->n, s->model->options.max_chunk, NULL, NULL, err);
}

dsvk_status dsvk_session_sync(dsvk_session *s, const int32_t *tokens, size_t n, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = sync(s, tokens, n, err);
    give_back(s);
    return status;
}

static dsvk_status evaluate(dsvk_session *s, const int32_t *tokens, size_t n, size_t chunk, float *logits, float *mtp_logits,
                            dsvk_error *err) {
    uint32_t most = s->model->options.max_chunk;
    DSVK_TRY(check_tokens(s, s->n, tokens, n, 0, err));
    if (chunk > most)
        return dsvk_fail(err, DSVK_INVALID, "a chunk of %zu tokens was asked for, the model was opened with max_chunk %u", chunk,
                         most);
    if (mtp_logits && !s->mtp)
        return dsvk_fail(err, DSVK_INVALID, "MTP logits were asked for, the session was opened without mtp");
    DSVK_TRY(settle(s, err));
    return extend(s, tokens, n, chunk ? (uint32_t)chunk : most, logits, mtp_logits, err);
}

dsvk_status dsvk_session_evaluate(dsvk_session *s, const int32_t *tokens, size_t n, size_t chunk, float *logits,
                                  float *mtp_logits, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = evaluate(s, tokens, n, chunk, logits, mtp_logits, err);
    give_back(s);
    return status;
}

/* ---- logits ---- */

static dsvk_status read_logits(dsvk_session *s, bool mtp, float *out, dsvk_error *err) {
    if (!out)
        return dsvk_fail(err, DSVK_INVALID, "out must not be NULL");
    if (mtp && !s->mtp)
        return dsvk_fail(err, DSVK_INVALID, "MTP logits were asked for, the session was opened without mtp");
    DSVK_TRY(settle(s, err));
    if (mtp ? !s->have_mtp_logits : !s->have_logits)
        return dsvk_fail(err, DSVK_STATE, "there are no %slogits: the session has %llu tokens", mtp ? "MTP " : "",
                         (unsigned long long)s->n);
    return dsvk_buffer_read(s->model->device, mtp ? &s->mtp_logits : &s->logits, 0, out,
                            s->model->config.vocab_size * sizeof *out, err);
}

dsvk_status dsvk_session_logits(dsvk_session *s, float *out, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = read_logits(s, false, out, err);
    give_back(s);
    return status;
}

dsvk_status dsvk_session_mtp_logits(dsvk_session *s, float *out, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = read_logits(s, true, out, err);
    give_back(s);
    return status;
}

/* ---- decoding ---- */

#define MOST_PENALTY 100.0f
#define MOST_BIAS 1000.0f

dsvk_status dsvk_check_sampling(const dsvk_model *m, const dsvk_sample_options *o, dsvk_error *err) {
    const uint32_t vocab = m->config.vocab_size;
    if (o->size != sizeof *o)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_sample_options has size %zu, this library's is %zu", o->size, sizeof *o);
    if (!(o->temperature >= 0 && o->temperature <= 1e6f))
        return dsvk_fail(err, DSVK_INVALID, "temperature is %g, allowed are 0 to 1000000", (double)o->temperature);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return dsvk_fail(err, DSVK_INVALID, "top_p is %g, allowed are 0 to 1", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return dsvk_fail(err, DSVK_INVALID, "min_p is %g, allowed are 0 to 1", (double)o->min_p);
    if (o->n_stop > vocab)
        return dsvk_fail(err, DSVK_INVALID, "%zu stop ids for a vocabulary of %u", o->n_stop, vocab);
    DSVK_TRY(dsvk_check_ids(m, "stop id", o->stop, o->n_stop, err));
    DSVK_TRY(dsvk_check_ids(m, "mask_after: id", &o->mask_after, 1, err));
    if (o->generated_from > m->config.max_positions)
        return dsvk_fail(err, DSVK_INVALID, "generated_from is %llu, the model has %llu positions", (unsigned long long)o->generated_from,
                         (unsigned long long)m->config.max_positions);
    if (!(fabsf(o->frequency_penalty) <= MOST_PENALTY) || !(fabsf(o->presence_penalty) <= MOST_PENALTY))
        return dsvk_fail(err, DSVK_INVALID, "frequency_penalty is %g and presence_penalty %g, allowed are %g to %g",
                         (double)o->frequency_penalty, (double)o->presence_penalty, (double)-MOST_PENALTY, (double)MOST_PENALTY);
    if ((!o->bias && o->n_bias) || o->n_bias > vocab)
        return dsvk_fail(err, DSVK_INVALID, "%zu biases for a vocabulary of %u, and bias must not be NULL", o->n_bias, vocab);
    for (size_t i = 0; i < o->n_bias; i++)
        if (o->bias[i].id < 0 || (uint32_t)o->bias[i].id >= vocab || !(fabsf(o->bias[i].value) <= MOST_BIAS))
            return dsvk_fail(err, DSVK_INVALID, "bias %zu is %g for id %d, allowed are %g to %g for ids 0 to %u", i,
                             (double)o->bias[i].value, o->bias[i].id, (double)-MOST_BIAS, (double)MOST_BIAS, vocab - 1);
    return DSVK_OK;
}

dsvk_status dsvk_session_sample(dsvk_session *s, const dsvk_sample_options *options, int32_t *id, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = s->have_logits ? dsvk_edit_begin(s, options, err)
                                        : dsvk_fail(err, DSVK_STATE, "there are no logits to choose a token from");
    if (status == DSVK_OK)
        status = dsvk_edit_next(s, options, 0, err);
    if (status == DSVK_OK)
        status = dsvk_step_sample(s->model, &s, 1, options, id, err);
    give_back(s);
    return status;
}

dsvk_status dsvk_session_check_goal(const dsvk_session *s, const int32_t *tokens, size_t n, size_t n_decode,
                                    const dsvk_sample_options *options, dsvk_error *err) {
    if (n == 0)
        return dsvk_fail(err, DSVK_INVALID, "there are no tokens, at least one token is needed");
    DSVK_TRY(check_tokens(s, 0, tokens, n, n_decode, err));
    return options ? dsvk_check_sampling(s->model, options, err) : DSVK_OK;
}

#define SMALL_BATCH 32u

/* Room for the arrays of a batch of n. */
typedef struct batch_room {
    dsvk_session *sessions[SMALL_BATCH];
    dsvk_sample_options options[SMALL_BATCH];
    dsvk_run runs[SMALL_BATCH];
    int32_t ids[SMALL_BATCH];
    uint64_t start[SMALL_BATCH];
    uint32_t slot[SMALL_BATCH];
} batch_room;

static dsvk_status batch_open(dsvk_batch *b, batch_room *room, dsvk_session *const *sessions, size_t n,
                              const dsvk_sample_options *options, dsvk_error *err) {
    if (n <= SMALL_BATCH) {
        *b = (dsvk_batch){ room->sessions, room->options, room->runs, room->ids, room->start, room->slot, (uint32_t)n, 0 };
    } else {
        b->sessions = dsvk_alloc_zero(n, sizeof *b->sessions);
        b->options = dsvk_alloc_zero(n, sizeof *b->options);
        b->runs = dsvk_alloc_zero(n, sizeof *b->runs);
        b->ids = dsvk_alloc_zero(n, sizeof *b->ids);
        b->start = dsvk_alloc_zero(n, sizeof *b->start);
        b->slot = dsvk_alloc_zero(n, sizeof *b->slot);
        b->running = (uint32_t)n;
    }
    if (!b->sessions || !b->options || !b->runs || !b->ids || !b->start || !b->slot)
        return dsvk_fail_nomem(err, n * sizeof *b->options);
    for (size_t i = 0; i < n; i++) {
        b->sessions[i] = sessions[i];
        b->slot[i] = (uint32_t)i;
        b->start[i] = sessions[i]->n;
        b->options[i] = options ? options[i] : (dsvk_sample_options){ .size = sizeof *options };
        DSVK_TRY(dsvk_edit_begin(sessions[i], &b->options[i], err));
    }
    return DSVK_OK;
}

static void batch_close(dsvk_batch *b, const batch_room *room) {
    if (b->sessions == room->sessions)
        return;
    dsvk_free(b->sessions);
    dsvk_free(b->options);
    dsvk_free(b->runs);
    dsvk_free(b->ids);
    dsvk_free(b->start);
    dsvk_free(b->slot);
}

/* Takes out the sequences whose last token was a stop. */
static void drop_stopped(dsvk_batch *b) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->running; i++) {
        const dsvk_session *s = b->sessions[i];
        if (dsvk_is_stop(&b->options[i], s->tokens[s->n - 1]))
            continue;
        b->sessions[kept] = b->sessions[i];
        b->options[kept] = b->options[i];
        b->start[kept] = b->start[i];
        b->slot[kept++] = b->slot[i];
    }
    if (kept < b->running)
        b->ticket = 0;
    b->running = kept;
}

/* Hands out the tokens that are new, n places per sequence; the most any running sequence has. */
static uint64_t hand_out(const dsvk_batch *b, size_t n, int32_t *out, size_t *n_out) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < b->running; i++) {
        const dsvk_session *s = b->sessions[i];
        size_t *have = &n_out[b->slot[i]];
        const size_t now = s->n - b->start[i];
        memcpy(&out[b->slot[i] * n + *have], &s->tokens[b->start[i] + *have], (now - *have) * sizeof *out);
        *have = now;
        most = now > most ? now : most;
    }
    return most;
}

static dsvk_status decode_steps(dsvk_batch *b, size_t n, int32_t *out, size_t *n_out, dsvk_error *err) {
    journey j = { b->sessions, b->running, "decode", 0, n };
    while (j.done < n && b->running > 0) {
        bool asleep = false;
        for (uint32_t i = 0; i < b->running; i++) {
            DSVK_TRY(dsvk_edit_next(b->sessions[i], &b->options[i], b->slot[i], err));
            asleep |= b->sessions[i]->edit.asleep;
        }
        const size_t most = asleep && b->running > 1 ? 1 : n - j.done; /* so that all have as many, whichever wakes */
        dsvk_status status = dsvk_decode_run(b, most, wants_to_stop, &j, err);
        j.done = hand_out(b, n, out, n_out);
        if (status == DSVK_CANCELLED || (status == DSVK_OK && wants_to_stop(&j)))
            return cancelled(&j, err);
        DSVK_TRY(status);
        drop_stopped(b);
        j.n = b->running;
    }
    return DSVK_OK;
}

static dsvk_status check_batch(dsvk_session *const *sessions, size_t n_sessions, size_t n, const dsvk_sample_options *options,
                               dsvk_error *err) {
    const dsvk_model *m = sessions[0]->model;
    for (size_t i = 0; i < n_sessions; i++) {
        const dsvk_session *s = sessions[i];
        if (s->model != m)
            return dsvk_fail(err, DSVK_INVALID, "session %zu of the batch belongs to another model", i);
        if (s->n == 0)
            return dsvk_fail(err, DSVK_STATE, "session %zu has no tokens to continue from", i);
        DSVK_TRY(check_fits(s, s->n, n, err));
        if (options)
            DSVK_TRY(dsvk_check_sampling(m, &options[i], err));
    }
    return DSVK_OK;
}

dsvk_status dsvk_decode_batch(dsvk_session *const *sessions, size_t n_sessions, size_t n, const dsvk_sample_options *options,
                              int32_t *out, size_t *n_out, dsvk_error *err) {
    if (!sessions || !n_out || (!out && n) || n_sessions == 0)
        return dsvk_fail(err, DSVK_INVALID, "sessions, out and n_out must not be NULL, and there is at least one session");
    if (sessions[0] && n_sessions > sessions[0]->model->options.max_chunk)
        return dsvk_fail(err, DSVK_INVALID, "%zu sessions in one batch, the model was opened with max_chunk %u", n_sessions,
                         sessions[0]->model->options.max_chunk);
    size_t taken = 0;
    dsvk_status status = DSVK_OK;
    dsvk_batch b = { 0 };
    batch_room room;
    memset(n_out, 0, n_sessions * sizeof *n_out);
    while (status == DSVK_OK && taken < n_sessions) {
        status = take(sessions[taken], err);
        for (size_t i = 0; status == DSVK_BUSY && i < taken; i++)
            if (sessions[i] == sessions[taken])
                status = dsvk_fail(err, DSVK_INVALID, "session %zu of the batch is its session %zu once more", taken, i);
        taken += status == DSVK_OK;
    }
    if (status == DSVK_OK)
        status = check_batch(sessions, n_sessions, n, options, err);
    for (size_t i = 0; status == DSVK_OK && i < n_sessions; i++)
        status = settle(sessions[i], err);
    if (status == DSVK_OK)
        status = batch_open(&b, &room, sessions, n_sessions, options, err);
    if (status == DSVK_OK && n > 0)
        status = decode_steps(&b, n, out, n_out, err);
    batch_close(&b, &room);
    for (size_t i = 0; i < taken; i++)
        give_back(sessions[i]);
    return status;
}

dsvk_status dsvk_session_decode(dsvk_session *s, size_t n, const dsvk_sample_options *options, int32_t *out, size_t *n_out,
                                dsvk_error *err) {
    return dsvk_decode_batch(&s, 1, n, options, out, n_out, err);
}

dsvk_status dsvk_session_memory(const dsvk_session *s, char **json, dsvk_error *err) {
    if (!s || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_session_memory: session and json must not be NULL");
    DSVK_TRY(dsvk_device_own(s->model->device, err));
    uint64_t logits = s->logits.size + s->mtp_logits.size;
    return dsvk_json_text(json_pack("{s:I, s:I, s:I, s:I, s:I}", "state", (json_int_t)s->state.size, "pages",
                                    (json_int_t)(s->n_pages * s->model->layout.page_bytes), "page_table",
                                    (json_int_t)s->page_table.size, "logits", (json_int_t)logits, "page_tokens",
                                    (json_int_t)s->model->layout.page_tokens),
                          json, err);
}
