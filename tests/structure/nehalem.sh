# Sourced: how to run a program on a CPU of 2008, without AVX. Instructions that it lacks are trapped.

qemu=$(command -v qemu-x86_64 || true)
if [[ -z $qemu ]]; then
  echo "skipped: qemu-x86_64 is not installed (Debian's package qemu-user)"
  exit 77
fi

# qemu says which features of Nehalem it does not emulate; those lines are not about the program.
on_nehalem() {
  "$qemu" -cpu Nehalem "$@" 2> >(grep -v "TCG doesn't support" >&2)
}
