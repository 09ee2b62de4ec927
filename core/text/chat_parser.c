/* What a model answers, as it comes (dsvk.h; spec 6.4 and 6.5), for streams and so for everything else.
 *
 * Bytes become whole characters in `pending`; take() moves `from` over what is decided and stops where more is needed to
 * decide: behind the beginning of a special string, at newlines that belong to a block of calls if one follows, inside
 * a tag. `scan` remembers how far an undecided text has been looked at, so that feeding byte by byte stays linear.
 *
 * Memory is reserved at the door for the most that the new bytes can lead to, so nothing fails half-way. */
#include <assert.h>
#include <string.h>

#include "chat.h"

#define DSML_OPEN "<" CHAT_DSML
#define DSML_CLOSE "</" CHAT_DSML
#define PARAMETER_CLOSE DSML_CLOSE "parameter"
#define BLOCK_NEWLINES 2 /* that precede a block and belong to it */
#define NAMES_MAX 4096   /* parameters of one call, so that finding a repeated one stays quick; the rest is left out */

typedef enum place { REASONING, CONTENT, BLOCK, VALUE, ENDED } place;

/* The tag that is being read, behind its marker. */
typedef enum tag { NO_TAG, OPEN_TAG, CLOSE_TAG, INVOKE_HEAD, PARAMETER_HEAD, TAG_REST } tag;

typedef enum value_kind {
    STRING_VALUE,
    JSON_VALUE, /* kept until it is complete, then checked */
    NO_VALUE    /* belongs to no call, or its name is taken: left out */
} value_kind;

typedef struct event {
    dsvk_chat_event kind;
    uint32_t call;
    size_t at, n; /* in `out` */
} event;

typedef struct name {
    size_t at, n; /* in `names` */
} name;

struct dsvk_chat_parser {
    char cut[4]; /* [n_cut] bytes of a character that is not whole yet */
    size_t n_cut;
    dsvk_text pending;
    dsvk_text ordinary; /* a byte for each of pending: 1 where no marker can be */
    size_t from, scan;  /* decided; looked at */
    place place;
    tag tag;
    bool finished;
    bool said;        /* the answer has something other than white space */
    bool after_block; /* white space behind a block of calls is no content */

    uint32_t n_calls;
    bool in_call;
    dsvk_text names; /* of the call's parameters, back to back */
    dsvk_text spans; /* name [], where each is */
    value_kind kind;
    dsvk_text value; /* of a JSON_VALUE, so far */

    dsvk_text out;    /* texts of events, back to back */
    dsvk_text events; /* event [] */
    size_t next;      /* the first that was not taken */
};

/* ---- events ---- */

static event *event_list(const dsvk_chat_parser *p) { return (event *)p->events.bytes; }
static size_t n_events(const dsvk_chat_parser *p) { return p->events.n / sizeof(event); }

/* From here on text put to `out` belongs to an event of this kind; more of the same text continues the last one. */
static event *begin(dsvk_chat_parser *p, dsvk_chat_event kind) {
    event *last = n_events(p) > p->next ? &event_list(p)[n_events(p) - 1] : NULL;
    bool text = kind == DSVK_CHAT_REASONING || kind == DSVK_CHAT_CONTENT || kind == DSVK_CHAT_ARGUMENTS;
    if (!text || !last || last->kind != kind) {
        event new = { .kind = kind, .call = p->n_calls - (p->n_calls > 0), .at = p->out.n };
        assert(p->events.capacity - p->events.n >= sizeof new);
        dsvk_text_put(&p->events, (const char *)&new, sizeof new);
        last = &event_list(p)[n_events(p) - 1];
    }
    return last;
}

static void end(dsvk_chat_parser *p, event *e) { e->n = p->out.n - e->at; }

