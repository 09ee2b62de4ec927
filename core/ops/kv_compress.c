/* The compressor (spec 4.6): one workgroup per row of the step; those that complete no window do nothing. */
#include "ops.h"
#include "kv_compress.h"
#include "row_format.h"

_Static_assert(sizeof(struct kv_compress_args) <= 128, "push constants");

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_kv_compress_params *p, uint32_t w) {
    if (p->ratio == 0 || p->ratio % 4 != 0 || p->page_tokens == 0 || p->page_tokens % p->ratio != 0) {
        dsvk_cmd_fail(
            cmd, DSVK_INVALID,
            "kv_compress: ratio %u with pages of %u tokens; the ratio is a multiple of 4 and divides the page",
            p->ratio, p->page_tokens);
        return false;
    }
    const uint32_t needed = p->ratio == 4 ? 7 : p->ratio - 1; /* earlier tokens an entry may still need */
    if (p->ring_capacity < needed || p->ring_offset % 16 != 0 || p->page_offset % 16 != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "kv_compress: a ring of %u rows (at least %u) at byte %u, entries at byte %u (multiples of 16)",
                      p->ring_capacity, needed, p->ring_offset, p->page_offset);
        return false;
    }
    if (p->ks_stride % 4 != 0 || p->ks_stride < 2 * w) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "kv_compress: K and S of %u values each at a stride of %u; a multiple of 4", w,
                      p->ks_stride);
        return false;
    }
    return p->index ? dsvk_key_format_check(cmd, "kv_compress", &p->format)
                    : dsvk_row_format_check(cmd, "kv_compress", &p->format);
}

void dsvk_kv_compress(dsvk_cmd *cmd, const dsvk_kv_compress_params *p) {
    const dsvk_row_format *f = &p->format;
    const uint32_t width = p->index ? f->index_dim : f->head_dim, w = p->ratio == 4 ? 2 * width : width;
    if (p->n == 0 || !shapes_fit(cmd, p, w))
        return;
    const struct kv_compress_args args = {.rows = p->rows,
                                          .seqs = p->seqs,
                                          .table = p->rope,
                                          .ks = p->ks,
                                          .ape = p->ape,
                                          .norm = p->norm,
                                          .ks_stride = p->ks_stride,
                                          .ring_offset = p->ring_offset,
                                          .ring_capacity = p->ring_capacity,
                                          .page_capacity = p->page_tokens / p->ratio,
                                          .page_offset = p->page_offset,
                                          .eps = p->eps};
    const uint32_t constants[] = {[COMPRESS_CONSTANT_NATIVE] = f->native,
                                  [COMPRESS_CONSTANT_WIDTH] = width,
                                  [COMPRESS_CONSTANT_ROPE_DIM] = f->rope_dim,
                                  [COMPRESS_CONSTANT_RATIO] = p->ratio,
                                  [COMPRESS_CONSTANT_INDEX] = p->index,
                                  [COMPRESS_CONSTANT_WORKGROUP] = dsvk_line_workgroup(cmd, width, 128)};
    const uint64_t entry =
        p->index ? dsvk_key_code_bytes(f) + dsvk_key_scale_bytes(f) : dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f);
    /* Over many steps every row's K and S are read once and one entry in `ratio` rows is written. */
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = p->index ? "kv_compress_key" : "kv_compress",
                           .shader = "kv_compress",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {p->n, 1, 1},
                           .bytes = (uint64_t)p->n * 8 * w + p->n * entry / p->ratio,
                           .flops = (uint64_t)p->n * w * 24,
                       });
}
