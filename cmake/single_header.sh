#!/usr/bin/env bash
# Usage: single_header.sh INCLUDE_FOLDER OUTPUT
# Writes INCLUDE_FOLDER/lowatt/lowatt.hpp with everything of the library that it includes as one file.
set -euo pipefail
include=$1 output=$2

# Each file is written once, where it is first needed. The library includes inside of conditions only
# what other places need under the same flags.
awk -v top="$include" '
  # Own includes are relative to the file that holds them.
  function resolve(from, path,    folder) {
    folder = from
    sub(/\/[^\/]*$/, "", folder)
    while (sub(/^\.\.\//, "", path)) sub(/\/[^\/]*$/, "", folder)
    return folder "/" path
  }
  function write(file,    line, got) {
    if (file in written) return
    written[file] = 1
    while ((got = (getline line < (top "/" file))) > 0)
      if (line ~ /^#include "/) {
        sub(/^#include "/, "", line)
        sub(/".*/, "", line)
        write(resolve(file, line))
      } else if (line !~ /^#pragma once/)
        print line
    close(top "/" file)
    if (got < 0) {
      print "single_header.sh: cannot read " top "/" file > "/dev/stderr"
      exit 1
    }
  }
  BEGIN {
    print "// Generated: lowatt/lowatt.hpp and what it includes, in one file. The level is chosen when"
    print "// compiling; choice at run time needs the package."
    print "#pragma once"
    print "#if defined(LOWATT_DISPATCHED)"
    print "#error \"Lowatt: the single header has no choice of the level at run time; use the package\""
    print "#endif"
    write("lowatt/lowatt.hpp")
  }' >"$output.part"
mv "$output.part" "$output"
