/* dsvk: DeepSeek-V4 on Vulkan. The whole public C API.
 *
 * Handles: a device (one Vulkan device), a model (immutable weights on a device, shareable between sessions and threads),
 * a session (one timeline of tokens, one thread at a time), a tokenizer (immutable), a chat parser (one answer, one thread
 * at a time), a scheduler (many requests over one model), a tensor (immutable numbers on a device), a trace (what one forward
 * pass went through, immutable).
 *
 * Every failing call returns a status and, when `err` is not NULL, fills it with a sentence that has names and
 * numbers. The object is then as it was before the call, and a handle that was to be opened is NULL. `close`
 * functions and dsvk_free accept NULL. An options struct begins with its own size (`.size = sizeof options`); every
 * other field's zero is the default, and a NULL options pointer means all defaults. Text returned through `char **`
 * is NUL-terminated UTF-8 that the caller releases with dsvk_free. Reports (devices, plans, configurations, profiles)
 * are JSON text, so that they can grow without breaking anybody. The library never exits, aborts, prints, installs
 * signal handlers or leaves threads behind. */
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

/* Host memory of another kind than malloc's. Called with old NULL: new memory of `bytes`, aligned as malloc aligns; with bytes 0:
 * `old` is released; else `old`, which has old_bytes, gets another size and perhaps place. NULL: there is none, and `old` stays. */
typedef void *(*dsvk_memory_fn)(void *user, void *old, size_t old_bytes, size_t bytes);

typedef struct dsvk_allocator {
    dsvk_memory_fn memory;
    void *user;
} dsvk_allocator;

/* From now on what calls of this thread allocate, and the threads such a call starts while it runs, comes from `allocator`; NULL, as at
 * first: from malloc. Returns the one before. There is one per thread and none per process, so that two users of the library do not meet.
 * Memory goes back to where it came from, in whichever thread a handle is closed: the struct has to stay as long as anything
 * from it is there, and its function has to be safe for the threads that share handles. What passes through jansson while
 * JSON is read or written, and what the Vulkan driver allocates, comes from malloc. */
DSVK_API const dsvk_allocator *dsvk_use_allocator(const dsvk_allocator *allocator);

/* A line worth telling that is no failure of a call (UTF-8, no newline; valid during the call), from any thread that calls the library.
 * Calls on this device from inside it return DSVK_BUSY. */
typedef void (*dsvk_log_fn)(void *user, const char *line);

/* Called from the thread that made the call, at least every few MB or every submit. Return nonzero to cancel: the call
 * then returns DSVK_CANCELLED. `done` and `total` are bytes while loading, tokens while evaluating; for others the call says what.
 * A handle that the call was given is not closed from inside, but where close says so. */
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

/* A Vulkan device that the host has made and shares. Handles are those of vulkan.h, which are pointers. They stay the host's, and have
 * to be there until the dsvk_device, its models and sessions are closed. The instance: VkApplicationInfo.apiVersion 1.3 or later. */
typedef struct dsvk_host_device {
    size_t size;
    void *instance;         /* VkInstance */
    void *physical_device;  /* VkPhysicalDevice */
    void *device;           /* VkDevice */
    const void *create_info; /* the VkDeviceCreateInfo it was made with, which says what is enabled; read while opening only */
    void *queue;            /* VkQueue, of a family that can compute */
    uint32_t queue_family;
    void (*get_instance_proc_addr)(void); /* vkGetInstanceProcAddr; NULL: that of the system's loader */
    void (*lock_queue)(void *user);   /* around every use of the queue, from whichever thread calls the library; both or none. */
    void (*unlock_queue)(void *user); /* The host holds the same lock when it uses the queue, and not when it calls the library */
    void *user;
} dsvk_host_device;

/* Adds to a VkDeviceCreateInfo what dsvk uses of host->physical_device: sets features in the structs its pNext leads to, puts what
 * is not among them before these, and lists extensions; nothing that the host asked for goes away. Of `host` only instance,
 * physical_device and get_instance_proc_addr are read. *added is what was linked in, released with dsvk_free after vkCreateDevice
 * and dsvk_device_open. Needed are bufferDeviceAddress, timelineSemaphore, scalarBlockLayout, synchronization2, maintenance4; what
 * else is enabled makes it faster. NODEVICE says why a physical device cannot be used. */
DSVK_API dsvk_status dsvk_host_device_prepare(const dsvk_host_device *host, void *create_info, void **added, dsvk_error *err);

