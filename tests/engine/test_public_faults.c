/* Every allocation of every public call fails, through the host's own allocator: once, and from then on. Each call undoes what it did, so
 * that what the allocator has given out afterwards has to be what it was before. The call's status is NOMEM, or OK where it can do
 * without (a cache that is not read); then everything still works. And the allocator is one per thread, which nobody else meets. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness_files.h"

/* ---- an allocator that counts and fails ---- */

struct meter {
    pthread_mutex_t lock; /* readers of a model are threads of their own */
    int64_t blocks, bytes, made;
    int64_t fail_at; /* this allocation; -1: none */
    bool for_good;   /* and all later ones */
    bool mixed_up;   /* old_bytes was wrong */
};

static void *memory(void *user, void *old, size_t old_bytes, size_t bytes) {
    struct meter *m = user;
    uint64_t *block = old ? (uint64_t *)old - 2 : NULL, *now = NULL;
    pthread_mutex_lock(&m->lock);
    m->mixed_up |= block && block[0] != old_bytes;
    const int64_t n = bytes ? m->made++ : 0;
    const bool refused = bytes && m->fail_at >= 0 && (m->for_good ? n >= m->fail_at : n == m->fail_at);
    if (!refused) {
        m->bytes += (int64_t)bytes - (int64_t)old_bytes;
        m->blocks += (bytes != 0) - (old != NULL);
        if (bytes && (now = realloc(block, bytes + 16)))
            now[0] = bytes;
        else
            free(block);
    }
    pthread_mutex_unlock(&m->lock);
    return now ? now + 2 : NULL;
}

/* ---- what calls are made on ---- */

struct world {
    dsvk_device *device;
    dsvk_model *model;
    const dsvk_tokenizer *tokenizer;
    dsvk_session *session, *other;
    dsvk_scheduler *scheduler;
};

