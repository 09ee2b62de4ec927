/* The cases of peer.h by dsvk's own ops, each recorded once and submitted again and again.
 *
 *     ours [DEVICE]
 *
 * Index keys are in the cache's native format (FP4). hc_pre includes the Sinkhorn iterations, which its peers leave out. */
#include "engine.h"

#include "peer.h"

static dsvk_device *device;

static void check(dsvk_status status, const dsvk_error *err) {
    if (status != DSVK_OK) {
        fprintf(stderr, "ours: %s\n", err->message);
        exit(1);
    }
}

/* ---- memory, which stays until the program ends ---- */

static dsvk_buffer buffer_of(uint64_t bytes) {
    dsvk_buffer buffer = { 0 };
    dsvk_error err;
    check(dsvk_buffer_create(device, DSVK_SCRATCH, dsvk_align(bytes, 16), "case", &buffer, &err), &err);
    return buffer;
}

static dsvk_addr room(uint64_t bytes) { return buffer_of(bytes).addr; }

static dsvk_addr upload(void *data, uint64_t bytes) { /* and frees it */
    const dsvk_buffer buffer = buffer_of(bytes);
    dsvk_error err;
    check(dsvk_buffer_write(device, &buffer, 0, data, bytes, &err), &err);
    free(data);
    return buffer.addr;
}

static dsvk_addr reals(size_t n) { return upload(peer_reals(n), n * sizeof(float)); }

/* A matrix blob: random codes, scales of 2^-7. */
static dsvk_addr matrices(const dsvk_matrix *m, uint32_t n) {
    const uint64_t each = dsvk_matrix_bytes(m->type, m->n_out, m->n_in);
    uint32_t *words = peer_alloc(n * each);
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t w = 0; w < each / 4; w++)
            words[i * each / 4 + w] = w < m->scales / 4 ? peer_random() : 0x78787878;
    return upload(words, n * each);
}

static dsvk_matrix fp4(uint32_t n_out, uint32_t n_in) {
    return (dsvk_matrix){ .scales = dsvk_matrix_scales(DSVK_TYPE_FP4, n_out, n_in), .n_out = n_out, .n_in = n_in,
                          .type = DSVK_TYPE_FP4, .columns = dsvk_device_matmul(device).kind == DSVK_MATMUL_COLUMNS };
}

/* ---- the cases ---- */

static void record_matvec(dsvk_cmd *cmd, const uint32_t *s) {
    dsvk_matmul_params p = { .w = fp4(s[0], s[1]), .x = reals((size_t)s[2] * s[1]), .out = room(4ull * s[2] * s[0]), .n = s[2],
                             .x_stride = s[1], .out_stride = s[0] };
    p.w.addr = matrices(&p.w, 1);
    dsvk_matmul(cmd, &p);
}

static void record_moe(dsvk_cmd *cmd, const uint32_t *s) {
    const uint32_t experts = s[0], used = s[1], n_in = s[2], n_out = s[3], n = s[4], tile = dsvk_moe_tile(device, n, used, experts), pairs = n * used;
    const dsvk_matrix w = fp4(n_out, n_in);
    const dsvk_addr base = matrices(&w, experts), sorted = room(4ull * pairs);
    const dsvk_addr tiles = room(16ull * dsvk_moe_max_tiles(n, used, experts, tile));
    dsvk_addr *table = peer_alloc(experts * sizeof *table);
    for (uint32_t e = 0; e < experts; e++)
        table[e] = base + e * dsvk_matrix_bytes(w.type, n_out, n_in);
    dsvk_moe_sort(cmd, &(dsvk_moe_sort_params){ .idx = upload(peer_chosen(experts, used, n), 4ull * pairs), .pairs = sorted,
                                                .tiles = tiles, .n = n, .k = used, .n_experts = experts, .tile = tile });
    dsvk_barrier(cmd);
    dsvk_moe_expert(cmd, &(dsvk_moe_expert_params){
        .experts = upload(table, experts * sizeof *table), .pairs = sorted, .tiles = tiles, .x = reals((size_t)pairs * n_in),
        .out = room(4ull * pairs * n_out), .w = w, .n = n, .k = used, .n_experts = experts, .tile = tile, .x_stride = n_in,
        .out_stride = used * n_out });
}

