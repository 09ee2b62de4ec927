/* One checkpoint file: every row M of the fault list that its bytes decide, and that a good one reads back exactly.
 * test_checkpoint_folder.c has folders of them.
 *
 * Edge list: every length of a small file, every byte of it replaced, header lengths around every limit, ranks 0, 8 and
 * 9, empty tensors, sizes that overflow, gaps and overlaps of one byte, reads that come in pieces. After every refusal a
 * good checkpoint still opens in the same process. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_checkpoint.h"

/* ---- reads that the tests can disturb (M22) ---- */

static struct {
    bool pieces;       /* at most 3 bytes at a time, every other call interrupted */
    uint64_t fail_at;  /* EIO for reads that reach this offset; 0: never */
    unsigned calls;
} disturbance;

ssize_t pread(int fd, void *out, size_t n, off_t offset);
ssize_t pread(int fd, void *out, size_t n, off_t offset) {
    if (disturbance.pieces && disturbance.calls++ % 2) {
        errno = EINTR;
        return -1;
    }
    if (disturbance.fail_at && (uint64_t)offset + n > disturbance.fail_at) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, out, disturbance.pieces && n > 3 ? 3 : n, offset);
}

/* ---- what a good one gives ---- */

static void test_good(void) {
    dsvk_error err;
    uint8_t bytes[41];
    char text[64];
    put_good(in("tiny"));
    dsvk_checkpoint *ck = OPENS(in("tiny"));
    if (!ck)
        return;
    CHECK(dsvk_checkpoint_count(ck) == 4 && dsvk_checkpoint_bytes(ck) == 41 && dsvk_checkpoint_shards(ck) == 1 &&
          dsvk_checkpoint_unlisted(ck) == 0, "counts");
    CHECK(strstr(dsvk_checkpoint_shard_path(ck, 0), "tiny/model.safetensors"), "path");
    const dsvk_file_tensor *t = dsvk_checkpoint_find(ck, "layers.0.attn.wq_a.weight");
    CHECK(t && t->dtype == DSVK_DTYPE_F8_E4M3 && t->rank == 2 && t->shape[0] == 1 && t->shape[1] == 13 &&
              t->shard == 0 && t->end - t->begin == 13,
          "wq_a");
    CHECK(t && strcmp(dsvk_file_tensor_describe(text, sizeof text, t), "[1, 13] F8_E4M3") == 0, "description %s", text);
    CHECK(t && dsvk_checkpoint_read(ck, t, 3, bytes, 10, &err) == DSVK_OK && bytes[0] == 27 && bytes[9] == 36, "bytes");
    t = dsvk_checkpoint_find(ck, "norm.weight");
    CHECK(t && t->rank == 0 && t->end - t->begin == 4, "scalar");
    CHECK(dsvk_checkpoint_find(ck, "norm") == NULL && dsvk_checkpoint_find(ck, "") == NULL, "absent names");
    uint64_t at = 0;
    for (size_t i = 0; i < dsvk_checkpoint_count(ck); i++) {
        t = dsvk_checkpoint_tensor(ck, i);
        CHECK(dsvk_checkpoint_position(ck, t) == i && dsvk_checkpoint_find(ck, t->name) == t && t->begin >= at,
              "order");
        CHECK(dsvk_checkpoint_read(ck, t, 0, bytes, (size_t)(t->end - t->begin), &err) == DSVK_OK, "%s", err.message);
        at = t->begin;
    }
    CHECK(dsvk_checkpoint_unchanged(ck, &err) == DSVK_OK, "unchanged");
    dsvk_checkpoint_close(ck);
    dsvk_checkpoint_close(NULL);
}

