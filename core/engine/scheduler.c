/* The scheduler: which sequence runs next, and what to do when memory is short. A step does at most one piece of prefill and one
 * submit of decoding.
 *
 * Same bits whoever else runs. Rows of a step below DSVK_CHUNK rows are computed independently of each other, in whatever company
 * (ops.h); steps of more rows use other kernels. So a prompt is cut at multiples of the chunk, and pieces of DSVK_CHUNK rows or
 * more run alone; shorter ones (short prompts, the ends of long ones) may share a step of fewer rows in all. A sequence that had to
 * give its memory away runs its prompt in the same pieces again, then its own tokens as rows of short steps, which is what
 * decoding computed.
 *
 * Threads: `lock` guards the list's links, the counts and the report's numbers; everything else of a sequence belongs to the
 * thread that is in step or next. */
#include <string.h>

#include "sequence.h"

#define MOST_RUNNING DSVK_LOGIT_ROWS
#define DEFAULT_WAITING 1024u
#define DEFAULT_BURST 8u
#define MOST_BURST 64u
#define KEEP_CHUNKS 8u /* a long prompt is kept every so many chunks */

struct counts {
    uint64_t unfinished, running, steps, finished, preempted, prompt_tokens, cached_tokens, completion_tokens, hits, misses;
    uint64_t cache_bytes, cache_entries, cache_evicted;
};

struct dsvk_scheduler {
    dsvk_model *model;
    dsvk_scheduler_options options; /* resolved */
    uint32_t short_rows;            /* most rows of a step that sequences share */
    pthread_mutex_t lock;
    bool lock_made;
    dsvk_sequence *first, **last;   /* every sequence that has not told its end */
    uint64_t last_id;
    struct counts counts;
    atomic_flag busy;               /* a step or next is running */

    dsvk_sequence **told;           /* the link where next goes on */
    dsvk_sequence *running[MOST_RUNNING];
    uint32_t n_running;
    uint32_t turn;                  /* whose piece of prefill comes first */
    bool hold;                      /* memory is short: nobody begins until somebody has finished */
    dsvk_prefix_tree tree;
    float *logits;                  /* [vocab] for log-probabilities; made when first asked for */
    /* one decode batch */
    dsvk_session *sessions[MOST_RUNNING];
    dsvk_sample_options sampling[MOST_RUNNING];
    dsvk_run runs[MOST_RUNNING];
    int32_t ids[MOST_RUNNING];
    uint64_t start[MOST_RUNNING];
    uint32_t slot[MOST_RUNNING];
};

/* ---- opening ---- */

static dsvk_status resolve(dsvk_scheduler_options *o, const dsvk_model *m, const dsvk_scheduler_options *from, dsvk_error *err) {
    *o = from ? *from : (dsvk_scheduler_options){ .size = sizeof *o };
    if (o->size != sizeof *o)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_scheduler_options has size %zu, this library's is %zu", o->size, sizeof *o);
    o->context = o->context ? o->context : m->config.max_positions;
    DSVK_TRY(dsvk_check_switch("no_cache", o->no_cache, err));
    o->max_running = o->max_running ? o->max_running : MOST_RUNNING;
    o->max_waiting = o->max_waiting ? o->max_waiting : DEFAULT_WAITING;
    o->chunk = o->chunk ? o->chunk : m->options.max_chunk;
    o->burst = o->burst ? o->burst : DEFAULT_BURST;
    if (o->context > m->config.max_positions)
        return dsvk_fail(err, DSVK_INVALID, "a context of %llu tokens was asked for, the model has %u positions",
                         (unsigned long long)o->context, m->config.max_positions);
    if (o->max_running > MOST_RUNNING || o->max_running > m->options.max_chunk)
        return dsvk_fail(err, DSVK_INVALID, "max_running is %u, allowed are 1 to %u and at most max_chunk, %u", o->max_running,
                         MOST_RUNNING, m->options.max_chunk);
    if (o->chunk > m->options.max_chunk)
        return dsvk_fail(err, DSVK_INVALID, "chunk is %u, the model was opened with max_chunk %u", o->chunk, m->options.max_chunk);
    if (o->burst > MOST_BURST)
        return dsvk_fail(err, DSVK_INVALID, "burst is %u, allowed are 1 to %u", o->burst, MOST_BURST);
    if (o->cache_bytes == 0)
        o->cache_bytes = dsvk_purpose_available(m->device, DSVK_CACHE) / 4;
    return DSVK_OK;
}

