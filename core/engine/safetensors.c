/* The safetensors container (spec 2.1; faults M01-M20): u64 little-endian header length, a JSON object of tensors, then
 * their bytes. A header is walked twice, first to count, then to fill, so that the table is allocated once at its exact
 * size; only the table and the open files remain. */
#include "safetensors.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json_reader.h"
#include "looks_like.h"

#define INDEX_BYTES (256u << 20)  /* faults C11 */
#define MAX_SHARDS 512u           /* each keeps a file open */
#define SHARD_NAME 256            /* with its NUL */
#define SHOWN 160                 /* bytes of an escaped name in a message */

static const char single_file[] = "model.safetensors", index_file[] = "model.safetensors.index.json";

struct entry {
    dsvk_file_tensor tensor;    /* first, so that a dsvk_file_tensor pointer is an entry pointer */
    const char *file_name; /* as the file spells it; often the same text */
};

struct shard {
    dsvk_file file;
    char *names; /* arena of the entries' names */
};

struct dsvk_checkpoint {
    struct entry *entries; /* [count], by shard, then by begin */
    uint32_t *by_name;     /* [count] positions in the order of the native names */
    size_t count, unlisted;
    uint64_t bytes;
    struct shard *shards; /* [n_shards] */
    uint32_t n_shards;
};

/* ---- types ---- */

const char *dsvk_dtype_name(dsvk_dtype dtype) {
    static const char *const names[] = {
#define DTYPE_NAME(name, bits) #name,
        DSVK_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
    };
    return (unsigned)dtype < DSVK_DTYPE_COUNT ? names[dtype] : "unknown";
}

uint32_t dsvk_dtype_bits(dsvk_dtype dtype) {
    static const uint8_t widths[] = {
#define DTYPE_BITS(name, bits) bits,
        DSVK_DTYPE_LIST(DTYPE_BITS)
#undef DTYPE_BITS
    };
    return (unsigned)dtype < DSVK_DTYPE_COUNT ? widths[dtype] : 0;
}

static bool find_dtype(dsvk_json_value name, dsvk_dtype *dtype) {
    for (int i = 0; i < DSVK_DTYPE_COUNT; i++) {
        *dtype = (dsvk_dtype)i;
        if (dsvk_json_equals(name, dsvk_dtype_name(*dtype)))
            return true;
    }
    return false;
}

const char *dsvk_file_tensor_describe(char *out, size_t out_size, const dsvk_file_tensor *tensor) {
    int used = snprintf(out, out_size, "[");
    for (uint32_t i = 0; i < tensor->rank && used >= 0 && (size_t)used < out_size; i++)
        used += snprintf(out + used, out_size - (size_t)used, "%s%" PRIu64, i ? ", " : "", tensor->shape[i]);
    if (used >= 0 && (size_t)used < out_size)
        snprintf(out + used, out_size - (size_t)used, "] %s", dsvk_dtype_name(tensor->dtype));
    return out;
}

/* ---- one tensor of a header ---- */

/* What the functions below need of the shard being read. */
struct header {
    const char *path;
    dsvk_json_value root;
    uint64_t data_at;  /* file offset of the data */
    uint64_t data_size;
    uint32_t shard;
    dsvk_error *err;
};

static const char *show(char *out, const char *name) { return dsvk_escape(out, SHOWN, name, strlen(name)); }

static dsvk_status bad_member(const struct header *h, const char *name, const char *key, dsvk_json_value value,
                              const char *why) {
    char shown[SHOWN], text[SHOWN];
    return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor %s: %s is %s, %s", h->path, show(shown, name), key,
                     dsvk_json_quote(value, text, sizeof text), why);
}

static dsvk_status read_dtype(const struct header *h, const char *name, dsvk_json_value value, dsvk_dtype *dtype) {
    char shown[SHOWN], text[SHOWN];
    if (dsvk_json_kind(value) != '"')
        return bad_member(h, name, "dtype", value, "which is not a string");
    if (!find_dtype(value, dtype))
        return dsvk_fail(h->err, DSVK_UNSUPPORTED, "%s: tensor %s has the unknown type %s", h->path, show(shown, name),
                         dsvk_json_quote(value, text, sizeof text));
    return DSVK_OK;
}