static void test_dtypes(void) {
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = { { "BOOL", 8 },    { "U8", 8 },      { "I8", 8 },   { "F4", 4 },      { "F8_E4M3", 8 },
                  { "F8_E8M0", 8 }, { "F8_E5M2", 8 }, { "I16", 16 }, { "U16", 16 },    { "F16", 16 },
                  { "BF16", 16 },   { "I32", 32 },    { "U32", 32 }, { "F32", 32 },    { "F64", 64 },
                  { "I64", 64 },    { "U64", 64 },    { "C64", 64 }, { "F6_E2M3", 6 }, { "F6_E3M2", 6 } };
    CHECK(DSVK_COUNT(types) == DSVK_DTYPE_COUNT, "a type without a row here");
    for (size_t i = 0; i < DSVK_COUNT(types); i++) {
        char header[200];
        fresh_folder();
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[3,8],\"data_offsets\":[0,%u]}}",
                 types[i].name, 3 * types[i].bits);
        put_container(in("bad/model.safetensors"), header, 3 * types[i].bits);
        dsvk_checkpoint *ck = OPENS(in("bad"));
        const dsvk_file_tensor *t = ck ? dsvk_checkpoint_find(ck, "a") : NULL;
        CHECK(t && strcmp(dsvk_dtype_name(t->dtype), types[i].name) == 0 && dsvk_dtype_bits(t->dtype) == types[i].bits,
              "%s", types[i].name);
        dsvk_checkpoint_close(ck);
    }
}

/* Spec 2.4 and A.1. */
static void test_names(void) {
    static const struct {
        const char *file, *native;
    } rows[] = {
        { "embed.weight", "embed.weight" },
        { "model.embed_tokens.weight", "embed.weight" },
        { "model.embed.weight", "embed.weight" },
        { "lm_head.weight", "head.weight" },
        { "model.norm.weight", "norm.weight" },
        { "model.hc_head.hc_fn", "hc_head_fn" },
        { "hc_head_base", "hc_head_base" },
        { "hc_head.hc_scale", "hc_head_scale" },
        { "model.layers.3.input_layernorm.weight", "layers.3.attn_norm.weight" },
        { "layers.3.post_attention_layernorm.weight", "layers.3.ffn_norm.weight" },
        { "layers.3.attn_hc.fn", "layers.3.hc_attn_fn" },
        { "layers.3.ffn_hc.base", "layers.3.hc_ffn_base" },
        { "layers.3.ffn_hc.scale", "layers.3.hc_ffn_scale" },
        { "layers.3.hc_attn_scale", "layers.3.hc_attn_scale" },
        { "layers.3.self_attn.sinks", "layers.3.attn.attn_sink" },
        { "layers.3.self_attn.attn_sink", "layers.3.attn.attn_sink" },
        { "layers.3.self_attn.q_a_proj.weight", "layers.3.attn.wq_a.weight" },
        { "layers.3.self_attn.q_a_proj.weight_scale_inv", "layers.3.attn.wq_a.scale" },
        { "layers.3.self_attn.q_b_proj.weight", "layers.3.attn.wq_b.weight" },
        { "layers.3.self_attn.kv_proj.weight", "layers.3.attn.wkv.weight" },
        { "layers.3.self_attn.o_a_proj.weight", "layers.3.attn.wo_a.weight" },
        { "layers.3.self_attn.o_b_proj.scale", "layers.3.attn.wo_b.scale" },
        { "layers.3.self_attn.q_a_norm.weight", "layers.3.attn.q_norm.weight" },
        { "layers.3.self_attn.q_a_layernorm.weight", "layers.3.attn.q_norm.weight" },
        { "layers.3.self_attn.kv_norm.weight", "layers.3.attn.kv_norm.weight" },
        { "layers.3.self_attn.compressor.kv_proj.weight", "layers.3.attn.compressor.wkv.weight" },
        { "layers.3.self_attn.compressor.gate_proj.weight", "layers.3.attn.compressor.wgate.weight" },
        { "layers.3.self_attn.compressor.position_bias", "layers.3.attn.compressor.ape" },
        { "layers.3.self_attn.compressor.kv_norm.weight", "layers.3.attn.compressor.norm.weight" },
        { "layers.3.self_attn.compressor.indexer.q_b_proj.weight", "layers.3.attn.indexer.wq_b.weight" },
        { "layers.3.self_attn.compressor.indexer.weights_proj.weight", "layers.3.attn.indexer.weights_proj.weight" },
        { "layers.3.self_attn.compressor.indexer.scorer.weights_proj.weight",
          "layers.3.attn.indexer.weights_proj.weight" },
        { "layers.3.self_attn.compressor.indexer.kv_proj.weight", "layers.3.attn.indexer.compressor.wkv.weight" },
        { "layers.3.self_attn.compressor.indexer.gate_proj.weight", "layers.3.attn.indexer.compressor.wgate.weight" },
        { "layers.3.self_attn.compressor.indexer.position_bias", "layers.3.attn.indexer.compressor.ape" },
        { "layers.3.self_attn.compressor.indexer.kv_norm.weight", "layers.3.attn.indexer.compressor.norm.weight" },
        { "layers.3.attn.indexer.compressor.norm.weight", "layers.3.attn.indexer.compressor.norm.weight" },
        { "layers.3.mlp.gate.weight", "layers.3.ffn.gate.weight" },
        { "layers.3.mlp.gate.tid2eid", "layers.3.ffn.gate.tid2eid" },
        { "layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias" },
        { "layers.3.mlp.experts.7.gate_proj.weight", "layers.3.ffn.experts.7.w1.weight" },
        { "layers.3.mlp.experts.7.down_proj.weight_scale_inv", "layers.3.ffn.experts.7.w2.scale" },
        { "layers.3.mlp.shared_experts.up_proj.weight", "layers.3.ffn.shared_experts.w3.weight" },
        { "model.mtp.0.e_proj.weight", "mtp.0.e_proj.weight" },
        { "mtp.0.hc_head_fn", "mtp.0.hc_head_fn" },
        { "mtp.0.self_attn.q_a_proj.weight", "mtp.0.attn.wq_a.weight" },
        { "model.", "model." },
        { "something.else", "something.else" },
        { "..", ".." },
        { "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r" },
    };
    char native[128];
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        size_t n = strlen(rows[i].native);
        bool fits = dsvk_tensor_native_name(native, sizeof native, rows[i].file, strlen(rows[i].file));
        CHECK(fits && strcmp(native, rows[i].native) == 0, "%s -> %s, expected %s", rows[i].file, native,
              rows[i].native);
        CHECK(dsvk_tensor_native_name(native, n + 1, rows[i].file, strlen(rows[i].file)), "%s fits exactly",
              rows[i].file);
        CHECK(!dsvk_tensor_native_name(native, n, rows[i].file, strlen(rows[i].file)), "%s does not fit", rows[i].file);
    }
    fresh_folder();
    put_container(in("bad/model.safetensors"),
                  "{\"model.layers.0.self_attn.q_a_proj.weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
                  "offsets\":[0,4]}}",
                  4);
    dsvk_checkpoint *ck = OPENS(in("bad"));
    CHECK(ck && dsvk_checkpoint_find(ck, "layers.0.attn.wq_a.scale"), "the table has native names");
    dsvk_checkpoint_close(ck);
    REFUSES("{\"embed.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"model.embed_tokens.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, DSVK_FORMAT,
            "embed.weight|model.embed_tokens.weight|two spellings");
}

