#!/usr/bin/env bash
# Usage: run_on_nehalem.sh PROGRAM ARGUMENTS...
# Runs a test binary at the lowest level on an emulated CPU that has no other.
set -euo pipefail
. "$(dirname "$0")/nehalem.sh"
export LOWATT_ARCH=sse2
# That the other levels cannot run there is the point, not news.
on_nehalem "$@" | sed '/^SKIPPED level/d'
