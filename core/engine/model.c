/* A model: opened from a folder, immutable afterwards, kept alive by its sessions. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine.h"

#define MAX_CHUNK 4096u
#define DEFAULT_CHUNK 512u
#define DEFAULT_PAGE 512u
#define DEFAULT_THREADS 2u

dsvk_status dsvk_model_resolve(dsvk_model_options *out, const dsvk_model_options *in, dsvk_error *err) {
    *out = in ? *in : (dsvk_model_options){ .size = sizeof *out };
    if (out->size != sizeof *out)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_model_options has size %zu, this library's is %zu", out->size, sizeof *out);
    if (out->cache != DSVK_CACHE_NATIVE && out->cache != DSVK_CACHE_F32)
        return dsvk_fail(err, DSVK_INVALID, "cache is %d, allowed are %d (native) and %d (f32)", (int)out->cache,
                         (int)DSVK_CACHE_NATIVE, (int)DSVK_CACHE_F32);
    DSVK_TRY(dsvk_check_switch("strict", out->strict, err));
    DSVK_TRY(dsvk_check_switch("verify", out->verify, err));
    out->threads = out->threads ? out->threads : DEFAULT_THREADS;
    out->max_chunk = out->max_chunk ? out->max_chunk : DEFAULT_CHUNK;
    out->page_tokens = out->page_tokens ? out->page_tokens : DEFAULT_PAGE;
    if (out->threads > 64)
        return dsvk_fail(err, DSVK_INVALID, "threads is %u, allowed are 1 to 64", out->threads);
    if (out->max_chunk > MAX_CHUNK)
        return dsvk_fail(err, DSVK_INVALID, "max_chunk is %u, allowed are 1 to %u", out->max_chunk, MAX_CHUNK);
    if (out->page_tokens % 128 || out->page_tokens > 65536)
        return dsvk_fail(err, DSVK_INVALID, "page_tokens is %u, allowed are multiples of 128 up to 65536", out->page_tokens);
    return DSVK_OK;
}

/* ---- opening ---- */

static bool has_mtp(const dsvk_checkpoint *checkpoint, const dsvk_config *config) {
    return config->n_mtp_layers > 0 && dsvk_checkpoint_find(checkpoint, "mtp.0.e_proj.weight");
}

static dsvk_status check_extra(dsvk_model *m, const dsvk_checkpoint *checkpoint, const uint8_t *used, size_t *ignored,
                               dsvk_error *err) {
    *ignored = 0;
    for (size_t i = 0; i < dsvk_checkpoint_count(checkpoint); i++) {
        const char *name = dsvk_checkpoint_tensor(checkpoint, i)->name;
        if (used[i])
            continue;
        if (m->options.strict) {
            char text[200];
            return dsvk_fail(err, DSVK_FORMAT, "tensor %s is not part of this model (strict)",
                             dsvk_escape(text, sizeof text, name, strlen(name)));
        }
        (*ignored)++;
    }
    return DSVK_OK;
}