/* ---- the rows ---- */

static void test_M01_cut_anywhere(void) {
    struct text file = container(good_header, strlen(good_header), 41);
    for (size_t n = 0; n < file.n; n++) {
        char size[32];
        snprintf(size, sizeof size, "expected|%zu", n);
        REFUSES_BYTES(file.bytes, n, DSVK_FORMAT, size);
    }
    add_bytes(&file, "x", 1); /* and one byte too many */
    char sizes[64];
    snprintf(sizes, sizeof sizes, "expected %zu bytes|norm.weight|has %zu", file.n - 1, file.n);
    REFUSES_BYTES(file.bytes, file.n, DSVK_FORMAT, sizes);
    drop(&file);
}

/* Any byte replaced: a sentence, or a checkpoint whose every byte can be read. */
static void test_M01_flipped_anywhere(void) {
    struct text file = container(good_header, strlen(good_header), 41);
    static const uint8_t masks[] = { 0x01, 0x08, 0x80, 0xff };
    uint8_t bytes[64];
    size_t opened = 0;
    fresh_folder();
    for (size_t at = 0; at < file.n; at++)
        for (size_t m = 0; m < sizeof masks; m++) {
            dsvk_checkpoint *ck;
            dsvk_error err = { 0 };
            file.bytes[at] ^= (char)masks[m];
            put_file(in("bad/model.safetensors"), file.bytes, file.n);
            file.bytes[at] ^= (char)masks[m];
            dsvk_status status = dsvk_checkpoint_open(&ck, in("bad"), &err);
            if (!CHECK(status == DSVK_OK || (err.status == status && err.message[0]), "byte %zu: no sentence", at) ||
                status != DSVK_OK)
                continue;
            opened++;
            for (size_t i = 0; i < dsvk_checkpoint_count(ck); i++) {
                const dsvk_file_tensor *t = dsvk_checkpoint_tensor(ck, i);
                CHECK(t->end <= file.n && t->begin <= t->end && t->end - t->begin <= sizeof bytes, "byte %zu: range",
                      at);
                CHECK(dsvk_checkpoint_read(ck, t, 0, bytes, (size_t)(t->end - t->begin), &err) == DSVK_OK, "%s",
                      err.message);
            }
            dsvk_checkpoint_close(ck);
        }
    CHECK(opened > 41 * 4, "changed data and names are no error: %zu", opened);
    CHECK_GOOD();
    drop(&file);
}