/* Shape, and in *bytes what that many elements of the type take (M06, M08). */
static dsvk_status read_shape(const struct header *h, const char *name, dsvk_json_value value, dsvk_file_tensor *t,
                              uint64_t *bytes) {
    dsvk_json_value dimension;
    uint64_t bits = dsvk_dtype_bits(t->dtype);
    t->rank = 0;
    if (dsvk_json_kind(value) != '[')
        return bad_member(h, name, "shape", value, "which is not a list of sizes");
    for (dsvk_json_walk walk = { 0 }; dsvk_json_element(value, &walk, &dimension); t->rank++) {
        if (t->rank == DSVK_MAX_RANK)
            return bad_member(h, name, "shape", value, "which has more than 8 dimensions");
        if (!dsvk_json_uint(dimension, &t->shape[t->rank]) || t->shape[t->rank] > INT64_MAX)
            return bad_member(h, name, "shape", value, "where every dimension must be a whole number below 2^63");
        if (!dsvk_mul(bits, t->shape[t->rank], &bits))
            return bad_member(h, name, "shape", value, "whose size in bits does not fit 64 bits");
    }
    if (bits % 8)
        return bad_member(h, name, "shape", value, "which does not fill whole bytes");
    *bytes = bits / 8;
    return DSVK_OK;
}

/* Relative to the data; checked against the shape here and against the file when all are known. */
static dsvk_status read_offsets(const struct header *h, const char *name, dsvk_json_value value, uint64_t bytes,
                                dsvk_file_tensor *t) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value begin, end, more;
    char shown[SHOWN], shape[SHOWN];
    if (dsvk_json_kind(value) != '[' || !dsvk_json_element(value, &walk, &begin) ||
        !dsvk_json_element(value, &walk, &end) || dsvk_json_element(value, &walk, &more) ||
        !dsvk_json_uint(begin, &t->begin) || !dsvk_json_uint(end, &t->end) || t->end > INT64_MAX)
        return bad_member(h, name, "data_offsets", value, "which is not two whole numbers below 2^63");
    if (t->begin > t->end)
        return bad_member(h, name, "data_offsets", value, "which ends before it begins");
    if (t->end - t->begin != bytes)
        return dsvk_fail(h->err, DSVK_FORMAT,
                         "%s: tensor %s is %s, which is %" PRIu64 " bytes, but data_offsets %" PRIu64 " to %" PRIu64
                         " hold %" PRIu64,
                         h->path, show(shown, name), dsvk_file_tensor_describe(shape, sizeof shape, t), bytes, t->begin,
                         t->end, t->end - t->begin);
    return DSVK_OK;
}

static dsvk_status read_tensor(const struct header *h, const char *name, dsvk_json_value value, dsvk_file_tensor *t) {
    dsvk_json_value dtype = { 0 }, shape = { 0 }, offsets = { 0 }, key, member;
    char shown[SHOWN];
    uint64_t bytes = 0;
    if (dsvk_json_kind(value) != '{')
        return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor %s is %s, not an object", h->path, show(shown, name),
                         dsvk_json_kind_name(value));
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(value, &walk, &key, &member);) {
        if (dsvk_json_equals(key, "dtype"))
            dtype = member;
        else if (dsvk_json_equals(key, "shape"))
            shape = member;
        else if (dsvk_json_equals(key, "data_offsets"))
            offsets = member;
    }
    if (!dtype.text || !shape.text || !offsets.text)
        return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor %s has no %s", h->path, show(shown, name),
                         !dtype.text ? "dtype" : !shape.text ? "shape" : "data_offsets");
    DSVK_TRY(read_dtype(h, name, dtype, &t->dtype));
    DSVK_TRY(read_shape(h, name, shape, t, &bytes));
    return read_offsets(h, name, offsets, bytes, t);
}

/* ---- the layout of a shard ---- */