static dsvk_status load(dsvk_model *m, const char *path, dsvk_error *err) {
    dsvk_checkpoint *checkpoint = NULL;
    dsvk_weight_list list = { 0 };
    uint8_t *used = NULL;
    size_t ignored = 0;
    char shown[4096];
    dsvk_status status;
    DSVK_GOTO(dsvk_checkpoint_open(&checkpoint, path, err));
    size_t count = dsvk_checkpoint_count(checkpoint);
    m->mtp = has_mtp(checkpoint, &m->config);
    used = dsvk_alloc_zero(count + 1, 1);
    if (!used) {
        status = dsvk_fail_nomem(err, count + 1);
        goto fail;
    }
    DSVK_GOTO(dsvk_weights_describe(&list, &m->weights, &m->config, m->mtp, err));
    DSVK_GOTO(dsvk_weights_bind(&list, checkpoint, used, err));
    DSVK_GOTO(check_extra(m, checkpoint, used, &ignored, err));
    DSVK_GOTO(dsvk_weights_place(&list, err));
    m->buffers = dsvk_alloc_zero(list.n_buffers, sizeof *m->buffers);
    if (!m->buffers) {
        status = dsvk_fail_nomem(err, list.n_buffers * sizeof *m->buffers);
        goto fail;
    }
    m->n_buffers = list.n_buffers;
    for (uint32_t i = 0; i < list.n_buffers; i++)
        m->weight_bytes += list.buffer_bytes[i];
    dsvk_load_options options = { m->options.threads, m->options.verify, m->options.progress, m->options.user };
    DSVK_GOTO(dsvk_matmul_choose(m->device, m->cmd, err)); /* the weights' layout depends on it */
    DSVK_GOTO(dsvk_load_weights(m->device, &list, &m->weights, &m->config, checkpoint, m->buffers, &options, err));
    dsvk_one_line(shown, sizeof shown, path);
    m->report = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:[]}", "path", shown, "bytes",
                          (json_int_t)dsvk_checkpoint_bytes(checkpoint), "device_bytes", (json_int_t)m->weight_bytes, "tensors",
                          (json_int_t)count, "ignored", (json_int_t)ignored, "shards",
                          (json_int_t)dsvk_checkpoint_shards(checkpoint), "mtp", m->mtp, "notes");
    if (!m->report)
        status = dsvk_fail(err, DSVK_NOMEM, "the load report could not be made for %s", path);
fail:
    dsvk_free(used);
    dsvk_weight_list_free(&list);
    dsvk_checkpoint_close(checkpoint);
    return status;
}

static void note(dsvk_model *m, const char *sentence) {
    json_array_append_new(json_object_get(m->report, "notes"), json_string(sentence));
}

/* What comes with a model and is never opened: templates of prompts, code, pickles (T10). As many names as fit, and how many did not. */
struct unopened {
    char names[256];
    int left_out;
};

static void see_unopened(const char *name, void *context) {
    static const char *const ends[] = { ".jinja", "chat_template.json", "tokenizer_config.json", ".py", ".bin", ".pt", ".pth", ".pkl" };
    struct unopened *found = context;
    size_t length = strlen(name), used = strlen(found->names);
    char shown[80];
    bool is_one = false;
    for (size_t i = 0; i < DSVK_COUNT(ends); i++)
        is_one = is_one || (length >= strlen(ends[i]) && strcmp(name + length - strlen(ends[i]), ends[i]) == 0);
    if (!is_one)
        return;
    int n = snprintf(found->names + used, sizeof found->names - used, "%s%s", used ? ", " : "",
                     dsvk_escape(shown, sizeof shown, name, length));
    if (n < 0 || (size_t)n >= sizeof found->names - used) {
        found->names[used] = '\0';
        found->left_out++;
    }
}

/* The folder's tokenizer.json, if it has one. */
static dsvk_status open_tokenizer(dsvk_model *m, const char *path, dsvk_error *err) {
    char file[4096], sentence[400];
    struct unopened found = { 0 };
    dsvk_folder_each(path, see_unopened, &found);
    if (found.names[0]) {
        snprintf(sentence, sizeof sentence, "never opened, because the prompt format is built in and no code is taken from models: %s",
                 found.names);
        if (found.left_out)
            snprintf(sentence + strlen(sentence), sizeof sentence - strlen(sentence), " and %d more", found.left_out);
        note(m, sentence);
    }
    if (!dsvk_path_join(file, sizeof file, path, "tokenizer.json") || !dsvk_path_exists(file)) {
        note(m, "there is no tokenizer.json: the model works on token ids only");
        return DSVK_OK;
    }
    DSVK_TRY(dsvk_tokenizer_open(&m->tokenizer, file, err));
    uint32_t ids = dsvk_tokenizer_vocab_size(m->tokenizer);
    if (ids > m->config.vocab_size)
        return dsvk_fail(err, DSVK_FORMAT, "tokenizer.json has ids up to %u, vocab_size in config.json is %u", ids - 1,
                         m->config.vocab_size);
    return DSVK_OK;
}