static void test_M02_header_length(void) {
    static const struct {
        uint64_t length;
        dsvk_status status;
        const char *words;
    } rows[] = {
        { 0, DSVK_FORMAT, "header length 0|2" }, { 1, DSVK_FORMAT, "header length 1|2" },
        { 1000, DSVK_FORMAT, "1008 bytes|has 100" }, { 93, DSVK_FORMAT, "101 bytes|has 100" },
        { 100000001, DSVK_LIMIT, "100000001|100000000" }, { 1ull << 62, DSVK_LIMIT, "4611686018427387904|100000000" },
        { 1ull << 63, DSVK_FORMAT, "9223372036854775808" }, { UINT64_MAX, DSVK_FORMAT, "18446744073709551615" },
        { UINT64_MAX - 7, DSVK_FORMAT, "18446744073709551608" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        char bytes[100] = { 0 };
        for (int b = 0; b < 8; b++)
            bytes[b] = (char)(rows[i].length >> 8 * b);
        memset(bytes + 8, ' ', 92);
        bytes[8] = '{';
        REFUSES_BYTES(bytes, sizeof bytes, rows[i].status, rows[i].words);
    }
    char head[9] = { 1, (char)0xe1, (char)0xf5, 5, 0, 0, 0, 0, '{' }; /* 100,000,001, and a file that has them */
    fresh_folder();
    put_sparse(in("bad/model.safetensors"), head, sizeof head, 200000000);
    REFUSES_FOLDER(DSVK_LIMIT, "100000001|100000000");
}

static void test_M03_header_text(void) {
    REFUSES("[]", 0, DSVK_FORMAT, "0x5b|offset 8");
    REFUSES(" {}", 0, DSVK_FORMAT, "0x20|offset 8");
    REFUSES("{}x", 0, DSVK_FORMAT, "offset 2");
    REFUSES("{} \n", 0, DSVK_FORMAT, "0x0a|offset 3");
    REFUSES("{}\t", 0, DSVK_FORMAT, "0x09|offset 2");
    REFUSES("{\"a\xff\":1}", 0, DSVK_FORMAT, "UTF-8|offset 3");
    REFUSES("{\"a\":}", 0, DSVK_FORMAT, "offset 5");
    refuses_header("{}\0", 3, 0, DSVK_FORMAT, "offset 2", __FILE__, __LINE__);
    refuses_header("{\"a\0\":1}", 8, 0, DSVK_FORMAT, "NUL|offset 3", __FILE__, __LINE__);
    fresh_folder();
    put_container(in("bad/model.safetensors"), "{}      ", 0); /* spaces are padding */
    dsvk_checkpoint *ck = OPENS(in("bad"));
    CHECK(ck && dsvk_checkpoint_count(ck) == 0, "an empty checkpoint is a checkpoint");
    dsvk_checkpoint_close(ck);
}

static void *open_bad(void *status) {
    dsvk_checkpoint *ck;
    dsvk_error err;
    *(dsvk_status *)status = dsvk_checkpoint_open(&ck, in("bad"), &err);
    return NULL;
}

/* 100,000 levels, on a small stack. */
static void test_M04_depth(void) {
    for (int kind = 0; kind < 3; kind++) {
        struct text header = { 0 };
        add(&header, "{\"a\":");
        for (int i = 0; i < 100000; i++)
            add(&header, kind == 0 || (kind == 2 && i % 2) ? "[" : "{\"a\":");
        refuses_header(header.bytes, header.n, 0, DSVK_LIMIT, "deeper than 64|offset", __FILE__, __LINE__);
        pthread_t thread;
        pthread_attr_t attributes;
        dsvk_status status = DSVK_OK;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 256 * 1024);
        if (pthread_create(&thread, &attributes, open_bad, &status) == 0)
            pthread_join(thread, NULL);
        pthread_attr_destroy(&attributes);
        CHECK(status == DSVK_LIMIT, "on a stack of 256 KiB: %s", dsvk_status_name(status));
        drop(&header);
    }
}

