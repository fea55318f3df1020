"""Reads lowatt_bench's JSON."""
import collections
import json
import math
import pathlib
import statistics
import sys

LEVELS = ["sse2", "avx2", "avx512", "avx512icl", "amx"]  # lowest first
PHASES = ["prefill", "decode"]
COUNTERS = ["ns_per_pair", "percent_of_ceiling"]

# What a name says: mechanism/precision/level/phase/N/d.
Name = collections.namedtuple("Name", "kernel level phase keys dim")


def parse_name(text):
    """A Name, or None for what is not compared: packing, references, other programs' results."""
    parts = text.split("/")
    if len(parts) != 6 or parts[2] not in LEVELS or parts[3] not in PHASES:
        return None
    if not (parts[4].isdigit() and parts[5].isdigit()):
        return None
    return Name("/".join(parts[:2]), parts[2], parts[3], int(parts[4]), int(parts[5]))


def read_file(path):
    """{(Name, counter): values} of one file: of all repetitions, or their median where the file
    holds only that."""
    try:
        entries = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["benchmarks"]
        runs, medians = collections.defaultdict(list), {}
        for entry in entries:
            name = parse_name(entry.get("run_name", entry["name"]))
            for counter in COUNTERS if name else []:
                value = entry.get(counter, 0)
                if not (math.isfinite(value) and value > 0):
                    continue
                if entry.get("aggregate_name") == "median":
                    medians[name, counter] = [value]
                elif entry.get("run_type") != "aggregate":
                    runs[name, counter].append(value)
    except OSError as error:
        sys.exit(f"lowatt: cannot read {path}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError):
        sys.exit(f"lowatt: {path} is not JSON of lowatt_bench; write one with "
                 "--benchmark_out=FILE --benchmark_out_format=json")
    return medians | runs


def medians_of(paths):
    """{(Name, counter): value}: medians of the repetitions, then of the files."""
    results = collections.defaultdict(list)
    for path in paths:
        for key, values in read_file(path).items():
            results[key].append(statistics.median(values))
    return {key: statistics.median(values) for key, values in results.items()}


def best_of(paths):
    """{(Name, counter): value}: the best of all repetitions in all files."""
    results = collections.defaultdict(list)
    for path in paths:
        for key, values in read_file(path).items():
            results[key] += values
    return {(name, counter): min(values) if counter == "ns_per_pair" else max(values)
            for (name, counter), values in results.items()}
