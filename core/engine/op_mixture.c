/* The ops outside attention: products, norms, hyper-connections (spec 4.3), the mixture of experts (4.10). */
#include <string.h>

#include "engine.h"
#include "tensor.h"

static void run_matmul(op_call *c) {
    const dsvk_tensor *w = dsvk_op_tensor(c, "w");
    const uint32_t n = dsvk_op_dim(c, "n"), n_out = dsvk_op_dim(c, "n_out"), n_in = dsvk_op_dim(c, "n_in");
    const uint32_t groups = dsvk_op_integer(c, "groups");
    if (dsvk_op_dim(c, "width") != (uint64_t)groups * n_in)
        dsvk_op_fail(c, "x: expected [n, %llu] for %u group%s of w's n_in = %u, got [%u, %u]", (unsigned long long)groups * n_in, groups,
                     groups == 1 ? "" : "s", n_in, n, dsvk_op_dim(c, "width"));
    if (n_out % groups || (groups > 1 && n_out / groups % DSVK_TILE_ROWS))
        dsvk_op_fail(c, "groups: n_out = %u is to be a multiple of %u for each of them, got %u", n_out, DSVK_TILE_ROWS, groups);
    if (c->status != DSVK_OK)
        return;
    dsvk_matmul(c->cmd, &(dsvk_matmul_params){ .w = w->matrix, .x = dsvk_op_values(c, "x"),
                                               .out = dsvk_op_f32(c, 0, 2, n, n_out, 0, 0), .n = n,
                                               .x_stride = groups * n_in, .out_stride = n_out,
                                               .group_rows = groups > 1 ? n_out / groups : 0 });
}

const op dsvk_op_matmul = {
    .name = "matmul",
    .does = "3.8: out[t][o] = sum_i x[t][g * n_in + i] * w[o][i], g = o / (n_out / groups)",
    .slots = { { "x", OP_F32, "n width", 0, 0, 0 }, { "w", OP_MATRIX, "n_out n_in", 0, 0, 0 },
               { "groups", OP_INTEGER, "", 1, 1, 65536 } },
    .results = { { "out", OP_F32, "n n_out", 0, 0, 0 } },
    .run = run_matmul,
};

static void run_rms_norm(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), dim = dsvk_op_dim(c, "dim");
    dsvk_rms_norm(c->cmd, &(dsvk_rms_norm_params){ .x = dsvk_op_values(c, "x"), .weight = dsvk_op_values(c, "weight"),
                                                   .out = dsvk_op_f32(c, 0, 2, n, dim, 0, 0), .n = n, .dim = dim, .x_stride = dim,
                                                   .eps = (float)dsvk_op_number(c, "eps") });
}

const op dsvk_op_rms_norm = {
    .name = "rms_norm",
    .does = "4.2: out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps)",
    .slots = { { "x", OP_F32, "n dim", 0, 0, 0 }, { "weight", OP_F32, "dim", 0, 0, 0 }, { "eps", OP_NUMBER, "", 1e-6, 0, 1 } },
    .results = { { "out", OP_F32, "n dim", 0, 0, 0 } },
    .run = run_rms_norm,
};

