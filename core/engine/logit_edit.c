/* Logits changed before a token is chosen; see logit_edit.h. Everything here is done anew for each token, so it is made for few
 * entries: those of the caller's list and of tokens that were generated. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "engine.h"

static uint32_t n_words(const dsvk_model *m) { return (m->config.vocab_size + 31) / 32; }

static bool penalised(const dsvk_sample_options *o) { return o->frequency_penalty != 0 || o->presence_penalty != 0; }

static bool edited(const dsvk_sample_options *o) { return o->mask || o->n_bias > 0 || penalised(o); }

void dsvk_edit_free(dsvk_logit_edit *e) {
    dsvk_free(e->words);
    dsvk_free(e->entries);
    *e = (dsvk_logit_edit){ 0 };
}

/* The entry of an id, made when there is none. NULL: no memory. */
static dsvk_edit_entry *entry_of(dsvk_logit_edit *e, int32_t id) {
    uint32_t low = 0, high = e->n;
    while (low < high) {
        const uint32_t half = low + (high - low) / 2;
        if (e->entries[half].id < id)
            low = half + 1;
        else
            high = half;
    }
    if (low < e->n && e->entries[low].id == id)
        return &e->entries[low];
    if (e->n == e->capacity) {
        const uint32_t capacity = 2 * e->capacity + 64;
        dsvk_edit_entry *entries = dsvk_realloc(e->entries, capacity * sizeof *entries);
        if (!entries)
            return NULL;
        e->entries = entries;
        e->capacity = capacity;
    }
    memmove(&e->entries[low + 1], &e->entries[low], (e->n++ - low) * sizeof *e->entries);
    e->entries[low] = (dsvk_edit_entry){ .id = id };
    return &e->entries[low];
}

dsvk_status dsvk_edit_begin(dsvk_session *s, const dsvk_sample_options *o, dsvk_error *err) {
    dsvk_logit_edit *e = &s->edit;
    e->on = e->asleep = false;
    e->n = 0;
    if (!o || !edited(o))
        return DSVK_OK;
    e->asleep = o->mask && o->mask_after != 0;
    e->seen = o->generated_from ? o->generated_from : s->n;
    e->masked = UINT64_MAX;
    for (size_t i = 0; i < o->n_bias; i++) {
        dsvk_edit_entry *entry = entry_of(e, o->bias[i].id);
        if (!entry)
            return dsvk_fail_nomem(err, o->n_bias * sizeof *entry);
        entry->bias = o->bias[i].value;
    }
    return DSVK_OK;
}

/* Looks at what has been generated since the last time. */
static dsvk_status look(dsvk_session *s, const dsvk_sample_options *o, dsvk_error *err) {
    dsvk_logit_edit *e = &s->edit;
    for (; e->seen < s->n; e->seen++) {
        const int32_t id = s->tokens[e->seen];
        if (e->asleep && id == o->mask_after)
            e->asleep = false;
        if (!penalised(o))
            continue;
        dsvk_edit_entry *entry = entry_of(e, id);
        if (!entry)
            return dsvk_fail_nomem(err, (e->capacity + 1) * sizeof *entry);
        entry->count++;
    }
    return DSVK_OK;
}

static dsvk_status ask(dsvk_session *s, const dsvk_sample_options *o, uint32_t choice, dsvk_error *err) {
    dsvk_logit_edit *e = &s->edit;
    const uint32_t n = n_words(s->model), vocab = s->model->config.vocab_size;
    uint32_t allowed = 0;
    dsvk_error why = { 0 };
    if (!e->words && !(e->words = dsvk_alloc(n * sizeof *e->words)))
        return dsvk_fail_nomem(err, n * sizeof *e->words);
    memset(e->words, 0, n * sizeof *e->words);
    const dsvk_status status = o->mask(o->mask_user, choice, s->tokens, s->n, e->words, n, &why);
    if (status != DSVK_OK)
        return dsvk_fail(err, status, "%s", why.message[0] ? why.message : "the mask function failed");
    if (vocab % 32)
        e->words[n - 1] &= (1u << vocab % 32) - 1;
    for (uint32_t i = 0; i < n; i++)
        allowed |= e->words[i];
    if (allowed == 0)
        return dsvk_fail(err, DSVK_INVALID, "the mask allows no token at position %llu", (unsigned long long)s->n);
    e->masked = s->n;
    return DSVK_OK;
}

