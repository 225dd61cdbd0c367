"""The lung network's surroundings: what is asked of it, what is made of its answer, and who steps in for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.lungs import classical, lungnet
from LabelFreeCovidSegLib.lungs.classical import Coarse
from torch import nn


class Answer(nn.Module):
    """A stand-in network that has learned one answer by heart: lung or not in the padded question's voxels."""

    def __init__(self, lung):
        super().__init__()
        self.lung = lung

    def forward(self, question):
        lung = np.zeros(question.shape[2:], dtype=np.float32)
        lung[tuple(slice(n) for n in self.lung.shape)] = self.lung
        return 40.0 * torch.from_numpy(lung)[None, None] - 20.0


@pytest.fixture(scope="module")
def chest():
    """A healthy phantom of 4 x 2 x 2 mm: a voxel of the network's grid is four of its own."""
    return phantom.make(shape=(75, 128, 170), spacing_mm=(4.0, 2.0, 2.0), lesions=())


@pytest.fixture(scope="module")
def air(chest):
    return classical.outline(chest.scan)


def answers(monkeypatch, labels, coarse):
    """Let the network answer `labels`, given on the scan's grid of 4 x 2 x 2 mm."""
    k = np.flatnonzero(coarse.lungs.any(axis=(1, 2)))
    levels = slice(max(k[0] - 8, 0), k[-1] + 1 + 8)
    monkeypatch.setattr(lungnet, "load", lambda store=None: Answer(labels[levels, ::2, ::2] > 0))


def consolidated(scan, where):
    return replace(scan, hu=np.where(where, np.float32(45.0), scan.hu))


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_the_network_has_room_in_two_megabytes():
    halves = sum(2 * p.numel() for p in lungnet.build().parameters())
    assert halves < 2_000_000


def test_a_question_of_any_extent_is_answered_voxel_by_voxel():
    lung = np.random.default_rng(0).integers(0, 2, (33, 5, 64))
    asked = lungnet.question(np.zeros(lung.shape, np.float32), lung > 0)
    np.testing.assert_array_equal(lungnet.foresee(Answer(lung), asked) > 0.5, lung > 0)


def test_a_question_holds_the_window_and_the_air():
    asked = lungnet.question(np.array([[[-2000.0, -1024.0, -374.0, 276.0, 3000.0]]]), np.ones((1, 1, 5), bool))
    np.testing.assert_allclose(asked, [[[[0, 0, 0.5, 1, 1]]], [[[1, 1, 1, 1, 1]]]])


def test_lung_is_what_is_more_likely_than_not_and_belongs_to_the_nearer_side():
    known = np.array([[[1, 0, 0, 0, 0, 0, 2]]], np.uint8)
    probability = np.array([[[0.9, 0.9, 0.6, 0.4, 0.5, 0.9, 0.9]]])
    np.testing.assert_array_equal(lungnet.decide(probability, known, (1.0, 1.0, 1.0), 3.0), [[[1, 1, 1, 0, 0, 2, 2]]])


def test_a_lung_without_air_is_still_the_left_one():
    known = np.array([[[1, 1, 0, 0, 0, 0, 0]]], np.uint8)  # columns of 20 mm
    probability = np.array([[[0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9]]])
    np.testing.assert_array_equal(lungnet.decide(probability, known, (1.0, 1.0, 20.0), 3.0), [[[1, 1, 1, 0, 0, 2, 2]]])


def test_small_pieces_are_dropped_and_holes_filled():
    probability = np.zeros((9, 12, 12))
    probability[1:8, 1:8, 1:8] = 1.0
    probability[4, 4, 4] = 0.0
    probability[:, 10, 10] = 1.0  # 9 of 351 voxels
    known = np.zeros((9, 12, 12), np.uint8)
    known[1:8, 1:8, 1:8] = 1
    labels = lungnet.decide(probability, known, (1.0, 1.0, 1.0), 12.0)
    assert labels[4, 4, 4] == 1
    assert not labels[:, 10, 10].any()
    assert labels.sum() == 343


def test_what_the_network_answers_lies_where_the_lungs_are(chest, air, monkeypatch):
    answers(monkeypatch, chest.lungs, air)
    found = lungnet.find(chest.scan)
    assert found.source == "lungnet"
    for side in (1, 2):
        assert dice(found.labels == side, chest.lungs == side) > 0.97


def test_consolidation_that_the_network_counts_as_lung_stays_in_the_mask(chest, air, monkeypatch):
    base = (chest.lungs == 1) & (np.arange(75) < 28)[:, None, None]
    answers(monkeypatch, chest.lungs, air)
    found = lungnet.find(consolidated(chest.scan, base))
    assert (found.labels == 1)[base].mean() > 0.85  # its corners hold no ball of 8 mm
    assert any("right lung" in sentence and "no air" in sentence for sentence in found.warnings)


def test_a_white_lung_keeps_its_side(chest, air, monkeypatch):
    white = chest.lungs == 2
    answers(monkeypatch, chest.lungs, air)
    found = lungnet.find(consolidated(chest.scan, white))
    assert dice(found.labels == 1, chest.lungs == 1) > 0.95
    assert (found.labels == 2)[white].mean() > 0.85
    assert not (found.labels == 1)[white].any()


