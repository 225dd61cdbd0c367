"""A figure of where a method fails on phantoms: the lesions that it outlines worst, and its largest false marks.

    python Testing/benchmarks/failures.py failures.png [--method opacitynet] [--seeds 0 1 2]

What is shown is chosen by the numbers alone: of all phantoms together, the lesions with the lowest Dice, and the
largest pieces farther than 8 mm from any lesion. Green is the truth, orange what was found. matplotlib comes with VTK.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from LabelFreeCovidSegLib import phantom, pipeline
from LabelFreeCovidSegLib.evaluation import planted
from LabelFreeCovidSegLib.methods import base
from matplotlib import pyplot
from scipy import ndimage

ACROSS_MM = 80.0
SHOWN = 4
GREEN, ORANGE = (0.25, 0.85, 0.25), (0.95, 0.5, 0.0)


@dataclass(frozen=True, eq=False)
class Failure:
    """A place to show: how bad it is, what it is, and the slice (j, i) around it."""

    badness: float
    title: str
    hu: np.ndarray
    truth: np.ndarray
    found: np.ndarray


def cut(known: phantom.Phantom, lesion: np.ndarray, piece: np.ndarray, badness: float, title: str) -> Failure:
    """The slice with most of a piece (k, j, i) bool, and 80 mm around the middle of that."""
    k = int(np.count_nonzero(piece, axis=(1, 2)).argmax())
    middle = np.argwhere(piece[k]).mean(axis=0).round().astype(int)
    half = [round(ACROSS_MM / 2 / mm) for mm in known.scan.grid.spacing_mm[1:]]
    starts = [int(np.clip(at - n, 0, size - 2 * n)) for at, n, size in zip(middle, half, piece.shape[1:], strict=True)]
    window = (k, *(slice(start, start + 2 * n) for start, n in zip(starts, half, strict=True)))
    return Failure(badness, title, known.scan.hu[window], known.lesions[window] > 0, lesion[window] > 0)


def missed(known: phantom.Phantom, lesion: np.ndarray) -> list[Failure]:
    """Every lesion, by its Dice."""
    found = []
    for one, score in zip(known.planted, planted.score(lesion, known), strict=True):
        title = f"{score.kind}, {score.radius_mm:.0f} mm\nDice {score.dice:.2f}"
        found.append(cut(known, lesion, known.instances == one.label, 1 - score.dice, title))
    return found


def invented(known: phantom.Phantom, lesion: np.ndarray) -> list[Failure]:
    """Every piece away from lesions, by its volume."""
    spacing = known.scan.grid.spacing_mm
    far = ndimage.distance_transform_edt(known.instances == 0, sampling=spacing) > planted.AROUND_MM
    pieces, count = ndimage.label((lesion > 0) & far)
    volumes_ml = np.bincount(pieces.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000.0
    worst = np.argsort(volumes_ml[1:])[::-1][:SHOWN] + 1
    return [
        cut(known, lesion, pieces == piece, volumes_ml[piece], f"nothing there\n{volumes_ml[piece]:.2f} mL")
        for piece in worst
    ]


def draw(rows: list[list[Failure]], path: Path) -> None:
    """Write the figure: a row a kind of failure."""
    figure, axes = pyplot.subplots(len(rows), SHOWN, figsize=(9, 2.6 * len(rows)), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, places in zip(axes, rows, strict=True):
        for axis, place in zip(row, places, strict=False):
            axis.imshow(place.hu, cmap="gray", vmin=-1000, vmax=200)
            for mask, colour in ((place.truth, GREEN), (place.found, ORANGE)):
                if mask.any():
                    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.0)
            axis.set_title(place.title, fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Segment, choose, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--method", default=base.DEFAULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    kinds: list[list[Failure]] = [[], []]
    for seed in arguments.seeds:
        known = phantom.make(seed)
        lesion = pipeline.segment(known.scan, method=arguments.method).classes
        share = 100 * planted.false_share(lesion, known)
        dice = np.mean([score.dice for score in planted.score(lesion, known)])
        print(f"phantom {seed}: mean Dice {dice:.3f} of {len(known.planted)} lesions, {share:.2f} % falsely marked")
        kinds[0] += missed(known, lesion)
        kinds[1] += invented(known, lesion)
    rows = [sorted(kind, key=lambda place: place.badness, reverse=True)[:SHOWN] for kind in kinds]
    draw(rows, arguments.picture)
    for place in rows[0] + rows[1]:
        print(place.title.replace("\n", ": "))


if __name__ == "__main__":
    main()
