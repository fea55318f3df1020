#!/usr/bin/env bash
# Usage: python_for_figures.sh
# Prints a python3 that has matplotlib; fails with a sentence where there is none.
for candidate in python3 /usr/bin/python3; do
  "$candidate" -c 'import matplotlib' 2>/dev/null && { echo "$candidate"; exit; }
done
echo "no python3 has the module matplotlib (Debian's package python3-matplotlib)" >&2
exit 1
