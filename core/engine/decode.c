/* Decoding: sequences choose and append tokens, one row each. A step is recorded once and replayed, several tokens per submit; the
 * host does nothing per token. What changes from token to token (tokens, positions, sampling, which rows have ended) stands
 * in a state block on the device, and `advance` moves it on between two tokens.
 *
 * One submit:   enter    the state as the host wrote it, and the sessions' logits
 *               edit     where the host has a say in some logits (logit_edit.c); then there is one token
 *               step     as many times as there are tokens: sample, advance, the whole forward pass, logits
 *               leave    the logits back to the sessions
 * `step` names no session, only addresses that live in the state, so it serves every batch of as many rows; its grids are
 * sized for a class of positions, the next power of two, and kernels look at the rows' own positions. Between submits the model
 * is free for other threads' steps, and everything there is to know is in the sessions again. */
#include <string.h>

#include "engine.h"

#define MOST_ROWS DSVK_LOGIT_ROWS
#define MOST_TOKENS 64u          /* of a submit */
#define MOST_TOKENS_STOP 8u      /* ... when a stop may come: what runs behind it is for nothing */
#define MOST_STOPS 1024u         /* stop ids of a batch that the device looks for; with more of them the host looks at every token */
#define FIRST_REACH 1024u        /* smallest class of positions */

_Static_assert(MOST_TOKENS + 3 <= DSVK_MOST_REPLAYS, "one submit");

/* The same in the inbox and on the device. */
struct decode_state {
    struct dsvk_row rows[MOST_ROWS];
    struct dsvk_seq seqs[MOST_ROWS];
    struct dsvk_sample_row sample[MOST_ROWS];
    struct dsvk_end_row ends[MOST_ROWS];
    uint32_t ids[MOST_ROWS];     /* the last chosen */
    uint32_t index_grid[4];
    uint32_t step, pad[3];       /* tokens of this submit so far */
    uint32_t stops[MOST_STOPS];
};

uint64_t dsvk_decode_scratch_bytes(void) { return dsvk_align(sizeof(struct decode_state), 256); }
uint64_t dsvk_decode_readback_bytes(void) { return MOST_TOKENS * MOST_ROWS * sizeof(uint32_t); }

dsvk_status dsvk_decode_open(dsvk_model *m, dsvk_error *err) {
    dsvk_decode *d = &m->decode;
    DSVK_TRY(dsvk_cmd_create(m->device, &d->enter, err));
    DSVK_TRY(dsvk_cmd_create(m->device, &d->edit, err));
    DSVK_TRY(dsvk_cmd_create(m->device, &d->step, err));
    DSVK_TRY(dsvk_cmd_create(m->device, &d->leave, err));
    dsvk_cmd_set_repeatable(d->step, true);
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_STAGING, dsvk_decode_scratch_bytes(), "decode inbox", &d->inbox, err));
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_SCRATCH, dsvk_decode_scratch_bytes(), "decode state", &d->state, err));
    return dsvk_buffer_create(m->device, DSVK_READBACK, dsvk_decode_readback_bytes(), "decoded ids", &d->chosen, err);
}

void dsvk_decode_close(dsvk_model *m) {
    dsvk_decode *d = &m->decode;
    dsvk_cmd_destroy(d->enter);
    dsvk_cmd_destroy(d->edit);
    dsvk_cmd_destroy(d->step);
    dsvk_cmd_destroy(d->leave);
    dsvk_buffer_destroy(m->device, &d->inbox);
    dsvk_buffer_destroy(m->device, &d->state);
    dsvk_buffer_destroy(m->device, &d->chosen);
}

bool dsvk_is_stop(const dsvk_sample_options *o, int32_t id) {
    for (size_t i = 0; i < o->n_stop; i++)
        if (o->stop[i] == id)
            return true;
    return false;
}

/* ---- how many tokens ---- */

/* What a row's host has to see at once: its stops, and what wakes its mask. */
static uint32_t n_ends(const dsvk_batch *b, uint32_t i) { return (uint32_t)b->options[i].n_stop + b->sessions[i]->edit.asleep; }

static bool ends(const dsvk_batch *b, uint32_t i, int32_t id) {
    return dsvk_is_stop(&b->options[i], id) || (b->sessions[i]->edit.asleep && id == b->options[i].mask_after);
}

