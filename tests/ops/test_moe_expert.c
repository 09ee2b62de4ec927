/* moe_expert, up and down, over the tiles that moe_sort makes of random and extreme routings. Edges: one row, 2 to 33 rows, one
 * expert, all rows to one expert, every row its own experts, experts nobody chose, tiles of 1, 4 and 8 pairs, widths that do
 * not fill a tile (down) and tiny ones, expert blobs spread in memory, limit 0 and small; FP4, FP8 and BF16 experts; expert
 * widths of Flash and Pro. Tolerance as in test_matmul.c. Results may not depend on the batch or the tile size at all. */
#include "harness.h"

#define TOLERANCE 1e-6f

typedef struct experts {
    uint32_t n_experts, n_in, n_inner, n_down; /* up [2 * n_inner, n_in], down [n_down, n_inner] */
    ref_matrix *up, *down;                     /* [n_experts] */
    dsvk_matrix up_shape, down_shape;
    uint64_t down_offset;
    dsvk_addr table;
} experts;

static experts make_experts(test *t, dsvk_weight_type type, uint32_t n_experts, uint32_t n_in, uint32_t n_inner,
                            uint32_t n_down) {
    experts e = { n_experts, n_in, n_inner, n_down, test_alloc(t, n_experts * sizeof *e.up),
                  test_alloc(t, n_experts * sizeof *e.down), { 0 }, { 0 }, 0, 0 };
    const uint64_t up_bytes = dsvk_matrix_bytes(type, 2 * n_inner, n_in), gap = 48; /* blobs need not touch */
    const uint64_t each = up_bytes + gap + dsvk_matrix_bytes(type, n_down, n_inner) + gap;
    uint8_t *blobs = test_alloc(t, n_experts * each);
    dsvk_addr *table = test_alloc(t, n_experts * sizeof *table);
    const bool columns = dsvk_device_matmul(t->device).kind == DSVK_MATMUL_COLUMNS;
    e.down_offset = up_bytes + gap;
    for (uint32_t i = 0; i < n_experts; i++) {
        e.up[i] = test_matrix(t, type, 2 * n_inner, n_in, 0.1f);
        e.down[i] = test_matrix(t, type, n_down, n_inner, 0.1f);
        ref_pack_tiles(&e.up[i], columns, blobs + i * each);
        ref_pack_tiles(&e.down[i], columns, blobs + i * each + e.down_offset);
    }
    const dsvk_addr base = test_upload(t, blobs, n_experts * each).addr;
    for (uint32_t i = 0; i < n_experts; i++)
        table[i] = base + (n_experts - 1 - i) * each; /* not in order: only the table counts */
    for (uint32_t i = 0; i < n_experts / 2; i++) {
        const ref_matrix up = e.up[i], down = e.down[i];
        e.up[i] = e.up[n_experts - 1 - i], e.down[i] = e.down[n_experts - 1 - i];
        e.up[n_experts - 1 - i] = up, e.down[n_experts - 1 - i] = down;
    }
    e.table = test_upload(t, table, n_experts * sizeof *table).addr;
    e.up_shape = (dsvk_matrix){ 0, dsvk_matrix_scales(type, 2 * n_inner, n_in), 2 * n_inner, n_in, type, columns };
    e.down_shape = (dsvk_matrix){ 0, dsvk_matrix_scales(type, n_down, n_inner), n_down, n_inner, type, columns };
    return e;
}

typedef struct routing {
    uint32_t n, k;
    const uint32_t *idx; /* [n, k] */
    const float *weights, *x;
    float limit;
} routing;

typedef struct results {
    const float *h, *out; /* [n * k, n_inner], [n, k + 1, n_down]: one slot stays for the shared expert */
} results;

