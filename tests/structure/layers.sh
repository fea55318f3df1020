#!/usr/bin/env bash
# Usage: layers.sh ROOT
# Checks who includes whom under ROOT/include/lowatt. One way only:
#   core <- quant;  core <- arch <- simd;  (quant, simd) <- mechanisms <- dispatch <- attention
set -euo pipefail
cd "$1/include/lowatt"

find . -name '*.hpp' | sort | sed 's|^\./||' | xargs awk '
function layer_of(path) {
  if (path == "lowatt.hpp") return "umbrella"
  if (path ~ /^attention(\.hpp$|\/)/) return "attention"
  sub(/\/.*/, "", path)
  return path
}

# The path of an included file relative to include/lowatt, "" for a file of somebody else.
function resolve(including, included,    parts, n, i, out, depth) {
  if (included ~ /^<lowatt\//) return substr(included, 9, length(included) - 9)
  if (included !~ /^"/) return ""
  included = substr(included, 2, length(included) - 2)
  if (sub(/^lowatt\//, "", included)) return included
  sub(/[^\/]*$/, "", including)
  n = split(including included, parts, "/")
  depth = 0
  for (i = 1; i <= n; ++i) {
    if (parts[i] == "..") --depth
    else if (parts[i] != "." && parts[i] != "") out[++depth] = parts[i]
  }
  included = out[1]
  for (i = 2; i <= depth; ++i) included = included "/" out[i]
  return included
}

function complain(message) {
  printf "%s:%d: %s\n", FILENAME, FNR, message
  bad = 1
}

BEGIN {
  may["core"] = "core"
  may["quant"] = "core quant"
  may["arch"] = "core arch"
  may["simd"] = "core arch simd"
  below = "core quant arch simd"
  split("softmax inhibitor latte bitformer", mechanisms, " ")
  for (i in mechanisms) {
    may[mechanisms[i]] = below " " mechanisms[i]
    all = all " " mechanisms[i]
  }
  may["dispatch"] = below all " dispatch"
  may["attention"] = may["dispatch"] " attention"
  may["interop"] = "core quant interop"
  may["umbrella"] = may["attention"]
}

FNR == 1 { ++files }

/^[ \t]*#[ \t]*include/ {
  included = $0
  sub(/^[ \t]*#[ \t]*include[ \t]*/, "", included)
  sub(/[ \t]*(\/\/.*)?$/, "", included)

  layer = layer_of(FILENAME)
  if (!(layer in may)) {
    if (!(layer in reported)) complain("no layer is called " layer)
    reported[layer] = 1
    next
  }
  if (included ~ /Eigen\// && FILENAME != "interop/eigen.hpp")
    complain("only interop/eigen.hpp includes Eigen")
  if (included ~ /^<(vector|string|map|set|deque|list|unordered_map|unordered_set|memory|functional|iostream|sstream|thread|mutex|ranges)>$/)
    complain("this library uses no " included ": its functions would be shared by units of other flags")
  if (included ~ /(xsimd|mmintrin|arm_neon)/ && layer ~ /^(core|quant|dispatch|attention|interop|umbrella)$/ &&
      FILENAME !~ /^(dispatch\/instantiate|quant\/scale|core\/mask)\.hpp$/)
    complain(layer " holds no vector code, yet includes " included)

  target = resolve(FILENAME, included)
  if (target == "") next
  to = layer_of(target)
  if (index(" " may[layer] " ", " " to " ") == 0)
    complain(layer " must not include " to " (" target ")")
  else if (FILENAME ~ /\/reference\.hpp$/ && to != "core" && to != "quant" && target != layer "/params.hpp")
    complain("a reference includes core, quant and its own params.hpp only, not " target)
}

END {
  if (files == 0) { print "no headers found"; exit 1 }
  if (bad) exit 1
  print files " headers, all includes go one way"
}'
