/* The Lua module from outside of Lua: states whose allocator counts and fails, two states at once, states that end with open
 * handles. The module's objects are linked into this program, so that the library's own allocations can be counted too. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "harness_files.h"

int luaopen_dsvk(lua_State *L);

/* ---- states ---- */

struct meter {
    size_t live;            /* bytes */
    long long made, fail_at; /* requests for more memory; from which on they fail (-1: never) ... */
    bool once;              /* ... or only that one */
};

static void *measured_alloc(void *user, void *old, size_t old_size, size_t size) {
    struct meter *m = user;
    const size_t had = old ? old_size : 0;
    if (size > had && m->fail_at >= 0) {
        const long long n = m->made++;
        if (m->once ? n == m->fail_at : n >= m->fail_at)
            return NULL;
    }
    m->live += size - had;
    if (size > 0)
        return realloc(old, size);
    free(old);
    return NULL;
}

static lua_State *open_state(struct meter *m) {
    *m = (struct meter){ .fail_at = -1 };
    lua_State *L = lua_newstate(measured_alloc, m);
    luaL_openlibs(L);
    luaL_requiref(L, "dsvk", luaopen_dsvk, 1);
    lua_pushstring(L, DSVK_NANO);
    lua_setglobal(L, "NANO");
    lua_settop(L, 0);
    return L;
}

static void run(lua_State *L, const char *script) {
    CHECK(luaL_dostring(L, script) == LUA_OK, "%s", lua_tostring(L, -1));
    lua_settop(L, 0);
}

static void close_state(lua_State *L, const struct meter *m) {
    lua_close(L);
    CHECK(m->live == 0, "%zu bytes of a closed state", m->live);
}

/* ---- every allocation fails ---- */

static const char prepare[] =
    "device = assert(dsvk.device())\n"
    "model = assert(dsvk.model(NANO, { device = device, max_chunk = 32 }))\n"
    "tokenizer = model:tokenizer()\n"
    "ids = tokenizer:encode('ROMEO: O, she doth teach the torches')\n"
    "session = assert(model:session { context = 128 })\n"
    "other = assert(model:session { context = 128 })\n"
    "told = assert(model:session { context = 128, progress = function(stage, done, total) return stage .. done .. total end })\n"
    "session:sync(ids)\n"
    "want = session:decode(3, { stop = { 1023 } })\n"
    "function check()\n"
    "  assert(session:sync(ids))\n"
    "  assert(table.concat(session:decode(3), ' ') == table.concat(want, ' '))\n"
    "end\n"
    "calls = {\n"
    "  function() local d <close> = assert(dsvk.device(nil, { budgets = { cache = 1 << 30 }, cache_dir = '', log = print })) end,\n"
    "  function() local m <close> = assert(dsvk.model(NANO, { device = device, cache = 'f32' })) end,\n"
    "  function() assert(dsvk.devices()) end,\n"
    "  function() assert(dsvk.plan(NANO)) end,\n"
    "  function() assert(device:info()); assert(device:memory()) end,\n"
    "  function() assert(model:config()); assert(model:report()) end,\n"
    "  function() local t <close> = assert(model:trace({ 5 })); assert(t:read('logits')); assert(t:info('embedding')) end,\n"
    "  function() local t <close> = assert(dsvk.tokenizer(NANO)) end,\n"
    "  function() assert(tokenizer:decode(assert(tokenizer:encode('To be, or not', { special = true })))) end,\n"
    "  function() local d <close> = assert(tokenizer:decoder()); assert(d:push(ids[1])); assert(d:finish()) end,\n"
    "  function() local s <close> = assert(model:session { context = 64, mtp = true }) end,\n"
    "  function() assert(session:sync(ids)); assert(session:logits()); assert(session:tokens()); assert(session:memory()) end,\n"
    "  function() assert(told:sync('Romeo')); assert(told:decode(1)) end,\n"
    "  function() assert(session:sync(ids)); assert(session:evaluate({ 5, 6 }, { chunk = 1 })) end,\n"
    "  function() assert(session:sync(ids)); assert(session:decode(2, { temperature = 1, seed = 5, stop = { 3, 4 } })) end,\n"
    "  function() assert(session:sync(ids)); assert(other:sync(ids))\n"
    "             assert(model:decode({ session, other }, 2, { temperature = 1, seed = { 1, 2 } })) end,\n"
    "  function() assert(session:begin(ids, 2, { stop = { 7 } }))\n"
    "             repeat local piece, finished = session:poll(0); assert(piece, finished) until finished end,\n"
    "  function() for piece in assert(model:generate('JULIET', { max_tokens = 2, stream = true, stop = 'x' })) do end end,\n"
    "}\n";

/* Call number i of `calls`, and the result of lua_pcall; its message stays on the stack. */
static int call(lua_State *L, int i) {
    lua_settop(L, 0);
    lua_getglobal(L, "calls");
    lua_rawgeti(L, -1, i);
    return lua_pcall(L, 0, 0, 0);
}

/* The library's allocations when nothing is left to collect. */
static int64_t collected(lua_State *L) {
    lua_settop(L, 0);
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCCOLLECT); /* what a finalizer let go of */
    return dsvk_alloc_live();
}

