#!/usr/bin/env bash
# Usage: quantisation.sh PAGE WORK COMPILER...
# The C++ snippets of PAGE are one program, and it prints what the page's text blocks say.
set -euo pipefail
page=$1 work=$2
shift 2

rm -rf "$work"
mkdir -p "$work"
blocks() { awk -v start="\`\`\`$1" '/^```/ { inside = $0 == start; next } inside' "$page"; }
{
  blocks cpp | grep '^#include'
  echo 'int main() {'
  blocks cpp | grep -v '^#include'
  echo '}'
} >"$work/snippets.cpp"
blocks text >"$work/expected"
[[ -s $work/expected ]] || { echo "$page shows no output" >&2; exit 1; }

"$@" "$work/snippets.cpp" -o "$work/snippets"
"$work/snippets" >"$work/printed"
diff "$work/expected" "$work/printed"
echo "$(wc -l <"$work/printed") lines are as the page has them"