dsvk_status dsvk_scheduler_open(dsvk_scheduler **scheduler, dsvk_model *model, const dsvk_scheduler_options *options,
                                dsvk_error *err) {
    if (scheduler)
        *scheduler = NULL;
    if (!scheduler || !model)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_scheduler_open: scheduler and model must not be NULL");
    dsvk_scheduler_options resolved;
    DSVK_TRY(resolve(&resolved, model, options, err));
    DSVK_TRY(dsvk_device_status(model->device, err));
    dsvk_scheduler *s = dsvk_alloc_zero(1, sizeof *s);
    if (!s)
        return dsvk_fail_nomem(err, sizeof *s);
    s->model = dsvk_model_retain(model);
    s->options = resolved;
    s->short_rows = model->options.max_chunk < DSVK_CHUNK ? model->options.max_chunk : DSVK_CHUNK - 1;
    s->last = s->told = &s->first;
    s->tree.budget = resolved.cache_bytes;
    atomic_flag_clear(&s->busy);
    s->lock_made = pthread_mutex_init(&s->lock, NULL) == 0;
    if (!s->lock_made) {
        dsvk_scheduler_close(s);
        return dsvk_fail(err, DSVK_NOMEM, "a lock could not be made");
    }
    *scheduler = s;
    return DSVK_OK;
}

void dsvk_scheduler_close(dsvk_scheduler *s) {
    if (!s)
        return;
    for (dsvk_sequence *q = s->first, *next; q; q = next) {
        next = q->next;
        dsvk_sequence_close(q);
    }
    while (dsvk_prefix_evict(&s->tree))
        ;
    if (s->lock_made)
        pthread_mutex_destroy(&s->lock);
    dsvk_free(s->logits);
    dsvk_model_close(s->model);
    dsvk_free(s);
}

/* ---- from any thread; in a forked child the lock may be another's for good ---- */

static dsvk_status open_sequences(const dsvk_scheduler *s, dsvk_request *r, dsvk_sequence **first, dsvk_sequence **last,
                                  dsvk_error *err) {
    *first = *last = NULL;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        dsvk_sequence *q;
        dsvk_status status = dsvk_sequence_open(&q, r, i, s->model->tokenizer, err);
        if (status != DSVK_OK) {
            for (; *first; *first = q) {
                q = (*first)->next;
                dsvk_sequence_close(*first);
            }
            return status;
        }
        *(*last ? &(*last)->next : first) = q;
        *last = q;
    }
    return DSVK_OK;
}

