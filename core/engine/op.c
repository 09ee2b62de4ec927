/* dsvk_op: one op on tensors. An op is a table of its arguments, and a function that records its dispatches. What can be said in
 * the table is checked here, for all ops in the same words: the kind and shape of every tensor, the range of every number. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "tensor.h"

static const op *const ops[] = { &dsvk_op_matmul, &dsvk_op_rms_norm, &dsvk_op_rope_table, &dsvk_op_rope, &dsvk_op_quant_row,
                                 &dsvk_op_quant_index, &dsvk_op_kv_compress, &dsvk_op_indexer, &dsvk_op_topk,
                                 &dsvk_op_sparse_attention, &dsvk_op_hyper_connection, &dsvk_op_moe,
                                 &dsvk_op_sample };

/* ---- failing ---- */

void dsvk_op_fail(op_call *c, const char *format, ...) {
    char text[DSVK_MESSAGE_SIZE];
    va_list list;
    if (c->status != DSVK_OK)
        return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    c->status = dsvk_fail(c->err, DSVK_INVALID, "%s: %s", c->op->name, text);
}

bool dsvk_op_ask(op_call *c, uint64_t done, uint64_t total) {
    if (c->status == DSVK_OK && c->slices.progress && c->slices.progress(c->slices.user, c->op->name, done, total) != 0)
        c->status = dsvk_fail(c->err, DSVK_CANCELLED, "%s: cancelled after %llu of %llu rows", c->op->name, (unsigned long long)done,
                              (unsigned long long)total);
    return c->status == DSVK_OK;
}

/* ---- arguments by name ---- */

static uint32_t slot_of(const op *o, const char *name) {
    uint32_t i = 0;
    while (i < OP_SLOTS && o->slots[i].kind != OP_END && strcmp(o->slots[i].name, name) != 0)
        i++;
    return i < OP_SLOTS && o->slots[i].kind != OP_END ? i : OP_SLOTS;
}

static uint32_t slot_for(const op_call *c, const char *name) {
    const uint32_t i = slot_of(c->op, name);
    if (i == OP_SLOTS)
        dsvk_op_fail((op_call *)c, "it has no argument %s", name);
    return i % OP_SLOTS;
}

const dsvk_tensor *dsvk_op_tensor(const op_call *c, const char *name) { return c->tensors[slot_for(c, name)]; }
double dsvk_op_number(const op_call *c, const char *name) { return c->numbers[slot_for(c, name)]; }
uint32_t dsvk_op_integer(const op_call *c, const char *name) { return (uint32_t)dsvk_op_number(c, name); }

dsvk_addr dsvk_op_values(const op_call *c, const char *name) {
    const dsvk_tensor *t = dsvk_op_tensor(c, name);
    return t ? t->buffer.addr : 0;
}

uint32_t dsvk_op_dim(const op_call *c, const char *name) {
    for (uint32_t i = 0; i < c->n_dims; i++)
        if (strcmp(c->dims[i].name, name) == 0)
            return (uint32_t)c->dims[i].value;
    return 0;
}

/* ---- memory of a call ---- */

static dsvk_buffer *new_scratch(op_call *c, dsvk_purpose purpose, uint64_t bytes) {
    if (c->status != DSVK_OK)
        return NULL;
    if (c->n_scratch == OP_SCRATCH) {
        dsvk_op_fail(c, "it asks for more than %u buffers", OP_SCRATCH);
        return NULL;
    }
    dsvk_buffer *b = &c->scratch[c->n_scratch];
    c->status = dsvk_buffer_create(c->device, purpose, dsvk_align(bytes ? bytes : 1, 16), "op scratch", b, c->err);
    if (c->status != DSVK_OK)
        return NULL;
    c->n_scratch++;
    return b;
}

dsvk_addr dsvk_op_scratch(op_call *c, uint64_t bytes) {
    const dsvk_buffer *b = new_scratch(c, DSVK_SCRATCH, bytes);
    return b ? b->addr : 0;
}

dsvk_addr dsvk_op_zeros(op_call *c, uint64_t bytes) {
    const dsvk_buffer *b = new_scratch(c, DSVK_SCRATCH, bytes);
    if (!b)
        return 0;
    dsvk_cmd_fill(c->cmd, b, 0, b->size, 0);
    return b->addr;
}

dsvk_addr dsvk_op_upload(op_call *c, const void *data, uint64_t bytes) {
    const dsvk_buffer *b = new_scratch(c, DSVK_STAGING, bytes);
    if (!b)
        return 0;
    memcpy(b->host, data, bytes);
    return b->addr;
}