static void run_hyper_connection(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), dim = dsvk_op_dim(c, "dim"), mixes = dsvk_op_dim(c, "mixes"), parts = dsvk_op_dim(c, "parts");
    const bool head = mixes == DSVK_HC_STREAMS, after = dsvk_op_tensor(c, "y") != NULL;
    const uint32_t chunks = (uint32_t)dsvk_ceil_div(dim, DSVK_HC_CHUNK);
    if (mixes != 24 && !head)
        dsvk_op_fail(c, "base: 24 mixes, or 4 for the head, got %u", mixes);
    if (dsvk_op_dim(c, "fn_width") != 4 * dim)
        dsvk_op_fail(c, "fn: expected [%u, 4 * dim = %u], got [%u, %u]", mixes, 4 * dim, mixes, dsvk_op_dim(c, "fn_width"));
    if (dsvk_op_dim(c, "scales") != (head ? 1 : 3))
        dsvk_op_fail(c, "scale: %u numbers for %u mixes, got %u", head ? 1 : 3, mixes, dsvk_op_dim(c, "scales"));
    if (after != (dsvk_op_tensor(c, "post") != NULL) || after != (dsvk_op_tensor(c, "comb") != NULL))
        dsvk_op_fail(c, "y, post, comb: all three of the site before, or none of them");
    const dsvk_addr out = dsvk_op_f32(c, 0, 2, n, dim, 0, 0);
    const dsvk_addr streams = after ? dsvk_op_f32(c, 1, 3, n, DSVK_HC_STREAMS, dim, 0) : dsvk_op_values(c, "streams");
    const dsvk_addr post = head ? 0 : dsvk_op_f32(c, 2, 2, n, DSVK_HC_STREAMS, 0, 0);
    const dsvk_addr comb = head ? 0 : dsvk_op_f32(c, 3, 3, n, DSVK_HC_STREAMS, DSVK_HC_STREAMS, 0);
    const dsvk_addr partials = dsvk_op_scratch(c, 4ull * n * chunks * (mixes + 1));
    if (c->status != DSVK_OK)
        return;
    dsvk_hyper_conn_mix(c->cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = dsvk_op_values(c, "streams"), .x_out = after ? streams : 0, .y = dsvk_op_values(c, "y"), .post = dsvk_op_values(c, "post"),
        .comb = dsvk_op_values(c, "comb"), .fn = dsvk_op_values(c, "fn"), .partials = partials, .n = n, .dim = dim, .n_parts = parts,
        .n_mix = mixes });
    dsvk_barrier(c->cmd);
    dsvk_hyper_conn_pre(c->cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = streams, .partials = partials, .base = dsvk_op_values(c, "base"), .scale = dsvk_op_values(c, "scale"),
        .norm = dsvk_op_values(c, "norm"), .out = out, .post = post, .comb = comb, .n = n, .dim = dim, .n_mix = mixes,
        .sinkhorn_iters = dsvk_op_integer(c, "iterations"), .eps = (float)dsvk_op_number(c, "eps"),
        .hc_eps = (float)dsvk_op_number(c, "hc_eps") });
}

const op dsvk_op_hyper_connection = {
    .name = "hyper_connection",
    .does = "4.3: with y, the end of a site: streams'[k] = post[k] * sum of y's parts + sum_j comb[j][k] * streams[j]. Then the next "
            "site begins: mixes of fn give pre, post and, by Sinkhorn, comb; out = RMSNorm(sum_k pre[k] * streams'[k], norm). 4 "
            "mixes: the head's form, without post and comb",
    .slots = { { "streams", OP_F32, "n 4 dim", 0, 0, 0 }, { "fn", OP_F32, "mixes fn_width", 0, 0, 0 },
               { "base", OP_F32, "mixes", 0, 0, 0 }, { "scale", OP_F32, "scales", 0, 0, 0 }, { "norm", OP_F32, "dim", 0, 0, 0 },
               { "y", OP_F32, "?n parts dim", 0, 0, 0 }, { "post", OP_F32, "?n 4", 0, 0, 0 }, { "comb", OP_F32, "?n 4 4", 0, 0, 0 },
               { "iterations", OP_INTEGER, "", 20, 1, 1000 }, { "eps", OP_NUMBER, "", 1e-6, 0, 1 },
               { "hc_eps", OP_NUMBER, "", 1e-6, 0, 1 } },
    .results = { { "out", OP_F32, "n dim", 0, 0, 0 }, { "streams", OP_F32, "?n 4 dim", 0, 0, 0 }, { "post", OP_F32, "?n 4", 0, 0, 0 },
                 { "comb", OP_F32, "?n 4 4", 0, 0, 0 } },
    .run = run_hyper_connection,
};

