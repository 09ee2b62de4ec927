/* Builds every kernel that models use, runs none, and prints what the driver's compiler says about them: one JSON object
 * {"device", "validation_messages", "pipelines": [{"shader", "constants": "TYPE=2 ROWS=8", "executables"}]}.
 *
 *     pipelines [--validation] CONFIG.json...
 *
 * The kernels are found by recording the engine's own forward pass dry, at shapes from one row to a full chunk, in both
 * cache formats, and with every way to multiply that the device has, so that there is no second list of them; beside it those
 * that measure a device. A config.json is all it takes: weights have shapes and no memory, addresses are never followed. It
 * is meant for drivers whose hardware is pretended (see run). */
#include <stdio.h>
#include <string.h>

#include "engine.h"

static const uint32_t ROWS[] = { 1, 2, 4, 8, 16, 64, 512, 4096 };
#define NOWHERE 256u /* any address that looks like one */

/* ---- a model without weights ---- */

static dsvk_status describe_weights(dsvk_model *m, dsvk_error *err) {
    dsvk_weight_list list = { 0 };
    DSVK_TRY(dsvk_weights_describe(&list, &m->weights, &m->config, m->mtp, err));
    for (uint32_t i = 0; i < list.n_weights; i++) {
        const dsvk_weight *w = &list.weights[i];
        if (w->matrix)
            *w->matrix = (dsvk_matrix){ .addr = NOWHERE, .n_out = w->n_out, .n_in = w->n_in, .type = w->type };
        if (w->addr)
            *w->addr = NOWHERE;
    }
    dsvk_weight_list_free(&list);
    return DSVK_OK;
}

static void record_measures(dsvk_model *m) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    dsvk_bench_copy(m->cmd, &(dsvk_bench_copy_params){ .source = NOWHERE, .out = NOWHERE, .n = 1 });
    dsvk_bench_fma(m->cmd, &(dsvk_bench_fma_params){ .out = NOWHERE, .groups = 1 });
    for (uint32_t i = 0, n = dsvk_matmul_variants(m->device, list); i < n; i++)
        if (list[i].kind == DSVK_MATMUL_COOPMAT)
            dsvk_bench_coopmat(m->cmd, &(dsvk_bench_coopmat_params){ .shape = list[i], .groups = 1 });
}

static dsvk_status record(dsvk_model *m, uint32_t rows, dsvk_error *err) {
    const uint32_t positions = m->config.max_positions, chosen = rows < DSVK_LOGIT_ROWS ? rows : DSVK_LOGIT_ROWS;
    const dsvk_step step = { .n = rows, .n_seqs = 1, .positions = positions, .rows = NOWHERE, .seqs = NOWHERE };
    m->scratch = (dsvk_scratch){ .buffer.addr = NOWHERE, .positions = positions };
    DSVK_TRY(dsvk_cmd_begin(m->cmd, err));
    dsvk_cmd_set_dry(m->cmd, true);
    dsvk_forward_begin(m, m->cmd, &step);
    for (uint32_t l = 0; l < m->config.n_layers; l++)
        dsvk_forward_layer(m, m->cmd, &step, l);
    dsvk_forward_head(m, m->cmd, rows, NOWHERE, chosen, NOWHERE, false);
    if (m->mtp) {
        dsvk_forward_mtp(m, m->cmd, &step, &step, NOWHERE);
        dsvk_forward_head(m, m->cmd, rows, NOWHERE, chosen, NOWHERE, true);
    }
    dsvk_sample(m->cmd, &(dsvk_sample_params){ .logits = NOWHERE, .options = NOWHERE, .out = NOWHERE, .n = rows,
                                               .vocab = m->config.vocab_size });
    record_measures(m);
    return dsvk_cmd_run(m->cmd, err);
}

static dsvk_status build(dsvk_device *device, const char *path, bool native, dsvk_error *err) {
    dsvk_model m = { .device = device, .constants.addr = NOWHERE };
    m.rope[0].addresses.addr = m.rope[1].addresses.addr = NOWHERE;
    dsvk_matmul_variant variants[DSVK_MATMUL_VARIANTS];
    const uint32_t n_variants = dsvk_matmul_variants(device, variants);
    dsvk_status status;
    DSVK_GOTO(dsvk_model_resolve(&m.options, NULL, err));
    DSVK_GOTO(dsvk_config_read(&m.config, path, err));
    m.mtp = m.config.n_mtp_layers > 0;
    DSVK_GOTO(describe_weights(&m, err));
    DSVK_GOTO(dsvk_cache_layout_make(&m.layout, &m.config, native, m.options.page_tokens, m.mtp, err));
    m.layout.format.byte_queries = dsvk_byte_queries(device, &m.layout.format);
    DSVK_GOTO(dsvk_cmd_create(device, &m.cmd, err));
    for (uint32_t v = 0; v < n_variants; v++) {
        dsvk_device_set_matmul(device, variants[v]);
        for (size_t i = 0; i < DSVK_COUNT(ROWS); i++)
            DSVK_GOTO(record(&m, ROWS[i], err));
    }
fail:
    dsvk_cmd_destroy(m.cmd);
    dsvk_cache_layout_free(&m.layout);
    dsvk_weights_free(&m.weights, m.config.n_layers);
    dsvk_config_free(&m.config);
    return status;
}

