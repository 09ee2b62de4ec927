#include "harness_files.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[64];
static bool test_ok;

bool check_that(bool ok, const char *file, int line, const char *format, ...) {
    if (ok)
        return true;
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    test_ok = false;
    return false;
}

void check_refused(dsvk_status got, dsvk_status wanted, const dsvk_error *err, const char *words, const char *file,
                   int line) {
    const char *message = got == DSVK_OK ? "" : err->message;
    check_that(got == wanted, file, line, "expected %s, got %s: %s", dsvk_status_name(wanted), dsvk_status_name(got),
               message);
    while (got != DSVK_OK && *words) {
        char word[256];
        size_t n = strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        check_that(strstr(message, word) != NULL, file, line, "the sentence lacks \"%s\": %s", word, message);
        words += n + (words[n] == '|');
    }
}

int run_tests(const struct test *tests, size_t n, int argc, char **argv) {
    int passed = 0, failed = 0;
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/dsvk-test-XXXXXX", base && strlen(base) < 40 ? base : "/tmp");
    if (!mkdtemp(scratch)) {
        perror(scratch);
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        if (argc > 1 && !strstr(tests[i].name, argv[1]))
            continue;
        int64_t live = dsvk_alloc_live();
        test_ok = true;
        tests[i].run();
        check_that(dsvk_alloc_live() == live, tests[i].name, 0, "%lld allocations left",
                   (long long)(dsvk_alloc_live() - live));
        if (!test_ok)
            fprintf(stderr, "FAILED %s\n", tests[i].name);
        test_ok ? passed++ : failed++;
    }
    remove_tree(scratch);
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

const char *in(const char *name) {
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

void put_sparse(const char *path, const void *head, size_t n, uint64_t size) {
    remove(path); /* some file systems flush a file that is cut and written again */
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(head, 1, n, file) != n || fflush(file) || ftruncate(fileno(file), (off_t)size) ||
        fclose(file)) {
        perror(path);
        exit(1);
    }
}

void put_file(const char *path, const void *data, size_t n) { put_sparse(path, data, n, n); }

void put_text(const char *path, const char *text) { put_file(path, text, strlen(text)); }

void make_folder(const char *path) {
    if (mkdir(path, 0755)) {
        perror(path);
        exit(1);
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static void reserve(struct text *text, size_t n) {
    if (text->n + n + 1 <= text->capacity)
        return;
    text->capacity = 2 * (text->n + n + 1);
    text->bytes = realloc(text->bytes, text->capacity);
    if (!text->bytes)
        exit(1);
}

void add_bytes(struct text *text, const void *bytes, size_t n) {
    reserve(text, n);
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
    text->bytes[text->n] = 0;
}

void add(struct text *text, const char *format, ...) {
    va_list list, again;
    va_start(list, format);
    va_copy(again, list);
    int n = vsnprintf(NULL, 0, format, list);
    reserve(text, (size_t)n);
    vsnprintf(text->bytes + text->n, (size_t)n + 1, format, again);
    text->n += (size_t)n;
    va_end(list);
    va_end(again);
}

void drop(struct text *text) {
    free(text->bytes);
    *text = (struct text) { 0 };
}