typedef struct dsvk_device_options {
    size_t size;
    const char *device;    /* index ("0"), UUID, or part of a name that fits one device; NULL: the best usable one */
    const char *cache_dir; /* folder for compiled pipelines; NULL: $XDG_CACHE_HOME/dsvk or ~/.cache/dsvk; "": none */
    uint64_t budget[DSVK_PURPOSE_COUNT]; /* bytes per purpose; 0: what the device has */
    uint32_t validation;   /* 1: turn on the Khronos validation layer where it is installed (tests) */
    uint64_t max_allocation; /* bytes; pretend the driver allows no larger allocation (tests); 0: the driver's limit */
    const char *matmul;    /* how prefill multiplies: "few", "registers", "columns", "tiled", "coopmat" or with its shape "coopmat 16x16x16";
                              NULL or "auto": the fastest, found out once per driver */
    const char *indexer;   /* how index scores are multiplied, with the same bits: "floats", or "bytes" by packed integer products;
                              NULL or "auto": bytes where the device has instructions for it */
    const dsvk_host_device *host; /* a device the host has made; NULL: one is made here. Without `device` and `validation` */
    dsvk_log_fn log;       /* NULL: nothing is told */
    void *user;            /* for log */
    uint32_t statistics;   /* 1: compilers keep their figures of each kernel, where the driver has them (bench/compile_table) */
} dsvk_device_options;

DSVK_API dsvk_status dsvk_device_open(dsvk_device **device, const dsvk_device_options *options, dsvk_error *err);
DSVK_API void dsvk_device_close(dsvk_device *device); /* models keep their device alive until they are closed */
DSVK_API dsvk_status dsvk_device_describe(dsvk_device *device, char **json, dsvk_error *err); /* one entry of dsvk_devices */
/* {"weights": {"used", "peak", "budget", "blocks", "reserved"}, "cache", "scratch", "staging", "readback": the same, "heap": {"size",
 * "free"}} in bytes; `blocks` allocations hold `reserved` of them; budget 0: what the device has. */
DSVK_API dsvk_status dsvk_device_memory(dsvk_device *device, char **json, dsvk_error *err);
/* Between begin and end every dispatch is timed on the device; of what ran several times in one submit (a decoded token) the
 * last time, which then counts as often. The report: {"timestamps": bool, "submits", "dispatches",
 * "host_us", "device_us", "ops": [{"name", "part", "calls", "us", "bytes", "flops"}]}. An op has an entry for each part of a model
 * it serves: "SWA", "CSA", "HCA" (layers of that kind), "MTP", "head" (with sampling), or null. Copies and fills are ops too, and
 * each slice of a large dsvk_op is a call. Bytes and operations are what the op needs at least, not what was counted on the device;
 * those of attention and of choosing entries follow the positions of the tokens in a replayed decode, and elsewhere take all rows of a
 * step for as long as its last. A device has one profile: begin returns DSVK_STATE while it runs, and changes nothing; end
 * does where none runs. */
DSVK_API dsvk_status dsvk_device_profile_begin(dsvk_device *device, dsvk_error *err);
DSVK_API dsvk_status dsvk_device_profile_end(dsvk_device *device, char **json, dsvk_error *err);

/* Measures what the device can do, in about two seconds: {"copy_bytes_per_s": the better of "transfer_bytes_per_s" (the driver's
 * copy) and "kernel_bytes_per_s" (a kernel that copies), bytes read and written both counted, with "copy_buffer_bytes" the size of
 * what was copied; "f32_flops_per_s": multiplications and additions of a kernel that does nothing else; "matrix_flops_per_s": the same of
 * one that multiplies cooperative matrices of halves into float32, "matrix_kernel" its shape; null where there are none}. `progress`
 * (may be NULL) is asked between submits: stage "measure", `done` of them for one of the numbers, `total` 0. */
DSVK_API dsvk_status dsvk_device_measure(dsvk_device *device, char **json, dsvk_progress_fn progress, void *user, dsvk_error *err);

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

/* `path`: a directory in the published safetensors layout (spec section 2). `device`: NULL for one with default options, which is open
 * as long as the model. */
DSVK_API dsvk_status dsvk_model_open(dsvk_model **model, dsvk_device *device, const char *path,
                                     const dsvk_model_options *options, dsvk_error *err);
DSVK_API void dsvk_model_close(dsvk_model *model); /* sessions keep their model alive until they are closed */
/* config.json as it was understood, under this library's names (n_layers, hidden_size, n_experts, compress_ratios, ...), with what it
 * leaves out filled in. */
DSVK_API dsvk_status dsvk_model_config(const dsvk_model *model, char **json, dsvk_error *err);
/* What loading did: {"path", "bytes": of the files' tensors, "device_bytes": of the weights, "tensors", "ignored": tensors the model
 * does not know, "shards", "mtp": bool, "notes": [...], "seconds"}. */