static void emit(dsvk_chat_parser *p, dsvk_chat_event kind, const char *text, size_t n) {
    event *e = begin(p, kind);
    dsvk_text_put(&p->out, text, n);
    end(p, e);
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* Text [from, to) of pending, in its place. */
static void emit_text(dsvk_chat_parser *p, size_t to) {
    const char *text = p->pending.bytes;
    size_t from = p->from;
    p->from = to;
    while (p->after_block && from < to && is_space(text[from]))
        from++;
    if (from == to)
        return;
    p->after_block = false;
    if (p->place == CONTENT)
        for (size_t i = from; i < to && !p->said; i++)
            p->said = !is_space(text[i]);
    emit(p, p->place == REASONING ? DSVK_CHAT_REASONING : DSVK_CHAT_CONTENT, text + from, to - from);
}

/* ---- calls: their arguments as one JSON object ---- */

static void begin_call(dsvk_chat_parser *p, const char *text, size_t n) {
    p->n_calls++;
    p->in_call = true;
    p->names.n = p->spans.n = 0;
    emit(p, DSVK_CHAT_CALL, text, n);
}

/* `{"K": ` or `, "K": ` with the call's last name. */
static void emit_key(dsvk_chat_parser *p) {
    const name *last = (const name *)p->spans.bytes + p->spans.n / sizeof(name) - 1;
    event *e = begin(p, DSVK_CHAT_ARGUMENTS);
    dsvk_text_puts(&p->out, p->spans.n > sizeof(name) ? ", \"" : "{\"");
    dsvk_text_put_escaped(&p->out, p->names.bytes + last->at, last->n);
    dsvk_text_puts(&p->out, "\": ");
    end(p, e);
}

static void emit_json_string(dsvk_chat_parser *p, const char *before, const char *text, size_t n, const char *after) {
    event *e = begin(p, DSVK_CHAT_ARGUMENTS);
    dsvk_text_puts(&p->out, before);
    dsvk_text_put_escaped(&p->out, text, n);
    dsvk_text_puts(&p->out, after);
    end(p, e);
}

static void begin_value(dsvk_chat_parser *p, const char *key, size_t n, value_kind kind) {
    const name *spans = (const name *)p->spans.bytes;
    size_t n_names = p->spans.n / sizeof(name);
    p->place = VALUE;
    p->kind = p->in_call && n_names < NAMES_MAX ? kind : NO_VALUE;
    p->value.n = 0;
    for (size_t i = 0; i < n_names && p->kind != NO_VALUE; i++)
        if (spans[i].n == n && memcmp(p->names.bytes + spans[i].at, key, n) == 0)
            p->kind = NO_VALUE;
    if (p->kind == NO_VALUE)
        return;
    name new = { .at = p->names.n, .n = n };
    dsvk_text_put(&p->names, key, n);
    dsvk_text_put(&p->spans, (const char *)&new, sizeof new);
    emit_key(p);
    if (kind == STRING_VALUE)
        emit_json_string(p, "\"", "", 0, "");
}

static void emit_value(dsvk_chat_parser *p, size_t to) {
    const char *text = p->pending.bytes + p->from;
    size_t n = to - p->from;
    p->from = to;
    if (n > 0 && p->kind == STRING_VALUE)
        emit_json_string(p, "", text, n, "");
    if (p->kind == JSON_VALUE)
        dsvk_text_put(&p->value, text, n);
}

static void end_value(dsvk_chat_parser *p) {
    const dsvk_text *v = &p->value;
    p->place = BLOCK;
    if (p->kind == STRING_VALUE)
        emit(p, DSVK_CHAT_ARGUMENTS, "\"", 1);
    if (p->kind != JSON_VALUE)
        return;
    dsvk_error err;
    if (dsvk_json_check_as(DSVK_JSON_NUL | DSVK_JSON_REPEATED, v->bytes, v->n, "", &err) == DSVK_OK)
        emit(p, DSVK_CHAT_ARGUMENTS, v->bytes, v->n);
    else
        emit_json_string(p, "\"", v->bytes, v->n, "\"");
}

static void end_call(dsvk_chat_parser *p, dsvk_chat_event how) {
    if (p->place == VALUE)
        end_value(p);
    if (!p->in_call)
        return;
    const char *rest = p->spans.n > 0 ? "}" : "{}";
    p->in_call = false;
    emit(p, DSVK_CHAT_ARGUMENTS, rest, strlen(rest));
    emit(p, how, "", 0);
}

static void end_answer(dsvk_chat_parser *p) {
    end_call(p, DSVK_CHAT_CALL_CUT);
    emit(p, DSVK_CHAT_END, "", 0);
    p->place = ENDED;
}

/* ---- looking at what is pending ---- */

static const char *at(const dsvk_chat_parser *p, size_t i) { return p->pending.bytes + i; }
static size_t left(const dsvk_chat_parser *p, size_t i) { return p->pending.n - i; }

/* Does `text` stand at i? MORE: as far as there is text it does. */
typedef enum match { NO, MORE, YES } match;
static match stands(const dsvk_chat_parser *p, size_t i, const char *text) {
    size_t length = strlen(text), n = left(p, i) < length ? left(p, i) : length;
    if (memcmp(at(p, i), text, n) != 0)
        return NO;
    return n == length ? YES : p->finished ? NO : MORE;
}

/* The same for a marker whose special string begins `skip` bytes behind i. */
static match marker_stands(const dsvk_chat_parser *p, size_t i, const char *marker, size_t skip) {
    match m = stands(p, i, marker);
    return m == YES && p->ordinary.bytes[i + skip] ? NO : m;
}

/* DSML_OPEN, DSML_CLOSE or the special string that stands at i. */
static match marker_at(const dsvk_chat_parser *p, size_t i, const char **marker) {
    bool may_become;
    if (*at(p, i) != '<' && *at(p, i) != CHAT_DSML[0])
        return NO;
    match open = marker_stands(p, i, DSML_OPEN, 1), close = marker_stands(p, i, DSML_CLOSE, 2);
    const char *special = dsvk_chat_special(at(p, i), left(p, i), &may_become);
    *marker = open == YES ? DSML_OPEN : close == YES ? DSML_CLOSE : p->ordinary.bytes[i] ? NULL : special;
    if (*marker)
        return YES;
    return open == MORE || close == MORE || (may_become && !p->finished) ? MORE : NO;
}

/* What the end of the text made of a marker: "<" may well be text, "<｜" is none. */
static bool is_cut_marker(const dsvk_chat_parser *p, size_t i) {
    bool may_become;
    size_t n = left(p, i);
    if (!p->finished || (marker_stands(p, i, "<｜", 1) != YES && marker_stands(p, i, "</｜", 2) != YES))
        return false;
    dsvk_chat_special(at(p, i), n, &may_become);
    return may_become || (n < strlen(DSML_OPEN) && memcmp(at(p, i), DSML_OPEN, n) == 0) ||
           (n < strlen(PARAMETER_CLOSE) && memcmp(at(p, i), PARAMETER_CLOSE, n) == 0);
}

/* The first marker from `scan` on, its place in *found. NULL when there is none yet; *found is then how far what is
 * pending is plain. */
static const char *find_marker(dsvk_chat_parser *p, size_t *found) {
    const char *marker;
    size_t i = p->scan > p->from ? p->scan : p->from;
    for (; i < p->pending.n; i++) {
        match stands_here = marker_at(p, i, &marker);
        if (stands_here != NO)
            p->scan = *found = i;
        if (stands_here == YES)
            return marker;
        if (stands_here == MORE)
            return NULL;
        if (is_cut_marker(p, i))
            p->pending.n = i;
    }
    p->scan = *found = p->pending.n;
    return NULL;
}

static bool is_dsml(const char *marker) { return strcmp(marker, DSML_OPEN) == 0 || strcmp(marker, DSML_CLOSE) == 0; }

/* The end of [from, to) without the newlines that would belong to a block behind it. */
static size_t without_newlines(const dsvk_chat_parser *p, size_t to) {
    for (size_t n = 0; n < BLOCK_NEWLINES && to > p->from && *at(p, to - 1) == '\n'; n++)
        to--;
    return to;
}

static void behind(dsvk_chat_parser *p, size_t i) { p->from = p->scan = i; }

/* ---- one step each: true when something was decided ---- */

static void take_special(dsvk_chat_parser *p, const char *special) {
    if (strcmp(special, CHAT_EOS) == 0)
        end_answer(p);
    else if (strcmp(special, CHAT_END_THINK) == 0 && p->place == REASONING)
        p->place = CONTENT;
    else if (strcmp(special, CHAT_THINK) == 0 && p->place == CONTENT && !p->said)
        p->place = REASONING; /* thinking although not asked to */
}

static bool take_text(dsvk_chat_parser *p) {
    size_t found;
    const char *marker = find_marker(p, &found);
    if (!marker) {
        emit_text(p, p->finished ? found : without_newlines(p, found));
        return false;
    }
    emit_text(p, strcmp(marker, DSML_OPEN) == 0 ? without_newlines(p, found) : found);
    behind(p, found + strlen(marker));
    if (strcmp(marker, DSML_OPEN) == 0)
        p->place = BLOCK;
    if (is_dsml(marker))
        p->tag = strcmp(marker, DSML_OPEN) == 0 ? OPEN_TAG : CLOSE_TAG;
    else
        take_special(p, marker);
    return true;
}

/* Between the elements of a block there is nothing to keep. */
static bool take_block(dsvk_chat_parser *p) {
    size_t found;
    const char *marker = find_marker(p, &found);
    p->from = found;
    if (!marker)
        return false;
    behind(p, found + strlen(marker));
    if (is_dsml(marker))
        p->tag = strcmp(marker, DSML_OPEN) == 0 ? OPEN_TAG : CLOSE_TAG;
    else if (strcmp(marker, CHAT_EOS) == 0)
        end_answer(p);
    return true;
}

/* A value may hold anything but its own end. */
static bool take_value(dsvk_chat_parser *p) {
    for (size_t i = p->scan > p->from ? p->scan : p->from; i < p->pending.n; i++) {
        if (*at(p, i) != '<')
            continue;
        match close = marker_stands(p, i, PARAMETER_CLOSE, 2), eos = marker_stands(p, i, CHAT_EOS, 0);
        if (close == NO && eos == NO) {
            if (is_cut_marker(p, i))
                p->pending.n = i;
            continue;
        }
        emit_value(p, i);
        if (close == MORE || eos == MORE)
            return false;
        behind(p, i + strlen(close == YES ? PARAMETER_CLOSE : CHAT_EOS));
        if (close == YES) {
            end_value(p);
            p->tag = TAG_REST;
        } else {
            end_answer(p);
        }
        return true;
    }
    emit_value(p, p->pending.n);
    return false;
}

static void take_open_tag(dsvk_chat_parser *p, const char *text, size_t n) {
    p->tag = TAG_REST;
    if (n == strlen("invoke") && memcmp(text, "invoke", n) == 0) {
        end_call(p, DSVK_CHAT_CALL_END);
        p->tag = INVOKE_HEAD;
    } else if (n == strlen("parameter") && memcmp(text, "parameter", n) == 0) {
        p->tag = PARAMETER_HEAD;
    }
}

static void take_close_tag(dsvk_chat_parser *p, const char *text, size_t n) {
    p->tag = TAG_REST;
    if (p->place != BLOCK || (n == strlen("parameter") && memcmp(text, "parameter", n) == 0))
        return;
    end_call(p, DSVK_CHAT_CALL_END);
    if (n == strlen("invoke") && memcmp(text, "invoke", n) == 0)
        return;
    p->place = CONTENT;
    p->after_block = true;
}

/* The name of a tag. */
static bool take_tag(dsvk_chat_parser *p) {
    size_t i = p->scan;
    while (i < p->pending.n && ((*at(p, i) >= 'a' && *at(p, i) <= 'z') || *at(p, i) == '_'))
        i++;
    p->scan = i;
    if (i == p->pending.n && !p->finished)
        return false;
    size_t from = p->from;
    behind(p, i);
    if (p->tag == OPEN_TAG)
        take_open_tag(p, at(p, from), i - from);
    else
        take_close_tag(p, at(p, from), i - from);
    return true;
}

/* What is left of a tag: up to its ">", or to where it can not go on. */
static bool take_tag_rest(dsvk_chat_parser *p) {
    size_t i = p->from;
    while (i < p->pending.n && *at(p, i) != '>' && *at(p, i) != '\n' && *at(p, i) != '<')
        i++;
    bool done = i < p->pending.n;
    behind(p, done && *at(p, i) == '>' ? i + 1 : i);
    if (done)
        p->tag = NO_TAG;
    return done;
}

/* ` name="`, where a head begins; *from is behind it. White space is decided at once. */
static match take_name_begin(dsvk_chat_parser *p, size_t *from) {
    while (p->from < p->pending.n && is_space(*at(p, p->from)))
        behind(p, p->from + 1);
    *from = p->from + strlen("name=\"");
    return stands(p, p->from, "name=\"");
}

/* How the heads end: invoke's with `">` and then white space or the next tag, a parameter's with its kind, which may have
 * been left out. So names may hold quotes. *length is that of the end. */
static match invoke_end(const dsvk_chat_parser *p, size_t i, size_t *length) {
    match ends = stands(p, i, "\">");
    *length = strlen("\">");
    if (ends != YES)
        return ends;
    if (i + *length == p->pending.n)
        return p->finished ? YES : MORE;
    return is_space(*at(p, i + *length)) || *at(p, i + *length) == '<' ? YES : NO;
}

static match parameter_end(const dsvk_chat_parser *p, size_t i, size_t *length, value_kind *kind) {
    static const char *const ends[] = { "\" string=\"true\">", "\" string=\"false\">", "\">" };
    static const value_kind kinds[] = { STRING_VALUE, JSON_VALUE, JSON_VALUE };
    for (size_t k = 0; k < DSVK_COUNT(ends); k++) {
        match ended = stands(p, i, ends[k]);
        *length = strlen(ends[k]);
        *kind = kinds[k];
        if (ended != NO)
            return ended;
    }
    return NO;
}

/* `name="NAME` and the end of the head. */
static bool take_head(dsvk_chat_parser *p) {
    size_t from, length = 0;
    const char *marker;
    value_kind kind = JSON_VALUE;
    match begins = take_name_begin(p, &from);
    for (size_t i = p->scan > from ? p->scan : from; begins == YES && i < p->pending.n; i++) {
        p->scan = i;
        match other = *at(p, i) == '<' ? marker_at(p, i, &marker) : NO;
        match ends = p->tag == INVOKE_HEAD ? invoke_end(p, i, &length) : parameter_end(p, i, &length, &kind);
        if (ends == MORE || other == MORE)
            return false;
        if (ends == NO && other == NO)
            continue;
        if (ends == YES && p->tag == INVOKE_HEAD)
            begin_call(p, at(p, from), i - from);
        else if (ends == YES)
            begin_value(p, at(p, from), i - from, kind);
        behind(p, ends == YES ? i + length : i);
        p->tag = NO_TAG;
        return true;
    }
    if (begins != NO && !p->finished)
        return false;
    p->tag = TAG_REST; /* without a name it is nothing */
    return true;
}

static bool take(dsvk_chat_parser *p) {
    switch (p->tag) {
    case OPEN_TAG:
    case CLOSE_TAG: return take_tag(p);
    case INVOKE_HEAD:
    case PARAMETER_HEAD: return take_head(p);
    case TAG_REST: return take_tag_rest(p);
    case NO_TAG: break;
    }
    switch (p->place) {
    case REASONING:
    case CONTENT: return take_text(p);
    case BLOCK: return take_block(p);
    case VALUE: return take_value(p);
    case ENDED: break;
    }
    behind(p, p->pending.n);
    return false;
}

/* ---- dsvk.h ---- */

dsvk_status dsvk_chat_parser_open(dsvk_chat_parser **parser, uint32_t thinking, dsvk_error *err) {
    if (parser)
        *parser = NULL;
    if (!parser || thinking > 1)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_parser_open: %s",
                         parser ? "thinking is neither 0 nor 1" : "parser is NULL");
    dsvk_chat_parser *p = dsvk_alloc_zero(1, sizeof *p);
    if (!p)
        return dsvk_fail_nomem(err, sizeof *p);
    p->place = thinking ? REASONING : CONTENT;
    *parser = p;
    return DSVK_OK;
}

