/* Lua values to the numbers of dsvk.h and back. Messages name the argument or option and the value. */
#include <jansson.h>
#include <limits.h>
#include <string.h>

#include "lua_dsvk.h"

/* ---- boxes ---- */

#define BOX "dsvk.box"

ld_box *ld_new_box(lua_State *L, void (*release)(void *memory)) {
    ld_box *box = ld_new(L, sizeof *box, 0, BOX);
    box->release = release;
    return box;
}

void ld_release(ld_box *box) {
    void *memory = box->memory;
    box->memory = NULL;
    if (memory != NULL)
        box->release(memory);
}

static int collect_box(lua_State *L) {
    ld_release(luaL_checkudata(L, 1, BOX));
    return 0;
}

void ld_add_box_type(lua_State *L) {
    luaL_newmetatable(L, BOX);
    lua_pushcfunction(L, collect_box);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

/* ---- reports ---- */

static void push_value(lua_State *L, json_t *value) {
    luaL_checkstack(L, 4, "a report nested too deep");
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *item;
        lua_createtable(L, 0, (int)json_object_size(value));
        json_object_foreach(value, key, item) {
            push_value(L, item);
            lua_setfield(L, -2, key);
        }
        break;
    }
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(value), 0);
        for (size_t i = 0; i < json_array_size(value); i++) {
            push_value(L, json_array_get(value, i));
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case JSON_STRING: lua_pushlstring(L, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(value)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(value)); break;
    case JSON_TRUE:
    case JSON_FALSE: lua_pushboolean(L, json_is_true(value)); break;
    case JSON_NULL: lua_pushnil(L); break;
    }
}

static void release_json(void *value) { json_decref(value); }

int ld_json(lua_State *L, dsvk_status status, ld_box *text, const dsvk_error *err) {
    if (status != DSVK_OK)
        return ld_fail(L, err);
    ld_box *tree = ld_new_box(L, release_json);
    tree->memory = json_loads(text->memory, JSON_DECODE_ANY, NULL);
    ld_release(text);
    if (tree->memory == NULL)
        luaL_error(L, "not enough memory for a report");
    push_value(L, tree->memory);
    ld_release(tree);
    return 1;
}

/* ---- tokens and logits ---- */

void ld_push_list(lua_State *L, size_t n) { lua_createtable(L, n < INT_MAX ? (int)n : INT_MAX, 0); }

