#!/usr/bin/env python3
"""Draws what LATTE's thresholds cost: error against the share of pairs that they filter.

Runs attend_calibrate on the given tensors for a sweep of thresholds, with both splits:
  one theta         the same for all heads
  equal shares      one per head, each head filters the same share (--filtered)
  equal errors      one per head, each head has the same error (--error)
  least error       one per head, chosen from the sweep of thetas so that error of all heads
                    together and kept pairs, weighed against each other, are least
Figures are those of all heads together. Writes FOLDER/NAME.svg and prints tables in Markdown. Needs
Debian's python3-matplotlib.
"""
import argparse
import json
import pathlib
import subprocess
import sys

try:
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter
except ImportError:
    sys.exit(f"lowatt: {sys.executable} has no module matplotlib; Debian's python3-matplotlib is for "
             "/usr/bin/python3")

SPLITS = ["round", "truncate"]
THETAS = [i / 32 for i in range(32 * 12 + 1)]
SHARES = [i / 100 for i in range(100)]
ERRORS = [10 ** (i / 32) for i in range(-96, 11)]
TABLE_ERRORS = [0.01, 0.02, 0.05, 0.1]
TABLE_SHARES = [0.5, 0.8, 0.9, 0.95, 0.98]
WAYS = {"one theta": ("--theta", THETAS), "equal shares": ("--filtered", SHARES),
        "equal errors": ("--error", ERRORS)}
LEAST = "least error"
COLORS = {"one theta": "C0", "equal shares": "C1", "equal errors": "C2", LEAST: "C3"}
LINES = {"round": "-", "truncate": "--"}


def measure(program, arguments):
    """attend_calibrate's report."""
    run = subprocess.run([program, "--mechanism", "latte", "--json", *arguments],
                         capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"lowatt: {run.stderr.strip().removeprefix('error: ')}")
    return json.loads(run.stdout)


def least_errors(reports):
    """Choices of a report per head for which squared error + weight * kept pairs is least, for many
    weights: no other choice has less error and keeps as few pairs."""
    heads = range(len(reports[0]["theta"]))
    norms = [norm ** 2 for norm in reports[0]["unfiltered_norm"]]
    choices = {}
    for exponent in range(-640, 321):
        weight = 10 ** (exponent / 64) * sum(norms)
        chosen = [min(reports, key=lambda r: r["error"][h] ** 2 * norms[h] + weight * r["kept"][h])
                  for h in heads]
        figures = {name: [report[name][h] for h, report in enumerate(chosen)]
                   for name in ["kept", "visible", "error", "mass_dropped", "best_keys_lost"]}
        kept = sum(figures["kept"])
        squares = sum(error ** 2 * norm for error, norm in zip(figures["error"], norms))
        choices[kept] = {"error": figures["error"], "all_heads": {
            "kept": kept, "filtered": 1 - kept / sum(figures["visible"]),
            "error": (squares / sum(norms)) ** 0.5,
            "mass_dropped": sum(figures["mass_dropped"]) / len(norms),
            "best_keys_lost": sum(figures["best_keys_lost"]) / len(norms)}}
    return [choices[kept] for kept in sorted(choices, reverse=True)]


def sweep(program, tensors, step):
    """{(split, way): [report]}, each from few filtered pairs to many."""
    results = {}
    for split in SPLITS:
        for way, (option, values) in WAYS.items():
            chosen = values[::step] + (TABLE_ERRORS if option == "--error" else [])
            reports = [measure(program, [*tensors, "--split", split, option, repr(value)])
                       for value in chosen]
            results[split, way] = sorted(reports, key=lambda report: -report["all_heads"]["kept"])
        results[split, LEAST] = least_errors(results[split, "one theta"])
    return results


def most_filtered(reports, error):
    """The report that filters most of those whose error, of all heads together, is at most this."""
    fit = [report for report in reports if report["all_heads"]["error"] <= error]
    return fit[-1] if fit else None


