"""The training curves of a run: each loss against iterations, smoothed, with the iterations themselves behind it.

python Testing/benchmarks/curves.py RUN curves.png

RUN is a folder of `train fit`. matplotlib comes with VTK.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from LabelFreeCovidSegLib.training.log import CURVES
from matplotlib import pyplot

COLUMNS = 3
SHARE = 0.03
"""Of a curve's points: the standard deviation of what it is smoothed with."""
SHOWN_PERCENTILES = (0.5, 99.5)
"""Of a curve's points, so that a few wild ones do not hide the others."""
BLUE, PALE = "#1f5fa8", "#b9cfe8"


def read(path: Path) -> dict[str, np.ndarray]:
    """Name -> (n, 2) float64, iteration and value, of a curves file; n is where it was measured."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "iteration"]
    return {
        name: np.array([(int(row["iteration"]), float(row[name])) for row in rows if row[name]], ndmin=2)
        for name in names
    }


def smoothed(values: np.ndarray) -> np.ndarray:
    """A Gaussian mean of (n,) numbers whose weights sum to 1 at the ends, too."""
    width = max(SHARE * len(values), 1.0)
    steps = np.arange(-round(3 * width), round(3 * width) + 1)
    weights = np.exp(-0.5 * (steps / width) ** 2)
    total = np.convolve(values, weights)[len(steps) // 2 :][: len(values)]
    return total / np.convolve(np.ones(len(values)), weights)[len(steps) // 2 :][: len(values)]


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """Write one small axis a curve, all over the same iterations."""
    lines = -(-len(curves) // COLUMNS)
    figure, axes = pyplot.subplots(
        lines, COLUMNS, figsize=(9, 1.9 * lines), layout="constrained", sharex=True, squeeze=False
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, (iterations, values)) in zip(axes.flat, ((n, c.T) for n, c in curves.items()), strict=False):
        if name == "validation":
            axis.plot(iterations, values, ".-", color=BLUE, linewidth=1)
        else:
            axis.plot(iterations, values, color=PALE, linewidth=0.4)
            axis.plot(iterations, smoothed(values), color=BLUE, linewidth=1.5)
            low, high = np.percentile(values, SHOWN_PERCENTILES)
            axis.set_ylim(min(low, 0.0), 1.05 * high)
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7, labelbottom=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    draw(read(arguments.run / CURVES), arguments.picture)


if __name__ == "__main__":
    main()
