/* dsvk.Session: one timeline of tokens on a model. A call from inside its own progress function is turned away by the library
 * (BUSY), and closing is refused there. */
#include <stdio.h>
#include <string.h>

#include "lua_dsvk.h"

static ld_session *check_session(lua_State *L, int arg) {
    ld_session *self = luaL_checkudata(L, arg, LD_SESSION);
    LD_OPEN(L, self, "the session");
    return self;
}

int ld_session_open(lua_State *L) {
    static const char *const names[] = {"context", "mtp", "progress", NULL};
    ld_check_model(L, 1);
    lua_settop(L, 2);
    ld_options(L, 2, names);
    ld_session *self = ld_new(L, sizeof *self, 3, LD_SESSION);
    dsvk_session_options options = {.size = sizeof options, .progress = ld_progress, .user = &self->call};
    options.context = ld_option_count(L, 2, "context", UINT64_MAX);
    options.mtp = ld_option_flag(L, 2, "mtp");
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, 3, 1);
    if (ld_option_function(L, 2, "progress", LD_PROGRESS_TAKES) != 0)
        lua_setiuservalue(L, 3, 2);
    dsvk_error err = {0};
    dsvk_model *model = ld_check_model(L, 1)->handle;
    if (dsvk_session_open(&self->handle, model, &options, &err) != DSVK_OK)
        return ld_fail(L, &err);
    self->tokenizer = dsvk_model_tokenizer(model);
    self->n_vocab = dsvk_model_vocab_size(model);
    lua_settop(L, 3);
    return 1;
}

static int session_collect(lua_State *L) {
    ld_session *self = luaL_checkudata(L, 1, LD_SESSION);
    if (self->users > 0) /* called by hand: nothing is collected in the middle of its call */
        return 0;
    dsvk_session *handle = self->handle;
    dsvk_decoder *decoder = self->decoder;
    self->handle = NULL;
    self->decoder = NULL;
    dsvk_decoder_close(decoder);
    dsvk_session_close(handle);
    return 0;
}

static int session_close(lua_State *L) {
    if (((ld_session *)luaL_checkudata(L, 1, LD_SESSION))->users > 0)
        return ld_busy(L, "the session");
    session_collect(L);
    lua_pushboolean(L, 1);
    return 1;
}

static int session_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_session *)luaL_checkudata(L, 1, LD_SESSION))->handle == NULL);
    return 1;
}

/* ---- calls that may take long ---- */

/* Token ids of argument 2: an array of integers, or text, encoded by the model's tokenizer as ordinary text. Pushes what holds
 * them. Text that cannot be encoded returns NULL and fills *err. */
static const int32_t *take_tokens(lua_State *L, size_t *n, dsvk_error *err) {
    if (lua_type(L, 2) != LUA_TSTRING)
        return ld_ids(L, 2, "tokens", n);
    size_t length;
    const char *text = lua_tolstring(L, 2, &length);
    ld_box *box = ld_new_box(L, dsvk_free);
    const dsvk_tokenizer *tokenizer = check_session(L, 1)->tokenizer;
    if (tokenizer == NULL) {
        err->status = DSVK_UNSUPPORTED;
        strcpy(err->message, "the model has no tokenizer.json: give token ids instead of text");
        return NULL;
    }
    int32_t *ids = NULL;
    if (dsvk_tokenizer_encode(tokenizer, text, length, 0, &ids, n, err) != DSVK_OK)
        return NULL;
    box->memory = ids;
    return ids;
}

/* The last thing before the library's call, which then works on an open handle. */
static void enter(lua_State *L, ld_session *self, ld_call *call) {
    check_session(L, 1);
    const bool reports = lua_getiuservalue(L, 1, 2) == LUA_TFUNCTION;
    ld_call_begin(call, &self->call, L, reports ? lua_gettop(L) : 0);
    self->users++;
}

static void leave(ld_session *self, ld_call *call) {
    self->users--;
    ld_call_end(call, &self->call);
}

static int session_sync(lua_State *L) {
    ld_session *self = check_session(L, 1);
    size_t n;
    ld_call call;
    dsvk_error err = {0};
    const int32_t *tokens = take_tokens(L, &n, &err);
    if (tokens == NULL)
        return ld_fail(L, &err);
    enter(L, self, &call);
    const dsvk_status status = dsvk_session_sync(self->handle, tokens, n, &err);
    leave(self, &call);
    return ld_done(L, status, &err);
}