DSVK_API dsvk_status dsvk_model_report(const dsvk_model *model, char **json, dsvk_error *err);
DSVK_API uint32_t dsvk_model_vocab_size(const dsvk_model *model);
DSVK_API uint32_t dsvk_model_has_mtp(const dsvk_model *model);

/* What would be allocated where, from config.json alone (no weights are read, `path` may be the file or its folder):
 * {"purposes": {"weights", "cache", "scratch", "readback"}: bytes for one session of `context` tokens (0: the model's most), "experts":
 * bytes of the weights that are routed experts', "bytes_per_token": of weights that decoding a token reads, "session_state",
 * "page_tokens", "page_bytes", "context_tokens", "layers": [{"layer", "kind": "SWA", "CSA", "HCA" or "MTP", "hash", "weights",
 * "experts", "cache_bytes_per_token"}], "context": [{"tokens", "bytes": of a session}]}. With a device also {"device": as
 * dsvk_device_describe, "available": bytes for weights, "fits"}; it may be NULL. */
DSVK_API dsvk_status dsvk_plan(const char *path, dsvk_device *device, const dsvk_model_options *options, uint64_t context,
                               char **json, dsvk_error *err);
/* Reads every tensor of a model and checks layout, names, shapes, types and values; needs no device. {"ok": true, "tensors", "extra":
 * tensors the model does not know, "bytes", "shards", "tokenizer_ids"}; what is wrong is the error. */
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
/* 1 when `id` is an added token, special or not: markup, which ordinary text never becomes. */
DSVK_API uint32_t dsvk_tokenizer_is_added(const dsvk_tokenizer *tokenizer, int32_t id);

/* Streaming decode: whole characters only. push returns the bytes that became complete (valid until the next call on
 * this decoder); finish returns what is left, an incomplete character as U+FFFD. */
typedef struct dsvk_decoder dsvk_decoder;
DSVK_API dsvk_status dsvk_decoder_open(dsvk_decoder **decoder, const dsvk_tokenizer *tokenizer, dsvk_error *err);
DSVK_API void dsvk_decoder_close(dsvk_decoder *decoder);
DSVK_API dsvk_status dsvk_decoder_push(dsvk_decoder *decoder, int32_t id, const char **text, size_t *n, dsvk_error *err);
DSVK_API dsvk_status dsvk_decoder_finish(dsvk_decoder *decoder, const char **text, size_t *n, dsvk_error *err);

/* ---- chat: the family's conversation format (spec section 6) ---- */

/* A conversation is a JSON object, `conversation` [n] bytes:
 *   "messages": [{"role", "content", ...}]; roles and fields of spec 6.2. Content is text or a list of text parts;
 *      "arguments" of a tool call are text, or an object; unknown fields are ignored, null is absent
 *   "thinking_mode": "thinking" (default) or "chat"
 *   "reasoning_effort": "none" (as thinking_mode "chat"), "low", "high", "max"; "minimal" is low, "medium" and "xhigh" are
 *      high, "ultra" is max
 *   "drop_thinking": true (default): thoughts before the last question are left out, unless there are tools
 *   "add_bos": true (default)
 *   "context": messages encoded before: only what comes behind them is written
 *   "tools", "response_format": of the whole conversation: they go to its first system message
 *   "revision": "preview" (default), or "0731": what the efforts high and max add differs
 *   "replay": {tool call id: what was sampled}: an assistant's turn whose first call has this id, and that began in the
 *      same mode, is written exactly so, up to its end token: text, special strings in it being tokens, or a list of ids
 *      (for dsvk_chat_encode_ids). A turn without calls goes by its "turn_id". Never take it from a stranger.
 * Errors: FORMAT with the byte offset for what is no JSON, INVALID or UNSUPPORTED naming the field ("messages[3].role:
 * ..."), LIMIT for JSON nested deeper than 64. */

/* The prompt as text [*n_text], released with dsvk_free. */
DSVK_API dsvk_status dsvk_chat_encode(const char *conversation, size_t n, char **text, size_t *n_text, dsvk_error *err);
/* The prompt as ids [*n_ids], released with dsvk_free. Special strings in messages stay ordinary text (faults T07): only
 * what the format itself writes becomes special tokens. An answer begins inside thinking exactly when the last id is that
 * of "<think>". UNSUPPORTED when the tokenizer lacks a token of the format. */
DSVK_API dsvk_status dsvk_chat_encode_ids(const dsvk_tokenizer *tokenizer, const char *conversation, size_t n,
                                          int32_t **ids, size_t *n_ids, dsvk_error *err);

