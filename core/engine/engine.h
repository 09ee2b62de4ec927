/* Inside of a model and a session. A model is immutable weights and one workspace; a step (one forward pass over rows of any
 * mix of sessions) takes the model's step lock, so sessions on different threads take turns. */
#ifndef DSVK_ENGINE_H
#define DSVK_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache.h"
#include "loader.h"
#include "logit_edit.h"
#include "weights.h"

/* ---- workspace of a step ---- */

/* Scratch on the device for n rows; addresses into one buffer. All f32 unless said. */
typedef struct dsvk_scratch {
    dsvk_buffer buffer;
    uint32_t rows;           /* n it is large enough for */
    uint32_t positions;      /* largest number of positions it is large enough for */
    dsvk_addr x;             /* [n, 4, D] the streams */
    dsvk_addr a;             /* [n, D] a sublayer's normalised input */
    dsvk_addr post, comb;    /* [n, 4], [n, 4, 4] */
    dsvk_addr partials;      /* [n, chunks, 25], or of few rows [n, D / 32, 25] */
    dsvk_addr qa_kv;         /* [n, Rq + dh] */
    dsvk_addr compress;      /* [n, compress_stride] */
    dsvk_addr qr;            /* [n, Rq] */
    dsvk_addr q;             /* [n, H dh + Hi di] */
    dsvk_addr scores, lists; /* [rows of a group, visible], what topk lists of them */
    dsvk_addr idx;           /* i32 [n, Ki] */
    dsvk_addr attn;          /* partial attention */
    dsvk_addr o;             /* [n, H dh] */
    dsvk_addr u;             /* [n, G Ro] */
    dsvk_addr y;             /* [n, A + 1, D] */
    dsvk_addr gate;          /* [n, gate_stride] */
    dsvk_addr expert_idx;    /* u32 [n, A] */
    dsvk_addr expert_weight; /* [n, A] */
    dsvk_addr pairs, tiles;  /* u32 [n A], uvec4 */
    dsvk_addr h;             /* [n A, I], then [n, I] of the shared expert */
    dsvk_addr store;         /* row store of n rows */
    dsvk_addr mtp_x, mtp_in; /* [n, 4, D] each, when the model has the MTP block */
    dsvk_addr mtp_e;         /* [n, D] */
} dsvk_scratch;

/* What a trace takes out of a forward pass, of the layer it belongs to. */
typedef enum dsvk_tap {
    DSVK_TAP_EMBEDDING, DSVK_TAP_ATTN_INPUT, DSVK_TAP_ATTN_POST, DSVK_TAP_ATTN_COMB, DSVK_TAP_SCORES, DSVK_TAP_SELECTED,
    DSVK_TAP_FFN_INPUT, DSVK_TAP_FFN_POST, DSVK_TAP_FFN_COMB, DSVK_TAP_LOGITS, DSVK_TAP_EXPERTS, DSVK_TAP_WEIGHTS, DSVK_TAP_STREAMS,
    DSVK_TAP_COUNT
} dsvk_tap;
/* Called while recording, where rows first .. first + rows - 1 of it stand complete in the scratch at `from`, `stride` bytes
 * apart: a barrier is behind them, and one has to follow what reads them. */
typedef void (*dsvk_tap_fn)(void *user, dsvk_tap what, uint32_t layer, dsvk_addr from, uint32_t first, uint32_t rows, uint64_t stride);

/* Rows of one forward pass, in memory the device reads. */
typedef struct dsvk_step {
    uint32_t n;              /* rows */
    uint32_t n_seqs;
    uint32_t positions;      /* no position is as large; grids are sized for it */
    dsvk_addr rows, seqs;    /* dsvk_row [n], dsvk_seq [n_seqs] */
    const dsvk_buffer *index_grid; /* where the device keeps the indexer's grid for these rows; NULL: positions are exact */
    uint64_t index_grid_offset;
    void (*between)(void *user); /* called between stages of a block, where a recording may be cut; NULL: nothing */
    void *user;
    dsvk_tap_fn tap;         /* NULL: nothing is traced */
    void *tap_user;
} dsvk_step;

/* The host side of a step: arrays in one mapped buffer, and what comes back in another. */
typedef struct dsvk_inbox {
    dsvk_buffer buffer;      /* STAGING */
    uint32_t capacity;       /* rows */
    struct dsvk_row *rows, *mtp_rows;   /* [capacity] */
    struct dsvk_seq *seqs, *mtp_seqs;   /* [capacity] */
    uint32_t *select, *mtp_select, *source; /* [capacity] */
    struct dsvk_sample_row *sample;     /* [capacity] */
    const dsvk_buffer **keep; /* [capacity] host memory: where a chosen row's logits stay on the device, or NULL */
} dsvk_inbox;