static void fail_all_of(lua_State *L, struct meter *m, int i, bool once) {
    CHECK(call(L, i) == LUA_OK, "call %d: %s", i, lua_tostring(L, -1)); /* what grows once has grown */
    const int64_t before = collected(L);
    int failed = 0;
    for (long long n = 0;; n++) {
        m->made = 0;
        m->once = once;
        m->fail_at = n;
        const int status = call(L, i);
        m->fail_at = -1;
        const bool reached = m->made > n;
        failed += status != LUA_OK;
        if (status != LUA_OK)
            CHECK(strstr(lua_tostring(L, -1), "not enough memory") != NULL, "call %d, allocation %lld: %s", i, n, lua_tostring(L, -1));
        const int64_t after = collected(L);
        if (!CHECK(after == before, "call %d, allocation %lld: %d allocations of the library are lost", i, n, (int)(after - before)) ||
            !reached)
            break;
    }
    CHECK(failed > 0 || once, "call %d: no allocation failed", i);
    run(L, "check()");
}

static void test_A13_every_allocation_of_the_state_fails(void) {
    struct meter m;
    lua_State *L = open_state(&m);
    run(L, prepare);
    lua_getglobal(L, "calls");
    const int n = (int)lua_rawlen(L, -1);
    for (int i = 1; i <= n; i++) {
        fail_all_of(L, &m, i, false);
        fail_all_of(L, &m, i, true); /* Lua collects and tries again: finalizers run in the middle of our functions */
    }
    close_state(L, &m);
}

static void test_A06_every_allocation_of_the_library_fails(void) {
    struct meter m;
    lua_State *L = open_state(&m);
    run(L, prepare);
    lua_getglobal(L, "calls");
    const int n_calls = (int)lua_rawlen(L, -1);
    for (int i = 4; i <= n_calls; i++) { /* opening devices and models is tested in C */
        CHECK(call(L, i) == LUA_OK, "call %d: %s", i, lua_tostring(L, -1));
        const int64_t before = collected(L);
        for (int64_t n = 0;; n++) {
            dsvk_alloc_fail_after(n);
            const int status = call(L, i);
            const bool reached = dsvk_alloc_fail_after(-1) > n;
            if (status != LUA_OK)
                CHECK(strstr(lua_tostring(L, -1), "memory") != NULL, "call %d, allocation %d: %s", i, (int)n, lua_tostring(L, -1));
            const int64_t after = collected(L);
            if (!CHECK(after == before, "call %d, allocation %d: %d are lost", i, (int)n, (int)(after - before)) || !reached)
                break;
        }
        run(L, "check()");
    }
    close_state(L, &m);
}

/* ---- states come and go ---- */

static const char open_all[] =
    "model = assert(dsvk.model(NANO))\n"
    "session = assert(model:session { context = 64 })\n"
    "decoder = model:tokenizer():decoder()\n"
    "assert(session:sync('O Romeo'))\n"
    "out = assert(session:decode(5))\n"
    "assert(session:begin(nil, 3))\n";

static void test_A14_state_ends_with_open_handles(void) {
    static const char *const ends[] = {
        "", "model:close()", "session:close()", "model:device():close()", "model = nil; collectgarbage()",
        "session = nil; model = nil; collectgarbage(); decoder = nil; collectgarbage()",
        "getmetatable(session).__gc(session); getmetatable(model).__gc(model)",
    };
    for (size_t i = 0; i < DSVK_COUNT(ends); i++) {
        struct meter m;
        lua_State *L = open_state(&m);
        run(L, open_all);
        run(L, ends[i]);
        close_state(L, &m);
        CHECK(dsvk_alloc_live() == 0, "'%s': %d allocations are left", ends[i], (int)dsvk_alloc_live());
    }
}

static void test_A14_two_states(void) {
    struct meter first_meter, second_meter;
    lua_State *first = open_state(&first_meter), *second = open_state(&second_meter);
    run(first, open_all);
    run(second, open_all);
    run(first, "model:close()");
    run(second, "more = session:decode(3)");
    close_state(first, &first_meter);
    run(second, "assert(session:position() >= 8); assert(session:decode(3)); assert(not pcall(model.session, session))");
    close_state(second, &second_meter);
}

static void *state_on_thread(void *user) {
    lua_State *L = user;
    const int failed = luaL_dostring(L, open_all);
    return failed ? L : NULL;
}

static void test_A14_states_on_threads(void) {
    enum { N = 3 };
    struct meter meters[N];
    lua_State *states[N];
    pthread_t threads[N];
    const char *first = NULL;
    for (int i = 0; i < N; i++) {
        states[i] = open_state(&meters[i]);
        CHECK(pthread_create(&threads[i], NULL, state_on_thread, states[i]) == 0, "thread %d", i);
    }
    for (int i = 0; i < N; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        CHECK(failed == NULL, "%s", lua_tostring(states[i], -1));
    }
    for (int i = 0; i < N; i++) {
        run(states[i], "text = table.concat(out, ' ')");
        lua_getglobal(states[i], "text");
        first = first ? first : lua_tostring(states[0], -1);
        CHECK(strcmp(first, lua_tostring(states[i], -1)) == 0, "state %d decodes '%s', state 0 '%s'", i, lua_tostring(states[i], -1),
              first);
    }
    for (int i = 0; i < N; i++)
        close_state(states[i], &meters[i]);
}

int main(int argc, char **argv) {
    const struct test tests[] = {
        TEST(test_A13_every_allocation_of_the_state_fails),
        TEST(test_A06_every_allocation_of_the_library_fails),
        TEST(test_A14_state_ends_with_open_handles),
        TEST(test_A14_two_states),
        TEST(test_A14_states_on_threads),
    };
    return run_tests(tests, DSVK_COUNT(tests), argc, argv);
}