static void test_M05_duplicate_keys(void) {
    REFUSES("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
            "\"data_offsets\":[1,2]}}",
            2, DSVK_FORMAT, "duplicate key \"a\"|offset");
    REFUSES("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1]"
            ",\"data_offsets\":[1,2]}}",
            2, DSVK_FORMAT, "duplicate key \"a\"");
    REFUSES("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1, DSVK_FORMAT,
            "duplicate key \"shape\"");
    REFUSES("{\"__metadata__\":{\"k\":\"1\",\"\\u006b\":\"2\"}}", 0, DSVK_FORMAT, "duplicate key \"k\"");
    fresh_folder();
    put_text(in("bad/model.safetensors.index.json"),
             "{\"weight_map\":{\"a\":\"s.safetensors\",\"\\u0061\":\"s.safetensors\"}}");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|duplicate key \"a\"");
}

static void test_M06_shapes(void) {
    static const char *const shapes[] = { "[-1]",
                                          "[1.5]",
                                          "[1e3]",
                                          "[2.0]",
                                          "[9223372036854775808]",
                                          "[18446744073709551616]",
                                          "[\"1\"]",
                                          "[null]",
                                          "[[1]]",
                                          "4",
                                          "{}",
                                          "[1,1,1,1,1,1,1,1,1]",
                                          "[4294967296,4294967296]",
                                          "[9223372036854775807]",
                                          "[2305843009213693952]" };
    for (size_t i = 0; i < DSVK_COUNT(shapes); i++) {
        char header[200], words[100];
        snprintf(header, sizeof header, "{\"the.name\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,4]}}",
                 shapes[i]);
        snprintf(words, sizeof words, "the.name|shape is %s", shapes[i]);
        REFUSES(header, 4, DSVK_FORMAT, words);
    }
    fresh_folder();
    put_container(in("bad/model.safetensors"),
                  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,2,1,1,1,3],\"data_offsets\":[0,6]}}", 6);
    dsvk_checkpoint *ck = OPENS(in("bad"));
    CHECK(ck && dsvk_checkpoint_tensor(ck, 0)->rank == 8 && dsvk_checkpoint_tensor(ck, 0)->shape[7] == 3, "rank 8");
    dsvk_checkpoint_close(ck);
}

/* Two tensors a and b of `size` bytes each, at these offsets. */
static void refuses_pair(const char *a, const char *b, size_t size, size_t data_size, const char *words, int line) {
    char header[300];
    snprintf(header, sizeof header, "{\"the.a\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":%s},"
             "\"the.b\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":%s}}", size, a, size, b);
    refuses_header(header, strlen(header), data_size, DSVK_FORMAT, words, __FILE__, line);
}

static void test_M07_offsets(void) {
    refuses_pair("[4,0]", "[4,8]", 4, 8, "the.a|data_offsets is [4,0]|ends before it begins", __LINE__);
    refuses_pair("[0,4]", "[4,8]", 4, 7, "expected|the.b|has", __LINE__);
    refuses_pair("[0,4]", "[4,8]", 4, 9, "expected|the.b|has", __LINE__);
    refuses_pair("[0,4]", "[3,7]", 4, 8, "the.b|overlaps|the.a", __LINE__);
    refuses_pair("[3,7]", "[0,4]", 4, 8, "the.a|overlaps|the.b", __LINE__);
    refuses_pair("[0,4]", "[0,4]", 4, 8, "overlaps|the.a", __LINE__);
    refuses_pair("[0,4]", "[5,9]", 4, 9, "1 bytes|the.a|the.b", __LINE__);
    refuses_pair("[1,5]", "[5,9]", 4, 9, "1 bytes|beginning|the.a", __LINE__);
    refuses_pair("[0,4]", "[9223372036854775804,9223372036854775808]", 4, 8, "the.b|data_offsets", __LINE__);
    refuses_pair("[0,4]", "[9223372036854775803,9223372036854775807]", 4, 8, "the.a|the.b", __LINE__);
    refuses_pair("[0,4]", "[-4,0]", 4, 8, "the.b|data_offsets is [-4,0]", __LINE__);
    refuses_pair("[0,4]", "[4]", 4, 8, "the.b|data_offsets is [4]", __LINE__);
    refuses_pair("[0,4]", "[4,8,12]", 4, 8, "the.b|data_offsets", __LINE__);
    refuses_pair("[0,4]", "[4.0,8]", 4, 8, "the.b|data_offsets", __LINE__);
    refuses_pair("[0,4]", "\"4\"", 4, 8, "the.b|data_offsets", __LINE__);
    REFUSES("{}", 1, DSVK_FORMAT, "expected 10 bytes|11");
}