/* What a model answers, as it comes: feed bytes, cut anywhere, and take events until there are none. It never fails on
 * what a model says: a missing or cut end, other white space and unknown tags are put up with, and no special string
 * comes out as text. Texts are whole characters, U+FFFD for bytes that are none. */
typedef struct dsvk_chat_parser dsvk_chat_parser;

typedef enum dsvk_chat_event {
    DSVK_CHAT_REASONING, /* more of the thoughts */
    DSVK_CHAT_CONTENT,   /* more of the answer */
    DSVK_CHAT_CALL,      /* a tool call begins: the text is its name */
    DSVK_CHAT_ARGUMENTS, /* more of its arguments; together they are one JSON object, also when the call is cut */
    DSVK_CHAT_CALL_END,  /* the call is complete */
    DSVK_CHAT_CALL_CUT,  /* the text ended inside the call: what there was of the arguments has been closed */
    DSVK_CHAT_END        /* the end token: the answer is complete, what follows is ignored */
} dsvk_chat_event;

/* thinking 1: the answer begins inside thinking. */
DSVK_API dsvk_status dsvk_chat_parser_open(dsvk_chat_parser **parser, uint32_t thinking, dsvk_error *err);
DSVK_API void dsvk_chat_parser_close(dsvk_chat_parser *parser);
/* NOMEM leaves the parser as it was; STATE after finish. */
DSVK_API dsvk_status dsvk_chat_parser_feed(dsvk_chat_parser *parser, const char *bytes, size_t n, dsvk_error *err);
/* The same with the text of a token. Better than bytes: only added tokens are markup then, and a model that spells
 * "</think>" in ordinary tokens is quoted. INVALID for an id that is no token. */
DSVK_API dsvk_status dsvk_chat_parser_push(dsvk_chat_parser *parser, const dsvk_tokenizer *tokenizer, int32_t id,
                                           dsvk_error *err);
/* No more will come: what was held back comes out, an open call is cut. A second time it does nothing. */
DSVK_API dsvk_status dsvk_chat_parser_finish(dsvk_chat_parser *parser, dsvk_error *err);
/* The next event, 0 when there is none: text [*n] is valid until the next feed or finish; *call counts calls from 0. String
 * parameters come as they are generated, others when they are complete and proved to be JSON (or else as strings); of a
 * repeated parameter only the first counts, and of one call at most 4,096. */
DSVK_API uint32_t dsvk_chat_parser_next(dsvk_chat_parser *parser, dsvk_chat_event *event, uint32_t *call,
                                        const char **text, size_t *n);
/* What the next byte would belong to: DSVK_CHAT_REASONING, _CONTENT, _CALL (inside a block of calls) or _END. */
DSVK_API dsvk_chat_event dsvk_chat_parser_place(const dsvk_chat_parser *parser);

/* A whole answer at once, as the JSON of an assistant's message: {"role", "content", "reasoning_content", "tool_calls":
 * [{"type": "function", "function": {"name", "arguments"}}]}; a call that was cut has "complete": false. */
DSVK_API dsvk_status dsvk_chat_parse(const char *text, size_t n, uint32_t thinking, char **json, dsvk_error *err);

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
/* No call may begin on it any more. One that runs in another thread is asked to stop, returns DSVK_CANCELLED, and is waited for, at most
 * 5 s; from inside a callback of the session's own call close returns at once. What still runs then is told nothing more and frees the
 * session when it ends; what the call was given, and what its callbacks use, has to stay until it has returned. */
DSVK_API void dsvk_session_close(dsvk_session *session);
DSVK_API uint64_t dsvk_session_position(const dsvk_session *session); /* tokens in the timeline; from any thread, also during a call */
DSVK_API uint64_t dsvk_session_context(const dsvk_session *session);  /* most of them */
/* Copies the timeline's tokens [position] to `tokens`, which must hold dsvk_session_position of them. BUSY while a call runs, which may
 * make them more. */
DSVK_API dsvk_status dsvk_session_tokens(dsvk_session *session, int32_t *tokens, dsvk_error *err);

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

/* Which tokens may come next: called once before each token of a sequence that has it, in the thread that decodes, while nothing is
 * held. tokens [n]: the sequence's timeline, prompt included; choice: of a request, or the session's index in a batch. Sets bit
 * id % 32 of words[id / 32] for every id that may be chosen; words [n_words], (vocab_size + 31) / 32 of them, are zero at the call.
 * Anything but OK, with a sentence in *err, ends the request, or the call, with that; so does, as INVALID, allowing nothing. */
typedef dsvk_status (*dsvk_mask_fn)(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                                    dsvk_error *err);

typedef struct dsvk_logit_bias {
    int32_t id;
    float value;
} dsvk_logit_bias;