/* Where the scratch was when a step was recorded. */
typedef struct dsvk_decode_place {
    dsvk_addr scratch;
    uint32_t rows, positions;
} dsvk_decode_place;

/* A decode step recorded once (decode.c). */
typedef struct dsvk_decode {
    dsvk_cmd *enter, *edit, *step, *leave;
    uint32_t rows, positions; /* what `step` is recorded for; 0 rows: nothing */
    uint32_t stages;          /* of one token */
    dsvk_decode_place place;
    uint64_t ticket;          /* of the batch whose sessions `enter` and `leave` name */
    dsvk_buffer inbox;        /* STAGING: what a submit begins from */
    dsvk_buffer state;        /* SCRATCH: the same on the device, moved on from token to token */
    dsvk_buffer chosen;       /* READBACK u32 [tokens of a submit][rows] */
    double token_seconds;     /* of the last token of token_rows rows; 0: none has run */
    uint32_t token_rows;
} dsvk_decode;

struct dsvk_model {
    atomic_int references;
    dsvk_device *device;
    dsvk_config config;
    dsvk_weights weights;
    dsvk_cache_layout layout;
    dsvk_rope_table rope[2];  /* [0] window layers, [1] layers with a ratio */
    dsvk_buffer *buffers;     /* [n_buffers] */
    uint32_t n_buffers;
    uint64_t weight_bytes;
    dsvk_buffer constants;    /* post = 1 [4], comb = identity [4, 4] */
    dsvk_buffer counters;     /* u32 [DSVK_COUNTERS], 0 between dispatches: what last_workgroup() of shaders/last.glsl counts in */
    dsvk_buffer bins;         /* of DSVK_SELECT_ROWS rows, 0 between steps: what the indexer counts for topk */
    bool mtp;
    dsvk_model_options options; /* resolved */
    char *path;
    json_t *report;
    dsvk_tokenizer *tokenizer;

    pthread_mutex_t step_lock; /* everything below */
    bool step_lock_made;
    dsvk_scratch scratch;
    dsvk_inbox inbox;
    dsvk_buffer outbox;       /* READBACK */
    dsvk_buffer logits;       /* SCRATCH, f32 [rows][vocab] */
    dsvk_buffer edits;        /* STAGING: of the rows whose logits are changed (logit_edit.c); made when there are some */
    dsvk_cmd *cmd;
    uint64_t ticket;          /* of what the scratch holds: every step takes a new one */
    uint32_t stages_per_submit; /* how many stages of a block one submit takes now (step.c) */
    dsvk_decode decode;
};

/* One for every piece of work that several workgroups of one dispatch share, such as a head or an output tile; more of them than
 * the widest model's small steps have (forward.c checks). */
#define DSVK_COUNTERS 65536u
#define DSVK_SELECT_ROWS 64u /* rows whose entries are selected together */
#define DSVK_LOGIT_ROWS 32u /* rows of the head computed at once, so that logits never need more memory than this many rows */

/* Cache entries of page_tokens positions. Timelines that begin alike share it: whoever writes into one stands behind every
 * position that the others read (snapshot.c). */
typedef struct dsvk_page {
    atomic_uint references;
    dsvk_buffer buffer;
    uint32_t kept;           /* snapshots of the prefix tree that hold it (prefix_tree.c) */
} dsvk_page;

/* One run of new tokens of one session in a step. */
typedef struct dsvk_run {
    dsvk_session *session;
    const int32_t *tokens;   /* [n], appended at the session's end */
    uint32_t n;
} dsvk_run;

/* A step of few rows that is run in parts: some layers, then others, then the head (step.c). Between two parts nothing is held:
 * when other work went through the model meanwhile, the step begins again, and then runs to its end. */
typedef struct dsvk_part {
    uint32_t rows;          /* wanted for the next step, at most DSVK_ROLLBACK, so that the rings lose nothing by it */
    dsvk_run run;           /* of the step that has begun */
    dsvk_step step;
    uint64_t start;         /* of run in the timeline */
    uint64_t ticket;        /* the model's, as the step's last part left it; 0: no step has begun */
    uint32_t layers;        /* that have run; the head comes after the last */
    double seconds;         /* of all parts of the step */
    double layer_seconds;   /* what a layer of these rows took; 0: not known */
    double head_seconds;    /* the same of the head */
    bool done;              /* the step has ended, its tokens are appended */
} dsvk_part;