dsvk_addr dsvk_op_result(op_call *c, uint32_t i, dsvk_form form, dsvk_dtype dtype, uint32_t rank, const uint64_t *shape,
                         uint32_t rope_dim) {
    if (c->status == DSVK_OK)
        c->status = dsvk_tensor_make(&c->results[i], c->device, form, dtype, rank, shape, rope_dim, c->err);
    return c->results[i] ? c->results[i]->buffer.addr : 0;
}

dsvk_addr dsvk_op_f32(op_call *c, uint32_t i, uint32_t rank, uint64_t a, uint64_t b, uint64_t d, uint64_t e) {
    return dsvk_op_result(c, i, DSVK_FORM_VALUES, DSVK_DTYPE_F32, rank, (const uint64_t[]){ a, b, d, e }, 0);
}

dsvk_addr dsvk_op_rows(op_call *c, uint32_t n, uint32_t start, const int32_t *tokens) {
    struct dsvk_row *rows = dsvk_alloc_zero(n, sizeof *rows);
    if (!rows && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, n * sizeof *rows);
    for (uint32_t i = 0; rows && i < n; i++)
        rows[i] = (struct dsvk_row){ .token = tokens ? (uint32_t)tokens[i] : 0, .position = start + i };
    dsvk_addr at = rows ? dsvk_op_upload(c, rows, n * sizeof *rows) : 0;
    dsvk_free(rows);
    return at;
}

dsvk_addr dsvk_op_sequence(op_call *c, uint32_t n, dsvk_addr page) {
    const dsvk_addr pages = dsvk_op_upload(c, &page, sizeof page);
    const struct dsvk_seq seq = { .pages = pages, .rows = n };
    return dsvk_op_upload(c, &seq, sizeof seq);
}

dsvk_addr dsvk_op_angles(op_call *c, uint32_t positions) {
    const uint64_t page = 8ull * DSVK_ROPE_PAGE * dsvk_op_dim(c, "pairs"), have = dsvk_op_dim(c, "positions");
    const uint32_t n = (uint32_t)dsvk_ceil_div(have, DSVK_ROPE_PAGE);
    if (have < positions)
        dsvk_op_fail(c, "table: it has the angles of %llu positions, %u are needed", (unsigned long long)have, positions);
    dsvk_addr *pages = dsvk_alloc_zero(n, sizeof *pages);
    if (!pages && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, n * sizeof *pages);
    for (uint32_t i = 0; pages && i < n; i++)
        pages[i] = dsvk_op_values(c, "table") + i * page;
    dsvk_addr at = pages ? dsvk_op_upload(c, pages, n * sizeof *pages) : 0;
    dsvk_free(pages);
    return at;
}

/* ---- checks ---- */

static bool is_number(op_kind kind) { return kind == OP_INTEGER || kind == OP_NUMBER; }

static const char *kind_name(op_kind kind) {
    static const char *const names[] = { "", "F32", "I32", "MATRIX", "EXPERTS", "ROWS", "KEYS", "integer", "number" };
    return names[kind];
}

static bool is_optional(const op_slot *s) { return !is_number(s->kind) && s->shape[0] == '?'; }
static const char *shape_of(const op_slot *s) { return s->shape + (s->shape[0] == '?'); }

static bool kind_fits(op_kind kind, const dsvk_tensor *t) {
    const bool f32 = t->form == DSVK_FORM_VALUES && t->dtype == DSVK_DTYPE_F32;
    switch (kind) {
    case OP_F32: return f32;
    case OP_I32: return t->form == DSVK_FORM_VALUES && t->dtype == DSVK_DTYPE_I32;
    case OP_MATRIX: return t->form == DSVK_FORM_MATRIX;
    case OP_EXPERTS: return t->form == DSVK_FORM_EXPERTS;
    case OP_ROWS: return f32 || t->form == DSVK_FORM_ROWS;
    case OP_KEYS: return f32 || t->form == DSVK_FORM_KEYS;
    default: return false;
    }
}

