/* A session's work in slices. The goal is a list of tokens to be at, which grows by what is decoded; a slice either brings the
 * timeline nearer to it, or, when the session is there, decodes some tokens more. So it does not matter what other calls did to
 * the timeline in between.
 *
 * Where the last step or token would have fitted into the time that is left, a slice is a whole call of sync or decode, sized by
 * that, at most twice as large. Time per token falls with the size of a slice, so an estimate from a smaller one errs to the
 * safe side. Where not, or where nothing is known yet, it is a part of a step of few rows: some layers; and a token is decoded by
 * choosing it, after which it is one more to be at. */
#include <string.h>

#include "engine.h"

void dsvk_goal_free(dsvk_goal *g) {
    dsvk_free(g->tokens);
    dsvk_free((void *)g->options.stop);
    dsvk_free((void *)g->options.bias);
    g->tokens = NULL;
    g->options = (dsvk_sample_options){ 0 };
}

static dsvk_status take(dsvk_session *s, dsvk_error *err) {
    return s ? dsvk_gate_take(s, &s->goal.poll, err) : dsvk_fail(err, DSVK_INVALID, "session must not be NULL");
}

static dsvk_status begin(dsvk_session *s, const int32_t *tokens, size_t n, size_t n_decode, const dsvk_sample_options *options,
                         dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    const dsvk_sample_options defaults = { .size = sizeof defaults };
    DSVK_TRY(dsvk_session_check_goal(s, tokens, n, n_decode, options, err));
    options = options ? options : &defaults;
    const size_t bytes = (n + n_decode) * sizeof *tokens, stop_bytes = options->n_stop * sizeof *options->stop;
    const size_t bias_bytes = options->n_bias * sizeof *options->bias;
    int32_t *own = dsvk_alloc(bytes), *stop = options->n_stop ? dsvk_alloc(stop_bytes) : NULL;
    dsvk_logit_bias *bias = options->n_bias ? dsvk_alloc(bias_bytes) : NULL;
    if (!own || (options->n_stop && !stop) || (options->n_bias && !bias)) {
        dsvk_free(own);
        dsvk_free(stop);
        dsvk_free(bias);
        return dsvk_fail_nomem(err, bytes + stop_bytes + bias_bytes);
    }
    memcpy(own, tokens, n * sizeof *own);
    if (stop)
        memcpy(stop, options->stop, stop_bytes);
    if (bias)
        memcpy(bias, options->bias, bias_bytes);
    dsvk_goal_free(g);
    g->tokens = own;
    g->n = g->told = n;
    g->end = n + n_decode;
    g->stopped = false;
    g->part.ticket = 0;
    g->options = *options;
    g->options.stop = stop;
    g->options.bias = bias;
    g->options.generated_from = options->generated_from ? options->generated_from : n;
    return DSVK_OK;
}

dsvk_status dsvk_session_begin(dsvk_session *s, const int32_t *tokens, size_t n, size_t n_decode,
                               const dsvk_sample_options *options, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    dsvk_status status = dsvk_gate_take(s, &s->call, err); /* not from inside another call's callback either */
    if (status == DSVK_OK) {
        status = begin(s, tokens, n, n_decode, options, err);
        dsvk_gate_leave(s, &s->call);
    }
    dsvk_gate_leave(s, &s->goal.poll);
    return status;
}

/* ---- slices ---- */

/* How many tokens, at least one and at most `most`, fit into so many seconds. */
static uint64_t fitting(const dsvk_pace *pace, double seconds, uint64_t most) {
    if (pace->n == 0)
        return 1;
    double n = (double)pace->n * seconds / pace->seconds;
    n = n < 2 * (double)pace->n ? n : 2 * (double)pace->n;
    n = n < (double)most ? n : (double)most;
    return n < 1 ? 1 : (uint64_t)n;
}

static void measured(dsvk_pace *pace, uint64_t n, double seconds) {
    if (n > 0)
        *pace = (dsvk_pace){ n, seconds > 1e-6 ? seconds : 1e-6 };
}

static uint64_t at_most(uint64_t n, uint64_t most) { return n < most ? n : most; }

/* Nearer to the tokens known, of which `there` stand, by a whole step. */
static dsvk_status prefill_step(dsvk_session *s, uint64_t there, double seconds, bool *arrived, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    const uint64_t missing = g->n - there, rows = fitting(&g->prefill, seconds, at_most(missing, s->model->options.max_chunk));
    const double began = dsvk_now_s();
    DSVK_TRY(dsvk_session_sync(s, g->tokens, there + rows, err));
    measured(&g->prefill, rows, dsvk_now_s() - began);
    *arrived = rows == missing;
    return DSVK_OK;
}