/* ---- names of specialization constants, from the SPIR-V itself ---- */

enum { OP_NAME = 5, OP_DECORATE = 71, SPEC_ID = 1, HEADER_WORDS = 5 };

/* The id that `OpDecorate id SpecId constant` gives; 0: none. */
static uint32_t constant_id(const dsvk_shader *shader, uint32_t constant) {
    const uint32_t *end = shader->words + shader->bytes / 4;
    for (const uint32_t *at = shader->words + HEADER_WORDS; at < end && *at >> 16; at += *at >> 16)
        if ((*at & 0xffff) == OP_DECORATE && *at >> 16 == 4 && at[2] == SPEC_ID && at[3] == constant)
            return at[1];
    return 0;
}

static const char *constant_name(const dsvk_shader *shader, uint32_t constant) {
    const uint32_t id = constant_id(shader, constant), *end = shader->words + shader->bytes / 4;
    for (const uint32_t *at = shader->words + HEADER_WORDS; id && at < end && *at >> 16; at += *at >> 16)
        if ((*at & 0xffff) == OP_NAME && at[1] == id)
            return (const char *)(at + 2);
    return id ? "WORKGROUP" : "unused"; /* a workgroup's size has no name of its own */
}

/* [2, 8] -> "TYPE=2 ROWS=8" */
static void name_constants(json_t *pipeline) {
    const char *name = json_string_value(json_object_get(pipeline, "shader"));
    const json_t *values = json_object_get(pipeline, "constants");
    const dsvk_shader *shader = dsvk_shaders;
    char text[512] = "";
    while (shader->name && strcmp(shader->name, name) != 0)
        shader++;
    for (size_t i = 0, used = 0; i < json_array_size(values) && used < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s=%d", i ? " " : "", constant_name(shader, (uint32_t)i),
                                 (int)json_integer_value(json_array_get(values, i)));
    json_object_set_new(pipeline, "constants", json_string(text));
}

/* ---- the report ---- */

typedef dsvk_status (*question)(dsvk_device *device, char **json, dsvk_error *err);

static dsvk_status ask(question what, dsvk_device *device, json_t **answer, dsvk_error *err) {
    char *text = NULL;
    DSVK_TRY(what(device, &text, err));
    dsvk_status status = dsvk_json_parse(answer, text, strlen(text), "report", err);
    dsvk_free(text);
    return status;
}

static dsvk_status report(dsvk_device *device, dsvk_error *err) {
    json_t *described = NULL, *pipelines = NULL;
    dsvk_status status;
    DSVK_GOTO(ask(dsvk_device_describe, device, &described, err));
    DSVK_GOTO(ask(dsvk_device_pipelines, device, &pipelines, err));
    for (size_t i = 0; i < json_array_size(pipelines); i++)
        name_constants(json_array_get(pipelines, i));
    char first[DSVK_MESSAGE_SIZE] = "";
    const uint32_t messages = dsvk_device_validation_messages(device, first, sizeof first);
    json_t *root = json_pack("{s:O, s:i, s:s, s:O}", "device", described, "validation_messages", (int)messages,
                             "first_message", first, "pipelines", pipelines);
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_SORT_KEYS);
    putchar('\n');
    json_decref(root);
fail:
    json_decref(described);
    json_decref(pipelines);
    return status;
}

int main(int argc, char **argv) {
    dsvk_device_options options = { .size = sizeof options, .cache_dir = "", .statistics = 1 };
    dsvk_device *device = NULL;
    dsvk_error err = { 0 };
    dsvk_status status;
    int first = 1;
    if (argc > 1 && strcmp(argv[1], "--validation") == 0) {
        options.validation = 1;
        first = 2;
    }
    DSVK_GOTO(dsvk_device_open(&device, &options, &err));
    for (int i = first; i < argc; i++)
        for (int native = 1; native >= 0; native--)
            DSVK_GOTO(build(device, argv[i], native, &err));
    DSVK_GOTO(report(device, &err));
fail:
    dsvk_device_close(device);
    if (status != DSVK_OK)
        fprintf(stderr, "pipelines: %s\n", err.message);
    return status != DSVK_OK;
}
