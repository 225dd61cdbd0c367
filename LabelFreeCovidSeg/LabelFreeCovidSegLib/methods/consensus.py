"""Consensus (ours): several methods look at the same scan, and each has one vote a voxel.

Methods that learned from different data by different means err in different places, so that what most of them see is
likelier to be there than what one of them sees; and where they disagree is where a reader has to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import ANY, JOINT, Card, Method, Prediction
from LabelFreeCovidSegLib.progress import Progress, part, titled

if TYPE_CHECKING:
    from LabelFreeCovidSegLib.device import Compute
    from LabelFreeCovidSegLib.lungs import LungMask
    from LabelFreeCovidSegLib.scan import Scan

SUMMARY = "What more than half of the methods call lesion is lesion; a tie is none."


def card(cards: Sequence[Card]) -> Card:
    """The card of a consensus of the methods with these cards, two or more."""
    *others, last = (card.title for card in cards)
    stacks = [card.picture_mm for card in cards if card.picture_mm is not None]
    return Card(
        name=JOINT.join(card.name for card in cards),
        title=f"Consensus of {', '.join(others)} and {last}",
        summary=SUMMARY,
        citation="; ".join(card.citation for card in cards),
        seconds_per_megavoxel=sum(card.seconds_per_megavoxel for card in cards),
        networks=tuple(name for card in cards for name in card.networks),
        domain=ANY,
        picture_mm=max(stacks) if len(stacks) == len(cards) else None,
        members=tuple(cards),
    )


class Consensus:
    """Several methods that vote.

    Args:
        methods: two or more.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = tuple(methods)
        self.card = card([method.card for method in methods])
        self.weights = "; ".join(method.weights for method in methods)

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan: one method after another, of which only votes and a sum are kept.

        The score is the mean of the methods' scores if all of these are calibrated: each is a probability of lesion,
        and so is their mean. Scores that are not calibrated have scales of their own (a difference of intensities, a
        softmax), and their mean would be ruled by the method with the largest numbers; then the score is the agreement
        instead, and the result says so. Ground glass and consolidation are left to density, because not every method
        tells them apart.
        """
        count = len(self.methods)
        votes = np.zeros(scan.hu.shape, dtype=np.uint8)
        total: np.ndarray | None = np.zeros(scan.hu.shape, dtype=np.float32)
        warnings: list[str] = []
        uncalibrated: list[str] = []
        for number, method in enumerate(self.methods):
            its_part = titled(part(progress, number / count, (number + 1) / count), method.card.title)
            found = method.predict(scan, lungs, compute, its_part)
            votes += found.lesion > 0
            warnings += [f"{method.card.title}: {warning}" for warning in found.warnings]
            if not found.calibrated:
                uncalibrated.append(method.card.title)
                total = None
            elif total is not None:
                total += found.score
            del found  # or it would lie in memory beside what the next method makes
        agreement = votes / np.float32(count)
        if uncalibrated:
            warnings.append(
                "The anomaly map is the share of the methods that mark each place: the scores of "
                f"{', '.join(uncalibrated)} are no probabilities, and can't be averaged."
            )
        return Prediction(
            lesion=(2 * votes.astype(np.uint16) > count).astype(np.uint8),
            score=agreement if total is None else total / np.float32(count),
            warnings=tuple(warnings),
            calibrated=total is not None,
            agreement=agreement,
        )


def load(names: Sequence[str]) -> Consensus:
    """The methods of these names in the registry, ready to vote.

    Raises:
        WeightsError: weights are missing or damaged; of every method that lacks them.
    """
    methods, faults = [], []
    for name in names:
        try:
            methods.append(base.load(name))
        except WeightsError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise WeightsError(
            f"{len(faults)} of the {len(names)} methods can't vote. Install what they lack, or leave them out. "
            + " ".join(faults)
        )
    return Consensus(methods)