static int compare_begin(const void *a, const void *b) {
    const dsvk_file_tensor *x = &((const struct entry *)a)->tensor, *y = &((const struct entry *)b)->tensor;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Sorts the shard's tensors by their bytes and proves that they tile the data exactly (M01, M07). */
static dsvk_status check_layout(const struct header *h, struct entry *entries, size_t n) {
    char shown[SHOWN], before[SHOWN];
    uint64_t at = 0;
    qsort(entries, n, sizeof *entries, compare_begin);
    for (size_t i = 0; i < n; i++) {
        const dsvk_file_tensor *t = &entries[i].tensor;
        const char *previous = i ? show(before, entries[i - 1].file_name) : "the beginning of the data";
        if (t->begin < at)
            return dsvk_fail(h->err, DSVK_FORMAT,
                             "%s: tensor %s begins at %" PRIu64 " and overlaps tensor %s, which ends at "
                             "%" PRIu64,
                             h->path, show(shown, entries[i].file_name), t->begin, previous, at);
        if (t->begin > at)
            return dsvk_fail(h->err, DSVK_FORMAT,
                             "%s: %" PRIu64 " bytes belong to no tensor, between %s (ends at %" PRIu64
                             ") and tensor %s (begins at %" PRIu64 ")",
                             h->path, t->begin - at, previous, at, show(shown, entries[i].file_name), t->begin);
        at = t->end;
    }
    if (at != h->data_size)
        return dsvk_fail(h->err, DSVK_FORMAT,
                         "%s: expected %" PRIu64 " bytes (the last tensor, %s, ends there), the file has "
                         "%" PRIu64,
                         h->path, h->data_at + at, n ? show(shown, entries[n - 1].file_name) : "none",
                         h->data_at + h->data_size);
    for (size_t i = 0; i < n; i++) {
        entries[i].tensor.begin += h->data_at;
        entries[i].tensor.end += h->data_at;
    }
    return DSVK_OK;
}

/* M13. */
static dsvk_status check_name(const struct header *h, dsvk_json_value key, char *name) {
    char shown[SHOWN];
    size_t n = dsvk_json_string(key, name, DSVK_MAX_TENSOR_NAME + 1);
    const char *why = n == 0 ? "is empty" : NULL;
    if (n > DSVK_MAX_TENSOR_NAME)
        return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor name %s has %zu bytes, allowed are %u", h->path,
                         show(shown, name), n, DSVK_MAX_TENSOR_NAME);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            why = "has a control byte";
    if (why)
        return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor name \"%s\" %s", h->path, show(shown, name), why);
    return DSVK_OK;
}

static dsvk_status check_metadata(const struct header *h, dsvk_json_value metadata) {
    dsvk_json_value key, value;
    char shown[SHOWN];
    if (dsvk_json_kind(metadata) != '{')
        return dsvk_fail(h->err, DSVK_FORMAT, "%s: __metadata__ is %s, not an object", h->path,
                         dsvk_json_kind_name(metadata));
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(metadata, &walk, &key, &value);)
        if (dsvk_json_kind(value) != '"')
            return dsvk_fail(h->err, DSVK_FORMAT, "%s: __metadata__ %s is %s, not a string", h->path,
                             dsvk_json_quote(key, shown, sizeof shown), dsvk_json_kind_name(value));
    return DSVK_OK;
}

/* First walk: how many tensors, and how many bytes their names take in both spellings. */
static dsvk_status count_tensors(const struct header *h, size_t already, size_t *count, size_t *name_bytes) {
    dsvk_json_value key, value;
    char name[DSVK_MAX_TENSOR_NAME + 1], native[2 * DSVK_MAX_TENSOR_NAME];
    *count = *name_bytes = 0;
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(h->root, &walk, &key, &value);) {
        if (dsvk_json_equals(key, "__metadata__")) {
            DSVK_TRY(check_metadata(h, value));
            continue;
        }
        DSVK_TRY(check_name(h, key, name));
        if (already + ++*count > DSVK_MAX_TENSORS)
            return dsvk_fail(h->err, DSVK_LIMIT, "%s: more than %u tensors", h->path, DSVK_MAX_TENSORS);
        if (!dsvk_tensor_native_name(native, sizeof native, name, strlen(name)))
            return dsvk_fail(h->err, DSVK_FORMAT, "%s: tensor name %s is too long", h->path, name);
        *name_bytes += strlen(native) + 1 + (strcmp(native, name) ? strlen(name) + 1 : 0);
    }
    return DSVK_OK;
}

