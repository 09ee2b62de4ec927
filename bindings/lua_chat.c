/* dsvk.chat: conversations to prompts, and answers back to messages, as they come or whole. What becomes of Lua tables as JSON is
 * written in Lua (pure.lua). */
#include "lua_dsvk.h"

typedef struct ld_parser {
    dsvk_chat_parser *handle;
} ld_parser;

static int chat_encode(lua_State *L) {
    size_t n, n_text = 0;
    const char *conversation = luaL_checklstring(L, 1, &n);
    ld_box *text = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    if (dsvk_chat_encode(conversation, n, (char **)&text->memory, &n_text, &err) != DSVK_OK)
        return ld_fail(L, &err);
    lua_pushlstring(L, text->memory, n_text);
    ld_release(text);
    return 1;
}

static int chat_encode_ids(lua_State *L) {
    size_t n, n_ids = 0;
    const char *conversation = luaL_checklstring(L, 2, &n);
    ld_box *ids = ld_new_box(L, dsvk_free);
    const dsvk_tokenizer *tokenizer = ld_check_tokenizer(L, 1)->handle;
    dsvk_error err = {0};
    if (dsvk_chat_encode_ids(tokenizer, conversation, n, (int32_t **)&ids->memory, &n_ids, &err) != DSVK_OK)
        return ld_fail(L, &err);
    ld_push_ids(L, ids->memory, n_ids);
    ld_release(ids);
    return 1;
}

static uint32_t check_thinking(lua_State *L, int arg) {
    static const char *const modes[] = {"thinking", "chat", NULL};
    return luaL_checkoption(L, arg, "thinking", modes) == 0;
}

static int chat_parse(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    const uint32_t thinking = check_thinking(L, 2);
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, dsvk_chat_parse(text, n, thinking, (char **)&json->memory, &err), json, &err);
}

/* ---- Parser ---- */

static ld_parser *check_parser(lua_State *L, int arg) {
    ld_parser *self = luaL_checkudata(L, arg, LD_PARSER);
    LD_OPEN(L, self, "the parser");
    return self;
}

static int chat_parser(lua_State *L) {
    const uint32_t thinking = check_thinking(L, 1);
    ld_parser *self = ld_new(L, sizeof *self, 0, LD_PARSER);
    dsvk_error err = {0};
    return dsvk_chat_parser_open(&self->handle, thinking, &err) == DSVK_OK ? 1 : ld_fail(L, &err);
}

static int parser_close(lua_State *L) {
    ld_parser *self = luaL_checkudata(L, 1, LD_PARSER);
    dsvk_chat_parser *handle = self->handle;
    self->handle = NULL;
    dsvk_chat_parser_close(handle);
    lua_pushboolean(L, 1);
    return 1;
}

static int parser_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_parser *)luaL_checkudata(L, 1, LD_PARSER))->handle == NULL);
    return 1;
}

/* By dsvk_chat_event. */
static const char *const kinds[] = {"reasoning", "content", "call", "arguments", "call_end", "call_cut", "end"};

/* The events that there are, as {kind=, text=, call=}. Creating a table may run finalizers, which may use the parser: it is looked at
 * anew behind each, and an event's text is copied before anything else can happen. */
static int push_events(lua_State *L) {
    lua_newtable(L);
    for (lua_Integer i = 1;; i++) {
        dsvk_chat_event event;
        uint32_t call;
        const char *text;
        size_t n;
        lua_createtable(L, 0, 3);
        if (dsvk_chat_parser_next(check_parser(L, 1)->handle, &event, &call, &text, &n) == 0) {
            lua_pop(L, 1);
            return 1;
        }
        lua_pushlstring(L, text, n);
        lua_setfield(L, -2, "text");
        lua_pushstring(L, kinds[event]);
        lua_setfield(L, -2, "kind");
        if (event >= DSVK_CHAT_CALL && event <= DSVK_CHAT_CALL_CUT) {
            lua_pushinteger(L, (lua_Integer)call + 1);
            lua_setfield(L, -2, "call");
        }
        lua_rawseti(L, -2, i);
    }
}

static int parser_feed(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    dsvk_error err = {0};
    return dsvk_chat_parser_feed(check_parser(L, 1)->handle, text, n, &err) == DSVK_OK ? push_events(L) : ld_fail(L, &err);
}

static int parser_push(lua_State *L) {
    const int32_t id = ld_check_id(L, 3);
    ld_parser *self = check_parser(L, 1);
    dsvk_error err = {0};
    return dsvk_chat_parser_push(self->handle, ld_check_tokenizer(L, 2)->handle, id, &err) == DSVK_OK ? push_events(L) : ld_fail(L, &err);
}

static int parser_finish(lua_State *L) {
    dsvk_error err = {0};
    return dsvk_chat_parser_finish(check_parser(L, 1)->handle, &err) == DSVK_OK ? push_events(L) : ld_fail(L, &err);
}

static int parser_place(lua_State *L) {
    lua_pushstring(L, kinds[dsvk_chat_parser_place(check_parser(L, 1)->handle)]);
    return 1;
}

static const luaL_Reg parser_functions[] = {
    {"feed", parser_feed},   {"push", parser_push},     {"finish", parser_finish}, {"place", parser_place},
    {"close", parser_close}, {"closed", parser_closed}, {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"encode", chat_encode}, {"encode_ids", chat_encode_ids}, {"parse", chat_parse}, {"parser", chat_parser}, {NULL, NULL},
};

void ld_add_chat(lua_State *L) {
    ld_add_type(L, LD_PARSER, parser_functions, parser_close, parser_close);
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "chat");
}
