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

#define MOST_BYTES (256u << 20) /* of one allocation of a state */

struct meter {
    size_t live;             /* bytes */
    long long made, fail_at; /* requests for more memory; from which on they fail (-1: never) ... */
    bool once;               /* ... or only that one */
    lua_State *L;
    long long collect_at;    /* at which the collector, stopped until then, has all its work to do (-1: none) */
};

static void *measured_alloc(void *user, void *old, size_t old_size, size_t size) {
    struct meter *m = user;
    const size_t had = old ? old_size : 0;
    if (size > MOST_BYTES)
        return NULL;
    if (size > had) {
        const long long n = m->made++;
        if (m->fail_at >= 0 && (m->once ? n == m->fail_at : n >= m->fail_at))
            return NULL;
        if (n == m->collect_at)
            lua_gc(m->L, LUA_GCRESTART);
    }
    m->live += size - had;
    if (size > 0)
        return realloc(old, size);
    free(old);
    return NULL;
}

static lua_State *open_state(struct meter *m) {
    *m = (struct meter){ .fail_at = -1, .collect_at = -1 };
    lua_State *L = lua_newstate(measured_alloc, m);
    m->L = L;
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
    "row = assert(dsvk.tensor(device, { shape = { 1, 32 }, data = ('\\0\\0\\x80\\x3f'):rep(32) }))\n"
    "weight = assert(dsvk.tensor(device, { shape = { 32 }, data = ('\\0\\0\\x80\\x3f'):rep(32) }))\n"
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
    "  function() local t <close> = assert(dsvk.tensor(device, { shape = { 1, 4 }, data = { 1, 2, 3, 4 } }))\n"
    "             assert(t:read()); assert(t:info()) end,\n"
    "  function() local t <close> = assert(dsvk.ops.rms_norm { x = row, weight = weight }); assert(t:read()) end,\n"
    "  function() local calls = 0\n"
    "             assert(dsvk.verify(NANO, { progress = function(stage) calls = calls + 1; return calls == 3 and { stage } end })) end,\n"
    "  function() assert(session:sync { 5 })\n"
    "             assert(session:decode(2, { mask = function(new) return { 5, #new } end, logit_bias = { [4] = 1 } })) end,\n"
    "  function() assert(session:sync { 5 }); assert(other:sync { 1 })\n"
    "             assert(model:decode({ session, other }, 2, { mask = function(new, i) return { 5, i } end })) end,\n"
    "  function() assert(session:sync { 5 }); local co = assert(session:coroutine(nil, 2, { budget = 1e6 }))\n"
    "             repeat local ok, piece, more = coroutine.resume(co); assert(ok and piece, piece or more)\n"
    "             until coroutine.status(co) == 'dead' end,\n"
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
        fail_all_of(L, &m, i, true); /* Lua collects and tries again */
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

static void test_T11_more_than_the_context_needs_no_room(void) {
    struct meter m;
    lua_State *L = open_state(&m);
    run(L, "model = assert(dsvk.model(NANO)); session = assert(model:session { context = 64 }); assert(session:sync { 5 })\n"
           "local long = {}; for i = 1, 400000 do long[i] = 5 end\n"
           "local function limit(value, message, code) assert(value == nil and code == 'LIMIT', code) end\n"
           "limit(session:decode(4294967295))\n"
           "limit(model:decode({ session }, 4294967295))\n"
           "limit(session:evaluate(long))\n"
           "assert(#session:decode(62) == 62)");
    close_state(L, &m);
}

/* ---- finalizers in the middle of a call ---- */

/* Each: its name, what makes the objects `o`, the call, and what a finalizer does in the middle of it. */
static const char trials[] =
    "device = assert(dsvk.device())\n"
    "model = assert(dsvk.model(NANO, { device = device, max_chunk = 32 }))\n"
    "local ids, long = { 5 }, {}\n"
    "for i = 1, 40 do long[i] = 5 end\n"
    "local bytes = ('\\0\\0\\x80\\x3f'):rep(32)\n"
    "local function tensors() return { x = assert(dsvk.tensor(device, { shape = { 1, 32 }, data = bytes })),\n"
    "                                  w = assert(dsvk.tensor(device, { shape = { 32 }, data = bytes })) } end\n"
    "local function ready() local o = { assert(model:session { context = 64 }) }; assert(o[1]:sync(ids)); return o end\n"
    "local function two() local o = ready(); o[2] = ready()[1]; return o end\n"
    "local function begun() local o = ready(); assert(o[1]:begin(nil, 3)); return o end\n"
    "local function traced() return { assert(model:trace(ids)) } end\n"
    "local function own() return { assert(dsvk.tokenizer(NANO)) } end\n"
    "local function opened() return { assert(dsvk.model(NANO, { device = device, max_chunk = 32 })) } end\n"
    "local function pair() local o = opened(); o[2] = assert(o[1]:session { context = 64 }); return o end\n"
    "local function devices() return { assert(dsvk.device()) } end\n"
    "local function close(o) for _, one in pairs(o) do one:close() end end\n"
    "trials = {\n"
    "  { 'op', tensors, function(o) return dsvk.op(device, 'rms_norm', { x = o.x, weight = o.w }) end, close },\n"
    "  { 'tensor:read', tensors, function(o) return o.x:read(), o.x:info() end, close },\n"
    "  { 'trace:names', traced, function(o) return o[1]:names() end, close },\n"
    "  { 'trace:info', traced, function(o) return o[1]:info('logits') end, close },\n"
    "  { 'trace:read', traced, function(o) return o[1]:read('logits'), o[1]:read('layers.0.router.experts') end, close },\n"
    "  { 'encode', own, function(o) return o[1]:encode('hello', { special = true }), o[1]:id(5) end, close },\n"
    "  { 'decode ids', own, function(o) return o[1]:decode { 5, 6, 7 } end, close },\n"
    "  { 'decoder', own, function(o) local d = o[1]:decoder(); return d:push(5), d:finish() end, close },\n"
    "  { 'tokens', ready, function(o) return o[1]:tokens() end, function(o) assert(o[1]:sync(long)) end },\n"
    "  { 'tokens, closed', ready, function(o) return o[1]:tokens() end, close },\n"
    "  { 'begin', ready, function(o) return o[1]:begin(nil, 2, {}) end, function(o) assert(o[1]:sync(long)) end },\n"
    "  { 'begin, closed', ready, function(o) return o[1]:begin(nil, 2, { stop = { 3 } }) end, close },\n"
    "  { 'poll', begun, function(o) return o[1]:poll(0) end, function(o) o[1]:poll(1e6); o[1]:begin(ids, 2); o[1]:close() end },\n"
    "  { 'sync', ready, function(o) return o[1]:sync('To be') end, close },\n"
    "  { 'evaluate', ready, function(o) return o[1]:evaluate({ 5 }, { chunk = 1 }) end, close },\n"
    "  { 'logits', ready, function(o) return o[1]:logits(), o[1]:memory() end, close },\n"
    "  { 'decode', ready, function(o) return o[1]:decode(1, { stop = { 5 } }) end, close },\n"
    "  { 'batch', two,\n"
    "    function(o) return model:decode(o, 1, { stop = { 5 } }) end, function(o) o[1]:close(); o[1], o[2] = nil, nil end },\n"
    "  { 'logit_bias', function() local o = ready(); o.bias = { [7] = 1 }; return o end,\n"
    "    function(o) return o[1]:decode(1, { logit_bias = o.bias }) end, function(o) for i = 1, 900 do o.bias[i] = 1 end end },\n"
    "  { 'mask', ready, function(o) return o[1]:decode(1, { mask = function() return { 5, 6 } end }) end, close },\n"
    "  { 'tensor', devices, function(o) return dsvk.tensor(o[1], { shape = { 2 }, data = { 1, 2 } }) end, close },\n"
    "  { 'device', devices, function(o) return o[1]:memory() end, close },\n"
    "  { 'plan', devices, function(o) return dsvk.plan(NANO, { device = o[1] }) end, close },\n"
    "  { 'session', opened, function(o) return o[1]:session { context = 64 } end, close },\n"
    "  { 'model', opened, function(o) return o[1]:config() end, close },\n"
    "  { 'tokenizer', opened, function(o) return o[1]:tokenizer():encode('hello') end, close },\n"
    "  { 'text', pair, function(o) return o[2]:sync('hello') end, close },\n"
    "}\n"
    "function arm(i)\n"
    "  local trial = trials[i]\n"
    "  name, objects, call = trial[1], trial[2](), trial[3]\n"
    "  collectgarbage()\n"
    "  collectgarbage('stop')\n"
    "  ran = false\n"
    "  setmetatable({}, { __gc = function() ran = true; trial[4](objects) end })\n"
    "end\n";

/* The library's memory, which is another's, or nobody's, from the moment it is given back. */
static void *poisoned_memory(void *user, void *old, size_t old_bytes, size_t bytes) {
    (void)user;
    void *block = bytes > 0 ? malloc(bytes) : NULL;
    if (block == NULL && bytes > 0)
        return NULL;
    if (block != NULL && old != NULL)
        memcpy(block, old, old_bytes < bytes ? old_bytes : bytes);
    if (old != NULL)
        memset(old, 0xdb, old_bytes);
    free(old);
    return block;
}

/* Is the call of trial i through before its allocation n? */
static bool interrupted(lua_State *L, struct meter *m, int i, long long n) {
    lua_getglobal(L, "arm");
    lua_pushinteger(L, i);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK)
        return CHECK(false, "trial %d: %s", i, lua_tostring(L, -1));
    lua_getglobal(L, "call");
    lua_getglobal(L, "objects");
    m->made = 0;
    m->collect_at = n;
    const int status = lua_pcall(L, 1, 0, 0);
    const bool reached = m->made > n;
    m->collect_at = -1;
    lua_gc(L, LUA_GCRESTART);
    if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        lua_getglobal(L, "name");
        CHECK(strstr(message, "closed") != NULL || strstr(message, "changes") != NULL || strstr(message, "expected a") != NULL,
              "%s, allocation %lld: %s", lua_tostring(L, -1), n, message);
    }
    lua_settop(L, 0);
    return reached;
}

static void test_A03_finalizers_do_as_they_like(void) {
    static const dsvk_allocator poisoned = { poisoned_memory, NULL };
    const dsvk_allocator *before = dsvk_use_allocator(&poisoned);
    struct meter m;
    lua_State *L = open_state(&m);
    lua_gc(L, LUA_GCINC, 100, 1000, 30); /* a step is a whole round */
    run(L, trials);
    lua_getglobal(L, "trials");
    const int n_trials = (int)lua_rawlen(L, -1);
    lua_settop(L, 0);
    for (int i = 1; i <= n_trials; i++)
        for (long long n = 0; interrupted(L, &m, i, n); n += n < 16 ? 1 : n / 4) /* behind the first ones are reports' values */
            ;
    close_state(L, &m);
    dsvk_use_allocator(before);
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
        TEST(test_T11_more_than_the_context_needs_no_room),
        TEST(test_A03_finalizers_do_as_they_like),
        TEST(test_A14_state_ends_with_open_handles),
        TEST(test_A14_two_states),
        TEST(test_A14_states_on_threads),
    };
    return run_tests(tests, DSVK_COUNT(tests), argc, argv);
}
