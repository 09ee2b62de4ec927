/* Requests and sequences; see sequence.h.
 *
 * Stop texts are looked for byte by byte, so that what is found does not depend on how tokens cut the text or on how many come
 * at once: the match that ends first counts, and of those the one that began first. A text's end that may still become a stop
 * text is held back, and ids are handed out no earlier than their text. */
#include <math.h>
#include <string.h>

#include "sequence.h"

/* ---- requests ---- */

static dsvk_status check_texts(const dsvk_model *m, const dsvk_request_options *o, size_t *bytes, dsvk_error *err) {
    *bytes = 0;
    if (o->n_stop_texts > DSVK_MOST_STOP_TEXTS || (o->n_stop_texts && (!o->stop_texts || !o->stop_sizes)))
        return dsvk_fail(err, DSVK_INVALID, "%zu stop texts; at most %u, and with their sizes", o->n_stop_texts,
                         DSVK_MOST_STOP_TEXTS);
    if (o->n_stop_texts && !m->tokenizer)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "stop texts were given, the model has no tokenizer.json");
    for (size_t i = 0; i < o->n_stop_texts; i++) {
        if (o->stop_sizes[i] == 0 || o->stop_sizes[i] > DSVK_MOST_STOP_BYTES || !o->stop_texts[i])
            return dsvk_fail(err, DSVK_INVALID, "stop text %zu has %zu bytes, allowed are 1 to %u", i, o->stop_sizes[i],
                             DSVK_MOST_STOP_BYTES);
        *bytes += o->stop_sizes[i];
    }
    return DSVK_OK;
}

static dsvk_status check_options(const dsvk_model *m, const dsvk_request_options *o, uint64_t context, size_t *stop_bytes,
                                 dsvk_error *err) {
    if (o->size != sizeof *o)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_request_options has size %zu, this library's is %zu", o->size, sizeof *o);
    if (!o->prompt || o->n_prompt == 0)
        return dsvk_fail(err, DSVK_INVALID, "the prompt is empty");
    if (o->n_prompt >= context)
        return dsvk_fail(err, DSVK_LIMIT, "a prompt of %zu tokens leaves no room for one more in a context of %llu", o->n_prompt,
                         (unsigned long long)context);
    DSVK_TRY(dsvk_check_ids(m, "token", o->prompt, o->n_prompt, err));
    DSVK_TRY(dsvk_check_ids(m, "stop_after: id", &o->stop_after, 1, err));
    DSVK_TRY(dsvk_check_ids(m, "stop_before: id", &o->stop_before, 1, err));
    DSVK_TRY(dsvk_check_switch("exact", o->exact, err));
    if (o->choices > DSVK_MOST_CHOICES)
        return dsvk_fail(err, DSVK_INVALID, "choices is %u, allowed are 1 to %u", o->choices, DSVK_MOST_CHOICES);
    if (o->logprobs > DSVK_MOST_TOP + 1)
        return dsvk_fail(err, DSVK_INVALID, "logprobs asks for the %u likeliest tokens, allowed are %u at most", o->logprobs - 1,
                         DSVK_MOST_TOP);
    if (o->prompt_logprobs > 1 || (o->prompt_logprobs && o->logprobs == 0))
        return dsvk_fail(err, DSVK_INVALID, "prompt_logprobs is %u, allowed are 0 and, with logprobs, 1", o->prompt_logprobs);
    DSVK_TRY(dsvk_check_sampling(m, &o->sampling, err));
    return check_texts(m, o, stop_bytes, err);
}

/* FNV-1a. Two names of one hash would share turns, no more. */
static uint64_t hash_name(const char *name) {
    uint64_t h = 14695981039346656037u;
    for (; name && *name; name++)
        h = (h ^ (uint8_t)*name) * 1099511628211u;
    return h;
}