static void test_M08_byte_length(void) {
    REFUSES("{\"the.a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,5]}}", 5, DSVK_FORMAT,
            "the.a|[3] BF16|6 bytes|hold 5");
    REFUSES("{\"the.a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, DSVK_FORMAT,
            "the.a|[] F32|4 bytes|hold 0");
    REFUSES("{\"the.a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", 4, DSVK_FORMAT,
            "the.a|0 bytes|hold 4");
    REFUSES("{\"the.a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, DSVK_FORMAT,
            "the.a|[3]|whole bytes");
    REFUSES("{\"the.a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, DSVK_FORMAT,
            "the.a|whole bytes");
    static const char *const missing[] = { "dtype", "shape", "data_offsets" };
    for (size_t i = 0; i < 3; i++) {
        struct text header = { 0 };
        add(&header, "{\"the.a\":{\"other\":1");
        if (i != 0)
            add(&header, ",\"dtype\":\"U8\"");
        if (i != 1)
            add(&header, ",\"shape\":[1]");
        if (i != 2)
            add(&header, ",\"data_offsets\":[0,1]");
        add(&header, "}}");
        char words[64];
        snprintf(words, sizeof words, "the.a|has no %s", missing[i]);
        REFUSES(header.bytes, 1, DSVK_FORMAT, words);
        drop(&header);
    }
    REFUSES("{\"the.a\":7}", 0, DSVK_FORMAT, "the.a|a number");
}

