#!/usr/bin/env python3
"""Draws what lowatt_bench measured.

Reads one or more files of lowatt_bench's JSON and writes into FOLDER, for each head_dim d:
  prefill-dD.svg, decode-dD.svg   ns per query-key pair against the number of keys
  ceiling-dD.svg                  percent of the instruction ceiling
Where a measurement was repeated, medians are drawn: of the repetitions, then of the files. With
--best it is the best of all repetitions, as in table.py: on a shared machine others only add time.
Needs Debian's python3-matplotlib.
"""
import argparse
import collections
import pathlib
import sys

from results import LEVELS, PHASES, best_of, medians_of

try:
    from matplotlib import colormaps, rcParams
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
except ImportError:
    sys.exit(f"lowatt: {sys.executable} has no module matplotlib; Debian's python3-matplotlib is for "
             "/usr/bin/python3")

def styles_of(kernels):
    """Colours tell mechanisms apart, markers and dashes precisions."""
    mechanisms, precisions = (list(dict.fromkeys(parts)) for parts in
                              zip(*(kernel.split("/") for kernel in kernels)))
    colors = colormaps["tab10"].colors
    return {kernel: {"color": colors[mechanisms.index(mechanism) % len(colors)],
                     "marker": "osD^vPX*"[precisions.index(precision) % 8],
                     "linestyle": ["-", "--", ":", "-."][precisions.index(precision) % 4]}
            for kernel in kernels for mechanism, precision in [kernel.split("/")]}


def draw_times(times, title, styles):
    """`times` is {kernel: {keys: ns per pair}}."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    # Slowest first, so that the legend has the order of the lines' right ends.
    for kernel, line in sorted(times.items(), key=lambda item: -item[1][max(item[1])]):
        keys = sorted(line)
        axes.plot(keys, [line[n] for n in keys], label=kernel, markersize=5, **styles[kernel])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({n for line in times.values() for n in line}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(color="0.9")
    axes.set_title(title)
    axes.set_xlabel("N, keys")
    axes.set_ylabel("ns per query-key pair")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def draw_ceilings(percents, title):
    """`percents` is {kernel: {(phase, keys): percent}}; a group of bars for each kernel."""
    shapes = sorted({shape for bars in percents.values() for shape in bars},
                    key=lambda shape: (PHASES.index(shape[0]), shape[1]))
    figure = Figure(figsize=(3 + 0.9 * len(percents), 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(shapes)
    for i, shape in enumerate(shapes):
        of_phase = [other for other in shapes if other[0] == shape[0]]
        shade = 0.4 + 0.5 * (of_phase.index(shape) + 1) / len(of_phase)
        bars = [(group + (i - (len(shapes) - 1) / 2) * width, percent[shape])
                for group, percent in enumerate(percents.values()) if shape in percent]
        axes.bar(*zip(*bars), width, label=f"{shape[0]} {shape[1]}",
                 color=colormaps["Blues" if shape[0] == "prefill" else "Oranges"](shade))
    axes.set_xticks(range(len(percents)), percents, rotation=30, ha="right")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(title)
    axes.set_ylabel("percent of ceiling")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def figures_of(results, level):
    """(file name without ending, figure) for all that was measured at `level`."""
    results = {key: value for key, value in results.items() if key[0].level == level}
    styles = styles_of(dict.fromkeys(name.kernel for name, _ in results))

    def select(counter, phases, dim, place):
        selected = collections.defaultdict(dict)
        for (name, its_counter), value in results.items():
            if its_counter == counter and name.phase in phases and name.dim == dim:
                selected[name.kernel][place(name)] = value
        return selected

    for dim in sorted({name.dim for name, _ in results}):
        for phase in PHASES:
            times = select("ns_per_pair", [phase], dim, lambda name: name.keys)
            if times:
                yield f"{phase}-d{dim}", draw_times(
                    times, f"{phase}, head_dim {dim}, level {level}", styles)
        percents = select("percent_of_ceiling", PHASES, dim, lambda name: (name.phase, name.keys))
        if percents:
            yield f"ceiling-d{dim}", draw_ceilings(percents, f"head_dim {dim}, level {level}")


def main():
    parser = argparse.ArgumentParser(description="Draws what lowatt_bench measured.")
    parser.add_argument("results", nargs="+", metavar="RESULTS.json",
                        help="written by lowatt_bench --benchmark_out=RESULTS.json")
    parser.add_argument("--out", required=True, metavar="FOLDER", type=pathlib.Path,
                        help="where the figures go")
    parser.add_argument("--level", choices=LEVELS, help="default: the best one in the results")
    parser.add_argument("--best", action="store_true",
                        help="draw the best of the repetitions instead of their medians")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    options = parser.parse_args()

    results = (best_of if options.best else medians_of)(options.results)
    levels = sorted({name.level for name, _ in results}, key=LEVELS.index)
    if not levels:
        sys.exit("lowatt: nothing to draw: no name is like softmax/fp32/avx2/prefill/512/64")
    level = options.level or levels[-1]
    if level not in levels:
        sys.exit(f"lowatt: nothing was measured at level {level}, only at {', '.join(levels)}")

    rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and can be searched
    rcParams["svg.hashsalt"] = "lowatt"  # the same results give the same file
    options.out.mkdir(parents=True, exist_ok=True)
    for stem, figure in figures_of(results, level):
        path = options.out / f"{stem}.{options.format}"
        figure.savefig(path, dpi=120, metadata={"Date": None} if options.format == "svg" else None)
        print(path)


if __name__ == "__main__":
    main()
