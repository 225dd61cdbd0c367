"""The eight protocols on constructed cases: what each counts, and where they part."""

from dataclasses import replace

import numpy as np
import pytest
from LabelFreeCovidSegLib.evaluation.judged import Judged
from LabelFreeCovidSegLib.evaluation.protocols import ORACLE, PROTOCOLS, Unit, means
from LabelFreeCovidSegLib.scan import Grid

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
HEALTHY_HU = -850.0


def judged(shape=(2, 128, 128), spacing_mm=(5.0, 1.0, 1.0), **arrays) -> Judged:
    """A case that is all lung (right half, left half) without lesion, and nothing found, but for what is given."""
    lungs = np.ones(shape, np.uint8)
    lungs[:, :, shape[2] // 2 :] = 2
    case = Judged(
        found=np.zeros(shape, bool),
        score=np.zeros(shape, np.float32),
        truth=np.zeros(shape, bool),
        lungs=lungs,
        hu=np.full(shape, HEALTHY_HU, np.float32),
        grid=Grid(shape[::-1], spacing_mm[::-1], (0.0, 0.0, 0.0), IDENTITY),
    )
    return replace(case, **arrays)


def box(shape, *slices) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def values(protocol: str, case: Judged) -> dict[str, float]:
    """All numbers of one case that has one unit of each name."""
    return {name: value for unit in PROTOCOLS[protocol].measure(case) for name, value in unit.values.items()}


def concluded(protocol: str, **cases: Judged) -> dict[str, float]:
    """The means over cases."""
    chosen = PROTOCOLS[protocol]
    measured = {name: chosen.measure(case) for name, case in cases.items()}
    return {name: number.mean for name, number in chosen.summarise(chosen.select(measured)).items()}


SHAPE = (2, 128, 128)
LESION = box(SHAPE, 0, slice(20, 40), slice(20, 40))


def test_every_protocol_says_what_it_counts_and_warns_of_something():
    assert list(PROTOCOLS) == [
        "volume", "A", "B_slice", "C", "C_bright", "D_slice", "A_12region", "oracle_threshold",
    ]  # fmt: skip
    for protocol in PROTOCOLS.values():
        assert all((protocol.unit, protocol.grid, protocol.threshold, protocol.caveat, protocol.primary))


def test_every_protocol_names_a_primary_number_that_it_gives():
    score = LESION.astype(np.float32)
    case = judged(truth=LESION, found=LESION, score=score, hu=LESION * 900 + np.float32(-850), health=1 - score)
    for name, protocol in PROTOCOLS.items():
        assert protocol.primary in concluded(name, case=case, other=case)


# The common protocol


def test_volume_by_hand():
    found = box(SHAPE, 0, slice(20, 40), slice(30, 50))  # half of the lesion, and as much beside it
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[0, :50, :50] = 1
    numbers = values("volume", judged(truth=LESION, found=found, score=found.astype(np.float32), lungs=lungs))
    assert (numbers["DSC"], numbers["PSC"], numbers["SEN"]) == (0.5, 0.5, 0.5)
    assert numbers["SPC in lung"] == (2500 - 400 - 200) / (2500 - 400)
    assert numbers["SPC whole image"] == (SHAPE[1] * SHAPE[2] * 2 - 400 - 200) / (SHAPE[1] * SHAPE[2] * 2 - 400)
    assert numbers["AUC"] == pytest.approx((1900 / 2100 + 1 / 2) / 2)  # one threshold: mean of SPC and SEN
    assert (numbers["lesions detected"], numbers["false lesions"]) == (1, 0)
    assert numbers["volume error (mL)"] == 0
    # One slice thin, all 400 voxels are surface: 200 at 0, then 20 each at 1, 2 ... 10 mm; rank 379.05 of 0 ... 399.
    assert numbers["HD95 (mm)"] == pytest.approx(9.05)


def test_volume_error_is_positive_where_too_much_is_found():
    numbers = values("volume", judged(found=LESION))
    assert numbers["volume error (mL)"] == pytest.approx(400 * 5 / 1000)


def test_a_case_without_lesion_and_marks_is_left_out_of_overlap_but_not_of_false_marks():
    numbers = concluded("volume", healthy=judged(), wrong=judged(found=LESION))
    assert numbers["DSC"] == 0
    assert numbers["volume error (mL)"] == pytest.approx(1.0)  # mean of 0 and 2 mL
    assert numbers["SPC whole image"] == pytest.approx(1 - 400 / 32768 / 2)


def test_lungs_count_where_an_expert_drew_them():
    lungs = judged().lungs > 0
    assert "lung DSC" not in values("volume", judged())
    numbers = values("volume", judged(true_lungs=lungs))
    assert (numbers["lung DSC"], numbers["lung NSD 1 mm"]) == (1, 1)


def test_a_lesion_that_the_lung_mask_left_out_is_missed_lung():
    lungs = np.where(LESION, 0, judged().lungs).astype(np.uint8)
    score = np.zeros(SHAPE, np.float32)
    score[1] = 0.1
    assert values("volume", judged(truth=LESION, lungs=lungs, score=score))["AUC"] < 0.5


def test_pictures_have_no_millimetres():
    numbers = values("volume", judged(truth=LESION, found=LESION, in_mm=False))
    assert not {"NSD 3 mm", "HD95 (mm)", "volume error (mL)"} & set(numbers)
    assert numbers["DSC"] == 1


# Where they part


def test_b_slice_ignores_a_fully_wrong_healthy_slice_and_volume_does_not():
    found = LESION | box(SHAPE, 1)
    case = judged(truth=LESION, found=found, score=found.astype(np.float32))
    assert values("B_slice", case)["DSC"] == 1
    assert values("volume", case)["DSC"] == pytest.approx(2 * 400 / (400 + 400 + 128 * 128))


@pytest.mark.parametrize(("pixels", "counted"), [(163, 0), (164, 1)])
@pytest.mark.parametrize("every", [1, 4])
def test_b_slice_leaves_out_slices_with_little_lesion_however_small_the_lung(pixels, counted, every):
    truth, lungs = np.zeros(SHAPE, bool), np.zeros(SHAPE, np.uint8)
    truth[0].reshape(-1)[:pixels] = True
    lungs[0, ::every] = lungs[:, [0, -1]] = 1
    assert len(PROTOCOLS["B_slice"].measure(judged(truth=truth, lungs=lungs))) == counted


def test_b_slice_thresholds_each_slice_by_its_own_maximum():
    score = LESION * np.float32(0.05)
    score[1] = 1.0
    numbers = values("B_slice", judged(truth=LESION, score=score))
    assert numbers["DSC"] == 1  # although nothing else in the case is as low
    assert numbers["DSC of its own mask"] == 0


def test_b_slice_sees_the_box_of_the_lungs_alone():
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[:, 64:, 64:] = 1
    truth = box(SHAPE, 0, slice(64, 96), slice(64, 128))  # half of the lung: half of the 128 x 128 pixels
    score = lungs.astype(np.float32)
    numbers = values("B_slice", judged(truth=truth, lungs=lungs, score=score))
    assert numbers["SPC whole image"] == 0
    assert numbers["DSC"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("protocol", ["A", "C"])
def test_paper_grids_leave_the_overlap_of_coarse_boxes_alone(protocol):
    shape, spacing = (6, 20, 20), (4.0, 4.0, 4.0)
    truth, found = box(shape, 2, slice(5, 10), slice(5, 10)), box(shape, 2, slice(5, 10), slice(7, 12))
    numbers = values(protocol, judged(shape, spacing, truth=truth, found=found))
    assert numbers["DSC"] == pytest.approx(0.6, abs=0.01)


def test_paper_grids_can_miss_what_is_thinner_than_their_voxels():
    shape, spacing = (4, 40, 40), (1.0, 0.25, 0.25)
    truth = box(shape, 1, slice(None), 20)
    case = judged(shape, spacing, truth=truth, found=truth)
    assert values("volume", case)["DSC"] == 1
    assert not any(unit.counts for unit in PROTOCOLS["A"].measure(case))


def test_c_bright_counts_dense_lung_alone_and_calls_health_positive():
    shape = (1, 2, 4)
    hu = np.array([[[-400, -400, -400, -400], [-900, -900, -501, -500]]], np.float32)
    truth = np.array([[[1, 1, 0, 0], [1, 1, 1, 0]]], bool)
    health = np.array([[[0.1, 0.99, 0.1, 1.0], [1.0, 1.0, 1.0, 0.96]]], np.float32)
    numbers = values("C_bright", judged(shape, truth=truth, health=health, hu=hu))
    # Five voxels: two sick (one taken for healthy), three healthy (one taken for sick).
    assert numbers["PSC"] == pytest.approx(2 / 3)
    assert numbers["SEN"] == pytest.approx(2 / 3)
    assert numbers["SPC"] == pytest.approx(1 / 2)
    # Of the 6 pairs of a healthy and a sick voxel, 3 are in order, and one is a tie.
    assert numbers["AUC"] == pytest.approx(3.5 / 6)


@pytest.mark.parametrize("name", ["A", "C"])
def test_a_case_with_nothing_in_it_is_an_empty_unit(name):
    (unit,) = PROTOCOLS[name].measure(judged(lungs=np.zeros(SHAPE, np.uint8)))
    assert not unit.counts


def test_d_slice_counts_slices_alike_and_volume_voxels():
    large, small = box(SHAPE, 0, slice(0, 60), slice(0, 60)), box(SHAPE, 1, slice(0, 5), slice(0, 5))
    case = judged(truth=large | small, found=large)
    assert concluded("D_slice", case=case)["infection DSC"] == 0.5
    assert concluded("volume", case=case)["DSC"] > 0.99


def test_d_slice_takes_each_class_against_the_rest():
    ground_glass, consolidation = LESION.astype(np.uint8), LESION * np.uint8(2)
    case = judged(truth=LESION, found=LESION, found_classes=ground_glass, true_classes=consolidation)
    numbers = concluded("D_slice", case=case)
    assert numbers["infection DSC"] == 1
    assert numbers["ground glass DSC"] == numbers["consolidation DSC"] == 0


def test_d_slice_has_the_normal_interval():
    large, small = box(SHAPE, 0, slice(0, 60), slice(0, 60)), box(SHAPE, 1, slice(0, 5), slice(0, 5))
    chosen = PROTOCOLS["D_slice"]
    number = chosen.summarise({"case": chosen.measure(judged(truth=large | small, found=large))})["infection DSC"]
    assert number.high - number.mean == pytest.approx(1.96 * 0.5 / np.sqrt(2))


def test_a_12region_forgives_marks_in_the_wrong_place_of_a_region():
    shape, spacing = (6, 20, 20), (5.0, 2.0, 2.0)
    truth, found = box(shape, 0, 2, 2), box(shape, 1, 8, 8)  # both in the right lung's lowest third in front
    numbers = concluded("A_12region", case=judged(shape, spacing, truth=truth, found=found))
    assert numbers == {"ACC": 1, "PSC": 1, "SEN": 1}
    assert values("volume", judged(shape, spacing, truth=truth, found=found))["DSC"] == 0


def test_a_12region_pools_regions_and_needs_10_cubic_millimetres():
    shape = (6, 20, 20)
    truth = box(shape, 0, 2, 2)
    found = truth | box(shape, 5, 15, 2)  # a false region in the right lung
    enough, little = (2.5, 2.0, 2.0), (2.4, 2.0, 2.0)
    assert concluded("A_12region", case=judged(shape, enough, truth=truth, found=found)) == {
        "ACC": pytest.approx(11 / 12), "PSC": 0.5, "SEN": 1,
    }  # fmt: skip
    numbers = concluded("A_12region", case=judged(shape, little, truth=truth, found=found))
    assert numbers["ACC"] == 1
    assert np.isnan([numbers["PSC"], numbers["SEN"]]).all()


def oracle_case(seed: int) -> Judged:
    rng = np.random.default_rng(seed)
    score = rng.random(SHAPE, np.float32)
    return judged(truth=score + rng.normal(0, 0.2, SHAPE) > 0.6 + seed / 10, score=score)


def test_the_oracle_is_no_worse_than_any_fixed_threshold():
    cases = {str(seed): oracle_case(seed) for seed in range(3)}
    best = concluded("oracle_threshold", **cases)
    for threshold in np.arange(101) / 100:
        fixed = [
            2 * np.count_nonzero((case.score >= np.float32(threshold)) & case.truth)
            / (np.count_nonzero(case.score >= np.float32(threshold)) + np.count_nonzero(case.truth))
            for case in cases.values()
        ]  # fmt: skip
        assert best["DSC"] >= np.mean(fixed) - 1e-12
        if threshold == pytest.approx(best["threshold (score)"]):
            assert best["DSC"] == pytest.approx(np.mean(fixed))


def test_the_oracle_takes_one_threshold_for_all_cases_and_counts_misses_outside_the_lungs():
    shape = (1, 2, 2)
    lungs = np.array([[[1, 1], [2, 0]]], np.uint8)
    truth = np.array([[[1, 0], [0, 1]]], bool)
    score = np.array([[[0.5, 0.3], [0.1, 0.0]]], np.float32)
    numbers = concluded("oracle_threshold", case=judged(shape, truth=truth, lungs=lungs, score=score))
    assert numbers["threshold (score)"] == pytest.approx(0.31)
    assert (numbers["DSC"], numbers["PSC"], numbers["SEN"]) == (pytest.approx(2 / 3), 1, 0.5)
    assert PROTOCOLS["oracle_threshold"].kind == ORACLE


def test_means_skip_units_that_do_not_count():
    cases = {"a": [Unit("case", {"DSC": 1.0}, counts=False)], "b": [Unit("case", {"DSC": 0.4})]}
    assert (means(cases)["DSC"].mean, means(cases)["DSC"].n) == (0.4, 1)