static const int32_t prompt[] = { 10, 20, 30, 40, 50 };
enum { N_PROMPT = 5 };
static const char conversation[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"Be \\\"short\\\".\"}, {\"role\": \"user\", "
                                   "\"content\": \"Hi\"}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", "
                                   "\"parameters\": {\"type\": \"object\", \"properties\": {\"x\": {\"type\": \"string\"}}}}}]}";
static const char answer[] = "Well.</think>Yes\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" "
                             "string=\"true\">a\\b</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

#define CALL(name) static dsvk_status name(struct world *w, dsvk_error *err)
#define UNUSED(x) ((void)(x))

/* One that gives JSON. */
#define JSON_CALL(name, call)                     \
    CALL(name) {                                  \
        char *json = NULL;                        \
        UNUSED(w);                                \
        const dsvk_status status = (call);        \
        dsvk_free(json);                          \
        return status;                            \
    }

JSON_CALL(devices, dsvk_devices(&json, err))
JSON_CALL(describe, dsvk_device_describe(w->device, &json, err))
JSON_CALL(device_memory, dsvk_device_memory(w->device, &json, err))
JSON_CALL(model_config, dsvk_model_config(w->model, &json, err))
JSON_CALL(model_report, dsvk_model_report(w->model, &json, err))
JSON_CALL(plan, dsvk_plan(DSVK_NANO, w->device, NULL, 1000, &json, err))
JSON_CALL(session_memory, dsvk_session_memory(w->session, &json, err))
JSON_CALL(scheduler_report, dsvk_scheduler_report(w->scheduler, &json, err))
JSON_CALL(chat_parse, dsvk_chat_parse(answer, strlen(answer), 1, &json, err))

CALL(profile) {
    char *json = NULL;
    int32_t id;
    size_t n;
    dsvk_status status = dsvk_session_sync(w->session, prompt, N_PROMPT, err), ended;
    if (status == DSVK_OK)
        status = dsvk_device_profile_begin(w->device, err);
    if (status != DSVK_OK)
        return status;
    status = dsvk_session_decode(w->session, 1, NULL, &id, &n, err);
    ended = dsvk_device_profile_end(w->device, &json, status ? NULL : err);
    dsvk_free(json);
    return status ? status : ended;
}

CALL(open_device) {
    dsvk_device *device = NULL;
    UNUSED(w);
    const dsvk_status status = dsvk_device_open(&device, NULL, err);
    dsvk_device_close(device);
    return status;
}

CALL(open_model) {
    const dsvk_model_options options = { .size = sizeof options, .max_chunk = 16 };
    dsvk_model *model = NULL;
    const dsvk_status status = dsvk_model_open(&model, w->device, DSVK_NANO, &options, err);
    dsvk_model_close(model);
    return status;
}

JSON_CALL(verify, dsvk_verify(DSVK_NANO, NULL, &json, err))

CALL(open_tokenizer) {
    dsvk_tokenizer *tokenizer = NULL;
    UNUSED(w);
    const dsvk_status status = dsvk_tokenizer_open(&tokenizer, DSVK_NANO, err);
    dsvk_tokenizer_close(tokenizer);
    return status;
}

CALL(encode_and_decode) {
    static const char text[] = "<｜begin▁of▁sentence｜>But soft, what light through yonder window breaks? 12345";
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n = 0, n_back = 0;
    dsvk_status status = dsvk_tokenizer_encode(w->tokenizer, text, strlen(text), DSVK_PARSE_SPECIAL, &ids, &n, err);
    if (status == DSVK_OK)
        status = dsvk_tokenizer_decode(w->tokenizer, ids, n, &back, &n_back, err);
    CHECK(status != DSVK_OK || (n_back == strlen(text) && memcmp(text, back, n_back) == 0), "decoded to another text");
    dsvk_free(ids);
    dsvk_free(back);
    return status;
}

CALL(decoder) {
    dsvk_decoder *decoder = NULL;
    const char *text;
    size_t n;
    dsvk_status status = dsvk_decoder_open(&decoder, w->tokenizer, err);
    for (int i = 0; status == DSVK_OK && i < N_PROMPT; i++)
        status = dsvk_decoder_push(decoder, prompt[i], &text, &n, err);
    if (status == DSVK_OK)
        status = dsvk_decoder_finish(decoder, &text, &n, err);
    dsvk_decoder_close(decoder);
    return status;
}

CALL(chat_encode) {
    char *text = NULL;
    size_t n;
    UNUSED(w);
    const dsvk_status status = dsvk_chat_encode(conversation, strlen(conversation), &text, &n, err);
    dsvk_free(text);
    return status;
}

CALL(chat_encode_ids) {
    int32_t *ids = NULL;
    size_t n;
    const dsvk_status status = dsvk_chat_encode_ids(w->tokenizer, conversation, strlen(conversation), &ids, &n, err);
    dsvk_free(ids);
    return status;
}

CALL(chat_parser) {
    dsvk_chat_parser *parser = NULL;
    UNUSED(w);
    dsvk_status status = dsvk_chat_parser_open(&parser, 1, err);
    for (size_t i = 0; status == DSVK_OK && i < strlen(answer); i++)
        status = dsvk_chat_parser_feed(parser, answer + i, 1, err);
    for (int i = 0; status == DSVK_OK && i < N_PROMPT; i++)
        status = dsvk_chat_parser_push(parser, w->tokenizer, prompt[i], err);
    if (status == DSVK_OK)
        status = dsvk_chat_parser_finish(parser, err);
    dsvk_chat_parser_close(parser);
    return status;
}

CALL(session) {
    const dsvk_session_options options = { .size = sizeof options, .context = 256, .mtp = 1 };
    static float logits[1 << 14];
    dsvk_session *session = NULL;
    int32_t ids[8];
    CHECK(dsvk_model_vocab_size(w->model) <= sizeof logits / sizeof *logits, "a larger vocabulary");
    dsvk_status status = dsvk_session_open(&session, w->model, &options, err);
    if (status == DSVK_OK)
        status = dsvk_session_sync(session, prompt, N_PROMPT, err);
    if (status == DSVK_OK)
        status = dsvk_session_logits(session, logits, err);
    if (status == DSVK_OK)
        status = dsvk_session_mtp_logits(session, logits, err);
    if (status == DSVK_OK)
        status = dsvk_session_evaluate(session, prompt, 1, 0, logits, NULL, err);
    if (status == DSVK_OK)
        status = dsvk_session_tokens(session, ids, err);
    CHECK(status != DSVK_OK || ids[N_PROMPT] == prompt[0], "the timeline is another");
    dsvk_session_close(session);
    return status;
}

CALL(decode) {
    int32_t out[2 * 4];
    size_t n[2];
    dsvk_session *const both[] = { w->session, w->other };
    dsvk_status status = dsvk_session_sync(w->session, prompt, N_PROMPT, err);
    if (status == DSVK_OK)
        status = dsvk_session_sync(w->other, prompt, N_PROMPT - 1, err);
    return status ? status : dsvk_decode_batch(both, 2, 4, NULL, out, n, err);
}

CALL(begin_and_poll) {
    dsvk_poll_result result = { 0 };
    dsvk_status status = dsvk_session_begin(w->session, prompt, N_PROMPT, 3, NULL, err);
    while (status == DSVK_OK && !result.finished)
        status = dsvk_session_poll(w->session, 1000, &result, err);
    dsvk_session *again = NULL; /* the goal goes with its session */
    const dsvk_session_options options = { .size = sizeof options, .context = 256 };
    dsvk_session_close(w->session);
    const dsvk_allocator *failing = dsvk_use_allocator(NULL);
    CHECK(dsvk_session_open(&again, w->model, &options, NULL) == DSVK_OK, "a session in the place of the old one");
    dsvk_use_allocator(failing);
    w->session = again;
    return status;
}

CALL(schedule) {
    static const char stop[] = "KING";
    const char *texts[] = { stop };
    const size_t sizes[] = { 4 };
    const dsvk_request_options request = { .size = sizeof request, .prompt = prompt, .n_prompt = N_PROMPT, .max_tokens = 3, .choices = 2,
        .sampling = { .size = sizeof request.sampling }, .logprobs = 3, .owner = "me", .stop_texts = texts, .stop_sizes = sizes, .n_stop_texts = 1 };
    const dsvk_scheduler_options options = { .size = sizeof options, .context = 256, .max_running = 2 };
    dsvk_scheduler *scheduler = NULL;
    dsvk_event event = { .size = sizeof event };
    uint64_t id, unfinished = 1;
    dsvk_status ended = DSVK_OK, status = dsvk_scheduler_open(&scheduler, w->model, &options, err);
    if (status == DSVK_OK)
        status = dsvk_scheduler_submit(scheduler, &request, &id, err);
    while (status == DSVK_OK && unfinished) {
        status = dsvk_scheduler_step(scheduler, &unfinished, err);
        do {
            event.kind = DSVK_EVENT_NONE;
            if (status == DSVK_OK)
                status = dsvk_scheduler_next(scheduler, &event, err);
            if (status == DSVK_OK && event.kind == DSVK_EVENT_FINISH && event.status)
                ended = event.status;
        } while (status == DSVK_OK && event.kind != DSVK_EVENT_NONE);
    }
    dsvk_scheduler_close(scheduler);
    return status ? status : ended;
}

/* ---- ops, on tensors of zeros ---- */

struct given {
    const char *name;
    dsvk_form form;
    dsvk_dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
};

struct op_case {
    const char *op;
    struct given tensors[8];
    dsvk_op_argument numbers[2];
};

static dsvk_status open_zeros(struct world *w, const struct given *g, dsvk_tensor **tensor, dsvk_error *err) {
    static const float zeros[1 << 15];
    const bool experts = g->form == DSVK_FORM_EXPERTS;
    dsvk_tensor_options o = { .size = sizeof o, .form = g->form, .dtype = g->dtype, .rank = g->rank, .data = zeros,
                              .w3 = experts ? zeros : NULL, .w2 = experts ? zeros : NULL };
    memcpy(o.shape, g->shape, sizeof g->shape);
    return dsvk_tensor_open(tensor, w->device, &o, err);
}

static dsvk_status read_all(const dsvk_tensor *tensor, dsvk_error *err) {
    static float numbers[1 << 15];
    dsvk_tensor_info info = { .size = sizeof info };
    const dsvk_status status = dsvk_tensor_describe(tensor, &info, err);
    CHECK(info.read_bytes <= sizeof numbers, "%d bytes to read", (int)info.read_bytes);
    return status ? status : dsvk_tensor_read(tensor, numbers, info.read_bytes, NULL, NULL, err);
}

/* Opens its tensors, runs it, reads what it gives first. */
static dsvk_status run_op(struct world *w, const struct op_case *c, dsvk_error *err) {
    dsvk_op_argument arguments[10];
    dsvk_tensor *tensors[8] = { NULL }, *results[DSVK_OP_RESULTS] = { NULL };
    dsvk_status status = DSVK_OK;
    size_t n = 0, n_tensors = 0;
    for (; n_tensors < 8 && c->tensors[n_tensors].name && status == DSVK_OK; n_tensors++) {
        status = open_zeros(w, &c->tensors[n_tensors], &tensors[n_tensors], err);
        arguments[n++] = (dsvk_op_argument){ c->tensors[n_tensors].name, tensors[n_tensors], 0 };
    }
    for (size_t i = 0; i < 2 && c->numbers[i].name; i++)
        arguments[n++] = c->numbers[i];
    if (status == DSVK_OK)
        status = dsvk_op(w->device, c->op, arguments, n, results, NULL, NULL, err);
    if (status == DSVK_OK)
        status = read_all(results[0], err);
    for (size_t i = 0; i < DSVK_OP_RESULTS; i++)
        dsvk_tensor_close(results[i]);
    for (size_t i = 0; i < n_tensors; i++)
        dsvk_tensor_close(tensors[i]);
    return status;
}

#define F32(name, rank, ...) { name, DSVK_FORM_VALUES, DSVK_DTYPE_F32, rank, { __VA_ARGS__ } }
#define I32(name, rank, ...) { name, DSVK_FORM_VALUES, DSVK_DTYPE_I32, rank, { __VA_ARGS__ } }
#define MATRIX(name, rows, columns) { name, DSVK_FORM_MATRIX, DSVK_DTYPE_F32, 2, { rows, columns } }
#define EXPERTS(name, n, hidden, dim) { name, DSVK_FORM_EXPERTS, DSVK_DTYPE_F32, 3, { n, hidden, dim } }
#define TABLE F32("table", 3, 64, 32, 2)
#define OP_CALL(name, ...)                                                       \
    CALL(name) {                                                                 \
        static const struct op_case c = __VA_ARGS__;                             \
        return run_op(w, &c, err);                                               \
    }

OP_CALL(rms_norm, { "rms_norm", { F32("x", 2, 4, 64), F32("weight", 1, 64) } })
OP_CALL(rope, { "rope", { F32("q", 3, 8, 4, 128), TABLE } })
OP_CALL(quant_row, { "quant_row", { F32("kv", 2, 8, 128), F32("weight", 1, 128), TABLE }, { { "native", NULL, 1 } } })
OP_CALL(quant_index, { "quant_index", { F32("iq", 3, 8, 4, 128), TABLE }, { { "native", NULL, 1 } } })
OP_CALL(kv_compress, { "kv_compress", { F32("ks", 2, 40, 512), F32("ape", 2, 4, 256), F32("norm", 1, 128), TABLE },
                       { { "native", NULL, 1 } } })
OP_CALL(index_keys, { "kv_compress", { F32("ks", 2, 40, 512), F32("ape", 2, 4, 256), F32("norm", 1, 128), TABLE },
                      { { "native", NULL, 1 }, { "index", NULL, 1 } } })
OP_CALL(indexer, { "indexer", { F32("iq", 3, 8, 4, 128), F32("weights", 2, 8, 4), F32("keys", 2, 10, 128) } })
OP_CALL(topk, { "topk", { F32("scores", 2, 4, 40) }, { { "k", NULL, 2 } } })
OP_CALL(sparse_attention, { "sparse_attention", { F32("q", 3, 8, 4, 128), F32("kv", 2, 40, 128), F32("sink", 1, 4), TABLE,
                                                  F32("compressed", 2, 10, 128), I32("idx", 2, 8, 2) }, { { "ratio", NULL, 4 } } })
OP_CALL(hyper_connection, { "hyper_connection", { F32("streams", 3, 5, 4, 64), F32("fn", 2, 24, 256), F32("base", 1, 24),
                                                  F32("scale", 1, 3), F32("norm", 1, 64) } })
OP_CALL(moe, { "moe", { F32("x", 2, 4, 64), MATRIX("gate", 8, 64), EXPERTS("experts", 8, 32, 64), F32("bias", 1, 8),
                        EXPERTS("shared", 1, 32, 64) }, { { "k", NULL, 2 } } })
OP_CALL(moe_by_tokens, { "moe", { F32("x", 2, 4, 64), MATRIX("gate", 8, 64), EXPERTS("experts", 8, 32, 64), I32("table", 2, 3, 2),
                                  I32("tokens", 1, 4) } })

CALL(read_matrix) {
    static const struct given matrix = MATRIX("w", 64, 64);
    dsvk_tensor *tensor = NULL;
    dsvk_status status = open_zeros(w, &matrix, &tensor, err);
    if (status == DSVK_OK)
        status = read_all(tensor, err);
    dsvk_tensor_close(tensor);
    return status;
}

static int stop_at_once(void *user, const char *stage, uint64_t done, uint64_t total) {
    UNUSED(user), UNUSED(stage), UNUSED(done), UNUSED(total);
    return 1;
}

/* Up to the first number it has; all of it takes seconds. */
CALL(measure) {
    char *json = NULL;
    const dsvk_status status = dsvk_device_measure(w->device, &json, stop_at_once, NULL, err);
    CHECK(status != DSVK_OK && json == NULL, "not stopped");
    return status == DSVK_CANCELLED ? DSVK_OK : status;
}

JSON_CALL(ops, dsvk_ops(&json, err))

/* ---- each of them with each allocation failing ---- */

#define ROW(name) { #name, name }
static const struct {
    const char *name;
    dsvk_status (*call)(struct world *w, dsvk_error *err);
} calls[] = {
    ROW(devices), ROW(open_device), ROW(describe), ROW(device_memory), ROW(profile), ROW(open_model), ROW(model_config), ROW(model_report),
    ROW(plan), ROW(verify), ROW(open_tokenizer), ROW(encode_and_decode), ROW(decoder), ROW(chat_encode), ROW(chat_encode_ids),
    ROW(chat_parser), ROW(chat_parse), ROW(session), ROW(decode), ROW(begin_and_poll), ROW(session_memory), ROW(schedule),
    ROW(scheduler_report), ROW(ops), ROW(rms_norm), ROW(rope), ROW(quant_row), ROW(quant_index), ROW(kv_compress), ROW(index_keys),
    ROW(indexer), ROW(topk), ROW(sparse_attention), ROW(hyper_connection), ROW(moe), ROW(moe_by_tokens), ROW(read_matrix), ROW(measure),
};

static void open_world(struct world *w) {
    dsvk_error err;
    const dsvk_session_options options = { .size = sizeof options, .context = 256 };
    const dsvk_scheduler_options small = { .size = sizeof small, .context = 256 };
    CHECK(dsvk_device_open(&w->device, NULL, &err) == DSVK_OK && dsvk_model_open(&w->model, w->device, DSVK_NANO, NULL, &err) == DSVK_OK &&
          dsvk_session_open(&w->session, w->model, &options, &err) == DSVK_OK &&
          dsvk_session_open(&w->other, w->model, &options, &err) == DSVK_OK &&
          dsvk_scheduler_open(&w->scheduler, w->model, &small, &err) == DSVK_OK, "%s", err.message);
    w->tokenizer = dsvk_model_tokenizer(w->model);
}

static void close_world(struct world *w) {
    dsvk_scheduler_close(w->scheduler);
    dsvk_session_close(w->other);
    dsvk_session_close(w->session);
    dsvk_model_close(w->model);
    dsvk_device_close(w->device);
}

enum { TRIES = 3 }; /* time decides how tokens are submitted, and each way keeps memory of its own from its first use on */

/* Long calls: every one of the first allocations, then some. Returns how many allocations a call makes. */
static int64_t fail_each(struct world *w, struct meter *m, size_t row, bool for_good) {
    dsvk_error err = { 0 };
    int64_t n = 0, made, blocks, bytes;
    for (m->for_good = for_good;; n += n < 20 ? 1 : n / 4) {
        dsvk_status status;
        int tries = 0;
        do { /* what is lost is lost every time */
            blocks = m->blocks, bytes = m->bytes;
            m->made = 0;
            m->fail_at = n;
            status = calls[row].call(w, &err);
            m->fail_at = -1;
            made = m->made;
            CHECK(status == DSVK_OK || (status == DSVK_NOMEM && err.status == DSVK_NOMEM), "%s, allocation %d: %s: %s", calls[row].name, (int)n,
                  dsvk_status_name(status), err.message);
        } while ((m->blocks != blocks || m->bytes != bytes) && ++tries < TRIES);
        CHECK(m->blocks == blocks && m->bytes == bytes, "%s, allocation %d: %d blocks of %d bytes are lost", calls[row].name, (int)n,
              (int)(m->blocks - blocks), (int)(m->bytes - bytes));
        if (made <= n) {
            CHECK(status == DSVK_OK, "%s without a failure: %s", calls[row].name, err.message);
            return made;
        }
    }
}

static void test_A06_A16_every_allocation_of_every_call(void) {
    struct meter m = { .lock = PTHREAD_MUTEX_INITIALIZER, .fail_at = -1 };
    const dsvk_allocator allocator = { memory, &m };
    struct world w = { 0 };
    dsvk_error err;
    CHECK(dsvk_use_allocator(&allocator) == NULL, "a thread begins with malloc");
    open_world(&w);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        for (int warm = 0; warm < 2; warm++) /* what grows once and stays */
            CHECK(calls[i].call(&w, &err) == DSVK_OK, "%s: %s", calls[i].name, err.message);
        const int64_t made = fail_each(&w, &m, i, false);
        fail_each(&w, &m, i, true);
        if (getenv("VERBOSE"))
            printf("%s: %d allocations\n", calls[i].name, (int)made);
    }
    close_world(&w);
    CHECK(dsvk_use_allocator(NULL) == &allocator, "the allocator that was in use");
    CHECK(m.blocks == 0 && m.bytes == 0 && !m.mixed_up, "%d blocks of %d bytes are left%s", (int)m.blocks, (int)m.bytes,
          m.mixed_up ? ", and a size was wrong" : "");
}