static void record(test *t, const experts *e, const routing *r, uint32_t tile, dsvk_addr h, dsvk_addr out, bool bench) {
    const uint32_t pairs = r->n * r->k, max_tiles = dsvk_moe_max_tiles(r->n, r->k, e->n_experts, tile);
    const dsvk_addr sorted = test_output(t, pairs * 4).addr, tiles = test_output(t, max_tiles * 16).addr;
    dsvk_moe_expert_params up = { .experts = e->table,
                                  .pairs = sorted,
                                  .tiles = tiles,
                                  .weights = test_upload(t, r->weights, pairs * 4).addr,
                                  .x = test_upload(t, r->x, (size_t)r->n * e->n_in * 4).addr,
                                  .out = h,
                                  .w = e->up_shape,
                                  .n = r->n,
                                  .k = r->k,
                                  .n_experts = e->n_experts,
                                  .tile = tile,
                                  .x_stride = e->n_in,
                                  .out_stride = e->n_inner,
                                  .up = true,
                                  .limit = r->limit };
    dsvk_moe_expert_params down = up;
    down.x = h;
    down.out = out;
    down.w = e->down_shape;
    down.offset = e->down_offset;
    down.x_stride = e->n_inner;
    down.out_stride = (r->k + 1) * e->n_down;
    down.up = false;
    dsvk_moe_sort(t->cmd, &(dsvk_moe_sort_params){ .idx = test_upload(t, r->idx, pairs * 4).addr,
                                                   .pairs = sorted,
                                                   .tiles = tiles,
                                                   .n = r->n,
                                                   .k = r->k,
                                                   .n_experts = e->n_experts,
                                                   .tile = tile });
    dsvk_barrier(t->cmd);
    dsvk_moe_expert(t->cmd, &up);
    if (!test_run(t)) /* a software driver compiles at the first dispatch, and every submit has its 60 s */
        return;
    dsvk_moe_expert(t->cmd, &down);
    if (!bench || !test_run(t))
        return;
    test_bench(t, (void (*)(dsvk_cmd *, void *))dsvk_moe_expert, &up);
    test_bench(t, (void (*)(dsvk_cmd *, void *))dsvk_moe_expert, &down);
}

static results run(test *t, const experts *e, const routing *r, uint32_t tile) {
    const dsvk_buffer h = test_output(t, (size_t)r->n * r->k * e->n_inner * 4);
    const dsvk_buffer out = test_output(t, (size_t)r->n * (r->k + 1) * e->n_down * 4);
    record(t, e, r, tile, h.addr, out.addr, false);
    if (!test_run(t))
        return (results){ NULL, NULL };
    return (results){ test_download(t, &h), test_download(t, &out) };
}

/* At most `most` columns of every pair, h from x and out from the kernel's own h: each stage by itself. */
static void judge(test *t, const experts *e, const routing *r, results got, uint32_t most) {
    const uint32_t pairs = r->n * r->k, nh = e->n_inner < most ? e->n_inner : most, no = e->n_down < most ? e->n_down : most;
    float *g = test_alloc(t, (size_t)pairs * (nh + no) * 4), *w = test_alloc(t, (size_t)pairs * (nh + no) * 4),
          *m = test_alloc(t, (size_t)pairs * (nh + no) * 4);
    bool spare_kept = true;
    size_t at = 0;
    if (got.h == NULL)
        return;
    for (uint32_t p = 0; p < pairs; p++)
        for (uint32_t i = 0; i < nh; i++, at++) {
            const uint32_t c = (uint32_t)((uint64_t)i * e->n_inner / nh);
            double magnitude;
            g[at] = got.h[(size_t)p * e->n_inner + c];
            w[at] = (float)ref_moe_up(&e->up[r->idx[p]], r->weights[p], r->x + (size_t)(p / r->k) * e->n_in, c, r->limit,
                                      &magnitude);
            m[at] = (float)magnitude;
        }
    test_compare_sums(t, "up", g, w, m, at, TOLERANCE);
    at = 0;
    for (uint32_t p = 0; p < pairs; p++)
        for (uint32_t i = 0; i < no; i++, at++) {
            const uint32_t c = (uint32_t)((uint64_t)i * e->n_down / no);
            double magnitude;
            g[at] = got.out[((size_t)(p / r->k) * (r->k + 1) + p % r->k) * e->n_down + c];
            w[at] = (float)ref_moe_down(&e->down[r->idx[p]], got.h + (size_t)p * e->n_inner, c, &magnitude);
            m[at] = (float)magnitude;
        }
    test_compare_sums(t, "down", g, w, m, at, TOLERANCE);
    for (uint32_t t_row = 0; t_row < r->n; t_row++)
        for (uint32_t c = 0; c < e->n_down; c++)
            spare_kept = spare_kept && isnan(got.out[((size_t)t_row * (r->k + 1) + r->k) * e->n_down + c]);
    test_check(t, spare_kept, "written into the slot of the shared expert");
}