typedef struct dsvk_sample_options {
    size_t size;
    float temperature; /* 0: the most likely token (lowest id on ties) */
    float top_p;       /* 0 or 1: off */
    float min_p;       /* 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;     /* same seed, same prefix: same tokens, whoever else is decoding */
    const int32_t *stop; /* ids that end decoding; the stop id itself is the last one returned */
    size_t n_stop;
    /* What follows changes logits before all of the above. A sequence that has any of it decodes one token per submit, and so do
     * those that decode together with it. */
    float frequency_penalty; /* -100 .. 100: taken off a token's logit as often as it was generated; 0: off */
    float presence_penalty;  /* -100 .. 100: taken off once when it was generated; 0: off */
    uint64_t generated_from; /* where in the timeline that begins which counts as generated; 0: at the end of what is there; further
                                than that: nothing does yet */
    const dsvk_logit_bias *bias; /* [n_bias]: added to an id's logit, -1000 .. 1000; the last one of an id counts */
    size_t n_bias;
    dsvk_mask_fn mask;   /* NULL: every token may come */
    void *mask_user;
    int32_t mask_after;  /* the mask is asked only behind the first generated token of this id; 0: from the start. Until then it
                            costs nothing */
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
 * A driver compiles a kernel when it is first used, which no budget cuts, and which may take a second: a game has that done while it
 * loads, by syncs of 1, 2, ... 8 tokens more, the sizes of a slice's steps, and a decode of several (examples/frames.c).
 * Allocates no host memory but what the model's first steps of a size need. */
DSVK_API dsvk_status dsvk_session_poll(dsvk_session *session, uint64_t budget_us, dsvk_poll_result *result, dsvk_error *err);
/* Asks a running call on this session to stop after its current submit; from any thread. */
DSVK_API void dsvk_session_cancel(dsvk_session *session);
/* {"state", "pages", "page_table", "logits": bytes of this session's device memory, "page_tokens": tokens of a page}; from any thread,
 * also during a call. */
DSVK_API dsvk_status dsvk_session_memory(const dsvk_session *session, char **json, dsvk_error *err);

/* ---- scheduler: many requests over one model ---- */

/* Continuous batching: the sequences of all running requests decode together, prompts are run in chunks between their tokens, and
 * prefixes of earlier timelines are kept and found again. A request gives the same tokens and the same log-probabilities, bit for
 * bit, whoever else is running: prompts are cut at multiples of `chunk`, whatever the load, and rows of a step do not
 * see each other. What was kept may have been computed in other pieces (decoded, or cut elsewhere), which adds up in
 * another order; `exact` requests use only what they would have computed themselves.
 *
 * Threads: submit, cancel and report from any thread at any time; step and next from one thread at a time, which drives everything
 * (there are no other threads). Nothing happens between two steps. */
typedef struct dsvk_scheduler dsvk_scheduler;

typedef struct dsvk_scheduler_options {
    size_t size;
    uint64_t context;      /* most tokens of a timeline; 0: the model's max_position_embeddings */
    uint32_t max_running;  /* sequences that have memory and decode together, 1 .. 32; 0: 32 */
    uint32_t max_waiting;  /* sequences that wait beyond those; 0: 1024 */
    uint32_t chunk;        /* most prompt tokens of a step, up to the model's max_chunk; 0: that */
    uint32_t burst;        /* most tokens a sequence decodes in a step, 1 .. 64; 0: 8. Steps end sooner when tokens are slow */
    uint32_t no_cache;     /* 1: keep no prefixes */
    uint64_t cache_bytes;  /* device memory for kept prefixes; 0: a quarter of what is free when the scheduler is opened */
} dsvk_scheduler_options;

DSVK_API dsvk_status dsvk_scheduler_open(dsvk_scheduler **scheduler, dsvk_model *model, const dsvk_scheduler_options *options,
                                         dsvk_error *err); /* keeps the model alive */
DSVK_API void dsvk_scheduler_close(dsvk_scheduler *scheduler); /* while no other call runs; unfinished requests end without an event */

typedef struct dsvk_request_options {
    size_t size;
    const int32_t *prompt;           /* [n_prompt] */
    size_t n_prompt;
    uint64_t max_tokens;             /* most tokens generated; 0, or more than there is room for: what the context holds */
    uint32_t choices;                /* so many sequences from one prompt, choice i with seed + i; 0: 1 */
    dsvk_sample_options sampling;    /* with its own size; stop ids are not among the tokens handed out. Generated is what comes behind
                                        the prompt; mask_user must live until the request's last event */
    const char *const *stop_texts;   /* [n_stop_texts], at most 64: bytes that end the text and are no part of it */
    const size_t *stop_sizes;        /* [n_stop_texts], 1 to 4096 bytes each */
    size_t n_stop_texts;
    int32_t stop_after;              /* stop texts are looked for behind this id ("</think>"); 0: from the start */
    int32_t stop_before;             /* ... and no longer from this id on, nor in the white space and the '<' that lead to it; 0: to
                                        the end */
    uint32_t logprobs;               /* 1 + k: with the log-probability of each token and the k <= 20 likeliest; 0: none */
    uint32_t prompt_logprobs;        /* 1: those of the prompt's tokens too, for which all of it is computed; needs logprobs */
    uint32_t exact;                  /* 1: use only kept prefixes that hold what this prompt alone computes */
    int32_t priority;                /* of those that wait, the highest begins first */
    const char *owner;               /* whose request: of equal priority, who has the fewest sequences running begins first */
    const char *cache_key;           /* kept prefixes are found only under the same key; NULL: "" */
} dsvk_request_options;

/* *request: its id, never 0. The options are copied. LIMIT: the prompt leaves no room for a token; BUSY: too many wait. */
DSVK_API dsvk_status dsvk_scheduler_submit(dsvk_scheduler *scheduler, const dsvk_request_options *options, uint64_t *request,
                                           dsvk_error *err);
/* Ends a request (0: every one) with the next step, wherever it stands; a step that runs its prompt stops in between. Unknown and
 * finished ones are no error. */
DSVK_API void dsvk_scheduler_cancel(dsvk_scheduler *scheduler, uint64_t request);

/* A paused request (1) keeps its place and its memory and does not go on until it is resumed (0) or cancelled: for a reader that is
 * slower than the device. From any thread; unknown and finished ones are no error. */
DSVK_API void dsvk_scheduler_pause(dsvk_scheduler *scheduler, uint64_t request, uint32_t paused);

/* A bounded slice of work: at most one chunk of a prompt (or several short prompts' ends together), then some tokens of every
 * sequence that decodes. *unfinished: how many sequences have not finished; 0: nothing to do before the next call of submit, pause
 * or cancel, since there are none or those that have memory are paused. What goes wrong
 * with a sequence ends that sequence; DEVLOST ends all of them and is returned. */
DSVK_API dsvk_status dsvk_scheduler_step(dsvk_scheduler *scheduler, uint64_t *unfinished, dsvk_error *err);

typedef enum dsvk_event_kind {
    DSVK_EVENT_NONE,   /* nothing to tell before the next step */
    DSVK_EVENT_PROMPT, /* more of the prompt is done */
    DSVK_EVENT_TOKENS, /* new tokens, text, or both */
    DSVK_EVENT_FINISH  /* the last of this choice */
} dsvk_event_kind;

typedef enum dsvk_finish {
    DSVK_FINISH_STOP,      /* a stop id or a stop text */
    DSVK_FINISH_LENGTH,    /* max_tokens */
    DSVK_FINISH_CONTEXT,   /* the context is full */
    DSVK_FINISH_CANCELLED,
    DSVK_FINISH_ERROR      /* `status` and `message` say why */
} dsvk_finish;

/* Text is whole characters, and held back while it may be the beginning of a stop text; ids come no earlier than their text. */
typedef struct dsvk_event {
    size_t size;                /* set by the caller */
    dsvk_event_kind kind;
    uint64_t request;
    uint32_t choice;
    uint64_t prompt_tokens, prompt_done, cached_tokens; /* of them done; of them found kept */
    uint64_t completion_tokens; /* generated so far, without a stop id */
    const int32_t *ids;         /* TOKENS, and PROMPT with prompt_logprobs (choice 0): [n_ids] */
    size_t n_ids;
    const char *text;           /* TOKENS: [n_text] bytes; empty for a model without tokenizer */
    size_t n_text;
    const float *logprobs;      /* [n_ids] natural logarithms of the softmax of the logits, at least -9999; or NULL. The first token
                                 * of a prompt has none: NaN, and its likeliest are id -1 */
    uint32_t n_top;
    const int32_t *top_ids;     /* [n_ids, n_top], the likeliest first; or NULL */
    const float *top_logprobs;  /* [n_ids, n_top]; or NULL */
    dsvk_finish finish;         /* FINISH */
    int32_t stop_id, stop_text; /* FINISH: the id or the index of the text that stopped it; -1 */
    dsvk_status status;         /* FINISH: of an error, else OK */
    const char *message;
} dsvk_event;

/* What has happened since it was last asked, one event at a time until kind is NONE; sequences in the order they were
 * submitted. What was not fetched yet is put together, nothing is lost. Pointers are valid until the next call of step or next. */
DSVK_API dsvk_status dsvk_scheduler_next(dsvk_scheduler *scheduler, dsvk_event *event, dsvk_error *err);
/* {"waiting", "running", "steps", "finished", "preempted": sequences; "prompt_tokens", "cached_tokens", "completion_tokens": of
 * sequences that have begun; "cache": {"bytes", "budget", "entries", "evicted", "hits", "misses"}}. Hits: prompts of which a
 * beginning was found. */
DSVK_API dsvk_status dsvk_scheduler_report(dsvk_scheduler *scheduler, char **json, dsvk_error *err);

/* ---- tensors and ops, without a model ---- */

/* Types of numbers, as safetensors files name them, and their bits. FP8 is F8_E4M3, FP4 is F4 (e2m1, two to a byte, the first in
 * the low half), their scales F8_E8M0 or F32. */
#define DSVK_DTYPE_LIST(X)                                                                                            \
    X(BOOL, 8) X(U8, 8) X(I8, 8) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6) X(F8_E5M2, 8) X(F8_E4M3, 8) X(F8_E8M0, 8)       \
    X(I16, 16) X(U16, 16) X(F16, 16) X(BF16, 16) X(I32, 32) X(U32, 32) X(F32, 32) X(F64, 64) X(I64, 64) X(U64, 64)    \
    X(C64, 64)

