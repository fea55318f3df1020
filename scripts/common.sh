# Sourced by the scripts beside it; brings them to the top of the repository.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "==> $*"; }

fail() {
  echo "lowatt: $*" >&2
  exit 1
}

# configure FOLDER OPTIONS...: configures FOLDER for a Release build, with Ninja unless it has another
# generator already.
configure() {
  local folder=$1 cache=$1/CMakeCache.txt options=(-DCMAKE_BUILD_TYPE=Release)
  shift
  if [[ ! -f $cache ]]; then
    options+=(-G Ninja)
  elif ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$cache"; then
    say "$folder/ was made for sources in another place: starting anew"
    options+=(-G Ninja --fresh)
  fi
  say "Configuring $folder/"
  cmake -S . -B "$folder" "${options[@]}" "$@" >"$log" 2>&1 ||
    { cat "$log" >&2; fail "configuring $folder/ failed, see above."; }
}

# configure_preset PRESET: configures build-PRESET/ as CMakePresets.json says.
configure_preset() {
  say "Configuring build-$1/"
  cmake --preset "$1" >"$log" 2>&1 || { cat "$log" >&2; fail "configuring build-$1/ failed, see above."; }
}

# sample_sweeps PERCENT: tests run a random part of the sweeps, where the environment does not say which.
sample_sweeps() {
  export LOWATT_TEST_SAMPLE=${LOWATT_TEST_SAMPLE:-$1}
  export LOWATT_TEST_SEED=${LOWATT_TEST_SEED:-$RANDOM}
  say "Sample of the sweeps: LOWATT_TEST_SAMPLE=$LOWATT_TEST_SAMPLE LOWATT_TEST_SEED=$LOWATT_TEST_SEED"
}

# build FOLDER TARGET...
build() {
  local folder=$1
  shift
  say "Building in $folder/: $*"
  cmake --build "$folder" --target "$@" || fail "building in $folder/ failed, see above."
}

# run_tests FOLDER OPTIONS...: all tests of FOLDER. Ends with ctest's summary; before it, says why
# tests or parts of them were skipped.
run_tests() {
  local folder=$1
  shift
  say "Testing in $folder/"
  ctest --test-dir "$folder" --output-on-failure --no-tests=error -j "$(nproc)" "$@" |
    awk -v log_file="$folder/Testing/Temporary/LastTest.log" '
      /tests passed,/ { summary = 1 }
      summary { held = held $0 "\n"; next }
      { print; fflush() }
      END {
        while ((getline line < log_file) > 0) {
          reason = ""
          if (line ~ /^(skipped:|SKIPPED) /) reason = substr(line, index(line, " ") + 1)
          if (line ~ /: Skipped$/ && (getline line < log_file) > 0) reason = line
          if (reason != "" && !seen[reason]++) print "Skipped: " reason
        }
        printf "%s", held
      }'
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A home that cannot be written to must not stop ccache from calling the compiler.
mkdir -p "${CCACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/ccache}" 2>/dev/null ||
  export CCACHE_DISABLE=1