void dsvk_chat_parser_close(dsvk_chat_parser *p) {
    if (!p)
        return;
    dsvk_text *texts[] = { &p->pending, &p->ordinary, &p->names, &p->spans,
                           &p->value,   &p->out,      &p->events };
    for (size_t i = 0; i < DSVK_COUNT(texts); i++)
        dsvk_free(texts[i]->bytes);
    dsvk_free(p);
}

/* Room for all that n new bytes can lead to. A broken byte becomes three, and a byte of text six in a JSON string; an event
 * or a parameter takes a tag, of which at most the beginning is decided already. */
static bool reserve(dsvk_chat_parser *p, size_t n) {
    uint64_t fresh, total, out;
    if (!dsvk_mul(n + sizeof p->cut, 3, &fresh) || !dsvk_add(p->pending.n - p->from, fresh, &total) ||
        !dsvk_mul(total + p->value.n, 6, &out) || out > SIZE_MAX / 16)
        return false;
    struct {
        dsvk_text *text;
        uint64_t more;
    } room[] = { { &p->pending, fresh },          { &p->out, out + 64 },         { &p->ordinary, fresh },
                 { &p->events, (total / 4 + 8) * sizeof(event) }, { &p->names, total },
                 { &p->spans, (total / 16 + 2) * sizeof(name) },  { &p->value, total } };
    bool all = true;
    for (size_t i = 0; i < DSVK_COUNT(room); i++) {
        all &= dsvk_text_reserve(room[i].text, (size_t)room[i].more);
        room[i].text->failed = false;
    }
    return all;
}