static int logits(lua_State *L, dsvk_status (*read)(dsvk_session *session, float *out, dsvk_error *err)) {
    ld_session *self = check_session(L, 1);
    float *row = lua_newuserdatauv(L, self->n_vocab * sizeof *row, 0);
    ld_call call;
    dsvk_error err = {0};
    enter(L, self, &call);
    const dsvk_status status = read(self->handle, row, &err);
    leave(self, &call);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    ld_push_numbers(L, row, self->n_vocab);
    return 1;
}

static int session_logits(lua_State *L) { return logits(L, dsvk_session_logits); }
static int session_mtp_logits(lua_State *L) { return logits(L, dsvk_session_mtp_logits); }

/* Room for n rows of `each` items of 4 bytes, pushed. */
static void *new_rows(lua_State *L, uint64_t n, uint64_t each) {
    uint64_t bytes;
    if (__builtin_mul_overflow(n, each * 4, &bytes) || bytes > SIZE_MAX / 2)
        luaL_error(L, "not enough memory for %I rows", (lua_Integer)n);
    return lua_newuserdatauv(L, (size_t)bytes, 0);
}

/* How many of n tokens that go to the session's end need room: the library refuses more than its context, before any work. */
static uint64_t room_for(const ld_session *self, uint64_t n) {
    const uint64_t context = dsvk_session_context(self->handle);
    return n < context ? n : context;
}

static void push_rows(lua_State *L, const float *rows, size_t n, size_t width) {
    lua_newtable(L);
    for (size_t i = 0; i < n; i++) {
        ld_push_numbers(L, rows + i * width, width);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static int session_evaluate(lua_State *L) {
    static const char *const names[] = {"chunk", "mtp", NULL};
    ld_session *self = check_session(L, 1);
    lua_settop(L, 3);
    ld_options(L, 3, names);
    const size_t chunk = (size_t)ld_option_count(L, 3, "chunk", UINT32_MAX);
    const bool mtp = ld_option_flag(L, 3, "mtp");
    size_t n;
    ld_call call;
    dsvk_error err = {0};
    const int32_t *tokens = take_tokens(L, &n, &err);
    if (tokens == NULL)
        return ld_fail(L, &err);
    const uint64_t room = room_for(self, n);
    float *rows = new_rows(L, room, self->n_vocab), *mtp_rows = mtp ? new_rows(L, room, self->n_vocab) : NULL;
    enter(L, self, &call);
    const dsvk_status status = dsvk_session_evaluate(self->handle, tokens, n, chunk, rows, mtp_rows, &err);
    leave(self, &call);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    push_rows(L, rows, n, self->n_vocab);
    if (mtp)
        push_rows(L, mtp_rows, n, self->n_vocab);
    return mtp ? 2 : 1;
}

/* ---- decoding ---- */

static uint64_t to_seed(lua_State *L, int index) {
    lua_Integer seed;
    if (!ld_whole(L, index, &seed))
        luaL_error(L, "option 'seed': expected an integer, got %s", ld_shown(L, index));
    return (uint64_t)seed;
}

/* Option logit_bias: a table of ids and what is added to their logits. */
static void logit_bias(lua_State *L, int arg, dsvk_sample_options *options) {
    const int type = lua_getfield(L, arg, "logit_bias");
    const int table = lua_gettop(L);
    size_t n = 0;
    if (type == LUA_TNIL)
        return;
    if (type != LUA_TTABLE)
        luaL_error(L, "option 'logit_bias': expected a table of ids and numbers, got %s", luaL_typename(L, table));
    size_t room = 0;
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1))
        room++;
    dsvk_logit_bias *bias = lua_newuserdatauv(L, (room + 1) * sizeof *bias, 0);
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        if (n == room)
            luaL_error(L, "option 'logit_bias': the table changes while it is read");
        const lua_Integer id = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : -1;
        if (id < 0 || id > INT32_MAX)
            luaL_error(L, "option 'logit_bias': expected ids and numbers, got the id %s", ld_shown(L, -2));
        if (lua_type(L, -1) != LUA_TNUMBER)
            luaL_error(L, "option 'logit_bias': expected ids and numbers, got %s for id %I", ld_shown(L, -1), id);
        bias[n++] = (dsvk_logit_bias){(int32_t)id, (float)lua_tonumber(L, -1)};
    }
    options->bias = bias;
    options->n_bias = n;
}

/* Options table `arg` of decode; what they point to is pushed. Any integer is a seed. In a batch they may be one per session. The
 * index of a mask function, whose user is the caller's business, or 0. */