dsvk_status dsvk_edit_next(dsvk_session *s, const dsvk_sample_options *o, uint32_t choice, dsvk_error *err) {
    dsvk_logit_edit *e = &s->edit;
    e->on = false;
    if (!o || !edited(o))
        return DSVK_OK;
    DSVK_TRY(look(s, o, err));
    if (o->mask && !e->asleep && e->masked != s->n)
        DSVK_TRY(ask(s, o, choice, err));
    e->on = e->n > 0 || (o->mask && !e->asleep);
    return DSVK_OK;
}

/* ---- for the device ---- */

static uint64_t list_bytes(const dsvk_logit_edit *e) { return dsvk_align(e->n * sizeof(dsvk_logit_bias), 16); }

static uint64_t mask_bytes(const dsvk_session *s) {
    return s->edit.masked == s->n ? dsvk_align(n_words(s->model) * sizeof(uint32_t), 16) : 0;
}

static dsvk_status reserve(dsvk_model *m, uint64_t bytes, dsvk_error *err) {
    uint64_t capacity = m->edits.size ? m->edits.size : 4096;
    while (capacity < bytes)
        capacity *= 2;
    if (capacity == m->edits.size)
        return DSVK_OK;
    dsvk_buffer_destroy(m->device, &m->edits); /* no submit runs: the step lock is held */
    return dsvk_buffer_create(m->device, DSVK_STAGING, capacity, "logit edits", &m->edits, err);
}

static void write_list(const dsvk_logit_edit *e, const dsvk_sample_options *o, dsvk_logit_bias *out) {
    for (uint32_t i = 0; i < e->n; i++) {
        const dsvk_edit_entry *entry = &e->entries[i];
        const float penalty = entry->count > 0 ? o->presence_penalty + o->frequency_penalty * (float)entry->count : 0;
        out[i] = (dsvk_logit_bias){ entry->id, entry->bias - penalty };
    }
}

dsvk_status dsvk_edit_record(dsvk_model *m, dsvk_cmd *cmd, dsvk_session *const *sessions, uint32_t n,
                             const dsvk_sample_options *options, dsvk_error *err) {
    uint32_t n_rows = 0;
    uint64_t bytes = dsvk_align(n * sizeof(struct dsvk_edit_row), 16);
    for (uint32_t i = 0; i < n; i++)
        if (sessions[i]->edit.on)
            bytes += list_bytes(&sessions[i]->edit) + mask_bytes(sessions[i]);
    if (!dsvk_any_edited(sessions, n))
        return DSVK_OK;
    DSVK_TRY(reserve(m, bytes, err));
    struct dsvk_edit_row *rows = m->edits.host;
    uint64_t at = dsvk_align(n * sizeof *rows, 16);
    for (uint32_t i = 0; i < n; i++) {
        const dsvk_logit_edit *e = &sessions[i]->edit;
        const uint64_t masked = mask_bytes(sessions[i]);
        if (!e->on)
            continue;
        char *to = (char *)m->edits.host + at;
        write_list(e, &options[i], (dsvk_logit_bias *)to);
        if (masked)
            memcpy(to + list_bytes(e), e->words, n_words(m) * sizeof *e->words);
        rows[n_rows++] = (struct dsvk_edit_row){ .mask = masked ? m->edits.addr + at + list_bytes(e) : 0,
                                                 .list = m->edits.addr + at, .n_list = e->n, .row = i };
        at += list_bytes(e) + masked;
    }
    dsvk_edit_logits(cmd, &(dsvk_edit_logits_params){ .rows = m->edits.addr, .logits = m->logits.addr, .n = n_rows,
                                                      .vocab = m->config.vocab_size });
    dsvk_barrier(cmd);
    return DSVK_OK;
}

bool dsvk_any_edited(dsvk_session *const *sessions, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (sessions[i]->edit.on)
            return true;
    return false;
}
