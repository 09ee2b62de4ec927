/* For tests that read files: checks that count, sentences that must hold words, a scratch folder. */
#ifndef HARNESS_FILES_H
#define HARNESS_FILES_H

#include "common.h"

struct test {
    const char *name;
    void (*run)(void);
};
#define TEST(function) { #function, function }

/* Runs all of them, or those whose name contains argv[1]; prints "N passed, M failed"; returns main's result. Every
 * test must leave no allocation behind. */
int run_tests(const struct test *tests, size_t n, int argc, char **argv);

/* One check; a failing one prints its line and fails the running test. */
#define CHECK(condition, ...) check_that((condition), __FILE__, __LINE__, __VA_ARGS__)
bool check_that(bool ok, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The call must have failed with `wanted`, and the sentence must hold each of `words`, separated by '|'. */
#define CHECK_REFUSED(got, wanted, err, words) check_refused((got), (wanted), (err), (words), __FILE__, __LINE__)
void check_refused(dsvk_status got, dsvk_status wanted, const dsvk_error *err, const char *words, const char *file,
                   int line);

/* The scratch folder of this run, removed at its end; `in` gives paths inside it from a few rotating buffers. */
const char *in(const char *name);
void put_file(const char *path, const void *data, size_t n);
void put_text(const char *path, const char *text);
void put_sparse(const char *path, const void *head, size_t n, uint64_t size); /* `head`, then a hole up to `size` */
void make_folder(const char *path);
void remove_tree(const char *path);

/* Text that grows. */
struct text {
    char *bytes; /* NUL-terminated, from malloc */
    size_t n, capacity;
};
void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void add_bytes(struct text *text, const void *bytes, size_t n);
void drop(struct text *text);

#endif
