# What tools/test and tools/demo share; sourced, not run. Every step looks first and does only what is missing, so a
# second run is quick. Everything it makes lies inside the clone: build/, .venv/, .cache/.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# ---- system packages: the same names on Debian 12, Debian 13 and Ubuntu 24.04 ----

build_packages="gcc libc6-dev make ninja-build cmake pkg-config python3-venv python3-dev libvulkan-dev glslang-tools
  libjansson-dev libpcre2-dev liblua5.4-dev mesa-vulkan-drivers"
test_packages="vulkan-validationlayers lua5.4"

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

system_packages() { # NAME...
    local package missing=() as_root=()
    if ! command -v dpkg-query >/dev/null; then
        say "no Debian or Ubuntu: install the equivalents of $* by hand"
        return
    fi
    for package; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "these packages are missing and neither root nor sudo is here to install them: ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# ---- the build, in build/CONFIGURATION ----

# Compiles everything; setup.py uses the same directory and finds its work done.
build() { # CONFIGURATION
    local directory=$root/build/$1 generator=()
    [ -f "$directory/CMakeCache.txt" ] || generator=(-G Ninja)
    say "building ($1)"
    mkdir -p "$root/build"
    cmake -S "$root" -B "$directory" "${generator[@]}" "-DDSVK_CONFIGURATION=$1" -DDSVK_PYTHON=ON -DDSVK_LUA=ON \
        "-DPython3_EXECUTABLE=$venv/bin/python" >"$root/build/$1.log" 2>&1 &&
        cmake --build "$directory" >>"$root/build/$1.log" 2>&1 || { tail -n 60 "$root/build/$1.log" >&2; die "the build failed"; }
}

# ---- the virtual environment: the built package, the dsvk command, and what the tests import ----

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "Python 3.11 or later with its venv module is needed"
}

make_venv() {
    "$venv/bin/python" -c 'import setuptools, wheel' 2>/dev/null && return
    say "making .venv"
    "$(find_python)" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check setuptools wheel
}

# Installs the package when anything it is made of is newer than the last installation.
install_package() {
    local stamp=$venv/dsvk-installed
    if [ ! -f "$stamp" ] || [ -n "$(find "$root/python" "$root/setup.py" "$root/pyproject.toml" "$root/core/dsvk.h" \
        "$root/build/release/_dsvk.abi3.so" -name __pycache__ -prune -o -newer "$stamp" -print -quit)" ]; then
        say "installing dsvk into .venv"
        rm -rf "$root"/build/lib* "$root"/build/bdist*
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall "$root"
        touch "$stamp"
    fi
}

# Packages some tests need and skip without: NAME[=IMPORT]...
python_packages() {
    local item missing=()
    for item; do
        "$venv/bin/python" -c "import ${item#*=}" 2>/dev/null || missing+=("${item%%=*}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]} into .venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "${missing[@]}"
}

# ---- software Vulkan drivers ----

# Prints the ICD file of the driver asked for: "new" (a backport of Mesa where one can be had), "system", "swiftshader".
driver_file() { # NAME
    case $1 in
    new) "$root/tools/fetch_driver" lavapipe "$root/.cache/mesa" || system_lavapipe ;;
    system) system_lavapipe ;;
    swiftshader) "$root/tools/fetch_driver" swiftshader "$root/.cache/swiftshader" ;;
    *) die "unknown driver '$1': new, system or swiftshader" ;;
    esac
}

system_lavapipe() {
    local file
    for file in /usr/share/vulkan/icd.d/lvp_icd*.json; do
        [ -f "$file" ] && { printf '%s\n' "$file"; return; }
    done
    return 1
}
