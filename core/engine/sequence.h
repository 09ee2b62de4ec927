/* Requests and their sequences, as the scheduler sees them: what was asked for, what has been generated, and what of it may be
 * handed out. Sequences know nothing of the device but the session they hold. */
#ifndef DSVK_SEQUENCE_H
#define DSVK_SEQUENCE_H

#include "prefix_tree.h"

#define DSVK_MOST_CHOICES 128u
#define DSVK_MOST_TOP 20u
#define DSVK_MOST_STOP_TEXTS 64u
#define DSVK_MOST_STOP_BYTES 4096u

typedef struct dsvk_request {
    uint32_t references;      /* sequences; the last one frees it */
    uint64_t id;
    uint64_t owner;           /* hash of the owner's name: who shares turns */
    char *cache_key;          /* who shares kept prefixes */
    int32_t priority;
    bool exact;
    int32_t *prompt;          /* [n_prompt] */
    uint64_t n_prompt;
    uint64_t limit;           /* most tokens to generate, at least 1 */
    bool context_ends;        /* the limit is the context's, not the caller's */
    dsvk_sample_options sampling; /* its stop ids and biases are owned */
    char *stop_bytes;         /* owned: the stop texts one after the other */
    const char *stop_texts[DSVK_MOST_STOP_TEXTS];
    size_t stop_sizes[DSVK_MOST_STOP_TEXTS];
    uint32_t n_stop_texts;
    int32_t stop_after, stop_before;
    bool logprobs, prompt_logprobs;
    uint32_t n_top;
    uint32_t n_choices;
    atomic_bool cancelled, paused;
    bool prompt_ran;          /* by the first choice: the others may begin */
    uint64_t cached;          /* tokens of the prompt found kept */
    uint32_t n_begun;         /* choices that have begun */
    dsvk_snapshot *fork;      /* the end of the prompt, until every choice has begun */
} dsvk_request;

/* Checks the options and copies everything. `context`: most tokens of a timeline. */
dsvk_status dsvk_request_open(dsvk_request **request, const dsvk_model *model, const dsvk_request_options *options,
                              uint64_t context, dsvk_error *err);
void dsvk_request_release(dsvk_request *request); /* accepts NULL */

typedef enum dsvk_phase {
    DSVK_WAITING,  /* has no session */
    DSVK_PREFILL,  /* its session is behind */
    DSVK_DECODE,   /* its session has logits for the next token */
    DSVK_FINISHED  /* has no session any more */
} dsvk_phase;

/* Log-probabilities of tokens and of the likeliest in their places; NULL: not asked for. */
typedef struct dsvk_scores {
    float *logprobs;     /* [n] */
    int32_t *top_ids;    /* [n, n_top] */
    float *top_logprobs; /* [n, n_top] */
} dsvk_scores;

/* One choice of a request. Text is counted in bytes from its beginning; `text` holds those not yet handed out. */
typedef struct dsvk_sequence {
    struct dsvk_sequence *next; /* the scheduler's list, in the order of arrival */
    dsvk_request *request;
    uint32_t choice;
    dsvk_phase phase;
    dsvk_session *session;
    bool exact;               /* what the session holds is what this prompt alone computes */
    bool begun;
    uint64_t keep_at;         /* keep the prefix here too: others begin alike; 0: nowhere */

    int32_t *ids;             /* [n_ids] generated, without the id that stopped it */
    uint64_t *ends;           /* [n_ids] bytes of text up to and with each */
    dsvk_scores scores;       /* [n_ids] */
    dsvk_scores prompt_scores; /* [n_prompt] of the first choice, when asked for */
    uint64_t n_ids, capacity;

    dsvk_decoder *decoder;    /* NULL: the model has no tokenizer */
    char *text;               /* [n_text] from byte `text_start` on */
    size_t n_text, text_capacity;
    uint64_t text_start;
    uint64_t sure;            /* bytes before this may be handed out: no stop text begins there */
    bool looking;             /* for stop texts, beginning at byte look_from or later */
    uint64_t look_from;
    uint64_t lead_from;       /* what may lead to stop_before begins there: white space, and one '<' */
    bool lead_opened;         /* that has come */
    int32_t waiting_text;     /* a stop text that ended within the lead: it counts unless stop_before comes; -1 */
    uint64_t waiting_end;     /* where it ended */
    uint64_t ids_sure;        /* the same of ids */

    uint64_t prompt_done;     /* tokens of the prompt that are in the session */
    uint64_t prompt_out, ids_out, text_out; /* handed out */
    bool finish_out;
    dsvk_finish finish;
    int32_t stop_id, stop_text;
    dsvk_error error;         /* finish == DSVK_FINISH_ERROR */
} dsvk_sequence;

dsvk_status dsvk_sequence_open(dsvk_sequence **sequence, dsvk_request *request, uint32_t choice, const dsvk_tokenizer *tokenizer,
                               dsvk_error *err); /* takes a reference of the request */
void dsvk_sequence_close(dsvk_sequence *sequence);
/* Room for so many more tokens. */
dsvk_status dsvk_sequence_reserve(dsvk_sequence *sequence, uint64_t more, dsvk_error *err);
/* Puts the log-probabilities of the next id where push will count them: logits [vocab]. Needs room for it. */
void dsvk_sequence_logprobs(dsvk_sequence *sequence, const float *logits, uint32_t vocab, int32_t id);
/* The same of the prompt's token `at`, for choice 0 of a request with prompt_logprobs. */
void dsvk_sequence_prompt_logprobs(dsvk_sequence *sequence, const float *logits, uint32_t vocab, uint64_t at);
/* Appends a token, which may end the sequence (finish is then set). Needs room for it. */
dsvk_status dsvk_sequence_push(dsvk_sequence *sequence, int32_t id, dsvk_error *err);
void dsvk_sequence_finish(dsvk_sequence *sequence, dsvk_finish finish); /* all text becomes sure */
/* The next thing to tell of this sequence; false: nothing. What the event points to is valid until the next call that changes the
 * sequence. */
bool dsvk_sequence_event(dsvk_sequence *sequence, dsvk_event *event);

#endif
