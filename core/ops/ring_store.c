/* Rows of a step into the rings of their sequences (spec 4.12, step 5): one workgroup per row and item. */
#include "ops.h"
#include "ring_store.h"

_Static_assert(sizeof(struct ring_store_args) <= 128, "push constants");
_Static_assert(RING_STORE_ITEMS == DSVK_RING_ITEMS, "one number of items");

void dsvk_ring_store(dsvk_cmd *cmd, const dsvk_ring_store_params *p) {
    struct ring_store_args args = {.rows = p->rows, .seqs = p->seqs};
    uint64_t bytes = 0;
    if (p->n_items > DSVK_RING_ITEMS) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "ring_store: %u items; at most %d", p->n_items, DSVK_RING_ITEMS);
        return;
    }
    for (uint32_t i = 0; i < p->n_items; i++) {
        const dsvk_ring_item *item = &p->items[i];
        if ((item->source_stride | item->bytes | item->offset) % 4 != 0 || item->bytes == 0 || item->capacity == 0) {
            dsvk_cmd_fail(
                cmd, DSVK_INVALID,
                "ring_store: item %u copies %u bytes at a stride of %u to a ring of %u slots at byte %u; bytes are "
                "multiples of 4",
                i, item->bytes, item->source_stride, item->capacity, item->offset);
            return;
        }
        args.items[i] = (ring_store_item){.source = item->source,
                                          .stride = item->source_stride,
                                          .bytes = item->bytes,
                                          .offset = item->offset,
                                          .capacity = item->capacity};
        bytes += 2ull * p->n * item->bytes;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "ring_store",
                           .shader = "ring_store",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {p->n, p->n_items, 1},
                           .bytes = bytes,
                       });
}