static const char *keep(char **arena, const char *text) {
    size_t n = strlen(text) + 1;
    char *kept = memcpy(*arena, text, n);
    *arena += n;
    return kept;
}

/* Second walk: the entries, their names in `arena`. */
static dsvk_status fill_entries(const struct header *h, struct entry *entry, char *arena) {
    dsvk_json_value key, value;
    char name[DSVK_MAX_TENSOR_NAME + 1], native[2 * DSVK_MAX_TENSOR_NAME];
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(h->root, &walk, &key, &value);) {
        if (dsvk_json_equals(key, "__metadata__"))
            continue;
        dsvk_json_string(key, name, sizeof name);
        dsvk_tensor_native_name(native, sizeof native, name, strlen(name));
        *entry = (struct entry) { .tensor.shard = h->shard };
        DSVK_TRY(read_tensor(h, name, value, &entry->tensor));
        entry->tensor.name = keep(&arena, native);
        entry->file_name = strcmp(native, name) ? keep(&arena, name) : entry->tensor.name;
        entry++;
    }
    return DSVK_OK;
}

static dsvk_status read_entries(dsvk_checkpoint *ck, const struct header *h) {
    size_t count, name_bytes;
    DSVK_TRY(count_tensors(h, ck->count, &count, &name_bytes));
    char *arena = ck->shards[h->shard].names = dsvk_alloc(name_bytes);
    if (!arena)
        return dsvk_fail_nomem(h->err, name_bytes);
    struct entry *entries = dsvk_realloc(ck->entries, (ck->count + count) * sizeof *entries);
    if (!entries)
        return dsvk_fail_nomem(h->err, (ck->count + count) * sizeof *entries);
    ck->entries = entries;
    DSVK_TRY(fill_entries(h, entries + ck->count, arena));
    DSVK_TRY(check_layout(h, entries + ck->count, count));
    ck->count += count;
    ck->bytes += h->data_size;
    return DSVK_OK;
}

/* ---- the header's frame ---- */

/* What the file seems to be instead (M27), or NULL. */
static const char *stranger(const unsigned char *head, size_t n) {
    const char *kind = dsvk_looks_like(head, n);
    size_t printable = 0;
    while (printable < n &&
           ((head[printable] >= 0x20 && head[printable] < 0x7f) || strchr("\t\r\n", head[printable])) &&
           head[printable])
        printable++;
    if (kind || n < 8 || printable < n) /* fewer bytes may be a cut header length */
        return kind;
    return head[0] == '{' || head[0] == '[' ? "JSON text (a server's error message?)" : "plain text";
}

static dsvk_status read_header_size(const dsvk_file *file, uint64_t *size, dsvk_error *err) {
    unsigned char head[DSVK_LOOKS_LIKE_BYTES];
    size_t n = file->size < sizeof head ? (size_t)file->size : sizeof head;
    DSVK_TRY(dsvk_file_read(file, 0, head, n, err));
    uint64_t length = 0;
    for (size_t i = 8; n >= 8 && i-- > 0;)
        length = length << 8 | head[i];
    *size = length;
    if (n >= 10 && length >= 2 && length <= DSVK_MAX_HEADER && length <= file->size - 8 && head[8] == '{')
        return DSVK_OK;
    const char *kind = stranger(head, n);
    if (kind)
        return dsvk_fail(err, DSVK_FORMAT, "%s: is no safetensors file, it looks like %s", file->path, kind);
    if (n < 8)
        return dsvk_fail(err, DSVK_FORMAT, "%s: expected at least 8 bytes, the file has %" PRIu64, file->path,
                         file->size);
    if (length > DSVK_MAX_HEADER)
        return dsvk_fail(err, length > INT64_MAX ? DSVK_FORMAT : DSVK_LIMIT,
                         "%s: header length %" PRIu64 ", the limit is %u", file->path, length, DSVK_MAX_HEADER);
    if (length < 2)
        return dsvk_fail(err, DSVK_FORMAT, "%s: header length %" PRIu64 ", the shortest is 2", file->path, length);
    if (length > file->size - 8)
        return dsvk_fail(err, DSVK_FORMAT,
                         "%s: expected at least %" PRIu64 " bytes (a header of %" PRIu64 "), the file has %" PRIu64,
                         file->path, length + 8, length, file->size);
    return dsvk_fail(err, DSVK_FORMAT, "%s: the header begins with byte 0x%02x at offset 8 instead of '{'", file->path,
                     head[8]);
}

