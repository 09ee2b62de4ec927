rockspec_format = "3.0"
package = "dsvk"
version = "0.1.0-1"
source = { url = "file://." } -- luarocks make, in a clone
description = {
  summary = "DeepSeek-V4 inference on Vulkan, from Lua",
  license = "MIT",
}
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "cmake",
  variables = {
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    DSVK_LUA = "ON",
    DSVK_TESTS = "OFF",
    DSVK_LIBRARY = "OFF",
    LUA_INCDIR = "$(LUA_INCDIR)",
    DSVK_LUA_LIBDIR = "$(LIBDIR)",
    DSVK_LUA_LUADIR = "$(LUADIR)",
  },
}