dsvk_status dsvk_scheduler_submit(dsvk_scheduler *s, const dsvk_request_options *options, uint64_t *request, dsvk_error *err) {
    if (!s || !options || !request)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_scheduler_submit: scheduler, options and request must not be NULL");
    dsvk_request *r = NULL;
    dsvk_sequence *first, *last;
    DSVK_TRY(dsvk_device_status(s->model->device, err));
    DSVK_TRY(dsvk_request_open(&r, s->model, options, s->options.context, err));
    dsvk_status status = open_sequences(s, r, &first, &last, err);
    if (status != DSVK_OK) {
        dsvk_request_release(r);
        return status;
    }
    const uint64_t most = (uint64_t)s->options.max_running + s->options.max_waiting;
    pthread_mutex_lock(&s->lock);
    const uint64_t unfinished = s->counts.unfinished;
    if (unfinished < most) {
        *request = r->id = ++s->last_id;
        s->counts.unfinished += r->n_choices;
        *s->last = first;
        s->last = &last->next;
        dsvk_request_release(r); /* its sequences have it */
        r = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    if (!r)
        return DSVK_OK;
    for (dsvk_sequence *q = first; q; q = first) {
        first = q->next;
        dsvk_sequence_close(q);
    }
    dsvk_request_release(r);
    return dsvk_fail(err, DSVK_BUSY, "%llu sequences run or wait, allowed are %llu", (unsigned long long)unfinished,
                     (unsigned long long)most);
}

void dsvk_scheduler_cancel(dsvk_scheduler *s, uint64_t request) {
    if (!s || dsvk_device_forked(s->model->device))
        return;
    pthread_mutex_lock(&s->lock);
    for (dsvk_sequence *q = s->first; q; q = q->next)
        if (request == 0 || q->request->id == request)
            atomic_store(&q->request->cancelled, true);
    pthread_mutex_unlock(&s->lock);
}

void dsvk_scheduler_pause(dsvk_scheduler *s, uint64_t request, uint32_t paused) {
    if (!s || dsvk_device_forked(s->model->device))
        return;
    pthread_mutex_lock(&s->lock);
    for (dsvk_sequence *q = s->first; q; q = q->next)
        if (q->request->id == request)
            atomic_store(&q->request->paused, paused != 0);
    pthread_mutex_unlock(&s->lock);
}

dsvk_status dsvk_scheduler_report(dsvk_scheduler *s, char **json, dsvk_error *err) {
    if (!s || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_scheduler_report: scheduler and json must not be NULL");
    DSVK_TRY(dsvk_device_own(s->model->device, err));
    pthread_mutex_lock(&s->lock);
    const struct counts c = s->counts;
    pthread_mutex_unlock(&s->lock);
    return dsvk_json_text(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "waiting",
                                    (json_int_t)(c.unfinished - c.running), "running", (json_int_t)c.running, "steps",
                                    (json_int_t)c.steps, "finished", (json_int_t)c.finished, "preempted", (json_int_t)c.preempted,
                                    "prompt_tokens", (json_int_t)c.prompt_tokens, "cached_tokens", (json_int_t)c.cached_tokens,
                                    "completion_tokens", (json_int_t)c.completion_tokens, "cache", "bytes",
                                    (json_int_t)c.cache_bytes, "budget", (json_int_t)(s->options.no_cache ? 0 : s->tree.budget),
                                    "entries", (json_int_t)c.cache_entries, "evicted", (json_int_t)c.cache_evicted, "hits",
                                    (json_int_t)c.hits, "misses", (json_int_t)c.misses),
                          json, err);
}

/* ---- ends ---- */

static void count(dsvk_scheduler *s, uint64_t *counter, uint64_t n) {
    pthread_mutex_lock(&s->lock);
    *counter += n;
    pthread_mutex_unlock(&s->lock);
}

/* Takes a sequence's memory away. */
static void stop_running(dsvk_scheduler *s, dsvk_sequence *q) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        if (s->running[i] != q)
            s->running[kept++] = s->running[i];
    s->n_running = kept;
    dsvk_session_close(q->session);
    q->session = NULL;
}

static void retire(dsvk_scheduler *s, dsvk_sequence *q) {
    stop_running(s, q);
    q->phase = DSVK_FINISHED;
    s->hold = false;
    pthread_mutex_lock(&s->lock);
    s->counts.unfinished--;
    s->counts.finished++;
    pthread_mutex_unlock(&s->lock);
}

static void fail(dsvk_scheduler *s, dsvk_sequence *q, const dsvk_error *why) {
    dsvk_sequence_finish(q, DSVK_FINISH_ERROR);
    q->error = *why;
    q->request->prompt_ran = true; /* its other choices try for themselves */
    retire(s, q);
}

/* ---- memory ---- */

/* After DEVMEM: lets go of a kept prefix, or of the session of the sequence that came last, which waits and runs again. The only
 * one that runs has nobody to wait for. */
static void make_room(dsvk_scheduler *s, const dsvk_error *why) {
    if (dsvk_prefix_evict(&s->tree) || s->n_running == 0)
        return;
    dsvk_sequence *youngest = s->running[0];
    for (uint32_t i = 1; i < s->n_running; i++) {
        dsvk_sequence *q = s->running[i];
        if (q->request->id > youngest->request->id || (q->request == youngest->request && q->choice > youngest->choice))
            youngest = q;
    }
    if (s->n_running == 1) {
        fail(s, youngest, why);
        return;
    }
    stop_running(s, youngest);
    youngest->phase = DSVK_WAITING;
    s->hold = true;
    count(s, &s->counts.preempted, 1);
}

/* A step that was cut short has left its rings ahead of it, further than it can run again from. One that decodes needs its logits,
 * too, and has never taken tokens back. */
static bool cannot_go_on(const dsvk_sequence *q) {
    return q->session->high - q->session->n > (q->phase == DSVK_PREFILL ? DSVK_ROLLBACK : 0);
}