/* ---- mixture of experts ---- */

typedef struct mixture {
    uint32_t n, dim, experts, hidden, k, slots; /* slots: parts of y, with the shared expert's */
    dsvk_addr x, h, y;
} mixture;

/* The experts that hash routing names. */
static void check_table(op_call *c, uint32_t experts) {
    const dsvk_tensor *table = dsvk_op_tensor(c, "table");
    const uint32_t k = dsvk_op_dim(c, "k");
    const uint64_t n = table ? dsvk_tensor_count(table) : 0;
    int32_t *ids = table ? dsvk_alloc(n * sizeof *ids) : NULL;
    if (table && !ids && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, n * sizeof *ids);
    if (ids && c->status == DSVK_OK)
        c->status = dsvk_buffer_read(c->device, &table->buffer, 0, ids, n * sizeof *ids, c->err);
    for (uint64_t i = 0; ids && c->status == DSVK_OK && i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= experts)
            dsvk_op_fail(c, "table: number %u of row %llu is %d, there are experts 0 to %u", (uint32_t)(i % k),
                         (unsigned long long)(i / k), ids[i], experts - 1);
    dsvk_free(ids);
}

/* The tokens of hash routing, which rows carry. */
static dsvk_addr token_rows(op_call *c, uint32_t n) {
    const dsvk_tensor *tokens = dsvk_op_tensor(c, "tokens");
    int32_t *ids = tokens ? dsvk_alloc(n * sizeof *ids) : NULL;
    if (tokens && !ids)
        c->status = dsvk_fail_nomem(c->err, n * sizeof *ids);
    if (ids && c->status == DSVK_OK)
        c->status = dsvk_buffer_read(c->device, &tokens->buffer, 0, ids, n * sizeof *ids, c->err);
    for (uint32_t i = 0; ids && c->status == DSVK_OK && i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= dsvk_op_dim(c, "vocab"))
            dsvk_op_fail(c, "tokens: number %u is %d, the table has ids 0 to %u", i, ids[i], dsvk_op_dim(c, "vocab") - 1);
    const dsvk_addr rows = c->status == DSVK_OK ? dsvk_op_rows(c, n, 0, ids) : 0;
    dsvk_free(ids);
    return rows;
}

static void route(op_call *c, const mixture *m, dsvk_addr idx, dsvk_addr weights) {
    const uint32_t stride = (uint32_t)dsvk_align(m->experts, 4);
    const dsvk_addr logits = dsvk_op_scratch(c, 4ull * m->n * stride), rows = token_rows(c, m->n);
    dsvk_matmul(c->cmd, &(dsvk_matmul_params){ .w = dsvk_op_tensor(c, "gate")->matrix, .x = m->x, .out = logits, .n = m->n,
                                               .x_stride = m->dim, .out_stride = stride });
    dsvk_barrier(c->cmd);
    dsvk_moe_gate(c->cmd, &(dsvk_moe_gate_params){ .rows = rows, .logits = logits, .bias = dsvk_op_values(c, "bias"),
                                                   .table = dsvk_op_values(c, "table"), .idx = idx, .weights = weights, .n = m->n,
                                                   .n_experts = m->experts, .k = m->k, .vocab = dsvk_op_dim(c, "vocab"),
                                                   .logits_stride = stride, .route_scale = (float)dsvk_op_number(c, "route_scale") });
    dsvk_barrier(c->cmd);
}

