#!/usr/bin/env bash
# Usage: text.sh ROOT
# Checks the text of all sources: plain ASCII, no unfinished marks, no file that is too long to read.
set -euo pipefail
cd "$1"

longest=800
bad=0
complain() {
  echo "$1"
  bad=1
}

list_sources() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard
  else
    find . \( -path './build*' -o -path ./.cache \) -prune -o -type f -print
  fi | grep -vE '\.(npy|png|pdf|idx|safetensors|kvcache)$' | sort -u
}

# Assembled, so that this file does not match itself.
marks="\\b(TO""DO|FIX""ME|XX""X|HA""CK)\\b"

count=0
while IFS= read -r file; do
  count=$((count + 1))
  if LC_ALL=C grep -nP '[^\x00-\x7F]' "$file"; then complain "$file: not plain ASCII (lines above)"; fi
  if grep -nP "$marks" "$file"; then complain "$file: unfinished (lines above)"; fi
  case $file in
    *.hpp | *.cpp | *.cmake | *.txt | *.sh | *.md | *.py | *.ci/run)
      lines=$(wc -l <"$file")
      if ((lines > longest)); then complain "$file: $lines lines, at most $longest"; fi ;;
  esac
done < <(list_sources)

((count > 0)) || complain "no files found"
((bad == 0)) || exit 1
echo "$count files are plain, finished and short enough"
