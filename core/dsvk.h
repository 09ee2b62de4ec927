/* dsvk: DeepSeek-V4 on Vulkan. The whole public C API.
 *
 * Handles: a device (one Vulkan device), a model (immutable weights on a device, shareable between sessions and threads),
 * a session (one timeline of tokens, one thread at a time), a tokenizer (immutable).
 *
 * Every failing call returns a status and, when `err` is not NULL, fills it with a sentence that has names and numbers.
 * The object is then as it was before the call. `close` functions and dsvk_free accept NULL. An options struct begins
 * with its own size (`.size = sizeof options`); every other field's zero is the default, and a NULL options pointer
 * means all defaults. Text returned through `char **` is NUL-terminated UTF-8 that the caller releases with dsvk_free.
 * Reports (devices, plans, configurations, profiles) are JSON text, so that they can grow without breaking anybody.
 * The library never exits, aborts, prints, installs signal handlers or leaves threads behind. */
#ifndef DSVK_H
#define DSVK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DSVK_VERSION_MAJOR 0
#define DSVK_VERSION_MINOR 1
#define DSVK_VERSION_PATCH 0

#if defined(_WIN32)
#define DSVK_API
#else
#define DSVK_API __attribute__((visibility("default")))
#endif

/* ---- status ---- */

#define DSVK_STATUS_LIST(X)                                             \
    X(OK, 0, "success")                                                 \
    X(INVALID, 1, "invalid argument")                                   \
    X(STATE, 2, "handle closed, forked or failed")                      \
    X(BUSY, 3, "another call is running on this handle")                \
    X(CANCELLED, 4, "cancelled")                                        \
    X(FORMAT, 5, "malformed file")                                      \
    X(UNSUPPORTED, 6, "well-formed, but not supported")                 \
    X(LIMIT, 7, "over a limit")                                         \
    X(IO, 8, "input/output error")                                      \
    X(NOMEM, 9, "out of host memory")                                   \
    X(DEVMEM, 10, "out of device memory")                               \
    X(DEVLOST, 11, "device lost")                                       \
    X(NODEVICE, 12, "no usable Vulkan device")                          \
    X(NUMERIC, 13, "non-finite result")

typedef enum dsvk_status {
#define DSVK_STATUS_ENUM(name, code, sentence) DSVK_##name = code,
    DSVK_STATUS_LIST(DSVK_STATUS_ENUM)
#undef DSVK_STATUS_ENUM
} dsvk_status;

#define DSVK_MESSAGE_SIZE 1024

typedef struct dsvk_error {
    dsvk_status status;
    char message[DSVK_MESSAGE_SIZE]; /* one UTF-8 sentence */
} dsvk_error;

DSVK_API const char *dsvk_version(void);                     /* "0.1.0" */
DSVK_API const char *dsvk_status_name(dsvk_status status);   /* "FORMAT" */
DSVK_API const char *dsvk_status_text(dsvk_status status);   /* "malformed file" */
DSVK_API void dsvk_free(void *returned);                     /* releases text and arrays this library returned */

/* Called from the thread that made the call, at least every few MB or every submit. Return nonzero to cancel: the call
 * then returns DSVK_CANCELLED. `done` and `total` are bytes while loading, tokens while evaluating. */
typedef int (*dsvk_progress_fn)(void *user, const char *stage, uint64_t done, uint64_t total);

/* ---- device ---- */

typedef struct dsvk_device dsvk_device;

/* Every Vulkan device the loader shows, in the order of preference, usable or not:
 * {"loader": "...", "devices": [{"index", "name", "uuid", "type", "api", "driver", "usable", "reason", "chosen",
 *  "memory": bytes, "subgroup": [min, max], "features": {...}}]}. Works with no driver (an empty list and the reason). */
DSVK_API dsvk_status dsvk_devices(char **json, dsvk_error *err);

typedef enum dsvk_purpose {
    DSVK_WEIGHTS,
    DSVK_CACHE,
    DSVK_SCRATCH,
    DSVK_STAGING,
    DSVK_READBACK,
    DSVK_PURPOSE_COUNT
} dsvk_purpose;

