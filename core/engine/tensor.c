/* dsvk_tensor: opening, reading, closing. Weights go through the loader, as a list of one matrix or of some experts whose bytes
 * are in the caller's memory; they are read back by multiplying with the identity. */
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "tensor.h"

uint64_t dsvk_tensor_count(const dsvk_tensor *t) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->shape[i]; /* checked when it was opened */
    return n;
}

static const char *form_name(dsvk_form form) {
    static const char *const names[] = { "values", "matrix", "experts", "cache rows", "index keys" };
    return (unsigned)form < DSVK_COUNT(names) ? names[form] : "unknown";
}

const char *dsvk_tensor_text(char *out, size_t size, const dsvk_tensor *t) {
    int used = snprintf(out, size, "%s %s [", dsvk_dtype_name(t->dtype), form_name(t->form));
    for (uint32_t i = 0; i < t->rank && used > 0 && (size_t)used < size; i++)
        used += snprintf(out + used, size - used, i ? ", %llu" : "%llu", (unsigned long long)t->shape[i]);
    if (used > 0 && (size_t)used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

dsvk_row_format dsvk_tensor_format(const dsvk_tensor *t) {
    const uint32_t width = (uint32_t)t->shape[t->rank - 1];
    if (t->form == DSVK_FORM_KEYS)
        return (dsvk_row_format){ .native = true, .index_dim = width };
    return (dsvk_row_format){ .native = t->form == DSVK_FORM_ROWS, .head_dim = width, .rope_dim = t->rope_dim, .index_dim = width };
}

static uint64_t buffer_bytes(const dsvk_tensor *t) {
    const dsvk_row_format f = dsvk_tensor_format(t);
    if (t->form == DSVK_FORM_ROWS)
        return t->shape[0] * (dsvk_row_code_bytes(&f) + dsvk_row_scale_bytes(&f));
    if (t->form == DSVK_FORM_KEYS)
        return t->shape[0] * (dsvk_key_code_bytes(&f) + dsvk_key_scale_bytes(&f));
    return dsvk_tensor_count(t) * dsvk_dtype_bits(t->dtype) / 8;
}

/* ---- opening ---- */

/* The handle without its memory. */
static dsvk_status new_tensor(dsvk_tensor **tensor, dsvk_device *device, dsvk_form form, dsvk_dtype dtype, uint32_t rank,
                              const uint64_t *shape, dsvk_error *err) {
    dsvk_tensor *t = dsvk_alloc_zero(1, sizeof *t);
    if (!t)
        return dsvk_fail_nomem(err, sizeof *t);
    t->device = dsvk_device_retain(device);
    t->form = form;
    t->dtype = dtype;
    t->rank = rank;
    memcpy(t->shape, shape, rank * sizeof *shape);
    *tensor = t;
    return DSVK_OK;
}

dsvk_status dsvk_tensor_make(dsvk_tensor **tensor, dsvk_device *device, dsvk_form form, dsvk_dtype dtype, uint32_t rank,
                             const uint64_t *shape, uint32_t rope_dim, dsvk_error *err) {
    DSVK_TRY(new_tensor(tensor, device, form, dtype, rank, shape, err));
    (*tensor)->rope_dim = rope_dim;
    /* Kernels read and write whole 16-byte words. */
    dsvk_status status = dsvk_buffer_create(device, DSVK_SCRATCH, dsvk_align(buffer_bytes(*tensor), 16), "tensor", &(*tensor)->buffer,
                                            err);
    if (status != DSVK_OK) {
        dsvk_tensor_close(*tensor);
        *tensor = NULL;
    }
    return status;
}

static dsvk_status fill(dsvk_tensor *t, const void *data, dsvk_error *err) {
    dsvk_cmd *cmd = NULL;
    if (data)
        return dsvk_buffer_write(t->device, &t->buffer, 0, data, buffer_bytes(t), err);
    DSVK_TRY(dsvk_cmd_create(t->device, &cmd, err));
    dsvk_cmd_fill(cmd, &t->buffer, 0, t->buffer.size, 0);
    dsvk_status status = dsvk_cmd_run(cmd, err);
    dsvk_cmd_destroy(cmd);
    return status;
}

/* One matrix of the caller's as the loader knows sources: its bytes, and those of its scales. */
typedef struct source {
    dsvk_file_tensor codes, scales;
} source;

static void describe_source(source *s, dsvk_weight_source *out, const dsvk_tensor_options *o, uint64_t rows, uint64_t cols,
                            const void *data, const void *scales, uint64_t index) {
    const bool fp8 = o->dtype == DSVK_DTYPE_F8_E4M3;
    const uint64_t scale_rows = fp8 ? dsvk_ceil_div(rows, 128) : rows, scale_cols = dsvk_ceil_div(cols, fp8 ? 128 : 32);
    const uint64_t bytes = rows * cols * dsvk_dtype_bits(o->dtype) / 8;
    s->codes = (dsvk_file_tensor){ .name = "data", .dtype = o->dtype, .rank = 2, .shape = { rows, cols }, .end = bytes,
                                   .memory = (const uint8_t *)data + index * bytes };
    if (scales) {
        const uint64_t scale_bytes = scale_rows * scale_cols * dsvk_dtype_bits(o->scale_dtype) / 8;
        s->scales = (dsvk_file_tensor){ .name = "scales", .dtype = o->scale_dtype, .rank = 2, .shape = { scale_rows, scale_cols },
                                        .end = scale_bytes, .memory = (const uint8_t *)scales + index * scale_bytes };
    }
    *out = (dsvk_weight_source){ .rows = (uint32_t)rows, .cols = (uint32_t)cols, .tensor = &s->codes,
                                 .scales = scales ? &s->scales : NULL };
    snprintf(out->name, sizeof out->name, "tensor");
}

static dsvk_weight_type weight_type(dsvk_dtype dtype) {
    switch (dtype) {
    case DSVK_DTYPE_BF16: return DSVK_TYPE_BF16;
    case DSVK_DTYPE_F8_E4M3: return DSVK_TYPE_FP8;
    case DSVK_DTYPE_F4: return DSVK_TYPE_FP4;
    default: return DSVK_TYPE_F32;
    }
}

static void describe_matrix(dsvk_tensor *t, const dsvk_tensor_options *o, dsvk_weight_list *list, source *sources) {
    const uint32_t n_out = (uint32_t)o->shape[0], n_in = (uint32_t)o->shape[1];
    list->weights[0] = (dsvk_weight){ .kind = DSVK_WEIGHT_MATRIX, .type = weight_type(o->dtype), .n_out = n_out, .n_in = n_in,
                                      .n_sources = 1, .layer = 1, .matrix = &t->matrix };
    describe_source(&sources[0], &list->sources[0], o, n_out, n_in, o->data, o->scales, 0);
}

/* Of each expert its two matrices, as dsvk_weights_describe has them. */
static void describe_experts(dsvk_tensor *t, const dsvk_tensor_options *o, dsvk_weight_list *list, source *sources) {
    const uint32_t hidden = (uint32_t)o->shape[1], dim = (uint32_t)o->shape[2];
    for (uint32_t e = 0; e < o->shape[0]; e++) {
        dsvk_weight *up = &list->weights[2 * e];
        up[0] = (dsvk_weight){ .kind = DSVK_WEIGHT_MATRIX, .type = weight_type(o->dtype), .n_out = 2 * hidden, .n_in = dim,
                               .first_source = 3 * e, .n_sources = 2, .expert = true, .matrix = &t->matrix, .addr = &t->blobs[e] };
        up[1] = (dsvk_weight){ .kind = DSVK_WEIGHT_MATRIX, .type = up->type, .n_out = dim, .n_in = hidden,
                               .first_source = 3 * e + 2, .n_sources = 1, .expert = true, .matrix = &t->down };
        describe_source(&sources[3 * e], &list->sources[3 * e], o, hidden, dim, o->data, o->scales, e);
        describe_source(&sources[3 * e + 1], &list->sources[3 * e + 1], o, hidden, dim, o->w3, o->w3_scales, e);
        describe_source(&sources[3 * e + 2], &list->sources[3 * e + 2], o, dim, hidden, o->w2, o->w2_scales, e);
        list->sources[3 * e].fold = DSVK_FOLD_W1;
        list->sources[3 * e + 1].fold = DSVK_FOLD_W3;
    }
}

/* The layout of weights depends on how the device multiplies. */
static dsvk_status settle_matmul(dsvk_device *device, dsvk_error *err) {
    dsvk_cmd *cmd = NULL;
    DSVK_TRY(dsvk_cmd_create(device, &cmd, err));
    dsvk_status status = dsvk_matmul_choose(device, cmd, err);
    dsvk_cmd_destroy(cmd);
    return status;
}

static dsvk_status load_weights(dsvk_tensor *t, const dsvk_tensor_options *o, dsvk_error *err) {
    const bool experts = o->form == DSVK_FORM_EXPERTS;
    const uint64_t n = experts ? o->shape[0] : 1;
    const dsvk_config config = { .n_layers = experts, .n_experts = (uint32_t)n };
    const dsvk_load_options options = { .threads = 1 };
    dsvk_weight_list list = { .n_weights = (uint32_t)(experts ? 2 * n : 1), .n_sources = (uint32_t)(experts ? 3 * n : 1) };
    dsvk_layer_weights layer = { 0 };
    dsvk_weights weights = { .layers = &layer };
    dsvk_status status;
    source *sources = dsvk_alloc_zero(list.n_sources, sizeof *sources);
    list.weights = dsvk_alloc_zero(list.n_weights, sizeof *list.weights);
    list.sources = dsvk_alloc_zero(list.n_sources, sizeof *list.sources);
    t->blobs = dsvk_alloc_zero(n, sizeof *t->blobs);
    if (!sources || !list.weights || !list.sources || !t->blobs) {
        status = dsvk_fail_nomem(err, list.n_sources * sizeof *sources);
        goto fail;
    }
    layer.expert_blobs = t->blobs;
    if (experts)
        describe_experts(t, o, &list, sources);
    else
        describe_matrix(t, o, &list, sources);
    DSVK_GOTO(settle_matmul(t->device, err));
    DSVK_GOTO(dsvk_weights_place(&list, err));
    t->weights = dsvk_alloc_zero(list.n_buffers, sizeof *t->weights);
    if (!t->weights) {
        status = dsvk_fail_nomem(err, list.n_buffers * sizeof *t->weights);
        goto fail;
    }
    t->n_weights = list.n_buffers;
    status = dsvk_load_weights(t->device, &list, &weights, &config, NULL, t->weights, &options, err);
    t->down_offset = layer.expert_down_offset;
    t->table = layer.expert_table;
    dsvk_buffer_destroy(t->device, &layer.table);
    dsvk_buffer_destroy(t->device, &weights.head_sites);
fail:
    dsvk_free(sources);
    dsvk_weight_list_free(&list);
    return status;
}

/* ---- checks at the door ---- */

static dsvk_status check_scales(const dsvk_tensor_options *o, const char *name, const void *scales, dsvk_error *err) {
    const bool fp8 = o->dtype == DSVK_DTYPE_F8_E4M3, fp4 = o->dtype == DSVK_DTYPE_F4;
    const bool fits = fp8 ? o->scale_dtype == DSVK_DTYPE_F8_E8M0 || o->scale_dtype == DSVK_DTYPE_F32
                          : o->scale_dtype == DSVK_DTYPE_F8_E8M0;
    if (!fp8 && !fp4)
        return scales ? dsvk_fail(err, DSVK_INVALID, "%s: a tensor of %s has no scales", name, dsvk_dtype_name(o->dtype)) : DSVK_OK;
    if (!scales)
        return dsvk_fail(err, DSVK_INVALID, "%s: a tensor of %s needs its scales", name, dsvk_dtype_name(o->dtype));
    return fits ? DSVK_OK
                : dsvk_fail(err, DSVK_INVALID, "%s: scales of %s are %s, got %s", name, dsvk_dtype_name(o->dtype),
                            fp8 ? "F8_E8M0 or F32" : "F8_E8M0", dsvk_dtype_name(o->scale_dtype));
}

static dsvk_status check_weights(const dsvk_tensor_options *o, dsvk_error *err) {
    const bool experts = o->form == DSVK_FORM_EXPERTS;
    const uint32_t rank = experts ? 3 : 2;
    const uint64_t *s = o->shape;
    if (o->dtype != DSVK_DTYPE_F32 && o->dtype != DSVK_DTYPE_BF16 && o->dtype != DSVK_DTYPE_F8_E4M3 && o->dtype != DSVK_DTYPE_F4)
        return dsvk_fail(err, DSVK_INVALID, "dtype: weights are F32, BF16, F8_E4M3 or F4, got %s", dsvk_dtype_name(o->dtype));
    if (o->rank != rank)
        return dsvk_fail(err, DSVK_INVALID, "shape: %s, got %u dimensions", experts ? "experts are [n, hidden, dim]"
                         : "a matrix is [n_out, n_in]", o->rank);
    if (s[rank - 1] % 32 || s[rank - 1] > 1u << 20 || (experts && s[1] % 32) || s[rank - 2] > 1u << 20 || (experts && s[0] > 4096))
        return dsvk_fail(err, DSVK_INVALID, "shape: %s, got [%llu, %llu%s%.0llu]",
                         experts ? "hidden and dim are multiples of 32 up to 1048576, and there are at most 4096 experts"
                                 : "n_in is a multiple of 32, both are at most 1048576",
                         (unsigned long long)s[0], (unsigned long long)s[1], experts ? ", " : "",
                         (unsigned long long)(experts ? s[2] : 0));
    if (!o->data || (experts && (!o->w3 || !o->w2)))
        return dsvk_fail(err, DSVK_INVALID, "%s must not be NULL", experts ? "data (w1), w3 and w2" : "data");
    DSVK_TRY(check_scales(o, "scales", o->scales, err));
    if (experts) {
        DSVK_TRY(check_scales(o, "w3_scales", o->w3_scales, err));
        DSVK_TRY(check_scales(o, "w2_scales", o->w2_scales, err));
    }
    return DSVK_OK;
}

static dsvk_status check_options(const dsvk_tensor_options *o, dsvk_error *err) {
    uint64_t n = 1;
    if (o->size != sizeof *o)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tensor_options has size %zu, this library's is %zu", o->size, sizeof *o);
    if ((unsigned)o->form > DSVK_FORM_EXPERTS)
        return dsvk_fail(err, DSVK_INVALID, "form: values, a matrix or experts can be opened, got %s", form_name(o->form));
    if ((unsigned)o->dtype >= DSVK_DTYPE_COUNT)
        return dsvk_fail(err, DSVK_INVALID, "dtype: %d is none", (int)o->dtype);
    if (o->rank < 1 || o->rank > DSVK_TENSOR_RANK)
        return dsvk_fail(err, DSVK_INVALID, "shape: 1 to %u dimensions, got %u", DSVK_TENSOR_RANK, o->rank);
    for (uint32_t i = 0; i < o->rank; i++)
        if (o->shape[i] == 0 || !dsvk_mul(n, o->shape[i], &n) || n >= 1ull << 40)
            return dsvk_fail(err, DSVK_INVALID, "shape: dimension %u is %llu; none is 0, all together are less than 2^40 numbers", i,
                             (unsigned long long)o->shape[i]);
    if (o->form != DSVK_FORM_EXPERTS && (o->w3 || o->w3_scales || o->w2 || o->w2_scales))
        return dsvk_fail(err, DSVK_INVALID, "%s: only experts have it, got %s", o->w3 || o->w3_scales ? "w3" : "w2", form_name(o->form));
    if (o->form != DSVK_FORM_VALUES)
        return check_weights(o, err);
    if (dsvk_dtype_bits(o->dtype) < 8)
        return dsvk_fail(err, DSVK_INVALID, "dtype: values of %s are less than a byte; as weights they are a matrix",
                         dsvk_dtype_name(o->dtype));
    return o->scales ? dsvk_fail(err, DSVK_INVALID, "scales: values have none, got %s with scales", dsvk_dtype_name(o->dtype)) : DSVK_OK;
}

dsvk_status dsvk_tensor_open(dsvk_tensor **tensor, dsvk_device *device, const dsvk_tensor_options *options, dsvk_error *err) {
    if (tensor)
        *tensor = NULL;
    if (!tensor || !device || !options)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tensor_open: tensor, device and options must not be NULL");
    const dsvk_tensor_options *o = options;
    DSVK_TRY(check_options(o, err));
    DSVK_TRY(dsvk_device_status(device, err));
    dsvk_tensor *t = NULL;
    dsvk_status status;
    if (o->form == DSVK_FORM_VALUES) {
        DSVK_TRY(dsvk_tensor_make(&t, device, o->form, o->dtype, o->rank, o->shape, 0, err));
        status = fill(t, o->data, err);
    } else {
        DSVK_TRY(new_tensor(&t, device, o->form, o->dtype, o->rank, o->shape, err));
        status = load_weights(t, o, err);
    }
    if (status == DSVK_OK)
        *tensor = t;
    else
        dsvk_tensor_close(t);
    return status;
}

void dsvk_tensor_close(dsvk_tensor *t) {
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_weights; i++)
        dsvk_buffer_destroy(t->device, &t->weights[i]);
    dsvk_buffer_destroy(t->device, &t->table);
    dsvk_buffer_destroy(t->device, &t->buffer);
    dsvk_free(t->weights);
    dsvk_free(t->blobs);
    dsvk_device_close(t->device);
    dsvk_free(t);
}

/* ---- looking at it ---- */

dsvk_status dsvk_tensor_describe(const dsvk_tensor *t, dsvk_tensor_info *info, dsvk_error *err) {
    if (!t || !info || info->size != sizeof *info)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tensor_describe: tensor and info must not be NULL, and info has its size");
    *info = (dsvk_tensor_info){ .size = sizeof *info, .form = t->form, .dtype = t->dtype, .rank = t->rank,
                                .device_bytes = t->buffer.size + t->table.size,
                                .read_dtype = t->form == DSVK_FORM_VALUES ? t->dtype : DSVK_DTYPE_F32 };
    memcpy(info->shape, t->shape, sizeof info->shape);
    for (uint32_t i = 0; i < t->n_weights; i++)
        info->device_bytes += t->weights[i].size;
    if (t->form != DSVK_FORM_EXPERTS)
        info->read_bytes = dsvk_tensor_count(t) * dsvk_dtype_bits(info->read_dtype) / 8;
    info->host = t->form == DSVK_FORM_VALUES ? t->buffer.host : NULL;
    return DSVK_OK;
}

/* Columns first .. first + rows - 1 of the matrix, out [n_out, n_in]: what it makes of these unit vectors. */
static dsvk_status read_columns(const dsvk_tensor *t, dsvk_cmd *cmd, const dsvk_buffer *units, const dsvk_buffer *products,
                                float *values, uint32_t first, uint32_t rows, float *out, dsvk_error *err) {
    const uint64_t n_in = t->shape[1], n_out = t->shape[0];
    memset(values, 0, rows * n_in * sizeof *values);
    for (uint32_t i = 0; i < rows; i++)
        values[i * n_in + first + i] = 1;
    DSVK_TRY(dsvk_buffer_write(t->device, units, 0, values, rows * n_in * sizeof *values, err));
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_matmul(cmd, &(dsvk_matmul_params){ .w = t->matrix, .x = units->addr, .out = products->addr, .n = rows,
                                            .x_stride = (uint32_t)n_in, .out_stride = (uint32_t)n_out });
    DSVK_TRY(dsvk_cmd_run(cmd, err));
    DSVK_TRY(dsvk_buffer_read(t->device, products, 0, values, rows * n_out * sizeof *values, err));
    for (uint32_t i = 0; i < rows; i++)
        for (uint64_t o = 0; o < n_out; o++)
            out[o * n_in + first + i] = values[i * n_out + o];
    return DSVK_OK;
}

/* A number times 1, plus zeros: exact, but where a row has a number that is none, all of it is. */
static dsvk_status read_matrix(const dsvk_tensor *t, float *out, dsvk_progress_fn progress, void *user, dsvk_error *err) {
    const uint32_t n_in = (uint32_t)t->shape[1], group = DSVK_FEW_ROWS; /* the kernels for few rows multiply in float32 */
    const uint64_t widest = t->shape[0] > n_in ? t->shape[0] : n_in, bytes = group * widest * sizeof(float);
    dsvk_buffer units = { 0 }, products = { 0 };
    dsvk_cmd *cmd = NULL;
    dsvk_status status;
    float *values = dsvk_alloc(bytes);
    if (!values)
        return dsvk_fail_nomem(err, bytes);
    DSVK_GOTO(dsvk_buffer_create(t->device, DSVK_SCRATCH, bytes, "unit vectors", &units, err));
    DSVK_GOTO(dsvk_buffer_create(t->device, DSVK_SCRATCH, bytes, "their products", &products, err));
    DSVK_GOTO(dsvk_cmd_create(t->device, &cmd, err));
    dsvk_cmd_set_slices(cmd, (dsvk_slices){ .seconds = DSVK_SUBMIT_AIM_S });
    for (uint32_t first = 0; first < n_in; first += group) {
        if (first > 0 && progress && progress(user, "columns", first, n_in) != 0) {
            status = dsvk_fail(err, DSVK_CANCELLED, "cancelled after %u of %u columns", first, n_in);
            goto fail;
        }
        DSVK_GOTO(read_columns(t, cmd, &units, &products, values, first, n_in - first < group ? n_in - first : group, out, err));
    }
fail:
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(t->device, &units);
    dsvk_buffer_destroy(t->device, &products);
    dsvk_free(values);
    return status;
}

void dsvk_decode_row(const dsvk_row_format *f, const uint8_t *codes, const uint8_t *scales, float *out) {
    const uint32_t plain = f->head_dim - f->rope_dim;
    for (uint32_t i = 0; i < plain; i++)
        out[i] = dsvk_e4m3_value(codes[i]) * dsvk_ue8m0_value(scales[i / 64]);
    for (uint32_t i = plain; i < f->head_dim; i++) {
        uint16_t half;
        memcpy(&half, codes + plain + 2 * (i - plain), 2);
        out[i] = dsvk_bf16_value(half);
    }
}

void dsvk_decode_key(const dsvk_row_format *f, const uint8_t *codes, const uint8_t *scales, float *out) {
    for (uint32_t i = 0; i < f->index_dim; i++)
        out[i] = dsvk_e2m1_value(codes[i / 2] >> 4 * (i % 2) & 15) * dsvk_ue8m0_value(scales[i / 32]);
}

static dsvk_status read_native(const dsvk_tensor *t, float *out, dsvk_error *err) {
    const dsvk_row_format f = dsvk_tensor_format(t);
    const bool keys = t->form == DSVK_FORM_KEYS;
    const uint64_t n = t->shape[0], width = t->shape[1], bytes = buffer_bytes(t);
    const uint64_t codes = keys ? dsvk_key_code_bytes(&f) : dsvk_row_code_bytes(&f);
    const uint64_t scales = keys ? dsvk_key_scale_bytes(&f) : dsvk_row_scale_bytes(&f);
    uint8_t *raw = dsvk_alloc(bytes);
    if (!raw)
        return dsvk_fail_nomem(err, bytes);
    dsvk_status status = dsvk_buffer_read(t->device, &t->buffer, 0, raw, bytes, err);
    for (uint64_t r = 0; status == DSVK_OK && r < n; r++)
        (keys ? dsvk_decode_key : dsvk_decode_row)(&f, raw + r * codes, raw + n * codes + r * scales, out + r * width);
    dsvk_free(raw);
    return status;
}

dsvk_status dsvk_tensor_read(const dsvk_tensor *t, void *out, uint64_t bytes, dsvk_progress_fn progress, void *user, dsvk_error *err) {
    dsvk_tensor_info info = { .size = sizeof info };
    if (!t || !out)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tensor_read: tensor and out must not be NULL");
    DSVK_TRY(dsvk_tensor_describe(t, &info, err));
    if (t->form == DSVK_FORM_EXPERTS)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "experts cannot be read: open their matrices one by one for that");
    if (bytes != info.read_bytes)
        return dsvk_fail(err, DSVK_INVALID, "bytes: the tensor has %llu, got %llu", (unsigned long long)info.read_bytes,
                         (unsigned long long)bytes);
    DSVK_TRY(dsvk_device_status(t->device, err));
    switch (t->form) {
    case DSVK_FORM_MATRIX: return read_matrix(t, out, progress, user, err);
    case DSVK_FORM_ROWS:
    case DSVK_FORM_KEYS: return read_native(t, out, err);
    default: return dsvk_buffer_read(t->device, &t->buffer, 0, out, bytes, err);
    }
}