/* M03: one object, then nothing but spaces. */
static dsvk_status check_header_text(const dsvk_file *file, const char *text, size_t n, dsvk_error *err) {
    char what[PATH_MAX + 16];
    snprintf(what, sizeof what, "%s: header", file->path);
    DSVK_TRY(dsvk_json_check(text, n, what, err));
    for (size_t i = dsvk_json_root(text, n).n; i < n; i++)
        if (text[i] != ' ')
            return dsvk_fail(err, DSVK_FORMAT, "%s: byte 0x%02x after the JSON at offset %zu", what,
                             (unsigned char)text[i], i);
    return DSVK_OK;
}

static dsvk_status read_shard(dsvk_checkpoint *ck, uint32_t shard, dsvk_error *err) {
    const dsvk_file *file = &ck->shards[shard].file;
    uint64_t size;
    DSVK_TRY(read_header_size(file, &size, err));
    char *text = dsvk_alloc((size_t)size);
    if (!text)
        return dsvk_fail_nomem(err, size);
    struct header h = {
        .path = file->path, .data_at = 8 + size, .data_size = file->size - 8 - size, .shard = shard, .err = err
    };
    dsvk_status status;
    DSVK_GOTO(dsvk_file_read(file, 8, text, (size_t)size, err));
    DSVK_GOTO(check_header_text(file, text, (size_t)size, err));
    h.root = dsvk_json_root(text, (size_t)size);
    status = read_entries(ck, &h);
fail:
    dsvk_free(text);
    return status;
}

/* ---- names across shards ---- */

static int compare_native(const void *a, const void *b, void *entries) {
    const struct entry *all = entries;
    return strcmp(all[*(const uint32_t *)a].tensor.name, all[*(const uint32_t *)b].tensor.name);
}

/* Sorts by name; no two tensors may end up with the same one (M16, 2.4). */
static dsvk_status sort_names(dsvk_checkpoint *ck, dsvk_error *err) {
    ck->by_name = dsvk_alloc_zero(ck->count, sizeof *ck->by_name);
    if (!ck->by_name)
        return dsvk_fail_nomem(err, ck->count * sizeof *ck->by_name);
    for (size_t i = 0; i < ck->count; i++)
        ck->by_name[i] = (uint32_t)i;
    qsort_r(ck->by_name, ck->count, sizeof *ck->by_name, compare_native, ck->entries);
    for (size_t i = 1; i < ck->count; i++) {
        const struct entry *a = &ck->entries[ck->by_name[i - 1]], *b = &ck->entries[ck->by_name[i]];
        char first[SHOWN], second[SHOWN];
        if (strcmp(a->tensor.name, b->tensor.name))
            continue;
        if (a->tensor.shard != b->tensor.shard)
            return dsvk_fail(err, DSVK_FORMAT, "tensor %s is in two shards: %s and %s", show(first, a->tensor.name),
                             ck->shards[a->tensor.shard].file.path, ck->shards[b->tensor.shard].file.path);
        return dsvk_fail(err, DSVK_FORMAT, "%s: tensors %s and %s are two spellings of one name",
                         ck->shards[a->tensor.shard].file.path, show(first, a->file_name), show(second, b->file_name));
    }
    return DSVK_OK;
}