/* The whole characters of what was cut before and of bytes [n]; what is cut now is kept. */
static void put_characters(dsvk_chat_parser *p, const char *bytes, size_t n) {
    size_t i = 0;
    while (p->n_cut > 0 && i < n) { /* one byte decides */
        dsvk_utf8 kind;
        p->cut[p->n_cut] = bytes[i];
        size_t length = dsvk_utf8_next(p->cut, p->n_cut + 1, &kind);
        if (kind == DSVK_UTF8_CUT) {
            p->n_cut++, i++;
            continue;
        }
        dsvk_text_puts(&p->pending, kind == DSVK_UTF8_CHAR ? "" : "\xef\xbf\xbd");
        dsvk_text_put(&p->pending, p->cut, kind == DSVK_UTF8_CHAR ? length : 0);
        i += kind == DSVK_UTF8_CHAR; /* otherwise this byte begins something new */
        p->n_cut = 0;
    }
    while (i < n) {
        dsvk_utf8 kind;
        size_t length = dsvk_utf8_next(bytes + i, n - i, &kind);
        if (kind == DSVK_UTF8_CHAR)
            dsvk_text_put(&p->pending, bytes + i, length);
        else if (kind == DSVK_UTF8_BROKEN)
            dsvk_text_puts(&p->pending, "\xef\xbf\xbd");
        else
            memcpy(p->cut, bytes + i, p->n_cut = length);
        i += length;
    }
}