/* Of one submit; 0: this batch goes token by token. The last token's time says how many are near the aim; more rows than it had
 * take at most so many times longer. A model whose tokens are not that quick needs submits that hold less than a token. */
static uint32_t tokens_of_submit(const dsvk_batch *b, uint64_t most) {
    const dsvk_decode *d = &b->sessions[0]->model->decode;
    const uint32_t n = b->running;
    size_t stops = 0;
    if (n > MOST_ROWS || d->token_seconds == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        if (b->sessions[i]->mtp) /* its block runs on pairs of rows, which step.c makes */
            return 0;
        stops += n_ends(b, i);
    }
    const double seconds = d->token_seconds * (n > d->token_rows ? (double)n / d->token_rows : 1);
    const double fit = DSVK_SUBMIT_AIM_S / seconds;
    if (fit < 1)
        return 0;
    const bool single = stops > MOST_STOPS || dsvk_any_edited(b->sessions, n);
    uint32_t tokens = single ? 1 : stops > 0 ? MOST_TOKENS_STOP : MOST_TOKENS;
    tokens = most < tokens ? (uint32_t)most : tokens;
    return fit < tokens ? (uint32_t)fit : tokens;
}

void dsvk_decode_measured(dsvk_model *m, uint32_t n, double seconds) {
    m->decode.token_seconds = seconds;
    m->decode.token_rows = n;
}

/* ---- recording ---- */

static dsvk_addr in_state(const dsvk_decode *d, size_t offset) { return d->state.addr + offset; }
#define IN_STATE(d, member) in_state(d, offsetof(struct decode_state, member))

static void count_stage(void *user) { ++*(uint32_t *)user; }

static void record_step(dsvk_model *m, uint32_t n, uint32_t positions) {
    dsvk_decode *d = &m->decode;
    const dsvk_config *c = &m->config;
    const dsvk_step step = { .n = n, .n_seqs = n, .positions = positions, .rows = IN_STATE(d, rows), .seqs = IN_STATE(d, seqs),
                             .index_grid = &d->state, .index_grid_offset = offsetof(struct decode_state, index_grid),
                             .between = count_stage, .user = &d->stages };
    d->stages = 0;
    dsvk_sample(d->step, &(dsvk_sample_params){ .logits = m->logits.addr, .options = IN_STATE(d, sample),
                                                .out = IN_STATE(d, ids), .n = n, .vocab = c->vocab_size });
    dsvk_barrier(d->step);
    dsvk_advance(d->step, &(dsvk_advance_params){
        .ids = IN_STATE(d, ids), .rows = step.rows, .seqs = step.seqs, .sample = IN_STATE(d, sample), .ends = IN_STATE(d, ends),
        .stops = IN_STATE(d, stops), .step = IN_STATE(d, step), .chosen = d->chosen.addr, .index_grid = IN_STATE(d, index_grid),
        .n = n, .vocab = c->vocab_size, .steps = MOST_TOKENS, .index_topk = c->index_topk, .max_visible = positions / 4 });
    dsvk_barrier_grids(d->step);
    dsvk_forward_begin(m, d->step, &step);
    for (uint32_t l = 0; l < c->n_layers; l++)
        dsvk_forward_layer(m, d->step, &step, l);
    dsvk_forward_head(m, d->step, n, 0, n, m->logits.addr, false);
}

/* A recording for positions below `reach`. One for up to twice the class of `positions` will do, so that sessions on both sides
 * of a power of two take turns in peace. */
static dsvk_status reserve_step(dsvk_model *m, uint32_t n, uint32_t positions, dsvk_error *err) {
    dsvk_decode *d = &m->decode;
    uint32_t reach = FIRST_REACH;
    while (reach < positions)
        reach *= 2;
    const bool fits = d->rows == n && d->positions >= reach && d->positions / 2 <= reach;
    DSVK_TRY(dsvk_scratch_reserve(m, n, fits ? d->positions : reach, err));
    const dsvk_decode_place place = { m->scratch.buffer.addr, m->scratch.rows, m->scratch.positions };
    if (fits && memcmp(&place, &d->place, sizeof place) == 0 && !dsvk_cmd_stale(d->step))
        return DSVK_OK;
    d->rows = 0; /* nothing until it is done */
    DSVK_TRY(dsvk_cmd_begin(d->step, err));
    record_step(m, n, reach);
    d->rows = n;
    d->positions = reach;
    d->place = place;
    return DSVK_OK;
}