static void run_experts(op_call *c, const mixture *m, dsvk_addr idx, dsvk_addr weights) {
    const dsvk_tensor *e = dsvk_op_tensor(c, "experts");
    const uint32_t tile = dsvk_moe_tile(c->device, m->n, m->k, m->experts);
    const dsvk_addr pairs = dsvk_op_scratch(c, 4ull * m->n * m->k);
    const dsvk_addr tiles = dsvk_op_scratch(c, 16ull * dsvk_moe_max_tiles(m->n, m->k, m->experts, tile));
    dsvk_moe_sort(c->cmd, &(dsvk_moe_sort_params){ .idx = idx, .pairs = pairs, .tiles = tiles, .n = m->n, .k = m->k,
                                                   .n_experts = m->experts, .tile = tile });
    dsvk_barrier(c->cmd);
    dsvk_moe_expert_params p = { .experts = e->table.addr, .pairs = pairs, .tiles = tiles, .weights = weights, .x = m->x, .out = m->h,
                                 .w = e->matrix, .n = m->n, .k = m->k, .n_experts = m->experts, .tile = tile, .x_stride = m->dim,
                                 .out_stride = m->hidden, .up = true, .limit = (float)dsvk_op_number(c, "limit") };
    dsvk_moe_expert(c->cmd, &p);
    dsvk_barrier(c->cmd);
    p.up = false;
    p.w = e->down;
    p.offset = e->down_offset;
    p.x = m->h;
    p.x_stride = m->hidden;
    p.out = m->y;
    p.out_stride = m->slots * m->dim;
    dsvk_moe_expert(c->cmd, &p);
}

static void run_shared(op_call *c, const mixture *m) {
    const dsvk_tensor *s = dsvk_op_tensor(c, "shared");
    const uint32_t hidden = dsvk_op_dim(c, "shared_hidden");
    const dsvk_addr h = dsvk_op_scratch(c, 4ull * m->n * hidden);
    dsvk_matrix up = s->matrix, down = s->down;
    up.addr = s->blobs[0];
    down.addr = s->blobs[0] + s->down_offset;
    dsvk_matmul(c->cmd, &(dsvk_matmul_params){ .w = up, .x = m->x, .out = h, .n = m->n, .x_stride = m->dim, .out_stride = hidden,
                                               .swiglu = true, .limit = (float)dsvk_op_number(c, "limit") });
    dsvk_barrier(c->cmd);
    dsvk_matmul(c->cmd, &(dsvk_matmul_params){ .w = down, .x = h, .out = m->y + 4ull * m->k * m->dim, .n = m->n, .x_stride = hidden,
                                               .out_stride = m->slots * m->dim });
}

/* out = the sum of y's parts: HC-post with post = 1 onto streams of zeros, of which the first is taken. */
static void add_parts(op_call *c, const mixture *m, dsvk_addr rows, dsvk_addr out) {
    const uint64_t streams = 4ull * m->n * DSVK_HC_STREAMS * m->dim;
    const float ones[4] = { 1, 1, 1, 1 };
    const dsvk_addr x = dsvk_op_zeros(c, streams), zeros = dsvk_op_zeros(c, 4ull * DSVK_HC_STREAMS * DSVK_HC_STREAMS * m->dim);
    const dsvk_addr partials = dsvk_op_scratch(c, 4ull * m->n * dsvk_ceil_div(m->dim, DSVK_HC_CHUNK) * (DSVK_HC_STREAMS + 1));
    uint32_t *source = dsvk_alloc(m->n * sizeof *source);
    if (!source && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, m->n * sizeof *source);
    for (uint32_t i = 0; source && i < m->n; i++)
        source[i] = DSVK_HC_STREAMS * i;
    dsvk_barrier(c->cmd);
    dsvk_hyper_conn_mix(c->cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = x, .x_out = x, .y = m->y, .post = dsvk_op_upload(c, ones, sizeof ones), .comb = zeros, .fn = zeros, .partials = partials,
        .n = m->n, .dim = m->dim, .n_parts = m->slots, .n_mix = DSVK_HC_STREAMS, .same_coefficients = true });
    dsvk_barrier(c->cmd);
    dsvk_gather(c->cmd, &(dsvk_gather_params){ .rows = rows, .seqs = dsvk_op_sequence(c, m->n, 0),
                                               .source = source ? dsvk_op_upload(c, source, m->n * sizeof *source) : 0, .in = x, .out = out,
                                               .n = m->n, .dim = m->dim, .n_in = DSVK_HC_STREAMS * m->n, .slots = 1 });
    dsvk_free(source);
}

