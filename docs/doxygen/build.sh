#!/usr/bin/env bash
# Usage: docs/doxygen/build.sh FOLDER
# Writes the documents and the public headers with their comments as HTML into FOLDER/html. A warning of
# Doxygen's is a failure. Needs Debian's package doxygen.
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1")
cd "$(dirname "$0")/../.."

command -v doxygen >/dev/null || { echo "lowatt: no doxygen (Debian's package doxygen)" >&2; exit 1; }
rm -rf "$folder/html"
{ cat docs/doxygen/Doxyfile; echo "OUTPUT_DIRECTORY = \"$folder\""; } | doxygen -
cp -r docs/figures "$folder/html/"
echo "$folder/html/index.html"