/* The ways in and out, which name the sessions' buffers: recorded when the batch was not the last to use them. */
static dsvk_status reserve_ends(dsvk_batch *b, dsvk_error *err) {
    dsvk_model *m = b->sessions[0]->model;
    dsvk_decode *d = &m->decode;
    const uint64_t row_bytes = m->config.vocab_size * sizeof(float);
    if (b->ticket != 0 && b->ticket == d->ticket && !dsvk_cmd_stale(d->enter))
        return DSVK_OK;
    b->ticket = 0;
    DSVK_TRY(dsvk_cmd_begin(d->enter, err));
    DSVK_TRY(dsvk_cmd_begin(d->leave, err));
    dsvk_cmd_copy(d->enter, &d->inbox, 0, &d->state, 0, d->state.size);
    for (uint32_t i = 0; i < b->running; i++) {
        dsvk_cmd_copy(d->enter, &b->sessions[i]->logits, 0, &m->logits, i * row_bytes, row_bytes);
        dsvk_cmd_copy(d->leave, &m->logits, i * row_bytes, &b->sessions[i]->logits, 0, row_bytes);
    }
    b->ticket = ++d->ticket;
    return DSVK_OK;
}

/* ---- one submit ---- */

/* Pages for `tokens` more of every session. Where there is no memory for as many, for as many as there is. */
static dsvk_status reserve_pages(const dsvk_batch *b, uint32_t *tokens, uint32_t *positions, dsvk_error *err) {
    const dsvk_model *m = b->sessions[0]->model;
    *positions = 0;
    for (uint32_t i = 0; i < b->running; i++) {
        dsvk_session *s = b->sessions[i];
        dsvk_status status = dsvk_grow_pages(s, s->n + *tokens, err);
        const uint64_t room = (uint64_t)s->n_pages * m->layout.page_tokens - s->n;
        if (status != DSVK_OK && room == 0)
            return status;
        *tokens = room < *tokens ? (uint32_t)room : *tokens;
    }
    for (uint32_t i = 0; i < b->running; i++) {
        const uint64_t end = b->sessions[i]->n + *tokens;
        *positions = end > *positions ? (uint32_t)end : *positions;
    }
    return DSVK_OK;
}

/* Every session as it stands, its last token as if it had just run. */
static void write_inbox(const dsvk_batch *b, bool with_stops) {
    struct decode_state *in = b->sessions[0]->model->decode.inbox.host;
    uint32_t n_stops = 0;
    in->step = 0;
    for (uint32_t i = 0; i < b->running; i++) {
        const dsvk_session *s = b->sessions[i];
        const dsvk_sample_options *o = &b->options[i];
        const uint32_t last = (uint32_t)s->n - 1, stops = with_stops ? n_ends(b, i) : 0;
        in->rows[i] = (struct dsvk_row){ .token = (uint32_t)s->tokens[last], .position = last, .sequence = i, .first = i };
        in->seqs[i] = (struct dsvk_seq){ .state = s->state.addr, .pages = s->page_table.addr, .first = i, .rows = 1,
                                         .start = last };
        in->ends[i] = (struct dsvk_end_row){ .first_stop = n_stops, .n_stops = stops };
        dsvk_fill_sample(&in->sample[i], o, s->n);
        if (stops > 0 && o->n_stop > 0)
            memcpy(&in->stops[n_stops], o->stop, o->n_stop * sizeof *in->stops);
        n_stops += stops;
        if (stops > o->n_stop)
            in->stops[n_stops - 1] = (uint32_t)o->mask_after;
    }
}

/* Appends what the device has chosen, by the rules of `advance`. */
static dsvk_status take_chosen(const dsvk_batch *b, uint32_t tokens, dsvk_error *err) {
    const dsvk_model *m = b->sessions[0]->model;
    const uint32_t *ids = m->decode.chosen.host, n = b->running;
    bool ended[MOST_ROWS] = { false };
    for (uint32_t t = 0; t < tokens; t++, ids += n) {
        for (uint32_t i = 0; i < n; i++)
            if (!ended[i])
                DSVK_TRY(dsvk_check_id(i, ids[i], m->config.vocab_size, err));
        for (uint32_t i = 0; i < n; i++) {
            dsvk_session *s = b->sessions[i];
            if (ended[i])
                continue;
            s->tokens[s->n++] = (int32_t)ids[i];
            s->high = s->n > s->high ? s->n : s->high;
            ended[i] = ends(b, i, (int32_t)ids[i]);
        }
    }
    return DSVK_OK;
}