static int sample_options(lua_State *L, int arg, bool batch, dsvk_sample_options *options) {
    static const char *const names[] = {"temperature",       "top_p",            "min_p",      "top_k", "seed",       "stop",
                                        "frequency_penalty", "presence_penalty", "logit_bias", "mask",  "mask_after", NULL};
    ld_options(L, arg, names);
    *options = (dsvk_sample_options){.size = sizeof *options,
                                     .temperature = ld_option_number(L, arg, "temperature"),
                                     .top_p = ld_option_number(L, arg, "top_p"),
                                     .min_p = ld_option_number(L, arg, "min_p"),
                                     .top_k = (uint32_t)ld_option_count(L, arg, "top_k", UINT32_MAX),
                                     .frequency_penalty = ld_option_number(L, arg, "frequency_penalty"),
                                     .presence_penalty = ld_option_number(L, arg, "presence_penalty"),
                                     .mask_after = (int32_t)ld_option_count(L, arg, "mask_after", INT32_MAX)};
    const int seed = lua_getfield(L, arg, "seed");
    if (seed != LUA_TNIL && !(batch && seed == LUA_TTABLE))
        options->seed = to_seed(L, -1);
    if (lua_getfield(L, arg, "stop") != LUA_TNIL)
        options->stop = ld_ids(L, -1, "stop", &options->n_stop);
    logit_bias(L, arg, options);
    const int mask = ld_option_function(L, arg, "mask", "(ids, i)");
    if (mask != 0)
        options->mask = ld_mask;
    return mask;
}

/* The library refuses more than the context. */
static size_t check_count(lua_State *L, int arg) {
    lua_Integer n;
    if (!ld_whole(L, arg, &n) || n < 0)
        luaL_argerror(L, arg, lua_pushfstring(L, "expected how many tokens to decode, got %s", ld_shown(L, arg)));
    return (size_t)n;
}

static int session_decode(lua_State *L) {
    ld_session *self = check_session(L, 1);
    lua_settop(L, 3);
    const size_t n = check_count(L, 2);
    size_t n_out = 0;
    dsvk_sample_options options;
    ld_call call;
    dsvk_error err = {0};
    const int mask = sample_options(L, 3, false, &options);
    options.mask_user = &self->call;
    int32_t *out = new_rows(L, room_for(self, n), 1);
    enter(L, self, &call);
    size_t told = dsvk_session_position(self->handle);
    call.mask = mask;
    call.told = &told;
    const dsvk_status status = dsvk_session_decode(self->handle, n, &options, out, &n_out, &err);
    leave(self, &call);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    ld_push_ids(L, out, n_out);
    return 1;
}

/* Of a batch whose option `seed` is a table: one seed per session. */
static void batch_seeds(lua_State *L, int arg, dsvk_sample_options *options, size_t n) {
    if (lua_getfield(L, arg, "seed") == LUA_TTABLE) {
        if (lua_rawlen(L, -1) != n)
            luaL_error(L, "option 'seed': expected one per session, %I, got %I", (lua_Integer)n, (lua_Integer)lua_rawlen(L, -1));
        for (size_t i = 0; i < n; i++, lua_pop(L, 1)) {
            lua_rawgeti(L, -1, (lua_Integer)i + 1);
            options[i].seed = to_seed(L, -1);
        }
    }
    lua_pop(L, 1);
}

/* Pushes a list of the sessions of the array at 2, so that they stay whatever becomes of it. Returns how many tokens of n need room for
 * the one with the smallest context. */
static uint64_t push_sessions(lua_State *L, size_t n_sessions, uint64_t n) {
    ld_push_list(L, n_sessions);
    for (size_t i = 0; i < n_sessions; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        const ld_session *session = luaL_testudata(L, -1, LD_SESSION);
        if (session == NULL || session->handle == NULL)
            luaL_error(L, "sessions[%I]: expected an open Session, got %s", (lua_Integer)i + 1,
                       session ? "a closed one" : luaL_typename(L, -1));
        n = room_for(session, n);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return n;
}

static ld_session *session_of(lua_State *L, int list, size_t i) {
    lua_rawgeti(L, list, (lua_Integer)i + 1);
    ld_session *session = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return session;
}

/* Handles of the sessions of a list, all of the model at 1, and how much of each is known to a mask. */
static dsvk_status take_sessions(lua_State *L, int list, size_t n, dsvk_session **handles, size_t *told, dsvk_error *err) {
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, list, (lua_Integer)i + 1);
        const ld_session *session = lua_touserdata(L, -1);
        if (session->handle == NULL)
            luaL_error(L, "sessions[%I]: it was closed meanwhile", (lua_Integer)i + 1);
        lua_getiuservalue(L, -1, 1);
        const bool ours = lua_rawequal(L, -1, 1);
        lua_pop(L, 2);
        if (!ours) {
            snprintf(err->message, sizeof err->message, "sessions[%zu] belongs to another model", i + 1);
            return err->status = DSVK_INVALID;
        }
        handles[i] = session->handle;
        told[i] = dsvk_session_position(session->handle);
    }
    return DSVK_OK;
}