const dsvk_file_tensor *dsvk_checkpoint_find(const dsvk_checkpoint *ck, const char *name) {
    size_t low = 0, high = ck->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const dsvk_file_tensor *t = &ck->entries[ck->by_name[middle]].tensor;
        int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- the index ---- */

struct index {
    const char *folder, *path;
    dsvk_json_value weight_map;
    char (*names)[SHARD_NAME]; /* [n] distinct shard names, sorted */
    uint32_t n;
    dsvk_error *err;
};

/* M17: a plain name of a file in the folder. */
static dsvk_status check_shard_name(const struct index *index, dsvk_json_value value, char *name) {
    char shown[SHOWN];
    bool plain = dsvk_json_kind(value) == '"';
    size_t n = plain ? dsvk_json_string(value, name, SHARD_NAME) : 0;
    plain = plain && n > 0 && n < SHARD_NAME && !strpbrk(name, "/\\:") && !strstr(name, "..") && strcmp(name, ".");
    for (size_t i = 0; plain && i < n; i++)
        plain = (unsigned char)name[i] >= 0x20 && name[i] != 0x7f;
    if (plain)
        return DSVK_OK;
    return dsvk_fail(index->err, DSVK_FORMAT, "%s: the shard name %s is not the plain name of a file in the folder",
                     index->path, dsvk_json_quote(value, shown, sizeof shown));
}

/* Position of `name` among the shard names, or where it belongs. */
static uint32_t place_shard(const struct index *index, const char *name, bool *found) {
    uint32_t low = 0, high = index->n;
    *found = false;
    while (low < high && !*found) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, index->names[middle]);
        *found = order == 0;
        if (order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

/* Every distinct shard name, before anything is opened. */
static dsvk_status collect_shards(struct index *index) {
    dsvk_json_value key, value;
    char name[SHARD_NAME];
    size_t entries = 0;
    bool found;
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(index->weight_map, &walk, &key, &value);) {
        DSVK_TRY(check_shard_name(index, value, name));
        if (++entries > DSVK_MAX_TENSORS)
            return dsvk_fail(index->err, DSVK_LIMIT, "%s: more than %u tensors", index->path, DSVK_MAX_TENSORS);
        uint32_t at = place_shard(index, name, &found);
        if (found)
            continue;
        if (index->n == MAX_SHARDS)
            return dsvk_fail(index->err, DSVK_LIMIT, "%s: more than %u shards", index->path, MAX_SHARDS);
        memmove(index->names[at + 1], index->names[at], (index->n - at) * sizeof *index->names);
        memcpy(index->names[at], name, sizeof name);
        index->n++;
    }
    return entries ? DSVK_OK : dsvk_fail(index->err, DSVK_FORMAT, "%s: weight_map names no tensor", index->path);
}

/* The tensor that made the index name this shard, for messages. */
static const char *first_tensor_of(const struct index *index, uint32_t shard, char *shown) {
    dsvk_json_value key, value;
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(index->weight_map, &walk, &key, &value);)
        if (dsvk_json_equals(value, index->names[shard]))
            return dsvk_json_quote(key, shown, SHOWN);
    return "none";
}

/* M19: a link in the folder may lead anywhere inside it, or, as in a download cache, from <model>/snapshots/<revision>
 * to <model>/blobs; an index must not reach other files. */
static bool stays_inside(const char *folder, const char *path) {
    char root[PATH_MAX], target[PATH_MAX];
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
        return true;
    if (!realpath(folder, root) || !realpath(path, target))
        return true; /* opening says why */
    size_t n = strlen(root);
    if (strncmp(target, root, n) == 0 && target[n] == '/')
        return true;
    char *revision = strrchr(root, '/');
    *revision = 0;
    char *snapshots = strrchr(root, '/');
    if (!snapshots || strcmp(snapshots, "/snapshots"))
        return false;
    n = (size_t)(snapshots - root);
    return strncmp(target, root, n) == 0 && strncmp(target + n, "/blobs/", 7) == 0;
}

static dsvk_status open_shards(dsvk_checkpoint *ck, const struct index *index) {
    ck->shards = dsvk_alloc_zero(index->n, sizeof *ck->shards);
    if (!ck->shards)
        return dsvk_fail_nomem(index->err, index->n * sizeof *ck->shards);
    for (uint32_t i = 0; i < index->n; i++) {
        char path[PATH_MAX], shown[SHOWN], tensor[SHOWN];
        dsvk_error reason;
        if (!dsvk_path_join(path, sizeof path, index->folder, index->names[i]))
            return dsvk_fail(index->err, DSVK_IO, "%s: the path of shard %s is too long", index->path,
                             show(shown, index->names[i]));
        if (!stays_inside(index->folder, path))
            return dsvk_fail(index->err, DSVK_FORMAT, "%s: shard %s is a link that leaves the folder", index->path,
                             show(shown, index->names[i]));
        dsvk_status status = dsvk_file_open(&ck->shards[i].file, path, &reason);
        if (status == DSVK_IO)
            return dsvk_fail(index->err, status, "shard of tensor %s: %s", first_tensor_of(index, i, tensor),
                             reason.message);
        if (status != DSVK_OK)
            return dsvk_fail(index->err, status, "%s", reason.message);
        ck->n_shards = i + 1;
    }
    for (uint32_t i = 0; i < index->n; i++)
        DSVK_TRY(read_shard(ck, i, index->err));
    return DSVK_OK;
}