/* How long the last slice of one kind took. */
typedef struct dsvk_pace {
    uint64_t n;     /* its tokens; 0: there was none */
    double seconds;
} dsvk_pace;

/* Through which one call at a time works on a session: there is one for calls, and one for a poll, which is a series of them. */
typedef struct dsvk_gate {
    atomic_flag taken;
    atomic_uintptr_t thread; /* whose call is inside; 0: none */
} dsvk_gate;

/* What a session is polled towards (poll.c). */
typedef struct dsvk_goal {
    int32_t *tokens;         /* [end] the prefix to be at, then what was decoded; NULL: no goal */
    uint64_t n;              /* so many of them are known */
    uint64_t told;           /* ... and these the caller has heard of */
    uint64_t end;            /* n when all is decoded */
    bool stopped;            /* the last one is a stop */
    dsvk_sample_options options; /* stop, bias: owned */
    dsvk_part part;
    dsvk_pace prefill, decode; /* whole slices: a step, some tokens */
    dsvk_pace layer;           /* rows of a step in parts, and a layer of them */
    dsvk_gate poll;
    atomic_bool cancel;
} dsvk_goal;

struct dsvk_session {
    dsvk_model *model;
    uint64_t context;
    bool mtp;
    dsvk_progress_fn progress;
    void *user;
    dsvk_buffer state;
    dsvk_page **pages;       /* [max_pages] */
    _Atomic uint32_t n_pages; /* dsvk_session_memory reads it from any thread, */
    uint32_t max_pages;
    dsvk_buffer page_table;  /* dsvk_addr [max_pages] */
    dsvk_buffer logits;      /* f32 [vocab], after the last token */
    dsvk_buffer mtp_logits;  /* f32 [vocab], MTP sessions */
    bool have_logits, have_mtp_logits;
    int32_t *tokens;         /* [context] the timeline, whole from the start: decoding allocates nothing on the host */
    _Atomic uint64_t n;      /* dsvk_session_position this */
    uint64_t high;           /* one more than the last position the rings have seen since they were empty. Above n after
                                going back and after a step that was cut short; beyond DSVK_ROLLBACK the rings are of no use
                                for n, and the timeline runs again before it goes on */
    dsvk_logit_edit edit;    /* of the decoding that is going on */
    dsvk_gate call;
    atomic_uint references;  /* the handle's, and one of each call inside: who gives the last one back frees it (faults A05) */
    atomic_bool cancel;
    atomic_bool closed;      /* the handle is gone; calls inside stop, and ask their callbacks no more */
    dsvk_goal goal;
};

const char *dsvk_layer_kind(uint32_t ratio); /* "SWA", "CSA" or "HCA", for plans and profiles */

/* ---- forward pass (forward.c): records, never waits ---- */

dsvk_status dsvk_scratch_reserve(dsvk_model *model, uint32_t n, uint32_t positions, dsvk_error *err);
uint64_t dsvk_scratch_bytes(dsvk_model *model, uint32_t n, uint32_t positions); /* what reserve would allocate */
void dsvk_scratch_free(dsvk_model *model);
/* What a row with so many positions, its own among them, adds to what the recording of its step is booked by (ops.h, units). */
void dsvk_forward_count(const dsvk_config *config, uint32_t positions, uint64_t counts[DSVK_UNITS]);
/* Embedding and the first reductions; then every layer 0 .. L-1 in order; then the head and the MTP block on chosen rows. */
void dsvk_forward_begin(dsvk_model *model, dsvk_cmd *cmd, const dsvk_step *step);
void dsvk_forward_layer(dsvk_model *model, dsvk_cmd *cmd, const dsvk_step *step, uint32_t layer);
/* logits f32 [n, vocab] of rows select[0 .. n-1] (u32 on the device) out of n_in, n <= DSVK_LOGIT_ROWS. `mtp`: of the MTP
 * block's streams. */
void dsvk_forward_head(dsvk_model *model, dsvk_cmd *cmd, uint32_t n_in, dsvk_addr select, uint32_t n, dsvk_addr logits, bool mtp);
/* 4.13 on pairs (streams of position t, token t + 1) after the last layer of `step`: row i of `pairs` has token t + 1 and
 * position t; source[i] names the row of `step` with the streams, or 0x80000000 | slot of the session's kept ones. Then keeps
 * the streams of the step's last rows. The head (mtp) reads the result; the main head must have been recorded before. */