/* Forgets what is decided and what was taken. */
static void compact(dsvk_chat_parser *p) {
    if (p->from > 0) {
        memmove(p->pending.bytes, p->pending.bytes + p->from, p->pending.n - p->from);
        memmove(p->ordinary.bytes, p->ordinary.bytes + p->from, p->pending.n - p->from);
        p->pending.n = p->ordinary.n = p->pending.n - p->from;
        p->scan = p->scan > p->from ? p->scan - p->from : 0;
        p->from = 0;
    }
    if (p->next == n_events(p))
        p->events.n = p->out.n = p->next = 0;
}

static dsvk_status feed(dsvk_chat_parser *p, const char *bytes, size_t n, bool ordinary, dsvk_error *err) {
    if (p->finished)
        return dsvk_fail(err, DSVK_STATE, "the parser is finished");
    compact(p);
    if (!reserve(p, n))
        return dsvk_fail_nomem(err, n);
    size_t before = p->pending.n;
    put_characters(p, bytes, n);
    memset(p->ordinary.bytes + before, ordinary, p->pending.n - before);
    p->ordinary.n = p->pending.n;
    while (take(p))
        continue;
    return DSVK_OK;
}

dsvk_status dsvk_chat_parser_feed(dsvk_chat_parser *p, const char *bytes, size_t n, dsvk_error *err) {
    if (!p || (!bytes && n > 0))
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_parser_feed: %s is NULL", p ? "bytes" : "parser");
    return feed(p, bytes, n, false, err);
}

