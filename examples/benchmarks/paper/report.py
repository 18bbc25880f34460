"""The page of tables, written from the raw figures."""

import json
from pathlib import Path

import numpy as np
from scipy import stats

PAGE = Path(__file__).parents[3] / "docs" / "tables.md"
CEILING = "true groups + DFR"
ERM = "ERM, the net as trained"
EXMAP = "ExMap, spectral, global + DFR"
START, END = "<!-- figures: written by paper_tables.py -->", "<!-- end of figures -->"
TITLES = {
    "colored_fashion": "Colored Fashion-MNIST",
    "two_shortcut_fashion": "Two shortcuts in Fashion-MNIST",
    "colored_digits": "Colored digits",
    "waterbirds": "Waterbirds",
    "celeba": "CelebA",
    "urbancars": "UrbanCars",
}


def write_page(folder):
    """Put the tables of all JSON files of a folder between the marks of the page."""
    results = [
        json.loads((folder / f"{name}.json").read_text())
        for name in TITLES
        if (folder / f"{name}.json").exists()
    ]
    tables = "\n\n".join(section(result) for result in results)
    page = PAGE.read_text()
    before, rest = page.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{tables}\n\n{END}{after}")
    print(f"{PAGE.name}: {len(results)} data sets")


def mean_and_spread(values):
    """Return mean and standard deviation as a text."""
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def in_points(values):
    """Return mean and standard deviation of differences as a text, in points."""
    values = 100 * np.asarray(values, dtype=float)
    return f"{values.mean():+.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def paired(values, others):
    """Return the mean difference of paired seeds with its 95% interval (t), in points."""
    difference = 100 * (np.asarray(values) - np.asarray(others))
    if len(difference) < 2:
        return f"{difference.mean():+.1f}"
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.1f} [{difference.mean() - half:+.1f}, {difference.mean() + half:+.1f}]"


