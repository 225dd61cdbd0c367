"""Calibration: which share of the voxels of a given score is lesion, on synthetic lesions in the held-out scan.

It belongs to exporting, not to a step of its own: a curve is of these networks voting together, and weights beside the
curve of others would look just as sound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.training.crops import Blocks, Planted, View, views

Score = Callable[[View], np.ndarray]
"""What networks say of a view, (k, j, i) float32; larger is more abnormal."""


class Known(Protocol):
    """A piece of a scan of which all lesions are known, `lung` and `lesion` (k, j, i) bool."""

    @property
    def lung(self) -> np.ndarray: ...

    @property
    def lesion(self) -> np.ndarray: ...


Piece = TypeVar("Piece", bound=Known)
Scored = tuple[np.ndarray, np.ndarray]
"""The score of voxels, (n,) float32, and which of them are lesion, (n,) bool."""

VIEWS = 48
FIT_SEED, CHECK_SEED = 20_210_302, 20_210_303
"""Of the views that the curve is fitted on, and of those it is checked on; others choose the checkpoint."""
KNOTS = 32
BINS = 15
THRESHOLDS = np.linspace(0.0, 1.0, 101)


def restored(build: Callable[[], nn.Module], states: Sequence[Mapping[str, Tensor]]) -> list[nn.Module]:
    """The trained networks of several runs, in evaluation mode."""
    networks = []
    for state in states:
        network = build()
        network.load_state_dict(state)
        networks.append(network.eval())
    return networks


def calibrate(score: Score, preset: Planted, blocks: Blocks, progress: Progress) -> dict[str, Any]:
    """A curve from score to probability, and how far off score and probability are on views it was not fitted on.

    Args:
        score: of a view, by the networks that vote.

    Returns:
        `calibration`, ascending pairs of score and probability, and `calibration_error`, before and after.
    """
    fitted = scores(score, views(preset, blocks, FIT_SEED, VIEWS), part(progress, 0.0, 0.5))
    checked = scores(score, views(preset, blocks, CHECK_SEED, VIEWS), part(progress, 0.5, 1.0))
    return fit(together(fitted), together(checked))


def fit(fitted: Scored, checked: Scored) -> dict[str, Any]:
    """The curve of `fitted` voxels, and how far off score and probability are on `checked` ones."""
    knots = curve(*fitted)
    score, lesion = checked
    after = np.interp(score, *np.transpose(knots))
    errors = {"before": expected_error(score, lesion), "after": expected_error(after, lesion)}
    return {"calibration": knots, "calibration_error": errors}


def scores(score: Callable[[Piece], np.ndarray], pieces: Sequence[Piece], progress: Progress) -> list[Scored]:
    """The score of each lung voxel of each piece, and which are lesion."""
    found = []
    for number, piece in enumerate(pieces):
        progress(number / len(pieces), "Calibrating")
        found.append((score(piece)[piece.lung], piece.lesion[piece.lung]))
    return found


def together(pieces: Sequence[Scored]) -> Scored:
    """The voxels of all pieces."""
    score, lesion = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return score, lesion


def curve(score: np.ndarray, lesion: np.ndarray) -> list[list[float]]:
    """Isotonic regression of `lesion` (n,) bool on `score` (n,), reduced to at most `KNOTS` pairs, ascending.

    Half of the knots lie where the scores above 0 do, which is near 0, and half evenly over their range.
    """
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, lesion)
    above = score[score > 0]
    dense = np.quantile(above, np.linspace(0.0, 1.0, KNOTS // 2)) if above.size else []
    places = np.unique(np.round([*dense, *np.linspace(0.0, score.max(), KNOTS // 2)], 5))
    probability = np.round(regression.predict(places).astype(float), 5)
    return np.stack([places, probability], axis=1).tolist()


def best_threshold(pieces: Sequence[Scored]) -> float:
    """The threshold, in steps of 0.01, from which on scores give the best `mean_dice`; the lowest of equals."""
    return max((float(threshold) for threshold in THRESHOLDS), key=lambda threshold: mean_dice(pieces, threshold))


def mean_dice(pieces: Sequence[Scored], threshold: float) -> float:
    """Mean Dice of scores from a threshold on with the lesions of each piece that has any; 0 if none has.

    Each piece counts once. Over the voxels of all, the largest and densest lesions would decide alone.
    """
    ill = [(score >= np.float32(threshold), lesion) for score, lesion in pieces if lesion.any()]
    dices = [2.0 * np.count_nonzero(found & lesion) / (np.count_nonzero(found) + lesion.sum()) for found, lesion in ill]
    return float(np.mean(dices)) if dices else 0.0


def expected_error(probability: np.ndarray, lesion: np.ndarray) -> float:
    """Expected calibration error: the distance between the mean probability and the share of lesion, (n,) each, over
    equal bins of probability and weighted by the voxels in them (Guo et al. 2017)."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    counts, said, true = (np.bincount(place, weights, BINS) for weights in (None, probability, lesion))
    return round(float(np.abs(said - true).sum() / counts.sum()), 5)
