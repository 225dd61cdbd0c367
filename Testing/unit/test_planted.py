"""Scoring planted lesions one by one."""

import numpy as np
import pytest
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.evaluation import planted


@pytest.fixture(scope="module")
def made():
    return phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0))


def test_the_planted_mask_scores_one_and_an_empty_one_zero(made):
    assert {s.dice for s in planted.score(made.instances > 0, made)} == {1.0}
    assert {s.dice for s in planted.score(np.zeros_like(made.instances), made)} == {0.0}


def test_one_missed_lesion_costs_its_own_score_alone(made):
    missed = made.planted[3]
    scores = planted.score((made.instances > 0) & (made.instances != missed.label), made)
    assert [s.dice for s in scores] == [float(lesion is not missed) for lesion in made.planted]


def test_marks_far_from_every_lesion_are_false(made):
    assert planted.false_share(made.instances > 0, made) == 0
    everything = planted.false_share(made.lungs > 0, made)
    assert 0.5 < everything < 1


def test_means_are_taken_over_kind_and_radius():
    rows = [planted.PlantedScore("a", 5, True, 0.2), planted.PlantedScore("a", 5, False, 0.4)]
    assert planted.means([*rows, planted.PlantedScore("b", 5, True, 1.0)]) == {
        ("a", 5): pytest.approx(0.3),
        ("b", 5): 1.0,
    }