static dsvk_status copy_parts(dsvk_request *r, const dsvk_request_options *o, size_t stop_bytes, dsvk_error *err) {
    const char *key = o->cache_key ? o->cache_key : "";
    const size_t n_stop = o->sampling.n_stop, n_bias = o->sampling.n_bias;
    int32_t *stop = dsvk_alloc(n_stop * sizeof *stop);
    dsvk_logit_bias *bias = dsvk_alloc(n_bias * sizeof *bias);
    r->sampling.stop = stop;
    r->sampling.bias = bias;
    r->sampling.generated_from = o->n_prompt;
    r->prompt = dsvk_alloc(o->n_prompt * sizeof *r->prompt);
    r->cache_key = dsvk_strdup_n(key, strlen(key));
    r->stop_bytes = dsvk_alloc(stop_bytes);
    if (!stop || !bias || !r->prompt || !r->cache_key || !r->stop_bytes)
        return dsvk_fail_nomem(err, (o->n_prompt + n_stop) * sizeof *r->prompt + n_bias * sizeof *bias + stop_bytes);
    if (n_bias > 0)
        memcpy(bias, o->sampling.bias, n_bias * sizeof *bias);
    memcpy(r->prompt, o->prompt, o->n_prompt * sizeof *r->prompt);
    if (n_stop > 0)
        memcpy(stop, o->sampling.stop, n_stop * sizeof *stop);
    char *at = r->stop_bytes;
    for (uint32_t i = 0; i < r->n_stop_texts; i++) {
        r->stop_texts[i] = memcpy(at, o->stop_texts[i], o->stop_sizes[i]);
        r->stop_sizes[i] = o->stop_sizes[i];
        at += o->stop_sizes[i];
    }
    return DSVK_OK;
}

dsvk_status dsvk_request_open(dsvk_request **request, const dsvk_model *m, const dsvk_request_options *o, uint64_t context,
                              dsvk_error *err) {
    size_t stop_bytes = 0;
    DSVK_TRY(check_options(m, o, context, &stop_bytes, err));
    dsvk_request *r = dsvk_alloc_zero(1, sizeof *r);
    if (!r)
        return dsvk_fail_nomem(err, sizeof *r);
    const uint32_t vocab = m->config.vocab_size, n_top = o->logprobs ? o->logprobs - 1 : 0;
    const uint64_t room = context - o->n_prompt;
    const bool context_ends = o->max_tokens == 0 || o->max_tokens > room;
    *r = (dsvk_request){ .references = 1, .owner = hash_name(o->owner), .priority = o->priority, .exact = o->exact != 0,
                         .n_prompt = o->n_prompt, .limit = context_ends ? room : o->max_tokens, .context_ends = context_ends,
                         .sampling = o->sampling, .n_stop_texts = (uint32_t)o->n_stop_texts, .stop_after = o->stop_after,
                         .stop_before = o->stop_before, .logprobs = o->logprobs > 0,
                         .prompt_logprobs = o->prompt_logprobs > 0, .n_top = n_top < vocab ? n_top : vocab,
                         .n_choices = o->choices ? o->choices : 1 };
    dsvk_status status = copy_parts(r, o, stop_bytes, err);
    if (status == DSVK_OK)
        *request = r;
    else
        dsvk_request_release(r);
    return status;
}

void dsvk_request_release(dsvk_request *r) {
    if (!r || --r->references > 0)
        return;
    dsvk_snapshot_release(r->fork);
    dsvk_free((void *)r->sampling.stop);
    dsvk_free((void *)r->sampling.bias);
    dsvk_free(r->stop_bytes);
    dsvk_free(r->cache_key);
    dsvk_free(r->prompt);
    dsvk_free(r);
}

/* ---- sequences ---- */

/* *array, which points to items of `each` bytes, made to hold n of them; without items there is nothing to do. */
static bool grow(void *array, uint64_t n, size_t each) {
    void *items;
    if (each == 0)
        return true;
    memcpy(&items, array, sizeof items);
    items = dsvk_realloc(items, n * each);
    if (items)
        memcpy(array, &items, sizeof items);
    return items != NULL;
}

static bool grow_scores(dsvk_scores *s, uint64_t n, const dsvk_request *r) {
    return grow(&s->logprobs, n, r->logprobs ? sizeof *s->logprobs : 0) && grow(&s->top_ids, n, r->n_top * sizeof *s->top_ids) &&
           grow(&s->top_logprobs, n, r->n_top * sizeof *s->top_logprobs);
}

static void free_scores(dsvk_scores *s) {
    dsvk_free(s->logprobs);
    dsvk_free(s->top_ids);
    dsvk_free(s->top_logprobs);
}

/* Nothing comes before the first token that it could be likely after. */
static dsvk_status open_prompt_scores(dsvk_sequence *q, dsvk_error *err) {
    const dsvk_request *r = q->request;
    dsvk_scores *s = &q->prompt_scores;
    if (!r->prompt_logprobs || q->choice > 0)
        return DSVK_OK;
    if (!grow_scores(s, r->n_prompt, r))
        return dsvk_fail_nomem(err, r->n_prompt * (1 + 2 * r->n_top) * sizeof *s->logprobs);
    s->logprobs[0] = NAN;
    for (uint32_t i = 0; i < r->n_top; i++) {
        s->top_ids[i] = -1;
        s->top_logprobs[i] = NAN;
    }
    return DSVK_OK;
}