/* Coefficients that make HC-post an addition: post = 1, comb = identity (4.13). */
static dsvk_status open_constants(dsvk_model *m, dsvk_error *err) {
    float values[20] = { 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_WEIGHTS, sizeof values, "constants", &m->constants, err));
    return dsvk_buffer_write(m->device, &m->constants, 0, values, sizeof values, err);
}

/* Builds the pipelines of one row, of a few and of a full chunk now (ops choose their variant by the number of rows), so that the
 * first token does not wait for them; on a software driver it would all the same. Nothing is run: the scratch addresses these
 * recordings name are never followed. */
static dsvk_status warm_up(dsvk_model *m, dsvk_error *err) {
    uint32_t sizes[] = { 1, 4, m->options.max_chunk };
    dsvk_status status = DSVK_OK;
    if (dsvk_device_get_limits(m->device)->software)
        return DSVK_OK;
    m->scratch = (dsvk_scratch){ .buffer.addr = 256, .positions = m->config.max_positions };
    for (int i = 0; status == DSVK_OK && i < (int)DSVK_COUNT(sizes); i++) {
        dsvk_step step = { .n = sizes[i], .n_seqs = 1, .positions = m->config.max_positions,
                           .rows = m->inbox.buffer.addr, .seqs = m->inbox.buffer.addr };
        status = dsvk_cmd_begin(m->cmd, err);
        if (status != DSVK_OK)
            break;
        dsvk_cmd_set_dry(m->cmd, true);
        dsvk_forward_begin(m, m->cmd, &step);
        for (uint32_t l = 0; l < m->config.n_layers; l++)
            dsvk_forward_layer(m, m->cmd, &step, l);
        dsvk_forward_head(m, m->cmd, sizes[i], m->inbox.buffer.addr, sizes[i] < DSVK_LOGIT_ROWS ? sizes[i] : DSVK_LOGIT_ROWS,
                          m->logits.addr, false);
        if (m->mtp)
            dsvk_forward_mtp(m, m->cmd, &step, &step, m->inbox.buffer.addr);
        dsvk_sample(m->cmd, &(dsvk_sample_params){ .logits = m->logits.addr, .options = m->inbox.buffer.addr,
                                                   .out = m->outbox.addr, .n = 1, .vocab = m->config.vocab_size });
        dsvk_advance(m->cmd, &(dsvk_advance_params){ .n = 1, .vocab = m->config.vocab_size });
        status = dsvk_cmd_run(m->cmd, err);
        dsvk_cmd_set_dry(m->cmd, false);
    }
    m->scratch = (dsvk_scratch){ 0 };
    return status;
}

static dsvk_status open_parts(dsvk_model *m, const char *path, dsvk_error *err) {
    char file[4096];
    if (!*path)
        return dsvk_fail(err, DSVK_INVALID, "path is empty");
    if (!dsvk_path_join(file, sizeof file, path, "config.json"))
        return dsvk_fail(err, DSVK_INVALID, "the path is longer than %zu bytes", sizeof file);
    DSVK_TRY(dsvk_config_read(&m->config, file, err));
    DSVK_TRY(dsvk_cmd_create(m->device, &m->cmd, err));
    DSVK_TRY(load(m, path, err));
    DSVK_TRY(dsvk_cache_layout_make(&m->layout, &m->config, m->options.cache == DSVK_CACHE_NATIVE, m->options.page_tokens,
                                    m->mtp, err));
    m->layout.format.byte_queries = dsvk_byte_queries(m->device, &m->layout.format);
    DSVK_TRY(dsvk_rope_table_open(&m->rope[0], m->device, &m->config, false, err));
    DSVK_TRY(dsvk_rope_table_open(&m->rope[1], m->device, &m->config, true, err));
    DSVK_TRY(open_constants(m, err));
    DSVK_TRY(open_tokenizer(m, path, err));
    DSVK_TRY(dsvk_step_open(m, err));
    DSVK_TRY(dsvk_known_answer(m->device, m->cmd, err));
    return warm_up(m, err);
}

