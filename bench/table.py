#!/usr/bin/env python3
"""Prints what lowatt_bench measured as a Markdown table.

A cell holds ns per query-key pair and, in brackets, how many times as fast that is as the baseline
at the same shape. Each is the best of the repetitions: on a shared machine others only add time.
"""
import argparse
import sys

from results import LEVELS, PHASES, read_file

MECHANISMS = ["softmax", "eigen", "inhibitor", "latte", "bitformer"]  # in the table's order


def place(row):
    kernel, level = row
    starts = [i for i, mechanism in enumerate(MECHANISMS) if kernel.startswith(mechanism)]
    return (*starts, kernel, LEVELS.index(level))


def main():
    parser = argparse.ArgumentParser(description="Prints what lowatt_bench measured as a table.")
    parser.add_argument("results", metavar="RESULTS.json",
                        help="written by lowatt_bench --benchmark_out=RESULTS.json")
    parser.add_argument("--baseline", metavar="MECHANISM/PRECISION/LEVEL",
                        help="default: softmax/fp32 at its best level in the results")
    options = parser.parse_args()

    best = {name: min(values) for (name, counter), values in read_file(options.results).items()
            if counter == "ns_per_pair"}
    rows = sorted({(name.kernel, name.level) for name in best}, key=place)
    if options.baseline:
        baseline = tuple(options.baseline.rsplit("/", 1))
    else:
        baseline = max((row for row in rows if row[0] == "softmax/fp32"),
                       key=lambda row: LEVELS.index(row[1]), default=("softmax/fp32", "any level"))
    if baseline not in rows:
        sys.exit(f"lowatt: {'/'.join(baseline)} is not among the results")
    rows.insert(0, rows.pop(rows.index(baseline)))
    shapes = sorted({(name.phase, name.dim, name.keys) for name in best},
                    key=lambda shape: (PHASES.index(shape[0]), *shape[1:]))
    times = {(name.kernel, name.level, (name.phase, name.dim, name.keys)): time
             for name, time in best.items()}

    def cell(row, shape):
        time, reference = times.get((*row, shape)), times.get((*baseline, shape))
        if time is None:
            return "-"
        return f"{time:.2f}" + (f" ({reference / time:.2f}x)" if reference else "")

    titles = [f"{phase} {keys}, d={dim}" for phase, dim, keys in shapes]
    print("| |", " | ".join(titles), "|")
    print("|---" * (len(shapes) + 1) + "|")
    for row in rows:
        print("|", "/".join(row), "|", " | ".join(cell(row, shape) for shape in shapes), "|")


if __name__ == "__main__":
    main()