typedef struct dsvk_device_options {
    size_t size;
    const char *device;    /* index ("0"), UUID, or part of a name that fits one device; NULL: the best usable one */
    const char *cache_dir; /* folder for compiled pipelines; NULL: $XDG_CACHE_HOME/dsvk or ~/.cache/dsvk; "": none */
    uint64_t budget[DSVK_PURPOSE_COUNT]; /* bytes per purpose; 0: what the device has */
    uint32_t validation;   /* 1: turn on the Khronos validation layer where it is installed (tests) */
    uint64_t max_allocation; /* bytes; pretend the driver allows no larger allocation (tests); 0: the driver's limit */
    const char *matmul;    /* how prefill multiplies: "few", "registers", "tiled", "coopmat" or with its shape "coopmat 16x16x16";
                              NULL or "auto": the fastest, found out once per driver */
    uint32_t statistics;   /* 1: compilers keep their figures of each kernel, where the driver has them (bench/compile_table) */
} dsvk_device_options;

DSVK_API dsvk_status dsvk_device_open(dsvk_device **device, const dsvk_device_options *options, dsvk_error *err);
DSVK_API void dsvk_device_close(dsvk_device *device); /* models keep their device alive until they are closed */
DSVK_API dsvk_status dsvk_device_describe(dsvk_device *device, char **json, dsvk_error *err); /* one entry of dsvk_devices */
/* {"weights": {"used", "peak", "budget", "blocks"}, "cache": ..., ..., "heap": {"size", "free"}} in bytes. */
DSVK_API dsvk_status dsvk_device_memory(dsvk_device *device, char **json, dsvk_error *err);
/* Between begin and end every dispatch is timed on the device; of what ran several times in one submit (a decoded token) the
 * last time, which then counts as often. The report: {"timestamps": bool, "submits", "dispatches",
 * "host_us", "device_us", "ops": [{"name", "part", "calls", "us", "bytes", "flops"}]}. An op has an entry for each part of a model
 * it serves: "SWA", "CSA", "HCA" (layers of that kind), "MTP", "head" (with sampling), or null. Copies and fills are ops too. */
DSVK_API dsvk_status dsvk_device_profile_begin(dsvk_device *device, dsvk_error *err);
DSVK_API dsvk_status dsvk_device_profile_end(dsvk_device *device, char **json, dsvk_error *err);

/* Measures what the device can do, in about two seconds: {"copy_bytes_per_s": the better of "transfer_bytes_per_s" (the driver's
 * copy) and "kernel_bytes_per_s" (a kernel that copies), bytes read and written both counted, with "copy_buffer_bytes" the size of
 * what was copied; "f32_flops_per_s": multiplications and additions of a kernel that does nothing else; "matrix_flops_per_s": the same of
 * one that multiplies cooperative matrices of halves into float32, "matrix_kernel" its shape; null where there are none}. */
DSVK_API dsvk_status dsvk_device_measure(dsvk_device *device, char **json, dsvk_error *err);

/* ---- model ---- */

typedef struct dsvk_model dsvk_model;

typedef enum dsvk_cache_format {
    DSVK_CACHE_NATIVE, /* FP8 + BF16 tail rows, FP4 index keys (spec 1.7): lossless against the published code */
    DSVK_CACHE_F32     /* plain float32 rows and keys, no quantisation anywhere: for comparisons */
} dsvk_cache_format;

typedef struct dsvk_model_options {
    size_t size;
    dsvk_cache_format cache;
    uint32_t strict;       /* 1: tensors the model does not know are an error, not a count in the report */
    uint32_t verify;       /* 1: NaN or infinity in any weight or scale is an error naming tensor and index */
    uint32_t threads;      /* file reader threads; 0: 2 */
    uint32_t max_chunk;    /* most rows of one forward pass, 1 .. 4096; 0: 512 */
    uint32_t page_tokens;  /* tokens per cache page, a multiple of 128; 0: 512 */
    dsvk_progress_fn progress;
    void *user;
} dsvk_model_options;

/* `path`: a directory in the published safetensors layout (spec section 2). */
DSVK_API dsvk_status dsvk_model_open(dsvk_model **model, dsvk_device *device, const char *path,
                                     const dsvk_model_options *options, dsvk_error *err);
DSVK_API void dsvk_model_close(dsvk_model *model); /* sessions keep their model alive until they are closed */
DSVK_API dsvk_status dsvk_model_config(const dsvk_model *model, char **json, dsvk_error *err);
/* What loading did: {"path", "bytes", "tensors", "ignored", "notes": [...], "seconds", "mtp": bool, ...}. */
DSVK_API dsvk_status dsvk_model_report(const dsvk_model *model, char **json, dsvk_error *err);
DSVK_API uint32_t dsvk_model_vocab_size(const dsvk_model *model);
DSVK_API uint32_t dsvk_model_has_mtp(const dsvk_model *model);

