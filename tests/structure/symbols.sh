#!/usr/bin/env bash
# Usage: symbols.sh LEVEL WORK COMPILER... (compiler, flags and include directories)
# Compiles the kernels of LEVEL and reads the symbols. The linker keeps one copy of every inline
# function, whichever unit it came from. So a unit compiled for AVX-512 may define only functions whose
# names say so: one without that tag could replace everybody's copy, and crash older CPUs.
set -euo pipefail
level=$1 work=$2
shift 2

mkdir -p "$work"
printf '#include <lowatt/dispatch/instantiate.hpp>\n' >"$work/unit.cpp"
"$@" -c "$work/unit.cpp" -o "$work/unit.o"

nm --defined-only "$work/unit.o" >"$work/mangled"
c++filt <"$work/mangled" >"$work/symbols"

# A tag is a whole word: avx512 is not avx512icl.
tag="\\b(lowatt::arch::|lowatt::kernels::|xsimd_)$level\\b"

# The compilers' own: a pointer to the exception handler, and a function that calls std::terminate.
harmless="DW\\.ref\\.__gxx_personality_v0|__clang_call_terminate"
offenders=$(grep -P '^[0-9a-f]* [WVuw] ' "$work/symbols" | grep -vP "$tag|$harmless" || true)
initialisers=$(grep -P '_GLOBAL__|__cxx_global_var_init' "$work/mangled" || true)
tagged=$(grep -cP "$tag" "$work/symbols" || true)

if [[ -n $offenders ]]; then
  echo "$level: symbols that other units could share, without $level in their names:"
  cut -d' ' -f2- <<<"$offenders" | sort | sed 's/^/  /'
fi
if [[ -n $initialisers ]]; then
  echo "$level: code that runs before main, whatever the CPU:"
  sed 's/^/  /' <<<"$initialisers"
fi
if ((tagged == 0)); then
  echo "$level: no symbol names this level; are the kernels instantiated?"
  exit 1
fi
[[ -z $offenders && -z $initialisers ]] || exit 1
echo "$level: $(wc -l <"$work/symbols") symbols, $tagged of them tagged, none shared"