dsvk_status dsvk_chat_parser_push(dsvk_chat_parser *p, const dsvk_tokenizer *t, int32_t id, dsvk_error *err) {
    if (!p || !t)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_parser_push: %s is NULL", p ? "tokenizer" : "parser");
    if (id < 0 || (uint32_t)id >= t->vocab_size || t->tokens[id].kind == DSVK_TOKEN_NONE)
        return dsvk_fail(err, DSVK_INVALID, "id %d is no token; the vocabulary has ids below %u", id, t->vocab_size);
    const char *text = dsvk_token_bytes(t, id);
    size_t n = t->tokens[id].n;
    bool ordinary = t->tokens[id].kind < DSVK_TOKEN_ADDED, may_become;
    if (!ordinary && !dsvk_chat_special(text, n, &may_become)) /* one that is not of this format: padding, fill-in */
        n = 0;
    return feed(p, text, n, ordinary, err);
}

dsvk_status dsvk_chat_parser_finish(dsvk_chat_parser *p, dsvk_error *err) {
    if (!p)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_parser_finish: parser is NULL");
    if (p->finished)
        return DSVK_OK;
    compact(p);
    if (!reserve(p, 0))
        return dsvk_fail_nomem(err, 0);
    if (p->n_cut > 0) {
        memset(p->ordinary.bytes + p->pending.n, true, strlen("\xef\xbf\xbd"));
        dsvk_text_puts(&p->pending, "\xef\xbf\xbd");
    }
    p->finished = true;
    while (take(p))
        continue;
    end_call(p, DSVK_CHAT_CALL_CUT);
    return DSVK_OK;
}

