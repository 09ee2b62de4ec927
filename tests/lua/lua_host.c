/* A program that embeds Lua: runs the script argv[1] with `arg`, as `lua` does. Specs run in it, so that the sanitizers of a
 * build are in the program and not only in the module. */
#include <stdio.h>

#include <lauxlib.h>
#include <lualib.h>

static int traceback(lua_State *L) {
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

int main(int argc, char **argv) {
    lua_State *L = luaL_newstate();
    if (argc < 2 || L == NULL)
        return 2;
    luaL_openlibs(L);
    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - 1);
    }
    lua_setglobal(L, "arg");
    lua_pushcfunction(L, traceback);
    int failed = luaL_loadfile(L, argv[1]) != LUA_OK || lua_pcall(L, 0, 1, 1) != LUA_OK;
    if (failed)
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
    else
        failed = !lua_toboolean(L, -1);
    lua_close(L);
    return failed;
}