typedef enum dsvk_dtype {
#define DSVK_DTYPE_ENUM(name, bits) DSVK_DTYPE_##name,
    DSVK_DTYPE_LIST(DSVK_DTYPE_ENUM)
#undef DSVK_DTYPE_ENUM
    DSVK_DTYPE_COUNT
} dsvk_dtype;

DSVK_API const char *dsvk_dtype_name(dsvk_dtype dtype); /* "F8_E4M3" */
DSVK_API uint32_t dsvk_dtype_bits(dsvk_dtype dtype);

/* What a tensor is to the ops, which says how it lies in device memory. */
typedef enum dsvk_form {
    DSVK_FORM_VALUES,  /* any numbers, row-major as on the host */
    DSVK_FORM_MATRIX,  /* weights [n_out, n_in] of F32, BF16, FP8 or FP4, laid out for multiplying; n_in a multiple of 32 */
    DSVK_FORM_EXPERTS, /* feed-forward networks [n, hidden, dim]: of each w1 and w3 [hidden, dim], w2 [dim, hidden]; both sizes
                          multiples of 32 */
    DSVK_FORM_ROWS,    /* rows [n, head_dim] of a KV cache in its native format (spec 1.7: FP8, the rotated end BF16); ops make them */
    DSVK_FORM_KEYS     /* index keys [n, index_dim] in theirs (FP4); ops make them */
} dsvk_form;