/* "F32 [n, dim]", with the numbers that are known: "F32 [n = 3, dim]". */
static void expected_text(const op_call *c, const op_slot *s, char *out, size_t size) {
    static const char *const words[] = { "", "F32 values", "I32 values", "a matrix", "experts", "F32 values or cache rows",
                                         "F32 values or index keys", "", "" };
    int used = snprintf(out, size, "%s [", words[s->kind]);
    for (const char *at = shape_of(s); *at && used > 0 && (size_t)used < size;) {
        const size_t length = strcspn(at, " ");
        char word[16];
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        const uint32_t known = dsvk_op_dim(c, word);
        used += known ? snprintf(out + used, size - used, "%s = %u", word, known) : snprintf(out + used, size - used, "%s", word);
        at += length + (at[length] == ' ');
        if (*at && (size_t)used < size)
            used += snprintf(out + used, size - used, ", ");
    }
    if (used > 0 && (size_t)used < size)
        snprintf(out + used, size - used, "]");
}

static void wrong_tensor(op_call *c, const op_slot *s, const dsvk_tensor *t, const char *from) {
    char expected[160], got[120] = "nothing";
    expected_text(c, s, expected, sizeof expected);
    if (t)
        dsvk_tensor_text(got, sizeof got, t);
    dsvk_op_fail(c, "%s: expected %s%s%s, got %s", s->name, expected, from ? ", as in " : "", from ? from : "", got);
}

/* One dimension of an argument: a number, or a word that stands for one number in the whole call. False: it does not fit. */
static bool bind_dim(op_call *c, const char *argument, const char *word, uint64_t value, const char **from) {
    if (word[0] >= '0' && word[0] <= '9')
        return strtoull(word, NULL, 10) == value;
    for (uint32_t i = 0; i < c->n_dims; i++)
        if (strcmp(c->dims[i].name, word) == 0) {
            *from = c->dims[i].from;
            return c->dims[i].value == value;
        }
    if (value > INT32_MAX)
        return false;
    snprintf(c->dims[c->n_dims].name, sizeof c->dims[0].name, "%s", word);
    c->dims[c->n_dims].value = value;
    c->dims[c->n_dims++].from = argument;
    return true;
}

static void check_tensor(op_call *c, const op_slot *s, const dsvk_tensor *t) {
    uint32_t rank = 0;
    const char *from = NULL;
    if (!t && is_optional(s))
        return;
    if (!t || !kind_fits(s->kind, t)) {
        wrong_tensor(c, s, t, NULL);
        return;
    }
    if (t->device != c->device) {
        dsvk_op_fail(c, "%s: it is on another device", s->name);
        return;
    }
    for (const char *at = shape_of(s); *at; at += strcspn(at, " "), at += *at == ' ')
        rank++;
    if (rank != t->rank) { /* before its sizes are taken for the dimensions' */
        wrong_tensor(c, s, t, NULL);
        return;
    }
    rank = 0;
    for (const char *at = shape_of(s); *at; rank++) {
        const size_t length = strcspn(at, " ");
        char word[16];
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        if (!bind_dim(c, s->name, word, t->shape[rank], &from)) {
            wrong_tensor(c, s, t, from);
            return;
        }
        at += length + (at[length] == ' ');
    }
}

static void check_number(op_call *c, const op_slot *s, double value) {
    const bool whole = s->kind == OP_INTEGER;
    if (value >= s->least && value <= s->most && (!whole || value == floor(value)))
        return;
    dsvk_op_fail(c, "%s: expected %s from %.16g to %.16g, got %.16g", s->name, whole ? "a whole number" : "a number", s->least, s->most,
                 value);
}

static void unknown_argument(op_call *c, const char *name) {
    char list[400] = "", shown[80];
    size_t used = 0;
    for (uint32_t i = 0; i < OP_SLOTS && c->op->slots[i].kind != OP_END && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, i ? ", %s" : "%s", c->op->slots[i].name);
    dsvk_op_fail(c, "it has no argument \"%s\"; it has %s", dsvk_escape(shown, sizeof shown, name, strlen(name)), list);
}

static void take_arguments(op_call *c, const dsvk_op_argument *arguments, size_t n) {
    uint32_t given = 0; /* a bit for each slot */
    for (uint32_t i = 0; i < OP_SLOTS; i++)
        c->numbers[i] = c->op->slots[i].fallback;
    for (size_t i = 0; i < n && c->status == DSVK_OK; i++) {
        const uint32_t at = arguments[i].name ? slot_of(c->op, arguments[i].name) : OP_SLOTS;
        if (at == OP_SLOTS)
            unknown_argument(c, arguments[i].name ? arguments[i].name : "");
        else if (given & 1u << at)
            dsvk_op_fail(c, "%s: it is given twice", arguments[i].name);
        else if (!is_number(c->op->slots[at].kind) && !arguments[i].tensor && arguments[i].number != 0)
            dsvk_op_fail(c, "%s: expected a tensor, got the number %.16g", arguments[i].name, arguments[i].number);
        else if (!is_number(c->op->slots[at].kind))
            c->tensors[at] = arguments[i].tensor;
        else if (arguments[i].tensor)
            dsvk_op_fail(c, "%s: expected a number, got a tensor", arguments[i].name);
        else
            c->numbers[at] = arguments[i].number;
        given |= at < OP_SLOTS ? 1u << at : 0;
    }
    for (uint32_t i = 0; i < OP_SLOTS && c->op->slots[i].kind != OP_END && c->status == DSVK_OK; i++) {
        if (is_number(c->op->slots[i].kind))
            check_number(c, &c->op->slots[i], c->numbers[i]);
        else
            check_tensor(c, &c->op->slots[i], c->tensors[i]);
    }
}