/* What would be allocated where, from config.json alone (no weights are read, `path` may be the file or its folder):
 * {"purposes": {"weights": bytes, ...}, "layers": [...], "context": [...]}. `device` may be NULL. */
DSVK_API dsvk_status dsvk_plan(const char *path, dsvk_device *device, const dsvk_model_options *options, uint64_t context,
                               char **json, dsvk_error *err);
/* Reads every tensor of a model and checks layout, names, shapes, types and values; needs no device. */
DSVK_API dsvk_status dsvk_verify(const char *path, const dsvk_model_options *options, char **json, dsvk_error *err);

/* ---- tokenizer ---- */

typedef struct dsvk_tokenizer dsvk_tokenizer;

/* `path`: a tokenizer.json (byte-level BPE, spec 6.6) or the folder that holds one. */
DSVK_API dsvk_status dsvk_tokenizer_open(dsvk_tokenizer **tokenizer, const char *path, dsvk_error *err);
DSVK_API void dsvk_tokenizer_close(dsvk_tokenizer *tokenizer);
/* The model's own tokenizer, valid until the model is closed; NULL when its folder has none. */
DSVK_API const dsvk_tokenizer *dsvk_model_tokenizer(const dsvk_model *model);

#define DSVK_PARSE_SPECIAL 1u /* text of added tokens becomes their ids; without it all text is ordinary (faults T07) */

/* text [n] bytes, any bytes -> ids [*n_ids], released with dsvk_free. Linear time. */
DSVK_API dsvk_status dsvk_tokenizer_encode(const dsvk_tokenizer *tokenizer, const char *text, size_t n, uint32_t flags,
                                           int32_t **ids, size_t *n_ids, dsvk_error *err);
/* ids [n] -> the bytes they stand for, *n_text of them (added tokens: their literal text), released with dsvk_free. */
DSVK_API dsvk_status dsvk_tokenizer_decode(const dsvk_tokenizer *tokenizer, const int32_t *ids, size_t n, char **text,
                                           size_t *n_text, dsvk_error *err);
DSVK_API uint32_t dsvk_tokenizer_vocab_size(const dsvk_tokenizer *tokenizer); /* largest id + 1 */
/* The id whose literal text is exactly text [n]; -1 when there is none. */
DSVK_API int32_t dsvk_tokenizer_id(const dsvk_tokenizer *tokenizer, const char *text, size_t n);
/* 1 when `id` is an added token marked special. */
DSVK_API uint32_t dsvk_tokenizer_is_special(const dsvk_tokenizer *tokenizer, int32_t id);

/* Streaming decode: whole characters only. push returns the bytes that became complete (valid until the next call on
 * this decoder); finish returns what is left, an incomplete character as U+FFFD. */
typedef struct dsvk_decoder dsvk_decoder;
DSVK_API dsvk_status dsvk_decoder_open(dsvk_decoder **decoder, const dsvk_tokenizer *tokenizer, dsvk_error *err);
DSVK_API void dsvk_decoder_close(dsvk_decoder *decoder);
DSVK_API dsvk_status dsvk_decoder_push(dsvk_decoder *decoder, int32_t id, const char **text, size_t *n, dsvk_error *err);
DSVK_API dsvk_status dsvk_decoder_finish(dsvk_decoder *decoder, const char **text, size_t *n, dsvk_error *err);

/* ---- session ---- */

typedef struct dsvk_session dsvk_session;

typedef struct dsvk_session_options {
    size_t size;
    uint64_t context;          /* most tokens; 0: the model's max_position_embeddings. Memory grows in pages as used */
    uint32_t mtp;              /* 1: keep the multi-token-prediction block in step, so that its logits can be read */
    dsvk_progress_fn progress; /* called between submits of sync, evaluate and decode */
    void *user;
} dsvk_session_options;

DSVK_API dsvk_status dsvk_session_open(dsvk_session **session, dsvk_model *model, const dsvk_session_options *options,
                                       dsvk_error *err);
DSVK_API void dsvk_session_close(dsvk_session *session);
DSVK_API uint64_t dsvk_session_position(const dsvk_session *session); /* tokens in the timeline */
DSVK_API uint64_t dsvk_session_context(const dsvk_session *session);
/* Copies the timeline's tokens [position] to `tokens`, which must hold dsvk_session_position of them. */
DSVK_API dsvk_status dsvk_session_tokens(const dsvk_session *session, int32_t *tokens, dsvk_error *err);

