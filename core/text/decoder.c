/* Streaming decode (dsvk.h): bytes of tokens in, whole characters out. What came out at any time is what
 * bytes.decode("utf-8", "replace") gives for the bytes so far, less an unfinished character at their end; so broken
 * bytes become U+FFFD as they do in Python. Buffers are made at open for the longest token: pushing allocates nothing.
 */
#include <string.h>

#include "tokenizer.h"

#define UNFINISHED_MAX 3 /* bytes of a character without its last */

struct dsvk_decoder {
    const dsvk_tokenizer *t;
    char *held; /* [UNFINISHED_MAX + longest]: the unfinished character, then the new token */
    char *out;  /* [3 * (UNFINISHED_MAX + longest)]: U+FFFD is three bytes and stands for at least one */
    size_t n_held;
};

dsvk_status dsvk_decoder_open(dsvk_decoder **decoder, const dsvk_tokenizer *t, dsvk_error *err) {
    if (decoder)
        *decoder = NULL;
    if (!decoder || !t)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_decoder_open: %s is NULL", decoder ? "tokenizer" : "decoder");
    size_t n = UNFINISHED_MAX + (size_t)t->longest;
    dsvk_decoder *d = dsvk_alloc_zero(1, sizeof *d);
    if (!d)
        return dsvk_fail_nomem(err, sizeof *d);
    d->t = t;
    d->held = dsvk_alloc(n);
    d->out = dsvk_alloc(3 * n);
    if (!d->held || !d->out) {
        dsvk_decoder_close(d);
        return dsvk_fail_nomem(err, 4 * n);
    }
    *decoder = d;
    return DSVK_OK;
}

void dsvk_decoder_close(dsvk_decoder *d) {
    if (!d)
        return;
    dsvk_free(d->held);
    dsvk_free(d->out);
    dsvk_free(d);
}

/* Moves what is complete from held to out and returns how many bytes of out that makes; at the end, everything. */
static size_t flush(dsvk_decoder *d, bool at_end) {
    size_t made = 0, i = 0;
    while (i < d->n_held) {
        dsvk_utf8 kind;
        size_t n = dsvk_utf8_next(d->held + i, d->n_held - i, &kind);
        if (kind == DSVK_UTF8_CUT && !at_end)
            break;
        bool whole = kind == DSVK_UTF8_CHAR;
        memcpy(d->out + made, whole ? d->held + i : "\xef\xbf\xbd", whole ? n : 3);
        made += whole ? n : 3;
        i += n;
    }
    memmove(d->held, d->held + i, d->n_held - i);
    d->n_held -= i;
    return made;
}

dsvk_status dsvk_decoder_push(dsvk_decoder *d, int32_t id, const char **text, size_t *n, dsvk_error *err) {
    if (!d || !text || !n)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_decoder_push: %s is NULL", !d ? "decoder" : !text ? "text" : "n");
    if (id < 0 || (uint32_t)id >= d->t->vocab_size || d->t->tokens[id].kind == DSVK_TOKEN_NONE)
        return dsvk_fail(err, DSVK_INVALID, "id %d is no token; the vocabulary has ids below %u", id, d->t->vocab_size);
    memcpy(d->held + d->n_held, dsvk_token_bytes(d->t, id), d->t->tokens[id].n);
    d->n_held += d->t->tokens[id].n;
    *n = flush(d, false);
    *text = d->out;
    return DSVK_OK;
}

dsvk_status dsvk_decoder_finish(dsvk_decoder *d, const char **text, size_t *n, dsvk_error *err) {
    if (!d || !text || !n)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_decoder_finish: %s is NULL", !d ? "decoder" : !text ? "text" : "n");
    *n = flush(d, true);
    *text = d->out;
    return DSVK_OK;
}
