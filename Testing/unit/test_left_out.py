"""False marks and found lesions of single networks and their vote, on a small phantom."""

import dataclasses

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.evaluation import left_out, planted
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Grid

COARSE = dataclasses.replace(normnet.PRESETS["small"], spacing_mm=(4.0, 3.0, 3.0), crop=(32, 48, 48))

GRID = Grid((10, 2, 4), (5.0, 10.0, 10.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
"""Half a millilitre a voxel, slices of 10 mm."""


class Constant(torch.nn.Module):
    """Says of every voxel that it is healthy (or not)."""

    def __init__(self, healthy: bool) -> None:
        super().__init__()
        self.logit = 9.0 if healthy else -9.0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), torch.full_like(image, self.logit)], dim=1)


@pytest.fixture(scope="module")
def made():
    return phantom.make(shape=(75, 86, 114), spacing_mm=(4.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def lungs(made):
    return LungMask(made.lungs, "phantom")


def model(*healthy: bool) -> normnet.NormNet:
    return normnet.NormNet([Constant(one) for one in healthy], COARSE, "constant")


@pytest.fixture(scope="module")
def found(made, lungs):
    """One network that takes everything bright for lesion and two that mark nothing."""
    return left_out.masks(model(False, True, True), ["b", "a", "c"], made.scan, lungs, Compute())


def test_each_network_and_the_vote_have_their_own_mask(found):
    assert list(found) == [left_out.VOTE, "b", "a", "c"]
    assert not found["a"].any()
    assert not found["c"].any()
    assert found["b"].any()
    assert not found[left_out.VOTE].any()


def test_the_probability_of_health_is_the_median_of_the_networks_before_any_neighbour_has_a_say(made, lungs):
    found = model(False, True, True).health(made.scan, lungs, Compute(), silent)
    assert found.shape == made.scan.hu.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[made.lungs > 0], 1 / (1 + np.exp(-9)), atol=1e-4)
    assert not found[made.lungs == 0].any()
    assert model(False, False, True).health(made.scan, lungs, Compute(), silent).max() < 1e-3


def test_one_network_votes_alone(made, lungs, found):
    alone = left_out.masks(model(False), ["b"], made.scan, lungs, Compute())
    assert list(alone) == [left_out.VOTE]
    assert np.array_equal(alone[left_out.VOTE], found["b"])


def test_the_vote_is_what_the_method_predicts(made, lungs):
    networks = model(True, False, False)
    mask = left_out.masks(networks, ["a", "b", "c"], made.scan, lungs, Compute())[left_out.VOTE]
    assert np.array_equal(mask, networks.predict(made.scan, lungs, Compute(), lambda done, what: None).lesion > 0)


def test_false_marks_are_counted_in_the_lung_of_free_slices():
    lungs = np.zeros((4, 2, 10), np.uint8)
    lungs[:, :, :6], lungs[:, :, 6:] = 1, 2
    mask = np.zeros(lungs.shape, dtype=bool)
    mask[0, 0, :3] = True  # 3 of the right lung's 36 free voxels
    mask[1] = True  # not free
    mask[2, :, 8:] = True  # 4 of the left lung's 24
    marks = left_out.false_marks({left_out.VOTE: mask}, lungs, np.array([True, False, True, True]), GRID)
    share = marks.share[left_out.VOTE]
    assert share["right"] == pytest.approx(100 * 3 / 36)
    assert share["left"] == pytest.approx(100 * 4 / 24)
    assert share["both"] == pytest.approx(100 * 7 / 60)
    assert marks.worst == [(2, 2.0), (0, 1.5)]


def test_slices_next_to_the_worst_one_are_not_named():
    lungs = np.ones((4, 3, 3), np.uint8)
    mask = np.zeros(lungs.shape, dtype=bool)
    mask[0, 0], mask[1, :2], mask[3, 0, 0] = True, True, True
    near = dataclasses.replace(GRID, spacing=(10.0, 10.0, 5.0))
    assert [k for k, _ in left_out.false_marks({left_out.VOTE: mask}, lungs, np.ones(4, bool), near).worst] == [1, 3]


def test_a_lung_that_is_not_healthy_is_not_counted():
    lungs = np.ones((2, 3, 3), np.uint8)
    marks = left_out.false_marks({left_out.VOTE: lungs > 0}, lungs, np.ones(2, dtype=bool), GRID)
    assert set(marks.share[left_out.VOTE]) == {"both", "right"}


def test_every_planted_lesion_has_a_row_with_the_dice_of_each_mask_and_the_ceiling(made, lungs):
    masks = {left_out.VOTE: made.instances > 0, "a": np.zeros(made.instances.shape, dtype=bool)}
    rows = left_out.dice_rows(masks, made, lungs, model(True))
    assert len(rows) == len(made.planted)
    for row in rows:
        assert row["dice"][left_out.VOTE] == 1.0
        assert row["dice"]["a"] == 0.0
    ceiling = left_out.overall(rows)[left_out.PERFECT]
    assert 0.7 < ceiling < 1.0
    assert ceiling == pytest.approx(
        np.mean(
            [
                one.dice
                for one in planted.score(planted.perfect(made, lungs, COARSE), made)
                if one.radius_mm >= 8 and one.kind != phantom.FAINT.name
            ]
        )
    )


def row(kind: phantom.Kind, radius_mm: float, dice: float) -> dict:
    return {"kind": kind.name, "radius_mm": radius_mm, "subpleural": True, "dice": {left_out.VOTE: dice}}


def test_means_leave_small_and_faint_lesions_out_of_the_comparison():
    rows = [
        row(phantom.DENSE, 8.0, 0.5), row(phantom.SOLID, 16.0, 0.9),
        row(phantom.SOLID, 5.0, 0.1), row(phantom.FAINT, 16.0, 0.2),
    ]  # fmt: skip
    assert left_out.overall(rows) == {left_out.VOTE: pytest.approx(0.7)}
    cells = left_out.by_cell([*rows, row(phantom.DENSE, 8.0, 0.7)])
    assert cells[phantom.DENSE.name, 8.0] == {left_out.VOTE: pytest.approx(0.6)}
    assert cells[phantom.FAINT.name, 16.0] == {left_out.VOTE: 0.2}