void dsvk_forward_mtp(dsvk_model *model, dsvk_cmd *cmd, const dsvk_step *step, const dsvk_step *pairs, dsvk_addr source);

/* ---- steps (step.c): prepare, submit, wait ---- */

/* What a step gives besides the sessions' own last logits, which stay on the device; every field may be NULL. */
typedef struct dsvk_step_result {
    float *logits;           /* host f32 [sum n, vocab], in the order of runs */
    void (*take)(void *user, uint32_t first, uint32_t n, const float *logits); /* told the rows first .. of [n, vocab], instead */
    float *mtp_logits;       /* the same of the MTP block; NaN where there is no pair */
    bool (*stop)(void *user); /* asked between submits; true: CANCELLED */
    void *user;
    dsvk_tap_fn tap;         /* of the main model's layers */
    void *tap_user;
} dsvk_step_result;

/* Grows each session's pages, runs the rows of all runs through the model in one step, and appends the tokens. The sum of n is
 * at most options.max_chunk. When it fails no token is appended; failing (or stopped) after it began, the sessions' rings are
 * ahead of them (see high) and their logits are gone. BUSY when called from inside a step of the same thread. */
dsvk_status dsvk_step_run(dsvk_model *model, const dsvk_run *runs, uint32_t n_runs, const dsvk_step_result *result,
                          dsvk_error *err);
/* Chooses the next id of every session from its last logits: ids [n]. */
dsvk_status dsvk_step_sample(dsvk_model *model, dsvk_session *const *sessions, uint32_t n, const dsvk_sample_options *options,
                             int32_t *ids, dsvk_error *err);
/* As many layers as fit into so many seconds, at least one, or the head: of the step that has begun, or of a new one of part->rows
 * tokens, tokens[session->n] and on. */
dsvk_status dsvk_step_part(dsvk_session *session, dsvk_part *part, const int32_t *tokens, double seconds, dsvk_error *err);
dsvk_status dsvk_step_open(dsvk_model *model, dsvk_error *err);
void dsvk_step_close(dsvk_model *model);

#define DSVK_SUBMIT_AIM_S 0.1 /* what a submit should take at most (faults D10) */
double dsvk_now_s(void);
void dsvk_stages_measured(dsvk_model *model, uint32_t stages, double seconds); /* so many ran in one submit, for so long */
/* The step lock, with BUSY for the thread that has it already. */
dsvk_status dsvk_step_lock(dsvk_model *model, dsvk_error *err);
dsvk_status dsvk_grow_pages(dsvk_session *session, uint64_t tokens, dsvk_error *err); /* pages for so many tokens in all */
dsvk_status dsvk_page_create(dsvk_model *model, dsvk_page **page, dsvk_error *err);
void dsvk_page_release(dsvk_model *model, dsvk_page *page); /* accepts NULL */
void dsvk_fill_sample(struct dsvk_sample_row *row, const dsvk_sample_options *options, uint64_t position);
/* NUMERIC when the id chosen for a sequence is none. */
dsvk_status dsvk_check_id(uint32_t sequence, uint32_t id, uint32_t vocab, dsvk_error *err);

/* ---- logits changed before a token is chosen (logit_edit.c) ---- */

/* Decoding begins at the session's end, by these options (NULL: none). */
dsvk_status dsvk_edit_begin(dsvk_session *session, const dsvk_sample_options *options, dsvk_error *err);
/* Before each token: looks at what has come, and asks the mask function, in this thread, with no lock held. */
dsvk_status dsvk_edit_next(dsvk_session *session, const dsvk_sample_options *options, uint32_t choice, dsvk_error *err);
/* Records the changes to m->logits, whose row i is session i's. With the step lock held. */
dsvk_status dsvk_edit_record(dsvk_model *model, dsvk_cmd *cmd, dsvk_session *const *sessions, uint32_t n,
                             const dsvk_sample_options *options, dsvk_error *err);
bool dsvk_any_edited(dsvk_session *const *sessions, uint32_t n);
void dsvk_edit_free(dsvk_logit_edit *edit);

/* ---- decoding (decode.c) ---- */

