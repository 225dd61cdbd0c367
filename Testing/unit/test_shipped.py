"""The weights that ship: what they were trained on, and what they find in the sample."""

from pathlib import Path

import numpy as np
import pytest
from LabelFreeCovidSegLib import device, lungs, phantom, store, weights
from LabelFreeCovidSegLib.evaluation import planted
from LabelFreeCovidSegLib.methods import base, normnet
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training import scanlist

LIST = Path(scanlist.__file__).with_name("shipped.toml")


def listed(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)  # the scans themselves are not part of the project
    return scanlist.read(LIST)


def test_they_were_trained_on_the_listed_scans_and_on_nothing_else(monkeypatch):
    entry, _ = weights.load("normnet", store.folder())
    scans = listed(monkeypatch)
    assert {scan["name"] for scan in entry.scans} <= {scan.name for scan in scans}
    assert {scan["licence"] for scan in entry.scans} <= {"CC BY 3.0", "CC BY 4.0"}
    assert not [scan for scan in scans if "phantom" in scan.name or "sample" in scan.name]


def test_the_manifest_says_what_a_user_has_to_know():
    entry, states = weights.load("normnet", store.folder())
    assert entry.recipe["preset"] == "small"
    assert {"iterations", "batch", "precision", "seeds"} <= set(entry.recipe)
    assert len(states) == len(entry.files) == len(entry.recipe["seeds"])
    assert entry.licence_confirmed is False
    assert entry.citation.startswith("Yao Q")
    assert sum((store.folder() / file).stat().st_size for file in entry.files) < 13e6


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [("opacitynet", 6), ("opacitynet2d", 4), ("opacitynet_clahe", 6), ("cyclegan", 5), ("gan3d", 5), ("uda", 3)],
)
def test_the_others_are_small_and_say_what_they_learned_from(name, megabytes, monkeypatch):
    entry, _ = weights.load(name, store.folder())
    monkeypatch.setattr(Path, "exists", lambda path: True)
    patients = {scan.name for scan in scanlist.read(LIST.with_name("shipped_covid.toml"))}
    near_healthy = {scan.name for scan in scanlist.read(LIST)}
    learned_from = {scan["name"] for scan in entry.scans}
    assert learned_from <= near_healthy | patients
    assert entry.recipe["hold_out"] in near_healthy - learned_from
    assert bool(learned_from & patients) == ("NC" in entry.licence)
    assert entry.licence_confirmed is False
    assert sum((store.folder() / file).stat().st_size for file in entry.files) < megabytes * 1e6


def test_opacitynet_and_the_default_ship_under_a_free_licence():
    for name in (base.DEFAULT, base.for_pictures(equalised=False), base.for_pictures(equalised=True)):
        assert weights.load(name, store.folder())[0].licence == "Apache-2.0"


def test_opacitynet_finds_most_of_the_samples_dense_lesions():
    made = phantom.make()
    model, compute = base.load("opacitynet"), device.choose("cpu")
    lesion = model.predict(made.scan, lungs.find_lungs(made.scan), compute, silent).lesion
    means = planted.means(planted.score(lesion, made))
    # One consolidation of 12 mm lies broadly at the mediastinum: cut by these lungs, a perfect outline has 0.73.
    assert 0.6 < means.pop(("consolidation", 12.0)) < 0.73
    assert all(dice > 0.7 for (kind, mm), dice in means.items() if kind != "faint ground glass" and mm >= 8)


@pytest.mark.parametrize(("name", "count"), [("lungnet", 1), ("picturenet", 2)])
def test_the_networks_for_lungs_are_small_and_learned_from_no_patient(name, count, monkeypatch):
    entry, states = weights.load(name, store.folder())
    assert len(states) == count
    assert all((store.folder() / file).stat().st_size < 2e6 for file in entry.files)
    assert {scan["name"] for scan in entry.scans} <= {scan.name for scan in listed(monkeypatch)}
    assert entry.licence_confirmed is False


@pytest.fixture(scope="module")
def outlined():
    """The sample, diseased and healthy, with the masks found in both."""
    model, compute = normnet.load(), device.choose("cpu")
    pairs = []
    for lesions in (phantom.LESION_MIX, ()):
        made = phantom.make(lesions=lesions)
        pairs.append((made, model.predict(made.scan, lungs.find_lungs(made.scan), compute, silent).lesion))
    return pairs


def test_dense_ground_glass_and_consolidation_of_the_sample_are_found(outlined):
    (made, lesion), _ = outlined
    scores = planted.score(lesion, made)

    def mean(kind, least_mm):
        return np.mean([s.dice for s in scores if s.kind == kind.name and s.radius_mm >= least_mm])

    assert mean(phantom.DENSE, 8) >= 0.75
    assert mean(phantom.SOLID, 12) >= 0.65


def test_hardly_anything_is_marked_in_the_healthy_sample(outlined):
    _, (made, lesion) = outlined
    assert planted.false_share(lesion, made) <= 0.01