#define DSVK_TENSOR_RANK 4

typedef struct dsvk_tensor dsvk_tensor;

/* FP8 comes with one scale per 128x128 block, [ceil(rows / 128), ceil(columns / 128)] of F8_E8M0 or F32; FP4 with one per row and
 * 32 columns, [rows, columns / 32] of F8_E8M0; other types without. All arrays are row-major, whole, and read before the call
 * returns. Of EXPERTS `shape` is that of w1, and every array has the experts one after the other. */
typedef struct dsvk_tensor_options {
    size_t size;
    dsvk_form form;        /* VALUES, MATRIX or EXPERTS */
    dsvk_dtype dtype;
    uint32_t rank;         /* 1 .. DSVK_TENSOR_RANK; MATRIX 2, EXPERTS 3 */
    uint64_t shape[DSVK_TENSOR_RANK]; /* in numbers, none of them 0 */
    const void *data;      /* VALUES may have NULL: zeros. EXPERTS: w1 */
    const void *scales;
    dsvk_dtype scale_dtype;
    const void *w3, *w3_scales, *w2, *w2_scales; /* EXPERTS */
} dsvk_tensor_options;

typedef struct dsvk_tensor_info {
    size_t size;           /* set by the caller */
    dsvk_form form;
    dsvk_dtype dtype;
    uint32_t rank;
    uint64_t shape[DSVK_TENSOR_RANK];
    uint64_t device_bytes; /* of device memory */
    dsvk_dtype read_dtype; /* what dsvk_tensor_read gives: F32 where `form` is not VALUES, else dtype */
    uint64_t read_bytes;   /* how much of it; 0 for EXPERTS, which cannot be read */
    const void *host;      /* VALUES in memory that host and device share: the numbers themselves, until close; else NULL */
} dsvk_tensor_info;

