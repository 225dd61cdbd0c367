"""From the numbers of single cases to a line of a table, and whether two lines differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SEED = 0
RESAMPLES = 9999


@dataclass(frozen=True)
class Summary:
    """A number over `n` cases (or slices).

    Attributes:
        sd: standard deviation with ddof 0; NaN for what is no mean.
        low, high: 95 % confidence interval; NaN for fewer than two cases.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def summary(values: Sequence[float]) -> Summary:
    """Mean and sd with a bootstrap interval; undefined values (NaN) don't count."""
    numbers = _defined(values)
    low, high = bootstrap((numbers,), np.mean)
    return Summary(*_moments(numbers), low, high, numbers.size)


def normal_summary(values: Sequence[float]) -> Summary:
    """Mean and sd with the interval mean ± 1.96 sd / √n, as in Chen et al."""
    numbers = _defined(values)
    mean, sd = _moments(numbers)
    half = 1.96 * sd / np.sqrt(numbers.size) if numbers.size > 1 else float("nan")
    return Summary(mean, sd, mean - half, mean + half, numbers.size)


def bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    """95 % percentile interval of a statistic of paired samples, each (n,); NaN for n < 2. Seeded.

    Draws for which the statistic is not defined don't count.

    Args:
        statistic: as `scipy.stats.bootstrap` wants it, with an `axis`.
    """
    if samples[0].size < 2:
        return float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        draws = stats.bootstrap(
            samples, statistic, n_resamples=RESAMPLES, method="percentile", paired=True, vectorized=True, batch=1000,
            random_state=np.random.default_rng(SEED),
        ).bootstrap_distribution  # fmt: skip
    # SciPy gives no interval if the statistic is not defined for a draw, as the sensitivity is where none has a lesion.
    defined = _defined(draws)
    low, high = np.percentile(defined, (2.5, 97.5)) if defined.size else (np.nan, np.nan)
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """What one method is better by than another over the `n` cases that both have.

    Attributes:
        mean: of the differences.
        low, high: its 95 % confidence interval; NaN for fewer than two cases.
        p: two-sided Wilcoxon signed-rank test; 1 if there is no difference anywhere.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two methods case by case; cases where one is undefined don't count."""
    differences = _defined(np.subtract(ours, theirs))
    low, high = bootstrap((differences,), np.mean)
    if not differences.any():
        return Difference(0.0, low, high, 1.0, differences.size)
    return Difference(float(differences.mean()), low, high, float(stats.wilcoxon(differences).pvalue), differences.size)


def _defined(values: Sequence[float] | np.ndarray) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]


def _moments(numbers: np.ndarray) -> tuple[float, float]:
    return (float(numbers.mean()), float(numbers.std())) if numbers.size else (float("nan"), float("nan"))
