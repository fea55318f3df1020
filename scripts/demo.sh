#!/usr/bin/env bash
# Usage: scripts/demo.sh
# From a bare Debian 12 machine to the comparison of all mechanisms on real attention tensors.
set -euo pipefail
. "$(dirname "$0")/common.sh"

say "Lowatt demo: installs what is missing, builds into build/, runs build/examples/attend_compare"
scripts/setup.sh build
configure build -DLOWATT_BUILD_EXAMPLES=ON
build build attend_compare
say "Running build/examples/attend_compare"
build/examples/attend_compare "$@" || fail "attend_compare failed, see above."