/* ---- running ---- */

static const op *find_op(const char *name, dsvk_error *err) {
    char list[300] = "", shown[80];
    size_t used = 0;
    for (size_t i = 0; i < DSVK_COUNT(ops); i++) {
        if (strcmp(ops[i]->name, name) == 0)
            return ops[i];
        used += (size_t)snprintf(list + used, sizeof list - used, i ? ", %s" : "%s", ops[i]->name);
    }
    dsvk_fail(err, DSVK_INVALID, "there is no op \"%s\"; there are %s", dsvk_escape(shown, sizeof shown, name, strlen(name)), list);
    return NULL;
}

dsvk_status dsvk_op(dsvk_device *device, const char *name, const dsvk_op_argument *arguments, size_t n_arguments,
                    dsvk_tensor *results[DSVK_OP_RESULTS], dsvk_progress_fn progress, void *user, dsvk_error *err) {
    if (!device || !name || !results || (!arguments && n_arguments))
        return dsvk_fail(err, DSVK_INVALID, "dsvk_op: device, op, arguments and results must not be NULL");
    memset(results, 0, DSVK_OP_RESULTS * sizeof *results);
    op_call c = { .op = find_op(name, err), .device = device, .slices = { DSVK_SUBMIT_AIM_S, progress, user }, .err = err };
    if (!c.op)
        return DSVK_INVALID;
    DSVK_TRY(dsvk_device_status(device, err));
    take_arguments(&c, arguments, n_arguments);
    DSVK_TRY(c.status);
    DSVK_TRY(dsvk_cmd_create(device, &c.cmd, err));
    dsvk_cmd_set_part(c.cmd, "ops");
    dsvk_cmd_set_slices(c.cmd, c.slices);
    dsvk_cmd_set_caller(c.cmd, &c.status);
    c.op->run(&c);
    if (c.status == DSVK_OK)
        c.status = dsvk_cmd_run(c.cmd, err);
    dsvk_cmd_destroy(c.cmd);
    for (uint32_t i = 0; i < c.n_scratch; i++)
        dsvk_buffer_destroy(device, &c.scratch[i]);
    for (uint32_t i = 0; i < DSVK_OP_RESULTS; i++) {
        if (c.status != DSVK_OK)
            dsvk_tensor_close(c.results[i]);
        else
            results[i] = c.results[i];
    }
    return c.status;
}

/* ---- telling ---- */

static json_t *number_json(const op_slot *s, double value) {
    return s->kind == OP_INTEGER ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *slot_json(const op_slot *s) {
    if (is_number(s->kind))
        return json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", s->name, "kind", kind_name(s->kind), "default",
                         number_json(s, s->fallback), "least", number_json(s, s->least), "most", number_json(s, s->most));
    return json_pack("{s:s, s:s, s:s, s:b}", "name", s->name, "kind", kind_name(s->kind), "shape", shape_of(s), "optional",
                     is_optional(s));
}

dsvk_status dsvk_ops(char **json, dsvk_error *err) {
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_ops: json must not be NULL");
    json_t *list = json_array();
    for (size_t i = 0; list && i < DSVK_COUNT(ops); i++) {
        json_t *arguments = json_array(), *results = json_array();
        for (uint32_t s = 0; s < OP_SLOTS && ops[i]->slots[s].kind != OP_END; s++)
            json_array_append_new(arguments, slot_json(&ops[i]->slots[s]));
        for (uint32_t r = 0; r < DSVK_OP_RESULTS && ops[i]->results[r].kind != OP_END; r++)
            json_array_append_new(results, slot_json(&ops[i]->results[r]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o}", "name", ops[i]->name, "does", ops[i]->does, "arguments",
                                              arguments, "results", results));
    }
    return dsvk_json_text(list, json, err);
}
