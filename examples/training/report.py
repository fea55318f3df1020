#!/usr/bin/env python3
"""Fills the tables of docs/accuracy.md and draws its figures from what scripts/train.sh left.

RUNS holds a folder NAME-SEED per run with result.json and metrics.csv. Each table of accuracy.md lies
between a line `<!-- table TASK -->` and the next `<!-- end -->`. Needs Debian's python3-matplotlib.
"""
import argparse
import collections
import csv
import json
import pathlib
import re
import statistics
import sys

try:
    from matplotlib import rcParams
    from matplotlib.figure import Figure
except ImportError:
    sys.exit(f"lowatt: {sys.executable} has no module matplotlib; Debian's python3-matplotlib is for "
             "/usr/bin/python3")

TASKS = ["mnist", "mails", "adding", "prose"]
# What a task is judged by: (key of result.json, heading, factor, decimals).
MEASURES = {"mnist": ("accuracy", "accuracy, %", 100, 2),
            "mails": ("accuracy", "accuracy, %", 100, 2),
            "adding": ("accuracy", "within 0.04, %", 100, 1),
            "prose": ("perplexity", "perplexity", 1, 3)}


def read_runs(folder):
    """{name without seed: [result]} in order of names; a result has its metrics under "rows"."""
    runs = collections.defaultdict(list)
    for path in sorted(folder.glob("*/result.json")):
        name, seed = path.parent.name.rsplit("-", 1)
        if not seed.isdigit():
            continue
        result = json.loads(path.read_text())
        with open(path.parent / "metrics.csv", newline="") as file:
            result["rows"] = list(csv.DictReader(file))
        runs[name].append(result)
    return runs


def mean_text(values, decimals):
    """Mean, and the standard deviation where there are several seeds."""
    text = f"{statistics.mean(values):.{decimals}f}"
    if len(values) > 1:
        text += f" +- {statistics.stdev(values):.{decimals}f}"
    return text


def label_of(name):
    """'mnist-bitformer-4' is 'bitformer-4'."""
    return name.split("-", 1)[1]


def table(task, runs):
    key, heading, factor, decimals = MEASURES[task]
    lines = [f"| attention | seeds | float: {heading} | integer: {heading} | mean squared error | "
             "filtered, % | minutes |" if task == "adding" else
             f"| attention | seeds | float: {heading} | integer: {heading} | filtered, % | minutes |"]
    lines.append("|---" + "|---:" * (lines[0].count("|") - 2) + "|")
    for name, results in runs.items():
        cells = [label_of(name), str(len(results))]
        for arithmetic in ("float", "int8"):
            cells.append(mean_text([factor * r[f"{key}_{arithmetic}"] for r in results], decimals))
        if task == "adding":
            cells.append(f"{statistics.mean(r['loss_int8'] for r in results):.2g}")
        filtered = [100 * r["filtered"] for r in results]
        cells.append(mean_text(filtered, 1) if max(filtered) > 0 else "")
        cells.append(f"{statistics.mean(r['seconds'] for r in results) / 60:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_training(task, runs, path):
    """The first seed of each run: the measure while it trains."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, results in runs.items():
        rows = results[0]["rows"]
        if not rows:
            continue
        column = "perplexity" if "perplexity" in rows[0] else "accuracy"
        axes.plot([int(row["step"]) for row in rows], [float(row[column]) for row in rows],
                  label=label_of(name))
    axes.set(title=f"{task}, while training", xlabel="step", ylabel=column)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def draw_filtering(task, runs, path):
    """LATTE: what is lost against what is filtered, a point per run."""
    key, heading, factor, _ = MEASURES[task]
    softmax = runs.get(f"{task}-softmax-more") or runs[f"{task}-softmax"]
    baseline = statistics.mean(factor * r[f"{key}_float"] for r in softmax)
    kinds = {"latte-global": "one threshold", "latte-calibrated": "calibrated, not trained",
             "latte": "a threshold per head"}
    points = collections.defaultdict(list)
    for name, results in runs.items():
        kind = next((kind for kind in kinds if label_of(name).startswith(kind)), None)
        if kind:
            points[kind].append((statistics.mean(100 * r["filtered"] for r in results),
                                 statistics.mean(factor * r[f"{key}_int8"] for r in results)))
    if sum(map(len, points.values())) < 2:
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for kind, label in kinds.items():
        if points[kind]:
            axes.plot(*zip(*sorted(points[kind])), marker="o", label=label)
    axes.axhline(baseline, color="grey", linestyle="--", label="softmax, fp32")
    axes.set(title=f"LATTE, {task}", xlabel="filtered pairs, %", ylabel=heading)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=pathlib.Path)
    parser.add_argument("docs", type=pathlib.Path, help="folder of accuracy.md and figures/")
    arguments = parser.parse_args()
    # The same figure gives the same file.
    rcParams["svg.hashsalt"] = "lowatt"
    runs = read_runs(arguments.runs)
    if not runs:
        sys.exit(f"lowatt: '{arguments.runs}' holds no results; scripts/train.sh makes them")
    page = arguments.docs / "accuracy.md"
    text = page.read_text()
    (arguments.docs / "figures").mkdir(exist_ok=True)
    for task in TASKS:
        of_task = {name: results for name, results in runs.items() if name.startswith(task + "-")}
        if f"{task}-softmax" not in of_task:
            continue
        of_task = {f"{task}-softmax": of_task.pop(f"{task}-softmax"), **of_task}
        text = re.sub(rf"(<!-- table {task} -->\n).*?(<!-- end -->)",
                      lambda match: match[1] + table(task, of_task) + "\n" + match[2], text,
                      flags=re.DOTALL)
        figures = arguments.docs / "figures"
        draw_training(task, of_task, figures / f"training-{task}.svg")
        draw_filtering(task, of_task, figures / f"latte-{task}.svg")
    page.write_text(text)
    print(f"{page} and its figures are up to date with {sum(map(len, runs.values()))} runs")


if __name__ == "__main__":
    main()