uint32_t dsvk_chat_parser_next(dsvk_chat_parser *p, dsvk_chat_event *kind, uint32_t *call, const char **text, size_t *n) {
    if (!p || !kind || !call || !text || !n || p->next == n_events(p))
        return 0;
    const event *e = &event_list(p)[p->next++];
    *kind = e->kind;
    *call = e->call;
    *text = p->out.bytes + e->at;
    *n = e->n;
    return 1;
}

dsvk_chat_event dsvk_chat_parser_place(const dsvk_chat_parser *p) {
    static const dsvk_chat_event places[] = { [REASONING] = DSVK_CHAT_REASONING, [CONTENT] = DSVK_CHAT_CONTENT,
                                              [BLOCK] = DSVK_CHAT_CALL, [VALUE] = DSVK_CHAT_CALL,
                                              [ENDED] = DSVK_CHAT_END };
    return p ? places[p->place] : DSVK_CHAT_END;
}

/* ---- a whole answer ---- */

typedef struct message {
    dsvk_text content, reasoning, calls; /* the insides of two JSON strings and of a list */
} message;

static void add_event(message *m, dsvk_chat_event kind, const char *text, size_t n) {
    switch (kind) {
    case DSVK_CHAT_REASONING: dsvk_text_put_escaped(&m->reasoning, text, n); break;
    case DSVK_CHAT_CONTENT: dsvk_text_put_escaped(&m->content, text, n); break;
    case DSVK_CHAT_CALL:
        dsvk_text_puts(&m->calls, m->calls.n ? ", " : "");
        dsvk_text_puts(&m->calls, "{\"type\": \"function\", \"function\": {\"name\": \"");
        dsvk_text_put_escaped(&m->calls, text, n);
        dsvk_text_puts(&m->calls, "\", \"arguments\": \"");
        break;
    case DSVK_CHAT_ARGUMENTS: dsvk_text_put_escaped(&m->calls, text, n); break;
    case DSVK_CHAT_CALL_END: dsvk_text_puts(&m->calls, "\"}}"); break;
    case DSVK_CHAT_CALL_CUT: dsvk_text_puts(&m->calls, "\"}, \"complete\": false}"); break;
    case DSVK_CHAT_END: break;
    }
}