/* DEVMEM of a step of these: before the device began it has changed nothing, and is tried again when there is room. Later it has
 * left sessions that cannot go on. */
static void out_of_memory(dsvk_scheduler *s, dsvk_sequence *const *chosen, uint32_t n, const dsvk_error *why) {
    bool begun = false;
    for (uint32_t i = 0; i < n; i++) {
        if (!cannot_go_on(chosen[i]))
            continue;
        fail(s, chosen[i], why);
        begun = true;
    }
    if (!begun)
        make_room(s, why);
}

/* Keeps the session's timeline, when there is memory for it. Tokens [session->n]. */
static dsvk_snapshot *keep(dsvk_scheduler *s, const dsvk_sequence *q, dsvk_snapshot_kind kind) {
    dsvk_snapshot *p = NULL;
    if (s->options.no_cache || dsvk_snapshot_take(&p, q->session, kind, NULL) != DSVK_OK)
        return NULL;
    dsvk_prefix_keep(&s->tree, q->request->cache_key, q->session->tokens, p, NULL);
    return p;
}

/* ---- beginning ---- */

static uint32_t running_of(const dsvk_scheduler *s, uint64_t owner) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_running; i++)
        n += s->running[i]->request->owner == owner;
    return n;
}

static bool comes_before(const dsvk_scheduler *s, const dsvk_sequence *a, const dsvk_sequence *b) {
    if (a->request->priority != b->request->priority)
        return a->request->priority > b->request->priority;
    return running_of(s, a->request->owner) < running_of(s, b->request->owner);
}

/* The other choices of a request wait for the first one to run the prompt. */
static bool may_begin(const dsvk_sequence *q) { return q->phase == DSVK_WAITING && (q->choice == 0 || q->request->prompt_ran); }

static dsvk_sequence *next_to_begin(dsvk_scheduler *s) {
    dsvk_sequence *best = NULL;
    pthread_mutex_lock(&s->lock);
    for (dsvk_sequence *q = s->first; q; q = q->next)
        if (may_begin(q) && (!best || comes_before(s, q, best)))
            best = q;
    pthread_mutex_unlock(&s->lock);
    return best;
}

/* Every token of the prompt is to be computed. */
static bool wants_scores(const dsvk_sequence *q) { return q->prompt_scores.logprobs != NULL; }

/* What the prompt goes on from, and at which of its tokens. */
static dsvk_snapshot *find_kept(dsvk_scheduler *s, dsvk_sequence *q, uint64_t *at, uint64_t *common) {
    const dsvk_request *r = q->request;
    *at = *common = 0;
    if (wants_scores(q))
        return NULL;
    if (r->fork) {
        *at = r->n_prompt;
        return r->fork;
    }
    return s->options.no_cache ? NULL : dsvk_prefix_find(&s->tree, r->cache_key, r->prompt, r->n_prompt, r->exact, at, common);
}

/* A kept prefix is held while it is used: making room for it must not take it away. */
static dsvk_status open_session(dsvk_scheduler *s, dsvk_sequence *q, dsvk_snapshot *kept, uint64_t at, dsvk_error *err) {
    const dsvk_request *r = q->request;
    const dsvk_session_options options = { .size = sizeof options, .context = r->n_prompt + r->limit };
    dsvk_session *session = NULL;
    dsvk_status status = dsvk_session_open(&session, s->model, &options, err);
    if (status == DSVK_OK && kept)
        status = dsvk_snapshot_restore(kept, session, r->prompt, at, err);
    if (status == DSVK_OK)
        status = dsvk_edit_begin(session, &r->sampling, err);
    if (status == DSVK_OK)
        q->session = session;
    else
        dsvk_session_close(session);
    return status;
}

static void begin_counting(dsvk_scheduler *s, dsvk_sequence *q, uint64_t at) {
    dsvk_request *r = q->request;
    q->begun = true;
    if (++r->n_begun == r->n_choices) {
        dsvk_snapshot_release(r->fork);
        r->fork = NULL;
    }
    if (q->choice > 0) /* a prompt counts once */
        return;
    r->cached = at;
    pthread_mutex_lock(&s->lock);
    s->counts.prompt_tokens += r->n_prompt;
    s->counts.cached_tokens += r->cached;
    *(at > 0 ? &s->counts.hits : &s->counts.misses) += 1;
    pthread_mutex_unlock(&s->lock);
}

