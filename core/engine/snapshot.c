/* Snapshots: a session's rings and logits are copied, its pages shared. That is sound because entries of a page are only ever
 * added: a session that goes on writes behind the snapshot's end, and one that is restored gets its own copy of a page that is
 * not full yet. Whole pages are nobody's to write any more. Taking tokens back while restoring is what a session does that goes
 * back (cache.h): what lies behind them in the rings and pages is written again before it is seen. */
#include <assert.h>
#include <string.h>

#include "prefix_tree.h"

static dsvk_status copy(dsvk_model *m, const dsvk_buffer *from[], const dsvk_buffer *to[], uint32_t n, dsvk_error *err) {
    DSVK_TRY(dsvk_step_lock(m, err));
    dsvk_status status = dsvk_cmd_begin(m->cmd, err);
    for (uint32_t i = 0; status == DSVK_OK && i < n; i++)
        dsvk_cmd_copy(m->cmd, from[i], 0, to[i], 0, from[i]->size);
    if (status == DSVK_OK)
        status = dsvk_cmd_run(m->cmd, err);
    pthread_mutex_unlock(&m->step_lock);
    return status;
}

dsvk_snapshot *dsvk_snapshot_retain(dsvk_snapshot *p) {
    p->references++;
    return p;
}

void dsvk_snapshot_release(dsvk_snapshot *p) {
    if (!p || --p->references > 0)
        return;
    for (uint32_t i = 0; p->pages && i < p->n_pages; i++)
        dsvk_page_release(p->model, p->pages[i]);
    dsvk_buffer_destroy(p->model->device, &p->state);
    dsvk_buffer_destroy(p->model->device, &p->logits);
    dsvk_free(p->pages);
    dsvk_free(p);
}

static void share_page(dsvk_page **to, dsvk_page *page) {
    atomic_fetch_add(&page->references, 1);
    *to = page;
}

static dsvk_status fill(dsvk_snapshot *p, const dsvk_session *s, dsvk_error *err) {
    dsvk_device *device = p->model->device;
    const uint32_t n_pages = (uint32_t)dsvk_ceil_div(s->n, p->model->layout.page_tokens);
    p->pages = dsvk_alloc_zero(n_pages, sizeof *p->pages);
    if (!p->pages)
        return dsvk_fail_nomem(err, n_pages * sizeof *p->pages);
    p->n_pages = n_pages;
    for (uint32_t i = 0; i < n_pages; i++)
        share_page(&p->pages[i], s->pages[i]);
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, s->state.size, "kept state", &p->state, err));
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, s->logits.size, "kept logits", &p->logits, err));
    const dsvk_buffer *from[] = { &s->state, &s->logits }, *to[] = { &p->state, &p->logits };
    return copy(p->model, from, to, DSVK_COUNT(from), err);
}

dsvk_status dsvk_snapshot_take(dsvk_snapshot **snapshot, const dsvk_session *s, dsvk_snapshot_kind kind, dsvk_error *err) {
    dsvk_snapshot *p = dsvk_alloc_zero(1, sizeof *p);
    if (!p)
        return dsvk_fail_nomem(err, sizeof *p);
    *p = (dsvk_snapshot){ .references = 1, .model = s->model, .kind = kind, .n = s->n, .high = s->high };
    dsvk_status status = fill(p, s, err);
    if (status == DSVK_OK)
        *snapshot = p;
    else
        dsvk_snapshot_release(p);
    return status;
}

/* The snapshot's whole pages, into a page table that is still empty, with one write. */
static dsvk_status share_pages(const dsvk_snapshot *p, dsvk_session *s, uint32_t whole, dsvk_error *err) {
    dsvk_addr *addresses = dsvk_alloc(whole * sizeof *addresses);
    if (!addresses)
        return dsvk_fail_nomem(err, whole * sizeof *addresses);
    for (; s->n_pages < whole; s->n_pages++) {
        share_page(&s->pages[s->n_pages], p->pages[s->n_pages]);
        addresses[s->n_pages] = p->pages[s->n_pages]->buffer.addr;
    }
    dsvk_status status = dsvk_buffer_write(s->model->device, &s->page_table, 0, addresses, whole * sizeof *addresses, err);
    dsvk_free(addresses);
    return status;
}

dsvk_status dsvk_snapshot_restore(const dsvk_snapshot *p, dsvk_session *s, const int32_t *tokens, uint64_t n, dsvk_error *err) {
    const uint32_t whole = (uint32_t)(n / s->model->layout.page_tokens);
    const dsvk_buffer *from[3] = { &p->state, &p->logits }, *to[3] = { &s->state, &s->logits };
    uint32_t n_copies = 2;
    assert(n == p->n || (n < p->n && dsvk_snapshot_reaches(p, n)));
    DSVK_TRY(share_pages(p, s, whole, err));
    DSVK_TRY(dsvk_grow_pages(s, n, err)); /* the one that is not full */
    if (s->n_pages > whole) {
        from[n_copies] = &p->pages[whole]->buffer;
        to[n_copies++] = &s->pages[whole]->buffer;
    }
    DSVK_TRY(copy(s->model, from, to, n_copies, err));
    memcpy(s->tokens, tokens, n * sizeof *tokens);
    s->n = n;
    s->high = p->high;
    s->have_logits = n == p->n;
    return DSVK_OK;
}