/* M16: every tensor of the index must be where it says. */
static dsvk_status check_index(dsvk_checkpoint *ck, const struct index *index) {
    dsvk_json_value key, value;
    char name[DSVK_MAX_TENSOR_NAME + 1], native[2 * DSVK_MAX_TENSOR_NAME], shard[SHARD_NAME], shown[SHOWN];
    size_t listed = 0;
    bool found;
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(index->weight_map, &walk, &key, &value); listed++) {
        size_t n = dsvk_json_string(key, name, sizeof name);
        dsvk_json_string(value, shard, sizeof shard);
        const dsvk_file_tensor *t = NULL;
        if (n <= DSVK_MAX_TENSOR_NAME && dsvk_tensor_native_name(native, sizeof native, name, n))
            t = dsvk_checkpoint_find(ck, native);
        if (!t)
            return dsvk_fail(index->err, DSVK_FORMAT, "%s: tensor %s is listed in shard %s, which does not have it",
                             index->path, dsvk_json_quote(key, shown, sizeof shown), shard);
        if (t->shard != place_shard(index, shard, &found))
            return dsvk_fail(index->err, DSVK_FORMAT, "%s: tensor %s is listed in shard %s, but it is in shard %s",
                             index->path, dsvk_json_quote(key, shown, sizeof shown), shard, index->names[t->shard]);
    }
    ck->unlisted = ck->count > listed ? ck->count - listed : 0;
    return DSVK_OK;
}

static dsvk_status read_index(dsvk_checkpoint *ck, struct index *index, const char *text, size_t n) {
    const char *kind = dsvk_looks_like(text, n < DSVK_LOOKS_LIKE_BYTES ? n : DSVK_LOOKS_LIKE_BYTES);
    if (kind)
        return dsvk_fail(index->err, DSVK_FORMAT, "%s: looks like %s", index->path, kind);
    DSVK_TRY(dsvk_json_check(text, n, index->path, index->err));
    if (!dsvk_json_find(dsvk_json_root(text, n), "weight_map", &index->weight_map) ||
        dsvk_json_kind(index->weight_map) != '{')
        return dsvk_fail(index->err, DSVK_FORMAT, "%s: has no object weight_map", index->path);
    index->names = dsvk_alloc_zero(MAX_SHARDS + 1, sizeof *index->names);
    if (!index->names)
        return dsvk_fail_nomem(index->err, (MAX_SHARDS + 1) * sizeof *index->names);
    DSVK_TRY(collect_shards(index));
    DSVK_TRY(open_shards(ck, index));
    DSVK_TRY(sort_names(ck, index->err));
    return check_index(ck, index);
}

static dsvk_status open_sharded(dsvk_checkpoint *ck, const char *folder, const char *path, dsvk_error *err) {
    struct index index = { .folder = folder, .path = path, .err = err };
    char *text = NULL;
    size_t n;
    dsvk_status status = dsvk_file_slurp(path, INDEX_BYTES, &text, &n, err);
    if (status == DSVK_OK)
        status = read_index(ck, &index, text, n);
    dsvk_free(index.names);
    dsvk_free(text);
    return status;
}

static dsvk_status open_single(dsvk_checkpoint *ck, const char *path, dsvk_error *err) {
    ck->shards = dsvk_alloc_zero(1, sizeof *ck->shards);
    if (!ck->shards)
        return dsvk_fail_nomem(err, sizeof *ck->shards);
    DSVK_TRY(dsvk_file_open(&ck->shards[0].file, path, err));
    ck->n_shards = 1;
    DSVK_TRY(read_shard(ck, 0, err));
    return sort_names(ck, err);
}

/* ---- the handle ---- */