/* "Be at this prefix": keeps the common beginning, rolls back, extends or rebuilds as needed. After it logits are those
 * after the last token. On DSVK_CANCELLED the session stands at the last whole chunk. */
DSVK_API dsvk_status dsvk_session_sync(dsvk_session *session, const int32_t *tokens, size_t n, dsvk_error *err);
/* Logits after the last token: out [vocab_size] f32. DSVK_STATE when the timeline is empty. */
DSVK_API dsvk_status dsvk_session_logits(dsvk_session *session, float *out, dsvk_error *err);
/* The MTP block's logits for the token after next (spec 4.13), from the last pair: out [vocab_size] f32. Needs mtp = 1
 * and at least two tokens. */
DSVK_API dsvk_status dsvk_session_mtp_logits(dsvk_session *session, float *out, dsvk_error *err);
/* Appends tokens [n] in chunks of `chunk` rows (0: the model's largest) and writes the logits of each of their positions:
 * logits [n, vocab_size] f32, or NULL. mtp_logits [n, vocab_size] or NULL: row i is the MTP distribution computed from
 * the streams before token i and token i itself; row 0 is NaN when the timeline was empty. */
DSVK_API dsvk_status dsvk_session_evaluate(dsvk_session *session, const int32_t *tokens, size_t n, size_t chunk,
                                           float *logits, float *mtp_logits, dsvk_error *err);

typedef struct dsvk_sample_options {
    size_t size;
    float temperature; /* 0: the most likely token (lowest id on ties) */
    float top_p;       /* 0 or 1: off */
    float min_p;       /* 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;     /* same seed, same prefix: same tokens, whoever else is decoding */
    const int32_t *stop; /* ids that end decoding; the stop id itself is the last one returned */
    size_t n_stop;
} dsvk_sample_options;

/* Appends up to n sampled tokens: out [n], *n_out of them. */
DSVK_API dsvk_status dsvk_session_decode(dsvk_session *session, size_t n, const dsvk_sample_options *options, int32_t *out,
                                         size_t *n_out, dsvk_error *err);
/* The same for many different sessions of one model, one row each per step: out [n_sessions, n], n_out [n_sessions].
 * `options` [n_sessions], or NULL. */
DSVK_API dsvk_status dsvk_decode_batch(dsvk_session *const *sessions, size_t n_sessions, size_t n,
                                       const dsvk_sample_options *options, int32_t *out, size_t *n_out, dsvk_error *err);
/* Work in slices, for a caller that must not wait, such as a game between two frames. begin states a goal: be at the prefix
 * tokens [n], n > 0, then append n_decode sampled tokens, fewer after a stop. It computes nothing, and replaces an earlier goal. */
DSVK_API dsvk_status dsvk_session_begin(dsvk_session *session, const int32_t *tokens, size_t n, size_t n_decode,
                                        const dsvk_sample_options *options, dsvk_error *err);

typedef struct dsvk_poll_result {
    const int32_t *tokens; /* [n_tokens] those decoded since the last poll that succeeded; valid until begin or close */
    size_t n_tokens;
    uint32_t finished;     /* 1: the goal is reached, more polls do nothing */
    uint32_t stopped;      /* 1: the last token decoded is a stop */
} dsvk_poll_result;

/* Works towards the goal for about budget_us microseconds. Slices are sized by what the last ones took, so that they fit into what
 * is left of the budget; a call runs at least one. The smallest, which is the longest wait, is one layer of one token, or a step of
 * at most 8 tokens when other work went through the model since the last call. Nothing is held between calls: other sessions, and
 * other calls on this one, run freely, and polling goes back to the goal. A failing poll keeps the goal. DSVK_STATE without one.
 * Allocates no host memory but what the model's first steps of a size need. */
DSVK_API dsvk_status dsvk_session_poll(dsvk_session *session, uint64_t budget_us, dsvk_poll_result *result, dsvk_error *err);
/* Asks a running call on this session to stop after its current submit; from any thread. */
DSVK_API void dsvk_session_cancel(dsvk_session *session);
/* {"state": bytes, "pages": bytes, "rope": bytes, ...} of this session's device memory. */
DSVK_API dsvk_status dsvk_session_memory(const dsvk_session *session, char **json, dsvk_error *err);

#ifdef __cplusplus
}
#endif
#endif
