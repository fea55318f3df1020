#!/usr/bin/env bash
# Usage: project.sh SOURCE WORK CMAKE OPTIONS...
# Configures, builds, tests and installs the project in SOURCE as its owner would.
set -euo pipefail
source=$1 work=$2 cmake=$3
shift 3

rm -rf "$work"
"$cmake" -S "$source" -B "$work" "$@"
"$cmake" --build "$work"
"$(dirname "$cmake")/ctest" --test-dir "$work" --output-on-failure --no-tests=error
if grep -q '^install(' "$source/CMakeLists.txt"; then "$cmake" --install "$work"; fi
