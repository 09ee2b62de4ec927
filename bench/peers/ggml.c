/* The cases of peer.h by ggml's C API, on its CPU or its Vulkan backend.
 *
 *     ggml BACKENDS_FOLDER CPU|Vulkan THREADS
 *
 * FP4 is its MXFP4 (the same codes, 17 bytes per 32 of them), for whose products its CPU code rounds activations to 8 bits; ours
 * stay float32. Index keys are float16, the nearest it has to ours. */
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include "peer.h"

#define MXFP4_BLOCK 17u /* bytes: one scale, 16 bytes of codes */

static ggml_backend_t backend;

typedef struct work {
    struct ggml_context *context;
    struct ggml_cgraph *graph;
} work;

/* ---- contents ---- */

static void fill(struct ggml_tensor *t) {
    const size_t bytes = ggml_nbytes(t);
    uint8_t *data = peer_alloc(bytes);
    if (t->type == GGML_TYPE_MXFP4)
        for (size_t b = 0; b < bytes; b++)
            data[b] = b % MXFP4_BLOCK == 0 ? 120 : (uint8_t)peer_random();
    else if (t->type == GGML_TYPE_F16)
        for (size_t i = 0; i < bytes / 2; i++)
            ((ggml_fp16_t *)data)[i] = ggml_fp32_to_fp16((float)(int32_t)peer_random() * 0x1p-31f);
    else if (t->type == GGML_TYPE_F32) {
        float *x = peer_reals(bytes / 4);
        memcpy(data, x, bytes);
        free(x);
    }
    ggml_backend_tensor_set(t, data, 0, bytes);
    free(data);
}

static void set_chosen(struct ggml_tensor *ids, uint32_t experts) {
    int32_t *chosen = peer_chosen(experts, (uint32_t)ids->ne[0], (uint32_t)ids->ne[1]);
    ggml_backend_tensor_set(ids, chosen, 0, ggml_nbytes(ids));
    free(chosen);
}

/* ---- the cases ---- */

static struct ggml_tensor *f32(struct ggml_context *c, int64_t a, int64_t b, int64_t d) {
    return ggml_new_tensor_3d(c, GGML_TYPE_F32, a, b, d);
}

static struct ggml_tensor *indexer(struct ggml_context *c, uint32_t keys, uint32_t heads, uint32_t dim, uint32_t n) {
    return ggml_lightning_indexer(c, f32(c, dim, heads, n), ggml_new_tensor_3d(c, GGML_TYPE_F16, dim, 1, keys), f32(c, heads, n, 1),
                                  ggml_new_tensor_2d(c, GGML_TYPE_F16, keys, n));
}

static struct ggml_tensor *make(struct ggml_context *c, const char *kind, const uint32_t *s) {
    if (strcmp(kind, "matvec") == 0)
        return ggml_mul_mat(c, ggml_new_tensor_2d(c, GGML_TYPE_MXFP4, s[1], s[0]), f32(c, s[1], s[2], 1));
    if (strcmp(kind, "moe") == 0)
        return ggml_mul_mat_id(c, ggml_new_tensor_3d(c, GGML_TYPE_MXFP4, s[2], s[3], s[0]), f32(c, s[2], s[1], s[4]),
                               ggml_new_tensor_2d(c, GGML_TYPE_I32, s[1], s[4]));
    if (strcmp(kind, "indexer") == 0)
        return indexer(c, s[0], s[1], s[2], s[3]);
    if (strcmp(kind, "select") == 0)
        return ggml_top_k(c, indexer(c, s[0], s[1], s[2], s[4]), (int)s[3]);
    if (strcmp(kind, "topk") == 0)
        return ggml_top_k(c, f32(c, s[0], s[2], 1), (int)s[1]);
    if (strcmp(kind, "hc_pre") == 0)
        return ggml_mul(c, ggml_rms_norm(c, ggml_dsv4_hc_pre(c, f32(c, s[0], 4, s[1]), f32(c, 4, s[1], 1)), 1e-6f),
                        f32(c, s[0], 1, 1));
    if (strcmp(kind, "hc_post") == 0) {
        struct ggml_tensor *x = ggml_dsv4_hc_post(c, f32(c, s[0], s[1], 1), f32(c, s[0], 4, s[1]), f32(c, 4, s[1], 1),
                                                  f32(c, 4, 4, s[1]));
        return ggml_mul_mat(c, f32(c, 4ll * s[0], 24, 1), ggml_reshape_2d(c, x, 4ll * s[0], s[1]));
    }
    return NULL;
}

static const char *unsupported(struct ggml_cgraph *graph) { /* the first op that this backend cannot do */
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++)
        if (!ggml_backend_supports_op(backend, ggml_graph_node(graph, i)))
            return ggml_op_name(ggml_graph_node(graph, i)->op);
    return NULL;
}

static void *peer_prepare(const char *kind, const uint32_t *sizes, char *why, size_t why_size) {
    const struct ggml_init_params params = { .mem_size = 1 << 20, .no_alloc = true };
    work *w = peer_alloc(sizeof *w);
    w->context = ggml_init(params);
    struct ggml_tensor *result = make(w->context, kind, sizes);
    if (!result) {
        snprintf(why, why_size, "no op for this");
        return NULL;
    }
    w->graph = ggml_new_graph(w->context);
    ggml_build_forward_expand(w->graph, result);
    const char *op = unsupported(w->graph);
    if (op) {
        snprintf(why, why_size, "the backend does not support %s of this shape", op);
        return NULL;
    }
    if (!ggml_backend_alloc_ctx_tensors(w->context, backend)) {
        snprintf(why, why_size, "no memory on the backend");
        return NULL;
    }
    for (struct ggml_tensor *t = ggml_get_first_tensor(w->context); t; t = ggml_get_next_tensor(w->context, t)) {
        if (t->type == GGML_TYPE_I32 && t->op == GGML_OP_NONE)
            set_chosen(t, sizes[0]);
        else if (t->op == GGML_OP_NONE)
            fill(t);
    }
    return w;
}

static bool peer_run(void *w) { return ggml_backend_graph_compute(backend, ((work *)w)->graph) == GGML_STATUS_SUCCESS; }

static void quiet(enum ggml_log_level level, const char *text, void *user) { (void)level, (void)text, (void)user; }

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    ggml_log_set(quiet, NULL);
    ggml_backend_load_all_from_path(argv[1]);
    ggml_backend_dev_t found = NULL;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++)
        if (strncmp(ggml_backend_dev_name(ggml_backend_dev_get(i)), argv[2], strlen(argv[2])) == 0)
            found = ggml_backend_dev_get(i);
    backend = found ? ggml_backend_dev_init(found, NULL) : NULL;
    if (!backend) {
        fprintf(stderr, "ggml has no backend %s here\n", argv[2]);
        return 1;
    }
    ggml_backend_set_n_threads_t set_threads = (ggml_backend_set_n_threads_t)ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(found), "ggml_backend_set_n_threads");
    if (set_threads)
        set_threads(backend, atoi(argv[3]));
    printf("ggml %s, %s: %s\n", ggml_version(), ggml_backend_dev_name(found), ggml_backend_dev_description(found));
    fflush(stdout);
    return peer_serve();
}