def least_error(reports, filtered):
    """The report that filters least of those that filter at least this share."""
    return next((r for r in reports if r["all_heads"]["filtered"] >= filtered), None)


def percent(value):
    return f"{100 * value:.1f} %"


def table(titles, rows):
    return "\n".join("| " + " | ".join(cells) + " |"
                     for cells in [titles, ["---"] * len(titles), *rows])


def errors_table(results):
    """What each way filters at the same error of all heads together, and its worst head's error."""
    rows = []
    for split in SPLITS:
        for error in TABLE_ERRORS:
            found = [most_filtered(results[split, way], error) for way in COLORS]
            rows.append([split, percent(error)] + [
                f"{percent(r['all_heads']['filtered'])} ({percent(max(r['error']))})" if r else "-"
                for r in found])
    return table(["split", "error added, at most", *(f"{way}: filtered (worst head)" for way in COLORS)],
                 rows)


def shares_table(results):
    """What each way costs at the same share of all pairs."""
    rows = []
    for split in SPLITS:
        for share in TABLE_SHARES:
            found = [least_error(results[split, way], share) for way in COLORS]
            rows.append([split, percent(share)] + [
                " / ".join(percent(r["all_heads"][figure])
                           for figure in ["error", "mass_dropped", "best_keys_lost"]) if r else "-"
                for r in found])
    return table(["split", "filtered, at least",
                  *(f"{way}: error / mass dropped / best key lost" for way in COLORS)], rows)


def thinned(points):
    """Points that are far enough apart to be told apart in the figure."""
    kept = []
    for x, y in sorted(points):
        if not kept or x - kept[-1][0] >= 0.015:
            kept.append((x, y))
    return kept


def draw(results, title):
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle(title)
    for axes, name, label in zip(figure.subplots(1, 2), ["error", "mass_dropped"],
                                 ["relative L2 error added", "softmax mass dropped"]):
        for (split, way), reports in results.items():
            points = {(round(r["all_heads"]["filtered"], 4), float(f"{r['all_heads'][name]:.3g}"))
                      for r in reports if r["all_heads"][name] >= 1e-3}
            if points:
                axes.plot(*zip(*thinned(points)), label=f"{way}, {split}", color=COLORS[way],
                          linestyle=LINES[split], linewidth=1.2)
        axes.set_yscale("log")
        axes.set_ylim(bottom=1e-3)
        axes.set_xlim(0, 1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.grid(color="0.9")
        axes.set_xlabel("pairs filtered")
        axes.set_ylabel(label)
    axes.legend(loc="upper left", frameon=False, fontsize="small")
    return figure


def main():
    parser = argparse.ArgumentParser(description="Draws what LATTE's thresholds cost.")
    parser.add_argument("--program", required=True, metavar="attend_calibrate")
    for tensor in "qkv":
        parser.add_argument(f"--{tensor}", required=True, metavar="FILE.npy")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--name", required=True, help="of the figure, and its title")
    parser.add_argument("--out", required=True, metavar="FOLDER", type=pathlib.Path)
    parser.add_argument("--step", type=int, default=1, help="take every such point of the sweep")
    options = parser.parse_args()

    tensors = ["--q", options.q, "--k", options.k, "--v", options.v]
    results = sweep(options.program, tensors + ["--causal"] * options.causal, options.step)
    some = results[SPLITS[0], "one theta"][0]
    print(f"{options.name}: unfiltered int8 is {percent(some['all_heads']['unfiltered_error_to_softmax'])} "
          f"from softmax\n\n{errors_table(results)}\n\n{shares_table(results)}\n")

    rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and can be searched
    rcParams["svg.hashsalt"] = "lowatt"  # the same results give the same file
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.name}.svg"
    figure = draw(results, f"{options.name}: {some['query_heads']} heads, {some['keys']} keys, "
                           f"head_dim {some['head_dim']}{', causal' * options.causal}")
    figure.savefig(path, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