def test_consolidation_goes_on_into_what_is_as_dense_and_may_be_lung():
    hu = np.full((20, 20, 60), 120.0, np.float32)  # contrast agent
    hu[:, :, :40] = 45.0
    sure, possible = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    sure[:, :, :15] = True
    possible[:, :, :30] = possible[:, :, 50:] = True
    coarse = Coarse(hu, np.zeros(hu.shape, np.uint8), sure, sure, (1, 1, 1), (2.0, 2.0, 2.0))
    grown = lungnet.gone_on(sure, possible, coarse)
    assert grown[:, :, :29].all()
    assert not grown[:, :, 31:].any()
    coarse.hu[:, :, 15:] = 120.0
    assert not lungnet.gone_on(sure, possible, coarse)[:, :, 17:].any()


def test_consolidation_between_both_lungs_belongs_to_the_nearer_one():
    hu = np.full((20, 20, 80), 45.0, np.float32)
    seen = np.zeros(hu.shape, np.uint8)
    seen[:, :, :12], seen[:, :, -12:] = 1, 2
    nothing, known = np.zeros(hu.shape, bool), np.zeros(hu.shape, np.uint8)
    known[-1, :, 0], known[-1, :, -1] = 1, 2
    coarse = Coarse(hu, known, nothing, nothing, (1, 1, 1), (2.0, 2.0, 2.0))
    labels = lungnet.corrected(coarse, lungnet.Seen(seen, nothing, ~nothing))
    np.testing.assert_array_equal(labels[10, 10], np.repeat([1, 2], 40))


def test_what_is_added_reaches_the_ribs_or_lies_on_the_diaphragm():
    lungs, added = np.zeros((40, 30, 80), np.uint8), np.zeros((40, 30, 80), bool)
    lungs[:, 5:25, 5:35], lungs[:, 5:25, 45:75] = 1, 2
    hu = np.full(lungs.shape, -850.0, np.float32)
    hu[:, 10:20, [1, 2, 77, 78]] = 600.0  # ribs beside the lungs
    at_ribs, in_between, on_diaphragm = np.s_[20:32, 9:21, 6:16], np.s_[20:32, 9:21, 24:34], np.s_[0:12, 9:21, 54:66]
    for where in (at_ribs, in_between, on_diaphragm):
        hu[where], added[where], lungs[where] = 45.0, True, 0
    coarse = Coarse(hu, lungs, lungs > 0, lungs > 9, (1, 1, 1), (2.0, 2.0, 2.0))
    kept = lungnet.anchored(added, coarse)
    assert kept[at_ribs].all()
    assert kept[on_diaphragm].all()
    assert not kept[in_between].any()
    seen = np.where(added, np.where(np.arange(80) < 40, 1, 2), lungs).astype(np.uint8)
    made = lungnet.corrected(coarse, lungnet.Seen(seen, np.zeros(added.shape, bool), added))
    assert [made[26, 15, 11], made[26, 15, 29], made[6, 15, 60]] == [1, 0, 2]  # middles; corners hold no ball of 8 mm
    np.testing.assert_array_equal(made[lungs > 0], lungs[lungs > 0])
    assert not made[in_between].any()
    hu[:, 10:20, [1, 2, 77, 78]] = 45.0  # a field of view without ribs
    assert lungnet.anchored(added, coarse).sum() == added.sum()


def test_what_is_left_of_a_lungs_air_may_be_bowel_and_does_not_count():
    known = np.zeros((10, 10, 40), np.uint8)
    known[:, :, :16], known[:2, :, -6:] = 1, 2
    coarse = Coarse(known, known, known > 0, known > 9, (1, 1, 1), (4.0, 4.0, 4.0))
    assert lungnet.covered(1 * (known == 1), coarse) == 1.0
    known[:, :, -6:] = 2
    assert lungnet.covered(1 * (known == 1), Coarse(known, known, known > 0, known > 9, (1, 1, 1), (4.0,) * 3)) == 0.0


def test_a_network_that_misses_air_is_not_believed(chest, air, monkeypatch):
    half = chest.lungs * (np.arange(75) > 38)[:, None, None]
    answers(monkeypatch, half, air)
    found = lungnet.find(chest.scan)
    np.testing.assert_array_equal(found.labels, classical.find(chest.scan).labels)
    assert found.source == "classical, instead of lungnet"
    assert "did not understand" in found.warnings[0]


def test_a_difference_between_the_finders_is_told_in_millilitres():
    lungs = np.zeros((10, 10, 20), np.uint8)
    lungs[:, :, :10], lungs[:, :, 10:] = 1, 2
    fewer = lungs * (np.arange(10) >= 2)[:, None, None]  # a fifth of each: Dice 0.89
    coarse = Coarse(lungs, fewer, fewer > 0, fewer > 9, (1, 1, 1), (10.0, 10.0, 10.0))
    right, left = lungnet.differences(lungs, coarse)
    assert "right lung" in right
    assert "holds 200 mL that have no air, and leaves out 0 mL" in right
    assert "left lung" in left
    assert lungnet.differences(fewer, coarse) == ()
