#!/usr/bin/env bash
# Usage: two_flags.sh OPTIMIZATION WORK "FLAGS OF THE BEST LEVEL" COMPILER...
# Static mode: two units of one program, compiled with the flags of different levels. They may share no
# function; and whichever comes first for the linker, the baseline one must run on a CPU that has
# nothing more.
set -euo pipefail
here=$(dirname "$0")

optimization=$1 work=$2
read -ra best_flags <<<"$3"
shift 3

mkdir -p "$work"
"$@" "$optimization" -DTWO_FLAGS_FUNCTION=baseline_answer \
  -c "$here/two_flags_unit.cpp" -o "$work/baseline.o"
"$@" "$optimization" -DTWO_FLAGS_FUNCTION=best_answer "${best_flags[@]}" \
  -c "$here/two_flags_unit.cpp" -o "$work/best.o"
"$@" "$optimization" -c "$here/two_flags_main.cpp" -o "$work/main.o"

weak_symbols() {
  nm -C --defined-only "$1" | cut -d' ' -f2- | grep '^[WVu] ' | sort -u
}
# See symbols.sh. std::exception's constructor, which Error's calls, stores one pointer.
harmless='DW\.ref\.__gxx_personality_v0$|__clang_call_terminate$|std::exception::exception\(\)$'
shared=$(comm -12 <(weak_symbols "$work/baseline.o") <(weak_symbols "$work/best.o") |
  grep -vP "$harmless" || true)
if [[ -n $shared ]]; then
  echo "$optimization: functions that units with different flags share:"
  sed 's/^/  /' <<<"$shared"
  exit 1
fi

. "$here/nehalem.sh"
for order in "baseline best" "best baseline"; do
  read -r first second <<<"$order"
  "$@" "$work/main.o" "$work/$first.o" "$work/$second.o" -o "$work/program"
  echo "$optimization, linked in the order $order:"
  on_nehalem "$work/program" || { echo "exit status $?"; exit 1; }
done