/* The timeline: the prompt, then what was generated before the sequence had to wait. */
static uint64_t timeline(const dsvk_sequence *q) { return q->request->n_prompt + q->n_ids; }

/* What a snapshot of this sequence's prompt would hold. */
static dsvk_snapshot_kind kind_at(const dsvk_scheduler *s, const dsvk_sequence *q) {
    const uint64_t n = q->session->n;
    return !q->exact ? DSVK_SNAPSHOT_ANY : n % s->options.chunk == 0 ? DSVK_SNAPSHOT_CUT : DSVK_SNAPSHOT_WHOLE;
}

/* The session stands at the end of the prompt, for the first time or again: keeps it, for later prompts and for the other choices.
 * `kept`: where it was found kept, or NULL. */
static void at_prompt_end(dsvk_scheduler *s, dsvk_sequence *q, dsvk_snapshot *kept) {
    dsvk_request *r = q->request;
    if (q->session->n == timeline(q))
        q->phase = DSVK_DECODE;
    if (r->prompt_ran)
        return;
    r->prompt_ran = true;
    dsvk_snapshot *p = kept ? dsvk_snapshot_retain(kept) : keep(s, q, kind_at(s, q));
    if (r->n_begun < r->n_choices && (p || dsvk_snapshot_take(&p, q->session, kind_at(s, q), NULL) == DSVK_OK))
        r->fork = dsvk_snapshot_retain(p);
    dsvk_snapshot_release(p);
}

/* Where there is no memory for it now, it waits on. */
static void begin(dsvk_scheduler *s, dsvk_sequence *q) {
    const dsvk_request *r = q->request;
    uint64_t at, common;
    dsvk_error err;
    dsvk_snapshot *kept = find_kept(s, q, &at, &common);
    if (kept)
        dsvk_snapshot_retain(kept);
    dsvk_status status = open_session(s, q, kept, at, &err);
    while (status == DSVK_DEVMEM && dsvk_prefix_evict(&s->tree))
        status = open_session(s, q, kept, at, &err);
    if (status == DSVK_OK) {
        const uint64_t cut = common / s->options.chunk * s->options.chunk;
        q->exact = at == 0 || (at == kept->n && (kept->kind == DSVK_SNAPSHOT_CUT ||
                                                 (kept->kind == DSVK_SNAPSHOT_WHOLE && at == r->n_prompt)));
        q->keep_at = cut > at ? cut : 0;
        q->phase = DSVK_PREFILL;
        q->prompt_done = at;
        s->running[s->n_running++] = q;
        if (!q->begun)
            begin_counting(s, q, at);
        if (at == r->n_prompt)
            at_prompt_end(s, q, kept);
    } else if (status == DSVK_DEVMEM && s->n_running > 0) {
        s->hold = true;
    } else {
        fail(s, q, &err);
    }
    dsvk_snapshot_release(kept);
}

static void admit(dsvk_scheduler *s) {
    dsvk_sequence *q;
    while (!s->hold && s->n_running < s->options.max_running && (q = next_to_begin(s)))
        begin(s, q);
}

/* ---- prefill ---- */

static dsvk_run next_run(const dsvk_scheduler *s, const dsvk_sequence *q) {
    const dsvk_request *r = q->request;
    const uint64_t n = q->session->n, chunk = s->options.chunk;
    uint64_t end = n < r->n_prompt ? (n / chunk + 1) * chunk : n + s->short_rows;
    const uint64_t most = n < r->n_prompt ? r->n_prompt : timeline(q);
    end = end < most ? end : most;
    return (dsvk_run){ q->session, n < r->n_prompt ? r->prompt + n : q->ids + (n - r->n_prompt), (uint32_t)(end - n) };
}

static void after_run(dsvk_scheduler *s, dsvk_sequence *q) {
    const dsvk_request *r = q->request;
    const uint64_t n = q->session->n;
    if (n <= r->n_prompt)
        q->prompt_done = n;
    if (n == r->n_prompt)
        at_prompt_end(s, q, NULL);
    else if (n < r->n_prompt && (n == q->keep_at || n % (KEEP_CHUNKS * s->options.chunk) == 0))
        dsvk_snapshot_release(keep(s, q, kind_at(s, q)));
    else if (n == timeline(q))
        q->phase = DSVK_DECODE;
}