static void run_moe(op_call *c) {
    mixture m = { .n = dsvk_op_dim(c, "n"), .dim = dsvk_op_dim(c, "dim"), .experts = dsvk_op_dim(c, "experts"),
                  .hidden = dsvk_op_dim(c, "hidden"), .x = dsvk_op_values(c, "x"),
                  .k = dsvk_op_tensor(c, "table") ? dsvk_op_dim(c, "k") : dsvk_op_integer(c, "k") };
    const bool shared = dsvk_op_tensor(c, "shared") != NULL, hashed = dsvk_op_tensor(c, "table") != NULL;
    m.slots = m.k + shared;
    if (m.k > m.experts || m.k > DSVK_MAX_EXPERTS_PER_TOKEN)
        dsvk_op_fail(c, "k: %u of %u experts, at most %u", m.k, m.experts, DSVK_MAX_EXPERTS_PER_TOKEN);
    if (hashed == (dsvk_op_tensor(c, "bias") != NULL) || hashed != (dsvk_op_tensor(c, "tokens") != NULL))
        dsvk_op_fail(c, "bias, table, tokens: either a bias, or a table and the tokens it is for");
    check_table(c, m.experts);
    if (c->status != DSVK_OK)
        return;
    const dsvk_addr out = dsvk_op_f32(c, 0, 2, m.n, m.dim, 0, 0);
    const uint64_t chosen[] = { m.n, m.k };
    const dsvk_addr idx = dsvk_op_result(c, 1, DSVK_FORM_VALUES, DSVK_DTYPE_I32, 2, chosen, 0);
    const dsvk_addr weights = dsvk_op_f32(c, 2, 2, m.n, m.k, 0, 0);
    m.h = dsvk_op_scratch(c, 4ull * m.n * m.k * m.hidden);
    m.y = dsvk_op_scratch(c, 4ull * m.n * m.slots * m.dim);
    route(c, &m, idx, weights);
    if (shared)
        run_shared(c, &m);
    run_experts(c, &m, idx, weights);
    add_parts(c, &m, dsvk_op_rows(c, m.n, 0, NULL), out);
}

const op dsvk_op_moe = {
    .name = "moe",
    .does = "4.10: s = sqrt(softplus(gate x)); the k experts of largest s + bias, or those in the table's row of the token; weights = s "
            "of them / their sum * route_scale; out = sum of weight * w2 (silu(min(w1 x, limit)) * clamp(w3 x, -limit, limit)), and of "
            "the shared expert with weight 1. limit 0: no clamp",
    .slots = { { "x", OP_F32, "n dim", 0, 0, 0 }, { "gate", OP_MATRIX, "experts dim", 0, 0, 0 },
               { "experts", OP_EXPERTS, "experts hidden dim", 0, 0, 0 }, { "bias", OP_F32, "?experts", 0, 0, 0 },
               { "table", OP_I32, "?vocab k", 0, 0, 0 }, { "tokens", OP_I32, "?n", 0, 0, 0 },
               { "shared", OP_EXPERTS, "?1 shared_hidden dim", 0, 0, 0 }, { "k", OP_INTEGER, "", 6, 1, 16 },
               { "route_scale", OP_NUMBER, "", 1, 0, 1e6 }, { "limit", OP_NUMBER, "", 0, 0, 1e6 } },
    .results = { { "out", OP_F32, "n dim", 0, 0, 0 }, { "idx", OP_I32, "n k", 0, 0, 0 }, { "weights", OP_F32, "n k", 0, 0, 0 } },
    .run = run_moe,
};