static void add_events(message *m, dsvk_chat_parser *p) {
    dsvk_chat_event kind;
    uint32_t call;
    const char *text;
    size_t n;
    while (dsvk_chat_parser_next(p, &kind, &call, &text, &n))
        add_event(m, kind, text, n);
}

dsvk_status dsvk_chat_parse(const char *text, size_t n, uint32_t thinking, char **json, dsvk_error *err) {
    if ((!text && n > 0) || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_parse: %s is NULL", json ? "text" : "json");
    enum { SLICE = 4096 }; /* bounds what the parser reserves */
    message m = { 0 };
    dsvk_text out = { 0 };
    dsvk_chat_parser *p = NULL;
    dsvk_status status;
    DSVK_GOTO(dsvk_chat_parser_open(&p, thinking, err));
    for (size_t i = 0; i < n; i += SLICE) {
        DSVK_GOTO(dsvk_chat_parser_feed(p, text + i, n - i < SLICE ? n - i : SLICE, err));
        add_events(&m, p);
    }
    DSVK_GOTO(dsvk_chat_parser_finish(p, err));
    add_events(&m, p);
    dsvk_text_puts(&out, "{\"role\": \"assistant\", \"content\": \"");
    dsvk_text_put(&out, m.content.bytes, m.content.n);
    dsvk_text_puts(&out, "\", \"reasoning_content\": \"");
    dsvk_text_put(&out, m.reasoning.bytes, m.reasoning.n);
    dsvk_text_puts(&out, "\", \"tool_calls\": [");
    dsvk_text_put(&out, m.calls.bytes, m.calls.n);
    dsvk_text_put(&out, "]}", sizeof "]}");
    if (out.failed || m.content.failed || m.reasoning.failed || m.calls.failed) {
        status = dsvk_fail_nomem(err, out.n);
        goto fail;
    }
    *json = out.bytes;
    out.bytes = NULL;
fail:
    dsvk_chat_parser_close(p);
    dsvk_free(m.content.bytes);
    dsvk_free(m.reasoning.bytes);
    dsvk_free(m.calls.bytes);
    dsvk_free(out.bytes);
    return status;
}