static bool is_cancelled(void *user) {
    const dsvk_sequence *q = user;
    return atomic_load(&q->request->cancelled);
}

static void take_scores(void *user, uint32_t first, uint32_t n, const float *logits) {
    dsvk_sequence *q = user;
    const uint32_t vocab = q->session->model->config.vocab_size;
    for (uint64_t i = 0, at = q->session->n + first + 1; i < n && at < q->request->n_prompt; i++, at++)
        dsvk_sequence_prompt_logprobs(q, logits + i * vocab, vocab, at);
}

static bool is_paused(const dsvk_sequence *q) { return atomic_load(&q->request->paused); }

/* Whose turn it is, and who can share the step: nobody with a sequence that wants the logits of every row. */
static uint32_t choose_prefill(dsvk_scheduler *s, dsvk_sequence *chosen[MOST_RUNNING]) {
    const uint32_t turn = s->turn;
    uint32_t n = 0, rows = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        dsvk_sequence *q = s->running[(turn + i) % s->n_running];
        if (q->phase != DSVK_PREFILL || is_paused(q))
            continue;
        const dsvk_run run = next_run(s, q);
        if (n > 0 && (wants_scores(chosen[0]) || wants_scores(q) || rows + run.n > s->short_rows))
            continue;
        if (n == 0)
            s->turn = (turn + i + 1) % s->n_running;
        s->runs[n] = run;
        chosen[n++] = q;
        rows += run.n;
    }
    return n;
}

static void prefill(dsvk_scheduler *s) {
    dsvk_sequence *chosen[MOST_RUNNING];
    dsvk_error err;
    const uint32_t n = choose_prefill(s, chosen);
    if (n == 0)
        return;
    const bool scores = wants_scores(chosen[0]) && chosen[0]->session->n < chosen[0]->request->n_prompt;
    const dsvk_step_result result = { .take = scores ? take_scores : NULL, .stop = n == 1 ? is_cancelled : NULL, .user = chosen[0] };
    const dsvk_status status = dsvk_step_run(s->model, s->runs, n, &result, &err);
    if (status == DSVK_DEVMEM)
        out_of_memory(s, chosen, n, &err);
    else if (status != DSVK_OK && status != DSVK_CANCELLED) /* the next step ends the cancelled one */
        for (uint32_t i = 0; i < n; i++)
            fail(s, chosen[i], &err);
    else if (status == DSVK_OK)
        for (uint32_t i = 0; i < n; i++)
            after_run(s, chosen[i]);
}

/* ---- decoding ---- */

/* Keeps a whole answer, for the next turn of its conversation, and lets the sequence go. */
static void end(dsvk_scheduler *s, dsvk_sequence *q) {
    if (q->session->n == timeline(q) + (q->stop_id >= 0))
        dsvk_snapshot_release(keep(s, q, DSVK_SNAPSHOT_ANY));
    retire(s, q);
}

/* Takes over what the session has appended. Tokens behind the one that ended the sequence are for nothing. */
static void take_tokens(dsvk_scheduler *s, dsvk_sequence *q) {
    const uint64_t before = q->n_ids;
    uint64_t at = timeline(q);
    dsvk_error err;
    dsvk_status status = DSVK_OK;
    bool ended = false;
    while (status == DSVK_OK && !ended && at < q->session->n) {
        status = dsvk_sequence_push(q, q->session->tokens[at++], &err);
        ended = q->stop_id >= 0 || q->stop_text >= 0 || q->n_ids == q->request->limit;
    }
    count(s, &s->counts.completion_tokens, q->n_ids - before);
    if (status != DSVK_OK)
        fail(s, q, &err);
    else if (ended)
        end(s, q);
}

/* What the next token's probabilities are, and that token itself: choosing again gives the same. */
static dsvk_status read_logprobs(dsvk_scheduler *s, dsvk_sequence *q, dsvk_sample_options *sampling, dsvk_error *err) {
    const uint32_t vocab = s->model->config.vocab_size;
    int32_t id;
    if (!s->logits && !(s->logits = dsvk_alloc(vocab * sizeof *s->logits)))
        return dsvk_fail_nomem(err, vocab * sizeof *s->logits);
    DSVK_TRY(dsvk_step_sample(s->model, &q->session, 1, sampling, &id, err));
    DSVK_TRY(dsvk_buffer_read(s->model->device, &q->session->logits, 0, s->logits, vocab * sizeof *s->logits, err));
    dsvk_sequence_logprobs(q, s->logits, vocab, id);
    return DSVK_OK;
}