/* The sequences still running, side by side in arrays that steps take. */
typedef struct dsvk_batch {
    dsvk_session **sessions;      /* [running] */
    dsvk_sample_options *options; /* [running] */
    dsvk_run *runs;               /* [running] */
    int32_t *ids;                 /* [running] chosen next */
    uint64_t *start;              /* [running] the session's length when decoding began */
    uint32_t *slot;               /* [running] index in the caller's arrays */
    uint32_t running;
    uint64_t ticket;              /* 0 when the sessions have changed */
} dsvk_batch;

/* Every session chooses and appends tokens, at least one and at most `most` of them, in one submit or one step; a session whose
 * token is a stop appends no more. All have logits, and room in their context. NUMERIC: a session has no finite logits to choose
 * from, and no session has more tokens than it; else no token is appended when it fails. `stop` as in dsvk_step_result. Sessions
 * whose logits are changed (dsvk_edit_next) get one token, and those whose mask is asleep none behind the one that wakes it. */
dsvk_status dsvk_decode_run(dsvk_batch *batch, uint64_t most, bool (*stop)(void *user), void *user, dsvk_error *err);
bool dsvk_is_stop(const dsvk_sample_options *options, int32_t id);
/* INVALID names the field, or the first id outside the vocabulary: "token 3 is -1" (session.c). */
dsvk_status dsvk_check_ids(const dsvk_model *model, const char *what, const int32_t *ids, size_t n, dsvk_error *err);
dsvk_status dsvk_check_sampling(const dsvk_model *model, const dsvk_sample_options *options, dsvk_error *err);
void dsvk_decode_measured(dsvk_model *model, uint32_t n, double seconds); /* a step of one token of n sessions took so long */
dsvk_status dsvk_decode_open(dsvk_model *model, dsvk_error *err);
void dsvk_decode_close(dsvk_model *model);
uint64_t dsvk_decode_scratch_bytes(void); /* what open allocates */
uint64_t dsvk_decode_readback_bytes(void);

/* BUSY when a call is inside, STATE when the session is closed. */
dsvk_status dsvk_gate_take(dsvk_session *session, dsvk_gate *gate, dsvk_error *err);
void dsvk_gate_leave(dsvk_session *session, dsvk_gate *gate); /* the session may be gone after it */

/* ---- work in slices (poll.c) ---- */

void dsvk_goal_free(dsvk_goal *goal);
dsvk_status dsvk_session_check_goal(const dsvk_session *session, const int32_t *tokens, size_t n, size_t n_decode,
                                    const dsvk_sample_options *options, dsvk_error *err);
/* How many tokens of the prefix [n] need not run again to be at it; n: the session is there, with logits. */
dsvk_status dsvk_session_kept(dsvk_session *session, const int32_t *tokens, uint64_t n, uint64_t *n_kept, dsvk_error *err);
/* Goes back to what is kept of the prefix [n], and runs a part of a step of its next tokens. */
dsvk_status dsvk_session_part(dsvk_session *session, dsvk_part *part, const int32_t *tokens, uint64_t n, double seconds,
                              dsvk_error *err);
/* The next id by the session's logits; appends nothing. */
dsvk_status dsvk_session_sample(dsvk_session *session, const dsvk_sample_options *options, int32_t *id, dsvk_error *err);

/* UNSUPPORTED when this device decodes small weights wrong (known_answer.c). */
dsvk_status dsvk_known_answer(dsvk_device *device, dsvk_cmd *cmd, dsvk_error *err);
/* Settles how steps of many rows are multiplied (matmul_choice.c); UNSUPPORTED when the way that was forced is wrong here. */
dsvk_status dsvk_matmul_choose(dsvk_device *device, dsvk_cmd *cmd, dsvk_error *err);
/* The fastest of list [n] that computes a known product right; the kernels for few rows when none does. DEVMEM: there was no room to
 * measure; *best stays, or is the fastest product with plain attention or index scores, whichever were not measured. */
dsvk_status dsvk_matmul_fastest(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *list, uint32_t n,
                                dsvk_matmul_variant *best, dsvk_error *err);
/* Which of attention and index scores are to do without the variant's matrix units: those that are faster so, and those that could not
 * be timed, which is DEVMEM if there was no room for it. */
dsvk_status dsvk_matmul_plain(dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant *variant, dsvk_error *err);

dsvk_model *dsvk_model_retain(dsvk_model *model);
/* Checks the options (NULL: all defaults) and puts the defaults in. */
dsvk_status dsvk_model_resolve(dsvk_model_options *out, const dsvk_model_options *in, dsvk_error *err);

#endif
