#!/usr/bin/env bash
# Usage: levels.sh PROGRAM
# LOWATT_ARCH chooses a level; one that the CPU lacks is refused with a sentence. The program ends with
# 0 (right answer) or 3 (refused), and never by an illegal instruction.
set -euo pipefail

program=$1
failed=0

# expect "STATUSES" SENTENCE COMMAND...
expect() {
  local statuses=$1 sentence=$2 status=0 output
  shift 2
  output=$("$@" 2>&1) || status=$?
  if [[ " $statuses " != *" $status "* ]] || { ((status == 3)) && [[ $output != *"$sentence"* ]]; }; then
    echo "LOWATT_ARCH=${LOWATT_ARCH-} $*: exit status $status, not $statuses; it said: $output"
    failed=1
  else
    echo "LOWATT_ARCH=${LOWATT_ARCH-}: ${output%%$'\n'*}"
  fi
}

echo "On this CPU:"
LOWATT_ARCH='' expect 0 '' "$program"
LOWATT_ARCH=sse2 expect 0 '' "$program"
for level in avx2 avx512 avx512icl amx; do
  LOWATT_ARCH=$level expect '0 3' "$level" "$program"
done
LOWATT_ARCH=nonsense expect 3 nonsense "$program"

if ((failed == 0)); then
  . "$(dirname "$0")/nehalem.sh"
  echo "On Nehalem:"
  LOWATT_ARCH='' expect 0 '' on_nehalem "$program"
  LOWATT_ARCH=sse2 expect 0 '' on_nehalem "$program"
  for level in avx2 avx512 avx512icl amx; do
    LOWATT_ARCH=$level expect 3 "$level" on_nehalem "$program"
  done
fi
exit $failed