/* The same by a part of one. */
static dsvk_status prefill_part(dsvk_session *s, uint64_t there, double seconds, bool *arrived, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    dsvk_part *part = &g->part;
    const uint64_t missing = g->n - there, most = at_most(DSVK_ROLLBACK, s->model->options.max_chunk);
    part->rows = (uint32_t)fitting(&g->layer, seconds, at_most(missing, most));
    DSVK_TRY(dsvk_session_part(s, part, g->tokens, g->n, seconds, err));
    measured(&g->layer, part->run.n, part->layer_seconds);
    if (!part->done)
        return DSVK_OK;
    measured(&g->prefill, part->run.n, part->seconds);
    if (part->run.n == 1)
        measured(&g->decode, 1, part->seconds);
    *arrived = part->run.n == missing;
    return DSVK_OK;
}

static dsvk_status decode(dsvk_session *s, double seconds, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    const uint64_t wanted = fitting(&g->decode, seconds, g->end - g->n);
    size_t n = 0;
    const double began = dsvk_now_s();
    dsvk_status status = dsvk_session_decode(s, wanted, &g->options, g->tokens + g->n, &n, err);
    g->n += n; /* what came before a failure counts */
    g->stopped = n > 0 && dsvk_is_stop(&g->options, g->tokens[g->n - 1]);
    if (status == DSVK_OK)
        measured(&g->decode, n, dsvk_now_s() - began);
    return status;
}

static dsvk_status choose(dsvk_session *s, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    DSVK_TRY(dsvk_session_sample(s, &g->options, &g->tokens[g->n], err));
    g->stopped = dsvk_is_stop(&g->options, g->tokens[g->n++]);
    return DSVK_OK;
}

static bool decoded_all(const dsvk_goal *g) { return g->n == g->end || g->stopped; }

/* One slice, if there is anything to do. */
static dsvk_status slice(dsvk_session *s, double seconds, bool *finished, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    const bool step_fits = g->prefill.n > 0 && g->prefill.seconds <= seconds;
    const bool token_fits = g->decode.n > 0 && g->decode.seconds <= seconds * (double)g->decode.n;
    uint64_t there;
    DSVK_TRY(dsvk_session_kept(s, g->tokens, g->n, &there, err));
    bool arrived = there == g->n;
    if (!arrived)
        DSVK_TRY(step_fits ? prefill_step(s, there, seconds, &arrived, err) : prefill_part(s, there, seconds, &arrived, err));
    else if (!decoded_all(g) && token_fits)
        DSVK_TRY(decode(s, seconds, err));
    else if (!decoded_all(g)) {
        DSVK_TRY(choose(s, err));
        arrived = false;
    }
    *finished = arrived && decoded_all(g);
    return DSVK_OK;
}

static dsvk_status poll(dsvk_session *s, uint64_t budget_us, dsvk_poll_result *result, dsvk_error *err) {
    dsvk_goal *g = &s->goal;
    if (!g->tokens)
        return dsvk_fail(err, DSVK_STATE, "the session has no goal to be polled towards: begin states one");
    const double end = dsvk_now_s() + 1e-6 * (double)budget_us;
    double left = 1e-6 * (double)budget_us;
    bool finished;
    do {
        DSVK_TRY(slice(s, left, &finished, err));
        if (atomic_load(&g->cancel))
            return dsvk_fail(err, DSVK_CANCELLED, "cancelled; the session stands at token %llu", (unsigned long long)s->n);
        left = end - dsvk_now_s();
    } while (!finished && left > 0 && left >= g->layer.seconds);
    *result = (dsvk_poll_result){ g->tokens + g->told, g->n - g->told, finished, g->stopped };
    g->told = g->n;
    return DSVK_OK;
}

dsvk_status dsvk_session_poll(dsvk_session *s, uint64_t budget_us, dsvk_poll_result *result, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    atomic_store(&s->goal.cancel, false);
    dsvk_status status =
        result ? poll(s, budget_us, result, err) : dsvk_fail(err, DSVK_INVALID, "result must not be NULL");
    dsvk_gate_leave(s, &s->goal.poll);
    return status;
}