/* ---- whose memory is whose ---- */

static void *open_tokenizers(void *user) {
    dsvk_use_allocator(user);
    for (int i = 0; i < 5; i++)
        open_tokenizer(NULL, NULL);
    return NULL;
}

static void test_A16_each_thread_has_its_own(void) {
    struct meter mine = { .lock = PTHREAD_MUTEX_INITIALIZER, .fail_at = -1 }, theirs = mine;
    const dsvk_allocator allocators[] = { { memory, &mine }, { memory, &theirs } };
    dsvk_tokenizer *tokenizer;
    dsvk_chat_parser *parser;
    pthread_t thread;
    dsvk_use_allocator(&allocators[0]);
    CHECK(dsvk_tokenizer_open(&tokenizer, DSVK_NANO, NULL) == DSVK_OK, "opened");
    const int64_t made = mine.made;
    CHECK(pthread_create(&thread, NULL, open_tokenizers, (void *)&allocators[1]) == 0 && pthread_join(thread, NULL) == 0, "a thread");
    CHECK(made > 0 && mine.made == made && theirs.made == 5 * made && theirs.blocks == 0, "another thread used this one's: %d, %d, %d",
          (int)made, (int)mine.made, (int)theirs.made);
    CHECK(dsvk_chat_parser_open(&parser, 0, NULL) == DSVK_OK && dsvk_chat_parser_feed(parser, answer, 20, NULL) == DSVK_OK, "a parser");
    dsvk_use_allocator(&allocators[1]); /* what grows and what is released stays where it came from */
    for (int i = 0; i < 100; i++)
        CHECK(dsvk_chat_parser_feed(parser, answer, 20, NULL) == DSVK_OK, "fed");
    dsvk_chat_parser_close(parser);
    dsvk_tokenizer_close(tokenizer);
    CHECK(mine.blocks == 0 && mine.bytes == 0 && theirs.bytes == 0, "%d blocks are left", (int)mine.blocks);
    dsvk_use_allocator(NULL);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(test_A16_each_thread_has_its_own),
        TEST(test_A06_A16_every_allocation_of_every_call),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