static dsvk_sample_options sampling_of(const dsvk_sequence *q) {
    dsvk_sample_options o = q->request->sampling;
    o.seed += q->choice;
    return o;
}

/* The host has to do with every token of it. */
static bool one_by_one(const dsvk_sequence *q) { return q->request->logprobs || q->session->edit.on; }

/* What a sequence needs before it decodes; `most` goes down to what it can take. */
static dsvk_status prepare(dsvk_scheduler *s, dsvk_sequence *q, uint64_t *most, dsvk_error *err) {
    const uint64_t left = q->request->limit - q->n_ids;
    dsvk_sample_options sampling = sampling_of(q);
    DSVK_TRY(dsvk_edit_next(q->session, &sampling, q->choice, err));
    *most = one_by_one(q) ? 1 : left < *most ? left : *most;
    DSVK_TRY(dsvk_sequence_reserve(q, *most, err));
    return q->request->logprobs ? read_logprobs(s, q, &sampling, err) : DSVK_OK;
}

static dsvk_status decode_together(dsvk_scheduler *s, dsvk_sequence *const *chosen, uint32_t n, uint64_t most, dsvk_error *err) {
    dsvk_batch b = { s->sessions, s->sampling, s->runs, s->ids, s->start, s->slot, n, 0 };
    for (uint32_t i = 0; i < n; i++) {
        s->sessions[i] = chosen[i]->session;
        s->sampling[i] = sampling_of(chosen[i]);
    }
    return dsvk_decode_run(&b, most, NULL, NULL, err);
}

/* After NUMERIC: one of them has no finite logits, the others go on. */
static void decode_apart(dsvk_scheduler *s, dsvk_sequence *const *chosen, uint32_t n) {
    dsvk_error err;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t most = 1;
        if (chosen[i]->phase != DSVK_DECODE)
            continue;
        dsvk_status status = prepare(s, chosen[i], &most, &err);
        if (status == DSVK_OK)
            status = decode_together(s, &chosen[i], 1, 1, &err);
        if (status == DSVK_OK)
            take_tokens(s, chosen[i]);
        else if (status == DSVK_DEVMEM)
            out_of_memory(s, &chosen[i], 1, &err);
        else
            fail(s, chosen[i], &err);
    }
}

/* At most so many tokens of every sequence that decodes, in one submit. 0: there is none, or this is all for now; else how many
 * more there may be, because some of them go one by one. */
static uint64_t decode_some(dsvk_scheduler *s, uint64_t burst) {
    dsvk_sequence *chosen[MOST_RUNNING], *all[MOST_RUNNING];
    uint64_t most = burst;
    uint32_t n = 0, n_all = s->n_running;
    bool singles = false;
    dsvk_error err;
    memcpy(all, s->running, n_all * sizeof *all);
    for (uint32_t i = 0; i < n_all; i++) {
        if (all[i]->phase != DSVK_DECODE || is_paused(all[i]))
            continue;
        if (prepare(s, all[i], &most, &err) != DSVK_OK) {
            fail(s, all[i], &err);
            continue;
        }
        singles |= one_by_one(all[i]);
        chosen[n++] = all[i];
    }
    if (n == 0)
        return 0;
    const dsvk_status status = decode_together(s, chosen, n, most, &err);
    if (status == DSVK_OK || status == DSVK_NUMERIC)
        for (uint32_t i = 0; i < n; i++)
            take_tokens(s, chosen[i]);
    if (status == DSVK_NUMERIC)
        decode_apart(s, chosen, n);
    else if (status == DSVK_DEVMEM)
        out_of_memory(s, chosen, n, &err);
    else if (status != DSVK_OK)
        for (uint32_t i = 0; i < n; i++)
            fail(s, chosen[i], &err);
    return singles ? burst - most : 0;
}

/* Sequences that go token by token make the submits shorter, not the step: the others keep their share beside prompts. */
static void decode(dsvk_scheduler *s) {
    const double began = dsvk_now_s();
    uint64_t left = s->options.burst;
    do
        left = decode_some(s, left);
    while (left > 0 && dsvk_now_s() - began < DSVK_SUBMIT_AIM_S);
}