/* A folder; anything else is told apart so that the message helps (M18, M27). */
static dsvk_status check_folder(const char *folder, dsvk_error *err) {
    struct stat st;
    dsvk_file file;
    if (stat(folder, &st) != 0)
        return dsvk_fail(err, DSVK_IO, "%s: cannot be opened: %s", folder, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return DSVK_OK;
    DSVK_TRY(dsvk_file_open(&file, folder, err));
    dsvk_file_close(&file);
    const char *kind = dsvk_file_looks_like(folder);
    return dsvk_fail(err, DSVK_FORMAT, "%s: is a file%s%s; a model is a folder with config.json and %s", folder,
                     kind ? " that looks like " : "", kind ? kind : "", single_file);
}

static dsvk_status open_folder(dsvk_checkpoint *ck, const char *folder, dsvk_error *err) {
    char path[PATH_MAX];
    struct stat st;
    DSVK_TRY(check_folder(folder, err));
    if (!dsvk_path_join(path, sizeof path, folder, index_file))
        return dsvk_fail(err, DSVK_IO, "the path of %s is longer than %d bytes", index_file, PATH_MAX);
    if (lstat(path, &st) == 0)
        return open_sharded(ck, folder, path, err);
    dsvk_path_join(path, sizeof path, folder, single_file);
    if (lstat(path, &st) != 0)
        return dsvk_fail(err, DSVK_IO, "%s: has neither %s nor %s", folder, single_file, index_file);
    return open_single(ck, path, err);
}

dsvk_status dsvk_checkpoint_open(dsvk_checkpoint **checkpoint, const char *folder, dsvk_error *err) {
    *checkpoint = NULL;
    dsvk_checkpoint *ck = dsvk_alloc_zero(1, sizeof *ck);
    if (!ck)
        return dsvk_fail_nomem(err, sizeof *ck);
    dsvk_status status = open_folder(ck, folder, err);
    if (status != DSVK_OK) {
        dsvk_checkpoint_close(ck);
        return status;
    }
    *checkpoint = ck;
    return DSVK_OK;
}

void dsvk_checkpoint_close(dsvk_checkpoint *ck) {
    if (!ck)
        return;
    for (uint32_t i = 0; i < ck->n_shards; i++) {
        dsvk_file_close(&ck->shards[i].file);
        dsvk_free(ck->shards[i].names);
    }
    dsvk_free(ck->shards);
    dsvk_free(ck->by_name);
    dsvk_free(ck->entries);
    dsvk_free(ck);
}

size_t dsvk_checkpoint_count(const dsvk_checkpoint *ck) { return ck->count; }
uint64_t dsvk_checkpoint_bytes(const dsvk_checkpoint *ck) { return ck->bytes; }
uint32_t dsvk_checkpoint_shards(const dsvk_checkpoint *ck) { return ck->n_shards; }
size_t dsvk_checkpoint_unlisted(const dsvk_checkpoint *ck) { return ck->unlisted; }

const dsvk_file_tensor *dsvk_checkpoint_tensor(const dsvk_checkpoint *ck, size_t i) {
    assert(i < ck->count);
    return &ck->entries[i].tensor;
}

size_t dsvk_checkpoint_position(const dsvk_checkpoint *ck, const dsvk_file_tensor *tensor) {
    return (size_t)((const struct entry *)tensor - ck->entries);
}

const char *dsvk_checkpoint_shard_path(const dsvk_checkpoint *ck, uint32_t shard) {
    assert(shard < ck->n_shards);
    return ck->shards[shard].file.path;
}

dsvk_status dsvk_checkpoint_read(const dsvk_checkpoint *ck, const dsvk_file_tensor *tensor, uint64_t offset, void *out,
                                 size_t n, dsvk_error *err) {
    assert(offset <= tensor->end - tensor->begin && n <= tensor->end - tensor->begin - offset);
    return dsvk_file_read(&ck->shards[tensor->shard].file, tensor->begin + offset, out, n, err);
}

dsvk_status dsvk_checkpoint_unchanged(const dsvk_checkpoint *ck, dsvk_error *err) {
    for (uint32_t i = 0; i < ck->n_shards; i++)
        DSVK_TRY(dsvk_file_unchanged(&ck->shards[i].file, err));
    return DSVK_OK;
}