/* Rows of one sequence that all see the same number of index entries. */
static dsvk_addr rows_seeing(uint32_t keys, uint32_t n) {
    struct dsvk_row *rows = peer_alloc(n * sizeof *rows);
    for (uint32_t r = 0; r < n; r++)
        rows[r].position = 4 * keys - 1;
    return upload(rows, n * sizeof *rows);
}

/* Scores for a top-k of `k`, counted in bins. */
static dsvk_indexer_params indexer_of(uint32_t keys, uint32_t heads, uint32_t dim, uint32_t k, uint32_t n, dsvk_addr bins) {
    const dsvk_row_format format = { .native = true, .head_dim = 512, .rope_dim = 64, .index_dim = dim };
    const uint64_t codes = (uint64_t)keys * dsvk_key_code_bytes(&format), scales = (uint64_t)keys * dsvk_key_scale_bytes(&format);
    uint32_t *page = peer_alloc(codes + scales);
    for (uint64_t w = 0; w < (codes + scales) / 4; w++)
        page[w] = w < codes / 4 ? peer_random() : 0x7c7c7c7c;
    dsvk_addr *pages = peer_alloc(sizeof *pages);
    pages[0] = upload(page, codes + scales);
    struct dsvk_seq *seq = peer_alloc(sizeof *seq);
    *seq = (struct dsvk_seq){ .pages = upload(pages, sizeof *pages), .rows = n, .start = 4 * keys - 1 };
    return (dsvk_indexer_params){
        .rows = rows_seeing(keys, n), .seqs = upload(seq, sizeof *seq), .iq = reals((size_t)n * heads * dim),
        .weights = reals((size_t)n * heads), .scores = room(4ull * n * keys), .bins = bins, .format = format, .n = n,
        .n_seqs = 1, .k = k, .n_heads = heads,
        .iq_stride = heads * dim, .weights_stride = heads, .scores_stride = keys, .max_visible = keys, .page_tokens = 4 * keys,
        .scale = 1 };
}

static dsvk_buffer zero_bins(dsvk_cmd *cmd, uint32_t n) {
    const dsvk_buffer bins = buffer_of(dsvk_topk_bins_bytes(n));
    dsvk_cmd_fill(cmd, &bins, 0, bins.size, 0);
    dsvk_barrier(cmd);
    return bins;
}

#define K 512u /* what the indexer alone counts for */

static void record_indexer(dsvk_cmd *cmd, const uint32_t *s) {
    const dsvk_indexer_params p = indexer_of(s[0], s[1], s[2], K, s[3], zero_bins(cmd, s[3]).addr);
    dsvk_indexer(cmd, &p);
}

static dsvk_topk_params topk_of(const dsvk_indexer_params *p) {
    return (dsvk_topk_params){ .rows = p->rows, .scores = p->scores, .bins = p->bins,
                               .list = room(dsvk_topk_list_bytes(p->n, p->max_visible)), .idx = room(4ull * p->n * p->k), .n = p->n,
                               .k = p->k, .scores_stride = p->scores_stride, .max_visible = p->max_visible };
}

static void record_select(dsvk_cmd *cmd, const uint32_t *s) {
    const dsvk_indexer_params p = indexer_of(s[0], s[1], s[2], s[3], s[4], zero_bins(cmd, s[4]).addr);
    const dsvk_topk_params topk = topk_of(&p);
    dsvk_indexer(cmd, &p);
    dsvk_barrier(cmd);
    dsvk_topk(cmd, &topk); /* leaves the bins empty again */
}