DSVK_API dsvk_status dsvk_tensor_open(dsvk_tensor **tensor, dsvk_device *device, const dsvk_tensor_options *options, dsvk_error *err);
DSVK_API void dsvk_tensor_close(dsvk_tensor *tensor); /* the device stays open until its tensors are closed */
DSVK_API dsvk_status dsvk_tensor_describe(const dsvk_tensor *tensor, dsvk_tensor_info *info, dsvk_error *err);
/* The numbers, row-major: out [bytes], which has to be read_bytes. What is stored in a small format comes decoded. `progress` (may be
 * NULL) is asked while a matrix is read: stage "columns", of which so many of all are. */
DSVK_API dsvk_status dsvk_tensor_read(const dsvk_tensor *tensor, void *out, uint64_t bytes, dsvk_progress_fn progress, void *user,
                                      dsvk_error *err);

typedef struct dsvk_op_argument {
    const char *name;
    const dsvk_tensor *tensor; /* NULL: an optional tensor that is not there, or a number */
    double number;
} dsvk_op_argument;

#define DSVK_OP_RESULTS 4

/* Runs one op of the family on the device and waits for it, in submits of about 0.1 s however large it is. Between them `progress` (may
 * be NULL) is asked: the stage is the kernel, or the op while the host works for it; done and total count its workgroups, or rows.
 * Arguments are found by name; those left out have their defaults.
 * results: new tensors, to be closed by the caller, the rest NULL; all NULL on failure. INVALID names the argument, what was expected
 * and what came. From any thread; tensors may be shared between threads. One sequence at a time: row t has position start + t. */
DSVK_API dsvk_status dsvk_op(dsvk_device *device, const char *op, const dsvk_op_argument *arguments, size_t n_arguments,
                             dsvk_tensor *results[DSVK_OP_RESULTS], dsvk_progress_fn progress, void *user, dsvk_error *err);
/* The ops: [{"name", "does": formula, "arguments": [{"name", "kind": "F32", "I32", "MATRIX", "EXPERTS", "ROWS", "KEYS" (of
 * these two also F32), "integer" or "number"; "shape": "n dim" of tensors, the same word for the same number; "optional";
 * "default", "least", "most" of numbers}], "results": [{"name", "shape"}]}]. */
DSVK_API dsvk_status dsvk_ops(char **json, dsvk_error *err);

/* ---- what a forward pass goes through ---- */

/* Intermediates of the real forward pass, copied as it makes them: by name, row t being token t. Layers are counted from 0; D
 * hidden size, A experts of a token, E of a layer, r the layer's ratio.
 *   "embedding" [n, 4, D], "layers.L.streams" [n, 4, D]: the streams that enter the first layer, and those that leave layer L
 *   "layers.L.attn.input", "layers.L.ffn.input" [n, D]: what hyper-connections and norm make of them for a sublayer
 *   "layers.L.attn.post" [n, 4], "layers.L.attn.comb" [n, 4, 4], and of ffn: the coefficients that end the site (spec 4.3)
 *   "layers.L.router.logits" [n, E], "layers.L.router.experts" I32 [n, A], "layers.L.router.weights" [n, A]
 *   "layers.L.compressed" [n / r, head_dim] of layers with a ratio: cache rows, decoded
 *   "layers.L.indexer.keys" [n / 4, index_dim], "layers.L.indexer.selected" I32 [n, min(k, n / 4)] (-1: none) and
 *   "layers.L.indexer.scores" [n, n / 4] (-inf where none was needed: every visible entry was taken) of layers of ratio 4
 *   "logits" [n, vocabulary]
 * F32 but where it says I32; without an entry, as in a short text, a name is missing. */
typedef struct dsvk_trace dsvk_trace;

typedef struct dsvk_trace_entry {
    const char *name;
    dsvk_dtype dtype;
    uint32_t rank;
    uint64_t shape[DSVK_TENSOR_RANK];
    const void *data; /* in host memory, row-major, until the trace is closed; it needs no model */
} dsvk_trace_entry;

/* Runs tokens [n] from an empty timeline. The calling thread's `progress` (may be NULL) is asked between steps, in tokens. */
DSVK_API dsvk_status dsvk_model_trace(dsvk_trace **trace, dsvk_model *model, const int32_t *tokens, size_t n,
                                      dsvk_progress_fn progress, void *user, dsvk_error *err);
DSVK_API void dsvk_trace_close(dsvk_trace *trace);
DSVK_API size_t dsvk_trace_count(const dsvk_trace *trace);
DSVK_API const dsvk_trace_entry *dsvk_trace_get(const dsvk_trace *trace, size_t i); /* i < count, in the order of the pass */

#ifdef __cplusplus
}
#endif
#endif