dsvk_status dsvk_sequence_open(dsvk_sequence **sequence, dsvk_request *r, uint32_t choice, const dsvk_tokenizer *tokenizer,
                               dsvk_error *err) {
    dsvk_sequence *q = dsvk_alloc_zero(1, sizeof *q);
    if (!q)
        return dsvk_fail_nomem(err, sizeof *q);
    *q = (dsvk_sequence){ .request = r, .choice = choice, .looking = r->n_stop_texts > 0 && r->stop_after == 0, .stop_id = -1,
                          .stop_text = -1, .waiting_text = -1 };
    r->references++;
    dsvk_status status = tokenizer ? dsvk_decoder_open(&q->decoder, tokenizer, err) : DSVK_OK;
    if (status == DSVK_OK)
        status = open_prompt_scores(q, err);
    if (status == DSVK_OK)
        *sequence = q;
    else
        dsvk_sequence_close(q);
    return status;
}

void dsvk_sequence_close(dsvk_sequence *q) {
    if (!q)
        return;
    dsvk_session_close(q->session);
    dsvk_decoder_close(q->decoder);
    dsvk_request_release(q->request);
    dsvk_free(q->ids);
    dsvk_free(q->ends);
    free_scores(&q->scores);
    free_scores(&q->prompt_scores);
    dsvk_free(q->text);
    dsvk_free(q);
}

dsvk_status dsvk_sequence_reserve(dsvk_sequence *q, uint64_t more, dsvk_error *err) {
    const dsvk_request *r = q->request;
    if (q->n_ids + more <= q->capacity)
        return DSVK_OK;
    const uint64_t n = 2 * q->capacity > q->n_ids + more ? 2 * q->capacity : q->n_ids + more;
    if (!grow(&q->ids, n, sizeof *q->ids) || !grow(&q->ends, n, sizeof *q->ends) ||
        !grow_scores(&q->scores, n, r))
        return dsvk_fail_nomem(err, n * sizeof *q->ends);
    q->capacity = n;
    return DSVK_OK;
}

/* ---- log-probabilities ---- */

#define LEAST_LOGPROB (-9999.0f) /* api 3.5 */

static float logprob(float logit, double log_sum) { return fmaxf((float)(logit - log_sum), LEAST_LOGPROB); }

/* The n_top likeliest of what has come so far, best first; of equal ones the lower id. */
static void insert_top(int32_t *ids, float *values, uint32_t *n, uint32_t most, int32_t id, float value) {
    uint32_t at = *n;
    if (at == most && !(value > values[at - 1]))
        return;
    at = at == most ? at - 1 : (*n)++;
    for (; at > 0 && value > values[at - 1]; at--) {
        ids[at] = ids[at - 1];
        values[at] = values[at - 1];
    }
    ids[at] = id;
    values[at] = value;
}

static void score(dsvk_scores *s, uint64_t at, uint32_t most, const float *logits, uint32_t vocab, int32_t id) {
    int32_t *ids = s->top_ids + at * most;
    float *values = s->top_logprobs + at * most, best = logits[0];
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        best = logits[i] > best ? logits[i] : best;
    for (uint32_t i = 0; i < vocab; i++) {
        sum += exp((double)logits[i] - best);
        if (most > 0)
            insert_top(ids, values, &n, most, (int32_t)i, logits[i]);
    }
    const double log_sum = best + log(sum);
    for (uint32_t i = 0; i < n; i++)
        values[i] = logprob(values[i], log_sum);
    s->logprobs[at] = logprob(logits[id], log_sum);
}

void dsvk_sequence_logprobs(dsvk_sequence *q, const float *logits, uint32_t vocab, int32_t id) {
    score(&q->scores, q->n_ids, q->request->n_top, logits, vocab, id);
}

void dsvk_sequence_prompt_logprobs(dsvk_sequence *q, const float *logits, uint32_t vocab, uint64_t at) {
    score(&q->prompt_scores, at, q->request->n_top, logits, vocab, q->request->prompt[at]);
}

/* ---- text ---- */

static uint64_t text_end(const dsvk_sequence *q) { return q->text_start + q->n_text; }

/* Lets go of what was handed out. */
static void drop_text(dsvk_sequence *q) {
    const size_t n = (size_t)(q->text_out - q->text_start);
    memmove(q->text, q->text + n, q->n_text - n);
    q->n_text -= n;
    q->text_start = q->text_out;
}