/* way 0: random different experts, 1: every row the same ones, 2: each row others, as far as they reach. */
static routing make_routing(test *t, uint32_t n, uint32_t k, const experts *e, uint32_t way, float limit) {
    uint32_t *idx = test_alloc(t, n * k * 4);
    float *weights = test_alloc(t, n * k * 4);
    for (uint32_t r = 0; r < n; r++) {
        const uint32_t first = way == 0 ? test_below(t, e->n_experts) : way == 1 ? 0 : r * k;
        for (uint32_t s = 0; s < k; s++) {
            idx[r * k + s] = (first + s) % e->n_experts;
            weights[r * k + s] = 0.1f + test_uniform(t);
        }
    }
    return (routing){ n, k, idx, weights, test_normals(t, (size_t)n * e->n_in, 1), limit };
}

static void same_rows(test *t, const experts *e, const routing *r, results all, uint32_t row, uint32_t tile) {
    routing one = *r;
    one.n = 1;
    one.idx += row * r->k;
    one.weights += row * r->k;
    one.x += (size_t)row * e->n_in;
    const results alone = run(t, e, &one, tile);
    if (alone.h == NULL || all.h == NULL)
        return;
    const size_t out_row = (size_t)(r->k + 1) * e->n_down;
    test_check(t, memcmp(alone.h, all.h + (size_t)row * r->k * e->n_inner, (size_t)r->k * e->n_inner * 4) == 0 &&
                      memcmp(alone.out, all.out + row * out_row, (size_t)r->k * e->n_down * 4) == 0,
               "row %u alone in tiles of %u differs from the same row among %u", row, tile, r->n);
}

static void small_shapes(test *t) {
    static const struct { dsvk_weight_type type; uint32_t n_experts, n_in, n_inner, n_down; } shapes[] = {
        { DSVK_TYPE_FP4, 1, 32, 32, 1 },    { DSVK_TYPE_FP4, 3, 96, 32, 69 },  { DSVK_TYPE_FP4, 16, 160, 96, 33 },
        { DSVK_TYPE_FP8, 5, 416, 64, 61 },  { DSVK_TYPE_BF16, 4, 96, 32, 31 }, { DSVK_TYPE_FP4, 384, 32, 32, 16 },
    };
    static const uint32_t counts[] = { 1, 2, 5, 9, 33 }, tiles[] = { 1, 4, 8 };
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++)
        for (uint32_t c = 0; c < DSVK_COUNT(counts); c++) {
            const uint32_t way = c % 3, experts_here = shapes[s].n_experts, k = experts_here < 8 ? experts_here : 1 + c + s % 3;
            test_case(t, "type %d, %u experts [%u -> %u -> %u] n=%u k=%u way=%u", shapes[s].type, experts_here, shapes[s].n_in,
                      shapes[s].n_inner, shapes[s].n_down, counts[c], k, way);
            /* 384 experts are that many blobs, not that many different weights */
            const experts e = make_experts(t, shapes[s].type, experts_here < 24 ? experts_here : 24, shapes[s].n_in,
                                           shapes[s].n_inner, shapes[s].n_down);
            const routing r = make_routing(t, counts[c], k, &e, way, c % 2 ? 0 : 0.5f);
            const results all = run(t, &e, &r, tiles[c % 3]);
            judge(t, &e, &r, all, 96);
            same_rows(t, &e, &r, all, counts[c] - 1, 1);
            same_rows(t, &e, &r, all, counts[c] / 2, 4);
            same_rows(t, &e, &r, all, 0, 8);
        }
}

static void real_widths(test *t) {
    static const struct { const char *name; uint32_t n_in, n_inner, n; } shapes[] = {
        { "Flash", 4096, 2048, 1 },
        { "Flash", 4096, 2048, 3 },
        { "Pro", 7168, 3072, 1 },
    };
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
        test_case(t, "%s expert, n=%u, 3 experts, k=2", shapes[s].name, shapes[s].n);
        const experts e = make_experts(t, DSVK_TYPE_FP4, 3, shapes[s].n_in, shapes[s].n_inner, shapes[s].n_in);
        const routing r = make_routing(t, shapes[s].n, 2, &e, 0, 10);
        const uint32_t tile = dsvk_moe_tile(t->device, shapes[s].n, 2, 3);
        judge(t, &e, &r, run(t, &e, &r, tile), 64);
        if (t->bench)
            record(t, &e, &r, tile, test_output(t, (size_t)r.n * r.k * e.n_inner * 4).addr,
                   test_output(t, (size_t)r.n * (r.k + 1) * e.n_down * 4).addr, true);
    }
}

