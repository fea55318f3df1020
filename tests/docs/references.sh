#!/usr/bin/env bash
# Usage: references.sh ROOT
# What the documents refer to is there: files that they link or name, tests that they name. The README
# lists all pages in docs/, and the pages of the mechanisms have one shape.
set -euo pipefail
cd "$1"

bad=0
complain() {
  echo "$1" >&2
  bad=1
}

count=0
while IFS=: read -r page target; do
  count=$((count + 1))
  target=${target%%#*}
  [[ $target =~ ^(https?:|$) || -e $(dirname "$page")/$target ]] ||
    complain "$page links $target, which does not exist"
done < <(grep -oE --with-filename '\]\([^) ]+\)' ./*.md docs/*.md bench/*.md bench/*/*.md examples/*/*.md |
  sed -E 's/\]\((.*)\)$/\1/')

while IFS=: read -r page name; do
  count=$((count + 1))
  grep -qrE "^(TEST|TEST_F|TEST_P|TYPED_TEST)\(${name%%.*}, ${name#*.}\)" --include='*_test.cpp' tests ||
    complain "$page names $name, which is not a test"
done < <(grep -oE --with-filename '`[A-Z][A-Za-z0-9]*\.[A-Z][A-Za-z0-9]*`' README.md docs/*.md |
  tr -d '`' | sort -u)

# Paths are from the top, include/, include/lowatt/ or examples/; `name` stands for any mechanism.
while IFS=: read -r page file; do
  count=$((count + 1))
  path=${file//name/bitformer}
  [[ -e $path || -e include/lowatt/$path || -e include/$path || -e examples/$path ]] ||
    complain "$page names $file, which does not exist"
done < <(grep -oE --with-filename '`[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+\.(hpp|cpp|sh|py|md|txt|json)`' \
  README.md docs/*.md | tr -d '`' | sort -u)

for page in docs/*.md; do
  grep -qF "($page)" README.md || complain "README.md does not list $page"
done

headings() { grep '^## ' "docs/$1.md"; }
for mechanism in inhibitor latte bitformer; do
  diff <(headings softmax) <(headings "$mechanism") ||
    complain "docs/softmax.md and docs/$mechanism.md have different headings"
done

((bad == 0)) || exit 1
echo "$count links, files and tests in the documents exist"