static dsvk_status reserve_text(dsvk_sequence *q, size_t more, dsvk_error *err) {
    if (q->text_out > q->text_start)
        drop_text(q);
    if (q->n_text + more <= q->text_capacity)
        return DSVK_OK;
    const size_t capacity = 2 * (q->n_text + more);
    if (!grow(&q->text, capacity, 1))
        return dsvk_fail_nomem(err, capacity);
    q->text_capacity = capacity;
    return DSVK_OK;
}

/* Of the text that may take part in a stop text, the last bytes. */
static bool ends_with(const dsvk_sequence *q, const char *bytes, size_t n) {
    const uint64_t end = text_end(q);
    return end - q->look_from >= n && q->n_text >= n && memcmp(q->text + q->n_text - n, bytes, n) == 0;
}

/* The stop text that ends here, the longest of them, or -1. */
static int32_t stop_that_ends(const dsvk_sequence *q) {
    const dsvk_request *r = q->request;
    int32_t found = -1;
    for (uint32_t i = 0; i < r->n_stop_texts; i++)
        if (ends_with(q, r->stop_texts[i], r->stop_sizes[i]) && (found < 0 || r->stop_sizes[i] > r->stop_sizes[found]))
            found = (int32_t)i;
    return found;
}

/* Bytes at the end that may be the beginning of a stop text. */
static size_t held_back(const dsvk_sequence *q) {
    const dsvk_request *r = q->request;
    size_t longest = 0;
    for (uint32_t i = 0; i < r->n_stop_texts; i++) {
        size_t n = r->stop_sizes[i] - 1;
        while (n > longest && !ends_with(q, r->stop_texts[i], n))
            n--;
        longest = n > longest ? n : longest;
    }
    return longest;
}

#define LEAD_MOST 32u /* bytes: a model that writes nothing but new lines is stopped */

/* Whether this byte, which comes next, goes on with what may lead to stop_before; where it does not, that begins anew. */
static bool leads_on(dsvk_sequence *q, char c) {
    const bool space = c == '\n' || c == ' ' || c == '\t' || c == '\r', on = (space || c == '<') && !q->lead_opened &&
               text_end(q) - q->lead_from < LEAD_MOST;
    if (!on)
        q->lead_from = text_end(q) + (space || c == '<' ? 0 : 1);
    q->lead_opened = c == '<';
    return on;
}

/* Cuts the text where a stop text begins that ends at byte `end`. */
static void cut_text(dsvk_sequence *q, int32_t stop, uint64_t end) {
    q->n_text = (size_t)(end - q->request->stop_sizes[stop] - q->text_start);
    q->stop_text = stop;
}

/* Appends text until a stop text ends; true then. There is room. One that ends in white space or '<' waits: those before stop_before
 * belong to what that begins. */
static bool append_text(dsvk_sequence *q, const char *text, size_t n) {
    if (!q->looking) {
        memcpy(q->text + q->n_text, text, n);
        q->n_text += n;
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const bool leads = q->request->stop_before != 0 && (leads_on(q, text[i]) || q->lead_from == text_end(q));
        if (q->waiting_text >= 0 && (!leads || q->lead_from >= q->waiting_end)) {
            cut_text(q, q->waiting_text, q->waiting_end);
            return true;
        }
        q->text[q->n_text++] = text[i];
        const int32_t stop = q->waiting_text >= 0 ? -1 : stop_that_ends(q);
        if (stop >= 0 && !leads) {
            cut_text(q, stop, text_end(q));
            return true;
        }
        if (stop >= 0) {
            q->waiting_text = stop;
            q->waiting_end = text_end(q);
        }
    }
    return false;
}

static void settle_sure(dsvk_sequence *q) {
    q->sure = text_end(q) - (q->looking ? held_back(q) : 0);
    if (q->waiting_text >= 0 && q->sure > q->waiting_end - q->request->stop_sizes[q->waiting_text])
        q->sure = q->waiting_end - q->request->stop_sizes[q->waiting_text];
    while (q->ids_sure < q->n_ids && q->ends[q->ids_sure] <= q->sure)
        q->ids_sure++;
}

/* Ids belong to the text if theirs begins in it. */
static void stop_at_text(dsvk_sequence *q) {
    q->finish = DSVK_FINISH_STOP;
    q->sure = text_end(q);
    while (q->ids_sure < q->n_ids && (q->ids_sure == 0 ? 0 : q->ends[q->ids_sure - 1]) < q->sure)
        q->ids_sure++;
}

void dsvk_sequence_finish(dsvk_sequence *q, dsvk_finish finish) {
    q->finish = finish;
    q->looking = false;
    q->waiting_text = -1;
    settle_sure(q);
    q->ids_sure = q->n_ids;
}