/* Steps of many rows, by every variant this device has, in two of its tiles of pairs each; less of matrix units: drivers need
 * seconds to compile one. */
static void chunks(test *t) {
    static const struct { dsvk_weight_type type; uint32_t n_experts, n_in, n_inner, n_down, n, k, way; } shapes[] = {
        { DSVK_TYPE_FP4, 3, 96, 32, 69, 64, 2, 0 },    { DSVK_TYPE_FP4, 16, 160, 96, 64, 65, 4, 0 },
        { DSVK_TYPE_FP4, 5, 416, 64, 128, 70, 3, 1 },  { DSVK_TYPE_FP8, 4, 416, 64, 61, 129, 2, 2 },
        { DSVK_TYPE_BF16, 4, 96, 32, 64, 64, 1, 0 },   { DSVK_TYPE_FP4, 24, 32, 32, 16, 64, 6, 2 },
    };
    for (uint32_t v = 0; test_matmul_variant(t, v); v++)
        for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++)
            for (uint32_t tile = 4u << s % 2; tile <= 64; tile *= 4) {
                if (!dsvk_moe_tile_fits(t->device, shapes[s].n, tile) ||
                    (v >= DSVK_MATMUL_COOPMAT && (s + v) % 3 != 0) || (v > DSVK_MATMUL_COOPMAT && (s > 2 || tile > 32)))
                    continue;
                test_case(t, "%s: type %d, %u experts [%u -> %u -> %u] n=%u k=%u way=%u tile=%u", t->variant, shapes[s].type,
                          shapes[s].n_experts, shapes[s].n_in, shapes[s].n_inner, shapes[s].n_down, shapes[s].n, shapes[s].k,
                          shapes[s].way, tile);
                const experts e = make_experts(t, shapes[s].type, shapes[s].n_experts, shapes[s].n_in, shapes[s].n_inner,
                                               shapes[s].n_down);
                const routing r = make_routing(t, shapes[s].n, shapes[s].k, &e, shapes[s].way, s % 2 ? 0 : 0.5f);
                judge(t, &e, &r, run(t, &e, &r, tile), 96);
            }
}

/* Prefill of Flash's experts, here 16 of them, at the pairs an expert of 256 gets in chunks of 512 and 4096 rows. */
static void bench_chunks(test *t) {
    static const struct { uint32_t n, k; } chunk[] = { { 96, 2 }, { 512, 3 } };
    for (uint32_t c = 0; t->bench && c < DSVK_COUNT(chunk); c++)
        for (uint32_t v = 0; test_matmul_variant(t, v); v++)
            for (uint32_t tile = 4; tile <= 64; tile *= 2) {
                if (!dsvk_moe_tile_fits(t->device, chunk[c].n, tile))
                    continue;
                test_case(t, "%s: n=%u k=%u of 16 experts, tiles of %u", t->variant, chunk[c].n, chunk[c].k, tile);
                const experts e = make_experts(t, DSVK_TYPE_FP4, 16, 4096, 512, 512);
                const routing r = make_routing(t, chunk[c].n, chunk[c].k, &e, 0, 10);
                record(t, &e, &r, tile, test_output(t, (size_t)r.n * r.k * e.n_inner * 4).addr,
                       test_output(t, (size_t)r.n * (r.k + 1) * e.n_down * 4).addr, true);
            }
}

static void wrong_shapes(test *t) {
    test_case(t, "wrong shapes");
    dsvk_moe_expert_params p = { .w = { .n_out = 64, .n_in = 32, .type = DSVK_TYPE_FP4 }, .n = 1, .k = 2, .n_experts = 4,
                                 .tile = 2, .x_stride = 32, .out_stride = 128 };
    dsvk_moe_expert(t->cmd, &p);
    test_run_fails(t, "tiles of 2 pairs");
    p.tile = 4;
    p.out_stride = 127;
    dsvk_moe_expert(t->cmd, &p);
    test_run_fails(t, "out stride 127 (at least 128)");
    p.up = true;
    p.w.n_out = 48;
    dsvk_moe_expert(t->cmd, &p);
    test_run_fails(t, "swiglu over 48 rows");
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "moe_expert", argc, argv);
    small_shapes(&t);
    real_widths(&t);
    chunks(&t);
    bench_chunks(&t);
    wrong_shapes(&t);
    return test_end(&t);
}