def table(header, rows):
    """Return a Markdown table, the first column to the left."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def section(result):
    """Return the tables of one data set."""
    runs = result["runs"]
    machine = result["machine"]
    minutes = sum(sum(run["seconds"].values()) for run in runs) / 60
    together = machine["seeds_side_by_side"]
    in_one_go = result.get("minutes_in_one_go")
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = [
        f"### {TITLES[result['data']]}",
        f"```\n{result['command']}\n```",
        f"{len(runs)} seeds: {minutes:.0f} minutes of work, {together} seeds side by side on {machine['cores']} cores "
        f"({machine['processor']})"
        + (f"; the whole command took {in_one_go:.0f} minutes" if in_one_go else "")
        + f". Python {result['python']}, {versions}.",
        accuracies(runs),
    ]
    if any("gaps" in test for test in runs[0]["rows"][ERM]["tests"].values()):
        text += ["Accuracy where a shortcut misleads, less the mean accuracy, in points:", gaps(runs)]
    text += ["Pseudo-groups of the validation images:", groupings(runs)]
    if runs[0].get("sweep"):
        text += ["Side of the maps (ExMap, global, DFR):", sweep(runs)]
    text += ["Settings that were chosen:", chosen(runs)]
    return "\n\n".join(text)


def values_of(runs, row, test, what):
    return [run["rows"][row]["tests"][test][what] for run in runs if row in run["rows"]]


def row_names(runs):
    """Return the rows, best first by the first test; those of fewer seeds last."""
    first = next(iter(runs[0]["rows"][ERM]["tests"]))
    names = list(runs[0]["rows"])
    return sorted(
        names,
        key=lambda name: (
            len(values_of(runs, name, first, "worst")) < len(runs),
            -np.mean(values_of(runs, name, first, "worst")),
        ),
    )


def accuracies(runs):
    tests = list(runs[0]["rows"][ERM]["tests"])
    main = tests[0]
    header = [
        "method",
        f"worst group, {main}",
        "difference from DFR with true groups, points [95%]",
        f"mean, {main}",
    ]
    others = [test for test in tests[1:] if test != "no shortcut"]
    for test in others:
        header += [f"worst group, {test}", f"mean, {test}"]
    if "no shortcut" in tests:
        header.append("accuracy over all images lost without the shortcut, points")
    lines = []
    for name in row_names(runs):
        own = [run for run in runs if name in run["rows"]]
        worst = values_of(own, name, main, "worst")
        label = name if len(own) == len(runs) else f"{name} ({len(own)} seed)"
        line = [
            label,
            mean_and_spread(worst),
            "" if name == CEILING else paired(worst, values_of(own, CEILING, main, "worst")),
            mean_and_spread(values_of(own, name, main, "mean")),
        ]
        for test in others:
            line += [mean_and_spread(values_of(own, name, test, what)) for what in ("worst", "mean")]
        if "no shortcut" in tests:
            with_it = np.array([in_all(run["rows"][name]["tests"][tests[-2]]) for run in own])
            without = np.array([in_all(run["rows"][name]["tests"]["no shortcut"]) for run in own])
            line.append(f"{100 * np.mean(with_it - without):.1f}")
        lines.append(line)
    return table(header, lines)


def in_all(test):
    """Return the plain accuracy over all images of a test."""
    accuracy, size = np.array(list(test["groups"].values())).T
    return (accuracy * size).sum() / size.sum()


def gaps(runs):
    test = next(name for name, figures in runs[0]["rows"][ERM]["tests"].items() if "gaps" in figures)
    names = [name for name in runs[0]["rows"][ERM]["tests"][test]["gaps"] if name != "mean_accuracy"]
    lines = []
    for row in row_names(runs):
        own = [run for run in runs if row in run["rows"]]
        found, of_net = ([run["rows"][name]["tests"][test]["gaps"] for run in own] for name in (row, ERM))
        line = [row, f"{np.mean([f['mean_accuracy'] for f in found]):.3f}"]
        for name in names:
            values = [f[name] for f in found]
            line += [in_points(values), "" if row == ERM else paired(values, [f[name] for f in of_net])]
        lines.append(line)
    header = [f"method ({test})", "mean accuracy"]
    for name in names:
        header += [f"{name} gap", "less the net's [95%]"]
    return table(header, lines)


def groupings(runs):
    lines = []
    for name in runs[0]["groupings"]:
        found = [run["groupings"][name] for run in runs]
        lines.append(
            [
                name,
                ", ".join(str(f["n_groups"]) for f in found),
                ", ".join(str(min(f["sizes"])) for f in found),
                f"{np.mean([f['purity'] for f in found]):.4f}",
                f"{np.mean([f['seconds'] for f in found]):.1f}",
            ]
        )
    return table(["", "groups, each seed", "smallest, each seed", "purity", "seconds"], lines)


def sweep(runs):
    main = next(iter(runs[0]["rows"][ERM]["tests"]))
    lines = []
    full = {"spectral": EXMAP, "k-means": "ExMap, k-means, global + DFR"}
    for how, row in full.items():
        grouping = row.removesuffix(" + DFR")
        found = [run["groupings"][grouping] for run in runs]
        worst = values_of(runs, row, main, "worst")
        lines.append(sweep_line(how, "28", worst, runs, found, main))
    for name in runs[0]["sweep"]:
        how, side = name.split(", ")
        found = [run["sweep"][name] for run in runs]
        worst = [f["tests"][main]["worst"] for f in found]
        lines.append(sweep_line(how, side, worst, runs, found, main))
    return table(
        [
            "clusterer",
            "side",
            "worst group",
            "difference from DFR with true groups",
            "groups",
            "smallest",
            "purity",
        ],
        sorted(lines, key=lambda line: line[0], reverse=True),
    )


def sweep_line(how, side, worst, runs, found, main):
    return [
        how,
        side,
        mean_and_spread(worst),
        paired(worst, values_of(runs, CEILING, main, "worst")),
        ", ".join(str(f["n_groups"]) for f in found),
        ", ".join(str(min(f["sizes"])) for f in found),
        f"{np.mean([f['purity'] for f in found]):.4f}",
    ]


def chosen(runs):
    lines = []
    for name in row_names(runs):
        picks = [run["rows"][name].get("chosen") for run in runs if name in run["rows"]]
        if picks[0] is not None:
            seconds = [run["rows"][name].get("seconds") for run in runs if name in run["rows"]]
            took = "" if seconds[0] is None else f"{np.mean(seconds):.1f}"
            lines.append([name, "; ".join(picks), took])
    return table(["method", "chosen, each seed", "seconds, choice and fit"], lines)