/* What the recording could not know: where the rows stood, of all tokens that ran. One that has ended stays where it is. */
static void count_units(const dsvk_batch *b, uint32_t tokens) {
    const dsvk_model *m = b->sessions[0]->model;
    const int32_t *ids = m->decode.chosen.host;
    uint64_t counts[DSVK_UNITS] = { 0 };
    for (uint32_t i = 0; i < b->running; i++) {
        uint32_t positions = (uint32_t)b->sessions[i]->n;
        bool ended = false;
        for (uint32_t t = 0; t < tokens; t++) {
            positions += !ended;
            dsvk_forward_count(&m->config, positions, counts);
            ended = ended || ends(b, i, ids[t * b->running + i]);
        }
    }
    dsvk_cmd_count(m->decode.step, counts);
}

static dsvk_status run_submit(dsvk_batch *b, uint32_t tokens, dsvk_error *err) {
    dsvk_model *m = b->sessions[0]->model;
    dsvk_decode *d = &m->decode;
    uint32_t positions;
    m->ticket++;
    DSVK_TRY(reserve_pages(b, &tokens, &positions, err));
    DSVK_TRY(dsvk_rope_table_cover(&m->rope[0], m->device, positions, err));
    DSVK_TRY(dsvk_rope_table_cover(&m->rope[1], m->device, positions, err));
    DSVK_TRY(reserve_step(m, b->running, positions, err));
    DSVK_TRY(reserve_ends(b, err));
    write_inbox(b, tokens > 1);
    dsvk_replay list[4] = { { d->enter, 1 } };
    uint32_t n_list = 1;
    if (dsvk_any_edited(b->sessions, b->running)) {
        DSVK_TRY(dsvk_cmd_begin(d->edit, err));
        DSVK_TRY(dsvk_edit_record(m, d->edit, b->sessions, b->running, b->options, err));
        list[n_list++] = (dsvk_replay){ d->edit, 1 };
    }
    list[n_list++] = (dsvk_replay){ d->step, tokens };
    list[n_list++] = (dsvk_replay){ d->leave, 1 };
    const double began = dsvk_now_s();
    dsvk_status status = dsvk_submit(list, n_list, err);
    if (status != DSVK_OK) {
        d->rows = 0; /* the recording may be what is wrong */
        b->ticket = 0;
        return status;
    }
    DSVK_TRY(dsvk_cmd_wait(d->enter, err)); /* all of them are done then */
    if (dsvk_cmd_profiled(d->step))
        count_units(b, tokens);
    for (uint32_t i = 1; i < n_list; i++)
        DSVK_TRY(dsvk_cmd_wait(list[i].cmd, err));
    const double token_seconds = (dsvk_now_s() - began) / tokens;
    dsvk_decode_measured(m, b->running, token_seconds);
    dsvk_stages_measured(m, d->stages, token_seconds);
    return take_chosen(b, tokens, err);
}

/* ---- token by token ---- */

static dsvk_status run_token(dsvk_batch *b, bool (*stop)(void *user), void *user, dsvk_error *err) {
    dsvk_model *m = b->sessions[0]->model;
    DSVK_TRY(dsvk_step_sample(m, b->sessions, b->running, b->options, b->ids, err));
    for (uint32_t i = 0; i < b->running; i++)
        b->runs[i] = (dsvk_run){ b->sessions[i], &b->ids[i], 1 };
    return dsvk_step_run(m, b->runs, b->running, &(dsvk_step_result){ .stop = stop, .user = user }, err);
}

dsvk_status dsvk_decode_run(dsvk_batch *b, uint64_t most, bool (*stop)(void *user), void *user, dsvk_error *err) {
    dsvk_model *m = b->sessions[0]->model;
    DSVK_TRY(dsvk_step_lock(m, err));
    const uint32_t tokens = tokens_of_submit(b, most);
    dsvk_status status = tokens > 0 ? run_submit(b, tokens, err) : DSVK_OK;
    pthread_mutex_unlock(&m->step_lock);
    return tokens > 0 ? status : run_token(b, stop, user, err);
}
