#!/usr/bin/env bash
# Usage: scripts/fuzz.sh SECONDS
# Runs every fuzzer for so long, as many at a time as there are cores, from the seeds in tests/fuzz;
# prints executions and coverage of each. Fails when one of them finds anything, an input that takes
# a minute among it, and keeps it in build-sanitize/.
set -euo pipefail
. "$(dirname "$0")/common.sh"
seconds=${1:?how many seconds}

scripts/setup.sh sanitize
configure_preset sanitize
fuzzers=(tests/fuzz/*_fuzz.cpp)
fuzzers=("${fuzzers[@]##*/}")
fuzzers=("${fuzzers[@]%.cpp}")
build build-sanitize "${fuzzers[@]}"

# run_fuzzer NAME: the found corpus stays for the next time.
run_fuzzer() {
  local name=$1 seconds=$2 seeds=tests/fuzz/${1%_fuzz} folder=build-sanitize/tests
  [[ -d $seeds ]] || seeds=tests/golden
  mkdir -p "$folder/${name}_corpus"
  if "$folder/$name" -max_total_time="$seconds" -max_len=4096 -timeout=60 -print_final_stats=1 \
    -artifact_prefix="$folder/" "$folder/${name}_corpus" "$seeds" >"$folder/$name.log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/$name.log") executions," \
      "$(grep -o 'cov: [0-9]*' "$folder/$name.log" | tail -n 1 | cut -d' ' -f2) edges covered, nothing found"
  else
    tail -n 30 "$folder/$name.log" >&2
    echo "$name: found something, see above"
    return 1
  fi
}
export -f run_fuzzer
say "Fuzzing for $seconds seconds each: ${fuzzers[*]}"
printf '%s\n' "${fuzzers[@]}" |
  xargs -P "$(nproc)" -I{} bash -c 'run_fuzzer {} '"$seconds" || fail "a fuzzer found something."
