#!/usr/bin/env bash
# Usage: pkg_config.sh WORK PREFIX COMPILER...
# No CMake, and nothing known but the installed package's pkg-config file.
set -euo pipefail
here=$(dirname "$0") work=$1 prefix=$2
shift 2

export PKG_CONFIG_PATH=$prefix/share/pkgconfig
version=$(pkg-config --modversion lowatt)
grep -q "LOWATT_VERSION_MAJOR ${version%%.*}$" "$prefix/include/lowatt/core/version.hpp" ||
  { echo "lowatt.pc has version $version, core/version.hpp another" >&2; exit 1; }
read -ra flags <<<"$(pkg-config --cflags lowatt)"
# The compiler must not see the project's own headers.
arguments=()
for argument in "$@"; do
  [[ $argument == -I* ]] || arguments+=("$argument")
done
mkdir -p "$work"
"${arguments[@]}" "${flags[@]}" "$here/main.cpp" -o "$work/main"
"$work/main"