static void test_M09_unknown_type(void) {
    REFUSES("{\"the.a\":{\"dtype\":\"Q4_K\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, DSVK_UNSUPPORTED, "the.a|Q4_K");
    REFUSES("{\"the.a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, DSVK_UNSUPPORTED, "the.a|f32");
    REFUSES("{\"the.a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, DSVK_FORMAT, "the.a|dtype is 3");
}

static void refuses_name(const char *name, const char *words, int line) {
    struct text header = { 0 };
    add(&header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    refuses_header(header.bytes, header.n, 1, DSVK_FORMAT, words, __FILE__, line);
    drop(&header);
}

static void test_M13_names(void) {
    char name[1200];
    refuses_name("", "name|empty", __LINE__);
    refuses_name("a\\nb", "a\\x0ab|control byte", __LINE__);
    refuses_name("a\\u001b[31mb", "a\\x1b[31mb|control byte", __LINE__);
    refuses_name("a\x7f", "a\\x7f|control byte", __LINE__);
    refuses_name("a\xc3(", "UTF-8|offset", __LINE__);
    refuses_name("a\\u0000", "NUL", __LINE__);
    memset(name, 'n', sizeof name);
    name[1025] = 0;
    refuses_name(name, "1025 bytes|1024", __LINE__);
    name[1024] = 0;
    struct text header = { 0 };
    add(&header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    fresh_folder();
    put_container(in("bad/model.safetensors"), header.bytes, 1);
    dsvk_checkpoint *ck = OPENS(in("bad"));
    CHECK(ck && dsvk_checkpoint_find(ck, name), "1024 bytes are allowed");
    dsvk_checkpoint_close(ck);
    drop(&header);
}

static void test_M14_metadata(void) {
    REFUSES("{\"__metadata__\":{\"k\":1}}", 0, DSVK_FORMAT, "__metadata__|\"k\"|a number");
    REFUSES("{\"__metadata__\":{\"k\":{\"deep\":\"x\"}}}", 0, DSVK_FORMAT, "__metadata__|an object");
    REFUSES("{\"__metadata__\":[]}", 0, DSVK_FORMAT, "__metadata__|an array");
    fresh_folder();
    put_container(in("bad/model.safetensors"), "{\"__metadata__\":{\"whatever\":\"x\",\"\":\"\"}}", 0);
    dsvk_checkpoint_close(OPENS(in("bad")));
}

static void test_M22_pieces_and_errors(void) {
    dsvk_error err;
    dsvk_checkpoint *ck;
    uint8_t bytes[24] = { 0 };
    CHECK_GOOD();
    disturbance.pieces = true;
    ck = OPENS(in("good"));
    const dsvk_file_tensor *t = ck ? dsvk_checkpoint_find(ck, "embed.weight") : NULL;
    CHECK(t && dsvk_checkpoint_read(ck, t, 0, bytes, 24, &err) == DSVK_OK && bytes[0] == 0 && bytes[23] == 23,
          "in pieces");
    disturbance.pieces = false;
    disturbance.fail_at = 8 + strlen(good_header) + 20;
    if (t)
        CHECK_REFUSED(dsvk_checkpoint_read(ck, t, 0, bytes, 24, &err), DSVK_IO, &err,
                      "model.safetensors|offset|Input/output error");
    dsvk_checkpoint_close(ck);
    disturbance.fail_at = 100;
    CHECK_REFUSED(dsvk_checkpoint_open(&ck, in("good"), &err), DSVK_IO, &err, "offset|Input/output error");
    disturbance.fail_at = 0;
    CHECK_GOOD();
}

/* ---- limits and memory ---- */

static void test_tensor_limit(void) {
    struct text header = { 0 };
    add(&header, "{\"0\":0");
    for (int i = 1; i <= 1000000; i++)
        add(&header, ",\"%d\":0", i);
    add(&header, "}");
    refuses_header(header.bytes, header.n, 0, DSVK_LIMIT, "more than 1000000 tensors", __FILE__, __LINE__);
    drop(&header);
}

/* KiB that a process of its own needed at most while opening "bad". */
static long peak_of_open(bool open_it) {
    struct rusage usage;
    int end;
    pid_t child = fork();
    if (child == 0) {
        dsvk_checkpoint *ck = NULL;
        if (open_it)
            dsvk_checkpoint_open(&ck, in("bad"), NULL);
        _exit(0);
    }
    wait4(child, &end, 0, &usage);
    return usage.ru_maxrss;
}

/* "A file may make us hold at most 8 x its header bytes + 16 MiB before its tensors are accepted." */
static void test_header_memory(void) {
#if defined(__SANITIZE_ADDRESS__)
    return; /* its shadow memory is not ours to count */
#endif
    static const struct {
        const char *first, *repeated, *last;
    } rows[] = {
        { "{\"x\":[0", ",[]", "]}" },
        { "{\"x\":[0", ",{}", "]}" },
        { "{\"x\":[0", ",{\"a\":0}", "]}" },
        { "{\"\":0", ",\"%07d\":0", "}" },
        { "{\"__metadata__\":{\"\":\"\"", ",\"%07d\":\"\"", "}}" },
        { "{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
          ",\"%06d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", "}" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        struct text header = { 0 };
        add(&header, "%s", rows[i].first);
        for (int k = 0; header.n < 8000000; k++) {
            char piece[100];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(piece, sizeof piece, rows[i].repeated, k);
#pragma GCC diagnostic pop
            add_bytes(&header, piece, strlen(piece));
        }
        add(&header, "%s", rows[i].last);
        fresh_folder();
        put_container(in("bad/model.safetensors"), header.bytes, 0);
        long allowed = (long)(8 * header.n / 1024) + 16 * 1024;
        drop(&header);
        long peak = peak_of_open(true) - peak_of_open(false);
        CHECK(peak <= allowed, "header %zu: %ld KiB held, %ld allowed", i, peak, allowed);
    }
    fresh_folder();
}

static const struct test tests[] = {
    TEST(test_good),
    TEST(test_dtypes),
    TEST(test_names),
    TEST(test_M01_cut_anywhere),
    TEST(test_M01_flipped_anywhere),
    TEST(test_M02_header_length),
    TEST(test_M03_header_text),
    TEST(test_M04_depth),
    TEST(test_M05_duplicate_keys),
    TEST(test_M06_shapes),
    TEST(test_M07_offsets),
    TEST(test_M08_byte_length),
    TEST(test_M09_unknown_type),
    TEST(test_M13_names),
    TEST(test_M14_metadata),
    TEST(test_M22_pieces_and_errors),
    TEST(test_tensor_limit),
    TEST(test_header_memory),
};

int main(int argc, char **argv) { return run_tests(tests, DSVK_COUNT(tests), argc, argv); }