/* ---- steps ---- */

static dsvk_status take(dsvk_scheduler *s, dsvk_error *err) {
    if (!s)
        return dsvk_fail(err, DSVK_INVALID, "scheduler must not be NULL");
    DSVK_TRY(dsvk_device_own(s->model->device, err));
    return atomic_flag_test_and_set(&s->busy)
               ? dsvk_fail(err, DSVK_BUSY, "another step or next is running on this scheduler") : DSVK_OK;
}

/* Ends those that are cancelled, or all of them for a reason. */
static void sweep(dsvk_scheduler *s, const dsvk_error *why) {
    dsvk_sequence *q;
    pthread_mutex_lock(&s->lock);
    q = s->first;
    pthread_mutex_unlock(&s->lock);
    while (q) {
        if (q->phase != DSVK_FINISHED && why) {
            fail(s, q, why);
        } else if (q->phase != DSVK_FINISHED && is_cancelled(q)) {
            dsvk_sequence_finish(q, DSVK_FINISH_CANCELLED);
            retire(s, q);
        }
        pthread_mutex_lock(&s->lock);
        q = q->next;
        pthread_mutex_unlock(&s->lock);
    }
}

static dsvk_status step(dsvk_scheduler *s, dsvk_error *err) {
    sweep(s, NULL);
    admit(s);
    prefill(s);
    decode(s);
    dsvk_error lost = { 0 };
    dsvk_status status = dsvk_device_status(s->model->device, &lost);
    if (status != DSVK_OK) {
        sweep(s, &lost);
        return dsvk_fail(err, status, "%s", lost.message);
    }
    return DSVK_OK;
}

/* All that run are paused, and nobody else can begin. */
static bool is_idle(dsvk_scheduler *s) {
    for (uint32_t i = 0; i < s->n_running; i++)
        if (!is_paused(s->running[i]) || is_cancelled(s->running[i]))
            return false;
    return s->n_running == s->options.max_running || (s->n_running > 0 && (s->hold || !next_to_begin(s)));
}

dsvk_status dsvk_scheduler_step(dsvk_scheduler *s, uint64_t *unfinished, dsvk_error *err) {
    DSVK_TRY(take(s, err));
    const dsvk_status status = step(s, err);
    const bool idle = is_idle(s);
    pthread_mutex_lock(&s->lock);
    s->counts.steps++;
    s->counts.running = s->n_running;
    s->counts.cache_bytes = s->tree.bytes;
    s->counts.cache_entries = s->tree.entries;
    s->counts.cache_evicted = s->tree.evicted;
    if (unfinished)
        *unfinished = idle ? 0 : s->counts.unfinished;
    pthread_mutex_unlock(&s->lock);
    atomic_flag_clear(&s->busy);
    return status;
}

static dsvk_sequence *at_link(dsvk_scheduler *s, dsvk_sequence **link) {
    pthread_mutex_lock(&s->lock);
    dsvk_sequence *q = *link;
    pthread_mutex_unlock(&s->lock);
    return q;
}

/* Takes `q`, which `link` leads to, off the list. */
static void forget(dsvk_scheduler *s, dsvk_sequence **link, dsvk_sequence *q) {
    pthread_mutex_lock(&s->lock);
    *link = q->next;
    if (s->last == &q->next)
        s->last = link;
    pthread_mutex_unlock(&s->lock);
    dsvk_sequence_close(q);
}

/* A sequence that has told its end is forgotten when something else is asked. */
static void next_event(dsvk_scheduler *s, dsvk_event *event) {
    dsvk_sequence *q;
    while ((q = at_link(s, s->told))) {
        if (dsvk_sequence_event(q, event))
            return;
        if (q->finish_out)
            forget(s, s->told, q);
        else
            s->told = &q->next;
    }
    s->told = &s->first;
    *event = (dsvk_event){ .size = sizeof *event, .kind = DSVK_EVENT_NONE };
}

dsvk_status dsvk_scheduler_next(dsvk_scheduler *s, dsvk_event *event, dsvk_error *err) {
    if (!event || event->size != sizeof *event)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_scheduler_next: event is NULL or its size is not this library's, %zu",
                         sizeof *event);
    DSVK_TRY(take(s, err));
    next_event(s, event);
    atomic_flag_clear(&s->busy);
    return DSVK_OK;
}