static void use_sessions(lua_State *L, int list, size_t n, int users) {
    for (size_t i = 0; i < n; i++)
        session_of(L, list, i)->users += users;
}

/* model:decode(sessions, n, options). The sessions' progress functions are not called: which of them would it be? A mask function
 * is, with the number of the session. */
int ld_decode_batch(lua_State *L) {
    ld_check_model(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 4);
    const size_t n_sessions = lua_rawlen(L, 2), n = check_count(L, 3);
    luaL_argcheck(L, n_sessions > 0, 2, "expected at least one session");
    luaL_checkstack(L, 30, "no room for a batch");
    dsvk_sample_options options;
    dsvk_error err = {0};
    const uint64_t room = push_sessions(L, n_sessions, n);
    const int list = lua_gettop(L);
    const int mask = sample_options(L, 4, true, &options);
    ld_call call, *running = NULL;
    options.mask_user = &running;
    dsvk_session **handles = lua_newuserdatauv(L, n_sessions * sizeof *handles, 0);
    dsvk_sample_options *each = lua_newuserdatauv(L, n_sessions * sizeof *each, 0);
    size_t *n_out = lua_newuserdatauv(L, n_sessions * sizeof *n_out, 0);
    size_t *told = lua_newuserdatauv(L, n_sessions * sizeof *told, 0);
    int32_t *out = new_rows(L, n_sessions, room);
    for (size_t i = 0; i < n_sessions; i++)
        each[i] = options;
    batch_seeds(L, 4, each, n_sessions);
    ld_check_model(L, 1);
    if (take_sessions(L, list, n_sessions, handles, told, &err) != DSVK_OK)
        return ld_fail(L, &err);
    ld_call_begin(&call, &running, L, 0);
    call.mask = mask;
    call.told = told;
    use_sessions(L, list, n_sessions, 1);
    const dsvk_status status = dsvk_decode_batch(handles, n_sessions, n, each, out, n_out, &err);
    use_sessions(L, list, n_sessions, -1);
    ld_call_end(&call, &running);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    lua_createtable(L, (int)n_sessions, 0);
    for (size_t i = 0; i < n_sessions; i++) {
        ld_push_ids(L, out + i * n, n_out[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- in slices ---- */

/* The timeline, pushed: as long as it is when this returns, for a finalizer may take it on while room is made. */
static int32_t *push_timeline(lua_State *L, size_t *n) {
    int32_t *ids;
    uint64_t room;
    do {
        room = dsvk_session_position(check_session(L, 1)->handle);
        ids = new_rows(L, room + 1, 1); /* + 1: an empty timeline has an address too */
        *n = (size_t)dsvk_session_position(check_session(L, 1)->handle);
    } while (*n > room);
    return ids;
}

/* session:begin(tokens, n, options); tokens nil: the timeline as it stands. */
static int session_begin(lua_State *L) {
    ld_session *self = check_session(L, 1);
    lua_settop(L, 4);
    const size_t n_decode = check_count(L, 3);
    size_t n;
    dsvk_sample_options options;
    dsvk_error err = {0};
    const int mask = sample_options(L, 4, false, &options);
    options.mask_user = &self->call;
    if (self->users > 0)
        return ld_busy(L, "the session");
    const int32_t *tokens = NULL;
    if (!lua_isnil(L, 2)) {
        tokens = take_tokens(L, &n, &err);
    } else {
        int32_t *timeline = push_timeline(L, &n);
        if (dsvk_session_tokens(self->handle, timeline, &err) == DSVK_OK)
            tokens = timeline;
    }
    if (tokens == NULL)
        return ld_fail(L, &err);
    lua_pushnil(L);
    if (mask != 0)
        lua_copy(L, mask, -1);
    check_session(L, 1);
    dsvk_decoder *decoder = NULL; /* until the end of the function Lua has no chance to raise */
    dsvk_status status = self->tokenizer ? dsvk_decoder_open(&decoder, self->tokenizer, &err) : DSVK_OK;
    if (status == DSVK_OK)
        status = dsvk_session_begin(self->handle, tokens, n, n_decode, &options, &err);
    if (status == DSVK_OK) {
        dsvk_decoder *last = self->decoder;
        self->decoder = decoder;
        decoder = last;
        self->told = n;
        lua_setiuservalue(L, 1, 3);
    }
    dsvk_decoder_close(decoder);
    return ld_done(L, status, &err);
}

/* Adds the text of the new tokens: whole characters, no stop, at the end what is left. */
static dsvk_status add_text(luaL_Buffer *text, dsvk_decoder *decoder, const dsvk_poll_result *result, dsvk_error *err) {
    const size_t n_tokens = result->n_tokens - (result->stopped && result->n_tokens > 0);
    const char *piece;
    size_t n;
    for (size_t i = 0; i < n_tokens; i++) {
        const dsvk_status status = dsvk_decoder_push(decoder, result->tokens[i], &piece, &n, err);
        if (status != DSVK_OK)
            return status;
        luaL_addlstring(text, piece, n);
    }
    const dsvk_status status = result->finished ? dsvk_decoder_finish(decoder, &piece, &n, err) : DSVK_OK;
    if (result->finished && status == DSVK_OK)
        luaL_addlstring(text, piece, n);
    return status;
}

typedef struct polled {
    ld_session *session;
    dsvk_poll_result result;
} polled;

/* The results of poll: text, finished, ids. */
static int push_polled(lua_State *L) {
    const polled *p = lua_touserdata(L, 1);
    dsvk_error err = {0};
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    const dsvk_status status = p->session->decoder ? add_text(&text, p->session->decoder, &p->result, &err) : DSVK_OK;
    luaL_pushresult(&text);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    lua_pushboolean(L, p->result.finished != 0);
    ld_push_ids(L, p->result.tokens, p->result.n_tokens);
    return 3;
}

static int session_poll(lua_State *L) {
    ld_session *self = check_session(L, 1);
    const lua_Number budget = luaL_checknumber(L, 2);
    if (!(budget >= 0))
        luaL_argerror(L, 2, lua_pushfstring(L, "expected microseconds, got %f", budget));
    polled p = {.session = self};
    ld_call call;
    dsvk_error err = {0};
    if (self->users > 0)
        return ld_busy(L, "the session");
    const bool masked = lua_getiuservalue(L, 1, 3) == LUA_TFUNCTION;
    const int mask = masked ? lua_gettop(L) : 0;
    enter(L, self, &call);
    call.mask = mask;
    call.told = &self->told;
    const dsvk_status status = dsvk_session_poll(self->handle, budget < 0x1p62 ? (uint64_t)budget : 1ull << 62, &p.result, &err);
    leave(self, &call);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    self->users++; /* the result lies in the session: finalizers that run meanwhile may neither poll, begin anew nor close it */
    lua_pushcfunction(L, push_polled);
    lua_pushlightuserdata(L, &p);
    const bool raised = lua_pcall(L, 1, 3, 0) != LUA_OK;
    self->users--;
    return raised ? lua_error(L) : 3;
}

static int session_cancel(lua_State *L) {
    dsvk_session_cancel(check_session(L, 1)->handle);
    return 0;
}

/* ---- what it is ---- */

static int session_position(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)dsvk_session_position(check_session(L, 1)->handle));
    return 1;
}

static int session_context(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)dsvk_session_context(check_session(L, 1)->handle));
    return 1;
}

static int session_tokens(lua_State *L) {
    size_t n;
    int32_t *ids = push_timeline(L, &n);
    dsvk_error err = {0};
    if (dsvk_session_tokens(check_session(L, 1)->handle, ids, &err) != DSVK_OK)
        return ld_fail(L, &err);
    ld_push_ids(L, ids, n);
    return 1;
}

static int session_memory(lua_State *L) {
    check_session(L, 1);
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, dsvk_session_memory(check_session(L, 1)->handle, (char **)&json->memory, &err), json, &err);
}

static int session_model(lua_State *L) {
    luaL_checkudata(L, 1, LD_SESSION);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static const luaL_Reg functions[] = {
    {"sync", session_sync},         {"logits", session_logits},   {"mtp_logits", session_mtp_logits},
    {"evaluate", session_evaluate}, {"decode", session_decode},   {"begin", session_begin},
    {"poll", session_poll},         {"cancel", session_cancel},
    {"position", session_position}, {"context", session_context}, {"tokens", session_tokens},
    {"memory", session_memory},     {"model", session_model},     {"close", session_close},
    {"closed", session_closed},     {NULL, NULL},
};

void ld_add_session(lua_State *L) { ld_add_type(L, LD_SESSION, functions, session_collect, session_close); }