/* An incomplete character at the end comes out as U+FFFD, and may be the end of a stop text like any other. */
static dsvk_status finish_text(dsvk_sequence *q, dsvk_finish finish, dsvk_error *err) {
    const char *text = "";
    size_t n = 0;
    if (q->decoder)
        DSVK_TRY(dsvk_decoder_finish(q->decoder, &text, &n, err));
    DSVK_TRY(reserve_text(q, n, err));
    bool stopped = append_text(q, text, n);
    if (!stopped && q->waiting_text >= 0) {
        cut_text(q, q->waiting_text, q->waiting_end);
        stopped = true;
    }
    if (stopped)
        stop_at_text(q);
    else
        dsvk_sequence_finish(q, finish);
    return DSVK_OK;
}

/* Whether stop texts are looked for from this id on: its own text never is part of one. */
static void turn(dsvk_sequence *q, int32_t id, bool *begins) {
    const dsvk_request *r = q->request;
    *begins = r->n_stop_texts > 0 && r->stop_after != 0 && id == r->stop_after;
    if (*begins || (r->stop_before != 0 && id == r->stop_before)) {
        q->looking = false;
        q->waiting_text = -1;
    }
}

dsvk_status dsvk_sequence_push(dsvk_sequence *q, int32_t id, dsvk_error *err) {
    const dsvk_request *r = q->request;
    const char *text = "";
    size_t n = 0;
    bool begins;
    if (dsvk_is_stop(&r->sampling, id)) {
        q->stop_id = id;
        return finish_text(q, DSVK_FINISH_STOP, err);
    }
    if (q->decoder && dsvk_decoder_push(q->decoder, id, &text, &n, NULL) != DSVK_OK)
        n = 0; /* a vocabulary has ids that no token has: they have no text */
    DSVK_TRY(reserve_text(q, n, err));
    turn(q, id, &begins);
    q->ids[q->n_ids++] = id;
    const bool stopped = append_text(q, text, n);
    q->ends[q->n_ids - 1] = stopped ? UINT64_MAX : text_end(q);
    if (stopped) {
        stop_at_text(q);
        return DSVK_OK;
    }
    if (begins) {
        q->looking = true;
        q->look_from = q->lead_from = text_end(q);
        q->lead_opened = false;
    }
    settle_sure(q);
    if (q->n_ids == r->limit)
        return finish_text(q, r->context_ends ? DSVK_FINISH_CONTEXT : DSVK_FINISH_LENGTH, err);
    return DSVK_OK;
}

/* ---- events ---- */

static void tell_tokens(dsvk_event *e, const dsvk_request *r, const int32_t *ids, const dsvk_scores *s, uint64_t from, uint64_t to) {
    e->ids = ids + from;
    e->n_ids = (size_t)(to - from);
    e->n_top = r->n_top;
    e->logprobs = r->logprobs ? s->logprobs + from : NULL;
    e->top_ids = r->n_top ? s->top_ids + from * r->n_top : NULL;
    e->top_logprobs = r->n_top ? s->top_logprobs + from * r->n_top : NULL;
}

bool dsvk_sequence_event(dsvk_sequence *q, dsvk_event *e) {
    const dsvk_request *r = q->request;
    *e = (dsvk_event){ .size = sizeof *e, .request = r->id, .choice = q->choice, .prompt_tokens = r->n_prompt,
                       .prompt_done = q->prompt_done, .cached_tokens = r->cached, .completion_tokens = q->n_ids, .stop_id = -1,
                       .stop_text = -1 };
    if (q->prompt_done > q->prompt_out) {
        e->kind = DSVK_EVENT_PROMPT;
        if (q->prompt_scores.logprobs)
            tell_tokens(e, r, r->prompt, &q->prompt_scores, q->prompt_out, q->prompt_done);
        q->prompt_out = q->prompt_done;
        return true;
    }
    if (q->ids_sure > q->ids_out || q->sure > q->text_out) {
        e->kind = DSVK_EVENT_TOKENS;
        tell_tokens(e, r, q->ids, &q->scores, q->ids_out, q->ids_sure);
        e->text = q->text + (q->text_out - q->text_start);
        e->n_text = (size_t)(q->sure - q->text_out);
        q->ids_out = q->ids_sure;
        q->text_out = q->sure;
        return true;
    }
    if (q->phase != DSVK_FINISHED || q->finish_out)
        return false;
    e->kind = DSVK_EVENT_FINISH;
    e->finish = q->finish;
    e->stop_id = q->stop_id;
    e->stop_text = q->stop_text;
    e->status = q->error.status;
    e->message = q->error.message;
    return q->finish_out = true;
}
