#!/usr/bin/env bash
# Usage: two_flags.sh OPTIMIZATION WORK "FLAGS OF THE BEST LEVEL" COMPILER...
# Static mode: two units of one program, compiled with the flags of different levels. Whichever comes
# first for the linker, the baseline one must run on a CPU that has nothing more.
set -euo pipefail
here=$(dirname "$0")
. "$here/nehalem.sh"

optimization=$1 work=$2
read -ra best_flags <<<"$3"
shift 3

mkdir -p "$work"
"$@" "$optimization" -DTWO_FLAGS_FUNCTION=baseline_answer \
  -c "$here/two_flags_unit.cpp" -o "$work/baseline.o"
"$@" "$optimization" -DTWO_FLAGS_FUNCTION=best_answer "${best_flags[@]}" \
  -c "$here/two_flags_unit.cpp" -o "$work/best.o"
"$@" "$optimization" -c "$here/two_flags_main.cpp" -o "$work/main.o"

for order in "baseline best" "best baseline"; do
  read -r first second <<<"$order"
  "$@" "$work/main.o" "$work/$first.o" "$work/$second.o" -o "$work/program"
  echo "$optimization, linked in the order $order:"
  status=0
  on_nehalem "$work/program" || status=$?
  if ((status != 0)); then
    echo "exit status $status; symbols that both units define:"
    comm -12 <(nm -C --defined-only "$work/baseline.o" | cut -d' ' -f2- | grep '^[WVu]' | sort -u) \
      <(nm -C --defined-only "$work/best.o" | cut -d' ' -f2- | grep '^[WVu]' | sort -u) |
      sed 's/^/  /'
    exit 1
  fi
done