void ld_put_ids(lua_State *L, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

void ld_put_numbers(lua_State *L, const float *numbers, size_t n) {
    for (size_t i = 0; i < n; i++) {
        lua_pushnumber(L, numbers[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

void ld_push_ids(lua_State *L, const int32_t *ids, size_t n) {
    ld_push_list(L, n);
    ld_put_ids(L, ids, n);
}

void ld_push_numbers(lua_State *L, const float *numbers, size_t n) {
    ld_push_list(L, n);
    ld_put_numbers(L, numbers, n);
}

void ld_push_shape(lua_State *L, const uint64_t *shape, uint32_t rank) {
    lua_createtable(L, (int)rank, 0);
    for (uint32_t i = 0; i < rank; i++) {
        lua_pushinteger(L, (lua_Integer)shape[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* Items count as they lie in the table itself. What would be taken for another number of them than its owner sees is refused. */
static void check_array(lua_State *L, int arg, const char *name) {
    const bool empty = lua_rawlen(L, arg) == 0;
    if (luaL_getmetafield(L, arg, "__len") != LUA_TNIL || (empty && luaL_getmetafield(L, arg, "__index") != LUA_TNIL))
        luaL_error(L, "%s: expected an array of token ids, got a table whose items are made by a metatable", name);
    if (!empty)
        return;
    lua_pushnil(L);
    if (lua_next(L, arg) != 0)
        luaL_error(L, "%s: expected an array of token ids, got a table with [%s] and without [1]", name, ld_shown(L, -2));
}

bool ld_whole(lua_State *L, int index, lua_Integer *out) {
    int is_whole = lua_type(L, index) == LUA_TNUMBER;
    *out = is_whole ? lua_tointegerx(L, index, &is_whole) : 0;
    return is_whole;
}

int32_t ld_check_id(lua_State *L, int arg) {
    const lua_Integer id = luaL_checkinteger(L, arg);
    if (id < INT32_MIN || id > INT32_MAX)
        luaL_argerror(L, arg, lua_pushfstring(L, "%I is no token id (32 bits)", id));
    return (int32_t)id;
}

const int32_t *ld_ids(lua_State *L, int arg, const char *name, size_t *n) {
    arg = lua_absindex(L, arg);
    if (!lua_istable(L, arg))
        luaL_error(L, "%s: expected an array of token ids, got %s", name, luaL_typename(L, arg));
    check_array(L, arg, name);
    *n = lua_rawlen(L, arg);
    int32_t *ids = lua_newuserdatauv(L, (*n + 1) * sizeof *ids, 0); /* + 1: an empty array has an address too */
    for (size_t i = 0; i < *n; i++) {
        lua_Integer id;
        lua_rawgeti(L, arg, (lua_Integer)i + 1);
        if (!ld_whole(L, -1, &id))
            luaL_error(L, "%s[%I]: expected an integer, got %s", name, (lua_Integer)i + 1, ld_shown(L, -1));
        if (id < INT32_MIN || id > INT32_MAX)
            luaL_error(L, "%s[%I]: %I is no token id (32 bits)", name, (lua_Integer)i + 1, id);
        ids[i] = (int32_t)id;
        lua_pop(L, 1);
    }
    return ids;
}

/* ---- options ---- */

const char *ld_shown(lua_State *L, int index) {
    const bool text = lua_type(L, index) == LUA_TSTRING;
    const char *shown = luaL_tolstring(L, index, NULL);
    return text ? lua_pushfstring(L, "'%s'", shown) : shown;
}

static bool known(const char *const *names, const char *key) {
    while (*names != NULL && strcmp(*names, key) != 0)
        names++;
    return *names != NULL;
}

/* The first key of a table that is none of `names`, shown and pushed; NULL when there is none. */
static const char *unknown_key(lua_State *L, int table, const char *const *names) {
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1))
        if (lua_type(L, -2) != LUA_TSTRING || !known(names, lua_tostring(L, -2)))
            return luaL_tolstring(L, -2, NULL);
    return NULL;
}

void ld_options(lua_State *L, int arg, const char *const *names) {
    if (lua_isnoneornil(L, arg)) {
        lua_settop(L, lua_gettop(L) < arg ? arg : lua_gettop(L));
        lua_newtable(L);
        lua_replace(L, arg);
        return;
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    const char *key = unknown_key(L, arg, names);
    if (key != NULL)
        luaL_error(L, "unknown option '%s'", key);
}

void ld_wrong_option(lua_State *L, const char *name, int value, const char *expected) {
    luaL_error(L, "option '%s': expected %s, got %s", name, expected, ld_shown(L, value));
}

void ld_option_table(lua_State *L, int arg, const char *name, const char *const *names) {
    const int type = lua_getfield(L, arg, name);
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        return;
    }
    if (type != LUA_TTABLE)
        ld_wrong_option(L, name, -1, "a table");
    const char *key = unknown_key(L, lua_gettop(L), names);
    if (key != NULL)
        luaL_error(L, "option '%s': unknown option '%s'", name, key);
}

bool ld_option_flag(lua_State *L, int arg, const char *name) {
    if (lua_getfield(L, arg, name) != LUA_TBOOLEAN && !lua_isnil(L, -1))
        ld_wrong_option(L, name, -1, "true or false");
    const bool flag = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return flag;
}

float ld_option_number(lua_State *L, int arg, const char *name) {
    if (lua_getfield(L, arg, name) != LUA_TNUMBER && !lua_isnil(L, -1))
        ld_wrong_option(L, name, -1, "a number");
    const float number = (float)lua_tonumber(L, -1);
    lua_pop(L, 1);
    return number;
}

uint64_t ld_option_count(lua_State *L, int arg, const char *name, uint64_t most) {
    const bool given = lua_getfield(L, arg, name) != LUA_TNIL;
    lua_Integer count;
    const bool whole = ld_whole(L, -1, &count);
    most = most < INT64_MAX ? most : INT64_MAX;
    if (given && (!whole || count < 0 || (uint64_t)count > most))
        ld_wrong_option(L, name, -2, lua_pushfstring(L, "an integer 0 .. %I", (lua_Integer)most));
    lua_pop(L, 1);
    return (uint64_t)count;
}

const char *ld_option_text(lua_State *L, int arg, const char *name) {
    size_t n = 0;
    if (lua_getfield(L, arg, name) != LUA_TSTRING && !lua_isnil(L, -1))
        ld_wrong_option(L, name, -1, "a string");
    const char *text = lua_tolstring(L, -1, &n);
    if (text != NULL && strlen(text) != n)
        ld_wrong_option(L, name, -1, "a string without zero bytes");
    return text;
}

int ld_option_function(lua_State *L, int arg, const char *name, const char *takes) {
    const int type = lua_getfield(L, arg, name);
    if (type == LUA_TNIL)
        return 0;
    if (type != LUA_TFUNCTION)
        ld_wrong_option(L, name, -2, lua_pushfstring(L, "a function %s", takes));
    return lua_gettop(L);
}
