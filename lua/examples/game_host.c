/* A game engine in little: embeds Lua, calls the script's frame(seconds) sixty times a second, and reports how long frames took.
 *
 *   LUA_CPATH=build/release/?.so build/release/game_host lua/examples/game.lua [FRAMES [BUDGET]]
 *
 * BUDGET: microseconds of a frame for the model. Writes JSON: the script's DEVICE, what a frame may take, how many were late,
 * and the milliseconds of every frame's work; the text that was spoken goes to stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <lauxlib.h>
#include <lualib.h>

#define FRAME_MS (1000.0 / 60)

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void wait_until(double ms) { /* what an engine's presentation of a frame does */
    const double left = ms - now_ms();
    if (left > 0)
        nanosleep(&(struct timespec){.tv_sec = (time_t)(left / 1e3), .tv_nsec = (long)((left - 1e3 * (long)(left / 1e3)) * 1e6)},
                  NULL);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *device, const double *work, int n) {
    double *sorted = malloc((size_t)n * sizeof *sorted);
    int late = 0;
    if (sorted == NULL)
        return;
    printf("{\n \"device\": \"%s\",\n \"frame_ms\": %.3f,\n \"frames\": %d,\n \"work_ms\": [", device, FRAME_MS, n);
    for (int i = 0; i < n; i++) {
        sorted[i] = work[i];
        late += work[i] > FRAME_MS;
        printf("%s%.2f", i ? ", " : "", work[i]);
    }
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    printf("],\n \"late\": %d,\n \"median_ms\": %.2f,\n \"p99_ms\": %.2f,\n \"worst_ms\": %.2f\n}\n", late, sorted[n / 2],
           sorted[(n - 1) * 99 / 100], sorted[n - 1]);
    free(sorted);
}

int main(int argc, char **argv) {
    const int n = argc > 2 ? atoi(argv[2]) : 600;
    double *work = n > 0 ? calloc((size_t)n, sizeof *work) : NULL;
    lua_State *L = luaL_newstate();
    if (argc < 2 || L == NULL || work == NULL) {
        fprintf(stderr, "usage: game_host SCRIPT [FRAMES [BUDGET]]\n");
        return 2;
    }
    luaL_openlibs(L);
    if (argc > 3) {
        lua_pushinteger(L, atoi(argv[3]));
        lua_setglobal(L, "BUDGET");
    }
    int failed = luaL_dofile(L, argv[1]) != LUA_OK; /* the loading screen */
    double start = now_ms(), before = start;
    for (int i = 0; !failed && i < n; i++) {
        const double began = now_ms();
        lua_getglobal(L, "frame");
        lua_pushnumber(L, (began - before) / 1e3);
        failed = lua_pcall(L, 1, 0, 0) != LUA_OK;
        before = began;
        work[i] = now_ms() - began;
        wait_until(start + (i + 1) * FRAME_MS);
        if (now_ms() > start + (i + 2) * FRAME_MS) /* a late frame is not caught up with */
            start = now_ms() - (i + 1) * FRAME_MS;
    }
    if (failed) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
    } else {
        lua_getglobal(L, "DEVICE");
        report(luaL_tolstring(L, -1, NULL), work, n);
    }
    lua_close(L);
    free(work);
    return failed;
}
