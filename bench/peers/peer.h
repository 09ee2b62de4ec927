/* What the two timing programs share: they read one case a line from stdin, "KIND SIZE... SECONDS", prepare it once, run it for that
 * long and answer with a line of JSON: {"us": best, "runs": n, "first_us": of the very first run} or {"unsupported": "why"}. So a runner
 * can take turns between programs that stay warm.
 *
 *     matvec N_OUT N_IN ROWS          out [ROWS, N_OUT] = x [ROWS, N_IN] W^T, W in FP4 with a scale per 32
 *     moe EXPERTS USED N_IN N_OUT ROWS  the same, each row by USED of EXPERTS matrices, an input for each; grouping included
 *     indexer KEYS HEADS DIM ROWS     scores [ROWS, KEYS] = sum over heads of weight * relu(query . key)
 *     topk KEYS K ROWS                the indices of the K largest of KEYS scores
 *     select KEYS HEADS DIM K ROWS    indexer, then topk of its scores
 *     hc_pre DIM ROWS                 four streams mixed into one, normalised
 *     hc_post DIM ROWS                an output spread over four streams that are mixed, and the 24 dot products of the result */
#ifndef DSVK_BENCH_PEER_H
#define DSVK_BENCH_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PEER_SIZES 5
#define PEER_CASES 64
#define PEER_MOST_RUNS 200u

typedef struct peer_case {
    char kind[16];
    uint32_t sizes[PEER_SIZES];
    void *work;       /* what the program prepared; NULL: it cannot */
    char why[256];    /* then */
    double first_us;
} peer_case;

/* What a program provides. prepare gives NULL and a reason where it cannot do a case; run returns false when it fails. */
static void *peer_prepare(const char *kind, const uint32_t *sizes, char *why, size_t why_size);
static bool peer_run(void *work);

static uint32_t peer_random(void) { /* splitmix64; any numbers do */
    static uint64_t state;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static void *peer_alloc(size_t bytes) {
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

static float *peer_reals(size_t n) { /* in [-1, 1) */
    float *x = peer_alloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)peer_random() * 0x1p-31f;
    return x;
}

/* USED different experts of each row, ascending. */
static int32_t *peer_chosen(uint32_t experts, uint32_t used, uint32_t rows) {
    int32_t *chosen = peer_alloc((size_t)rows * used * sizeof *chosen);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t e = 0, left = used; left > 0; e++) /* e is taken with probability left / (experts - e) */
            if (peer_random() % (experts - e) < left)
                chosen[r * used + used - left--] = (int32_t)e;
    return chosen;
}

static double peer_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double peer_time(peer_case *c) {
    const double start = peer_now_us();
    if (!peer_run(c->work)) {
        snprintf(c->why, sizeof c->why, "it failed when it ran");
        c->work = NULL;
    }
    return peer_now_us() - start;
}

static void peer_answer(peer_case *c, double seconds) {
    double best = 0, spent = 0;
    uint32_t runs = 0;
    for (; c->work && runs < PEER_MOST_RUNS && (runs == 0 || spent < seconds * 1e6); runs++) {
        const double us = peer_time(c);
        best = runs == 0 || us < best ? us : best;
        spent += us;
    }
    if (c->work)
        printf("{\"us\": %.2f, \"runs\": %u, \"first_us\": %.0f}\n", best, runs, c->first_us);
    else
        printf("{\"unsupported\": \"%s\"}\n", c->why);
    fflush(stdout);
}

static int peer_serve(void) {
    static peer_case cases[PEER_CASES];
    uint32_t n_cases = 0;
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        peer_case c = { 0 };
        double numbers[PEER_SIZES + 1] = { 0 };
        const int n = sscanf(line, "%15s %lf %lf %lf %lf %lf %lf", c.kind, &numbers[0], &numbers[1], &numbers[2], &numbers[3],
                             &numbers[4], &numbers[5]) - 1;
        if (n < 1 || n_cases == PEER_CASES)
            return 1;
        for (int i = 0; i < n - 1; i++)
            c.sizes[i] = (uint32_t)numbers[i];
        uint32_t i = 0;
        while (i < n_cases && (strcmp(cases[i].kind, c.kind) != 0 || memcmp(cases[i].sizes, c.sizes, sizeof c.sizes) != 0))
            i++;
        if (i == n_cases) {
            cases[n_cases++] = c;
            cases[i].work = peer_prepare(c.kind, c.sizes, cases[i].why, sizeof cases[i].why);
            if (cases[i].work) /* compiles */
                cases[i].first_us = peer_time(&cases[i]);
        }
        peer_answer(&cases[i], numbers[n - 1]);
    }
    return 0;
}

#endif