/* Scores and their counts as an indexer leaves them; the counts are put back each time. */
static void record_topk(dsvk_cmd *cmd, const uint32_t *s) {
    const dsvk_buffer bins = zero_bins(cmd, s[2]), counted = buffer_of(bins.size);
    const dsvk_indexer_params p = indexer_of(s[0], 1, 128, s[1], s[2], bins.addr);
    const dsvk_topk_params topk = topk_of(&p);
    dsvk_error err;
    dsvk_indexer(cmd, &p);
    dsvk_barrier(cmd);
    dsvk_cmd_copy(cmd, &bins, 0, &counted, 0, bins.size);
    check(dsvk_cmd_run(cmd, &err), &err);
    check(dsvk_cmd_begin(cmd, &err), &err);
    dsvk_cmd_copy(cmd, &counted, 0, &bins, 0, bins.size);
    dsvk_barrier(cmd);
    dsvk_topk(cmd, &topk);
}

#define N_MIX 24u

static uint64_t partials(uint32_t dim, uint32_t n) { return n * dsvk_ceil_div(dim, DSVK_HC_CHUNK) * (N_MIX + 1); }

static void record_hc_pre(dsvk_cmd *cmd, const uint32_t *s) {
    const uint32_t dim = s[0], n = s[1];
    dsvk_hyper_conn_pre(cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = reals((size_t)n * 4 * dim), .partials = reals(partials(dim, n)), .base = reals(N_MIX), .scale = reals(3),
        .norm = reals(dim), .out = room(4ull * n * dim), .post = room(16ull * n), .comb = room(64ull * n), .n = n, .dim = dim,
        .n_mix = N_MIX, .sinkhorn_iters = 20, .eps = 1e-6f, .hc_eps = 1e-6f });
}

static void record_hc_post(dsvk_cmd *cmd, const uint32_t *s) {
    const uint32_t dim = s[0], n = s[1];
    dsvk_hyper_conn_mix(cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = reals((size_t)n * 4 * dim), .x_out = room(16ull * n * dim), .y = reals((size_t)n * dim), .post = reals(4 * n),
        .comb = reals(16 * n), .fn = reals((size_t)N_MIX * 4 * dim), .partials = room(4 * partials(dim, n)), .n = n, .dim = dim,
        .n_parts = 1, .n_mix = N_MIX });
}

static const struct {
    const char *kind;
    void (*record)(dsvk_cmd *cmd, const uint32_t *sizes);
} kinds[] = {
    { "matvec", record_matvec }, { "moe", record_moe },       { "indexer", record_indexer }, { "select", record_select },
    { "topk", record_topk },     { "hc_pre", record_hc_pre }, { "hc_post", record_hc_post },
};

static void *peer_prepare(const char *kind, const uint32_t *sizes, char *why, size_t why_size) {
    dsvk_error err;
    dsvk_cmd *cmd;
    for (size_t i = 0; i < DSVK_COUNT(kinds); i++)
        if (strcmp(kinds[i].kind, kind) == 0) {
            check(dsvk_cmd_create(device, &cmd, &err), &err);
            kinds[i].record(cmd, sizes);
            return cmd;
        }
    snprintf(why, why_size, "no op for this");
    return NULL;
}

static bool peer_run(void *work) {
    dsvk_error err;
    check(dsvk_cmd_run(work, &err), &err);
    return true;
}

int main(int argc, char **argv) {
    dsvk_device_options options = { .size = sizeof options, .device = argc > 1 ? argv[1] : NULL };
    dsvk_error err;
    char *text;
    check(dsvk_device_open(&device, &options, &err), &err);
    dsvk_cmd *cmd;
    check(dsvk_cmd_create(device, &cmd, &err), &err);
    check(dsvk_matmul_choose(device, cmd, &err), &err); /* as a model would */
    dsvk_cmd_destroy(cmd);
    check(dsvk_device_describe(device, &text, &err), &err);
    json_t *described = json_loads(text, 0, NULL);
    printf("%s\n", json_string_value(json_object_get(described, "driver")));
    fflush(stdout);
    return peer_serve();
}