dsvk_status dsvk_model_open(dsvk_model **model, dsvk_device *device, const char *path, const dsvk_model_options *options,
                            dsvk_error *err) {
    if (model)
        *model = NULL;
    if (!model || !path)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_model_open: model and path must not be NULL");
    if (!device) {
        DSVK_TRY(dsvk_device_open(&device, NULL, err));
        const dsvk_status own = dsvk_model_open(model, device, path, options, err);
        dsvk_device_close(device); /* the model keeps it */
        return own;
    }
    dsvk_model_options resolved;
    DSVK_TRY(dsvk_model_resolve(&resolved, options, err));
    DSVK_TRY(dsvk_device_status(device, err));
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    dsvk_model *m = dsvk_alloc_zero(1, sizeof *m);
    if (!m)
        return dsvk_fail_nomem(err, sizeof *m);
    atomic_init(&m->references, 1);
    m->device = dsvk_device_retain(device);
    m->options = resolved;
    dsvk_status status;
    m->path = dsvk_strdup_n(path, strlen(path));
    if (!m->path) {
        status = dsvk_fail_nomem(err, strlen(path) + 1);
        goto fail;
    }
    DSVK_GOTO(open_parts(m, path, err));
    clock_gettime(CLOCK_MONOTONIC, &end);
    json_object_set_new(m->report, "seconds",
                        json_real((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec)));
    *model = m;
    return DSVK_OK;
fail:
    dsvk_model_close(m);
    return status;
}

dsvk_model *dsvk_model_retain(dsvk_model *m) {
    atomic_fetch_add(&m->references, 1);
    return m;
}

void dsvk_model_close(dsvk_model *m) {
    if (!m || atomic_fetch_sub(&m->references, 1) > 1)
        return;
    dsvk_step_close(m);
    for (uint32_t l = 0; m->weights.layers && l <= m->config.n_layers; l++) {
        dsvk_buffer_destroy(m->device, &m->weights.layers[l].expert_table);
        dsvk_buffer_destroy(m->device, &m->weights.layers[l].table);
    }
    dsvk_buffer_destroy(m->device, &m->weights.head_sites);
    for (uint32_t i = 0; i < m->n_buffers; i++)
        dsvk_buffer_destroy(m->device, &m->buffers[i]);
    dsvk_buffer_destroy(m->device, &m->constants);
    dsvk_rope_table_close(&m->rope[0], m->device);
    dsvk_rope_table_close(&m->rope[1], m->device);
    dsvk_cache_layout_free(&m->layout);
    dsvk_weights_free(&m->weights, m->config.n_layers);
    dsvk_tokenizer_close(m->tokenizer);
    dsvk_config_free(&m->config);
    json_decref(m->report);
    dsvk_free(m->buffers);
    dsvk_free(m->path);
    dsvk_device_close(m->device);
    dsvk_free(m);
}

/* ---- looking at it ---- */

dsvk_status dsvk_model_config(const dsvk_model *m, char **json, dsvk_error *err) {
    if (!m || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_model_config: model and json must not be NULL");
    json_t *root;
    DSVK_TRY(dsvk_config_json(&m->config, &root));
    return dsvk_json_text(root, json, err);
}

dsvk_status dsvk_model_report(const dsvk_model *m, char **json, dsvk_error *err) {
    if (!m || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_model_report: model and json must not be NULL");
    return dsvk_json_text(json_incref(m->report), json, err);
}

uint32_t dsvk_model_vocab_size(const dsvk_model *m) { return m ? m->config.vocab_size : 0; }
uint32_t dsvk_model_has_mtp(const dsvk_model *m) { return m && m->mtp; }
const dsvk_tokenizer *dsvk_model_tokenizer(const dsvk_model *m) { return m ? m->tokenizer : NULL; }
