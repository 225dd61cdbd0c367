"""Several methods on one scan: who is asked, how they vote, and what of it a reader gets."""

import contextlib
import itertools
import sys
import tracemalloc
import types
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import cli, output, pipeline
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, WeightsError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card, Prediction
from LabelFreeCovidSegLib.methods.consensus import Consensus
from LabelFreeCovidSegLib.scan import Scan

# Seven voxels of lung, and the three methods that mark them: every pattern of votes once.
PATTERNS = [pattern for pattern in itertools.product((0, 1), repeat=3) if any(pattern)]
NAMES = ("a", "b", "c")
SHAPE = (12, 20, 30)


class Toy:
    """Marks what it was told to mark."""

    def __init__(self, name, lesion, calibrated=True, warnings=()):
        self.card = Card(name, name.upper(), f"Says {name}.", f"{name} et al.", 2.0, (f"{name}-net",))
        self.weights = f"{name} 1.0"
        self.prediction = Prediction(
            lesion, (0.25 + lesion / 2).astype(np.float32), calibrated=calibrated, warnings=warnings,
            classes=2 * lesion,
        )  # fmt: skip
        self.asked = []

    def predict(self, scan, lungs, compute, progress):
        self.asked.append(lungs)
        progress(0.0, "Beginning")
        progress(0.9, "Ending")
        return self.prediction


@pytest.fixture
def register(monkeypatch):
    """Put a method, or what happens instead of loading it, into the registry."""

    def put(name, load, card=None):
        module = types.SimpleNamespace(CARD=card or Card(name, name.upper(), "", ""), load=load)
        monkeypatch.setitem(sys.modules, f"toy_{name}", module)
        monkeypatch.setitem(base.REGISTRY, name, f"toy_{name}")

    return put


@pytest.fixture
def toys(register):
    """a, b and c, which mark the first seven voxels of a row as `PATTERNS` says."""
    toys = {}
    for method, name in enumerate(NAMES):
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[5, 10, 4:11] = [pattern[method] for pattern in PATTERNS]
        toys[name] = Toy(name, lesion)
        register(name, lambda name=name: toys[name], toys[name].card)
    return toys


@pytest.fixture
def ct(tmp_path):
    """A CT file with two lungs, and their mask beside it."""
    lungs = np.zeros(SHAPE, np.uint8)
    lungs[2:10, 4:16, 3:14], lungs[2:10, 4:16, 16:27] = 1, 2
    for name, array in (("ct.nrrd", np.where(lungs, -850, 40).astype(np.int16)), ("lungs.nrrd", lungs)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((10.0, 10.0, 10.0))
        sitk.WriteImage(image, str(tmp_path / name))
    return tmp_path / "ct.nrrd"


@pytest.fixture
def segment(ct):
    def run(method, **more):
        scan = Scan.from_image(sitk.ReadImage(str(ct)), "ct.nrrd")
        return pipeline.segment(scan, method, ct.with_name("lungs.nrrd"), "cpu", **more)

    return run


def row(volume):
    return volume[5, 10, 4:11]


# How they vote


def test_three_methods_mark_what_two_of_them_mark(toys, segment):
    result = segment("a+b+c")
    votes = np.array([sum(pattern) for pattern in PATTERNS])
    np.testing.assert_array_equal(row(result.classes) > 0, votes >= 2)
    assert np.count_nonzero(result.classes) == np.count_nonzero(votes >= 2) == 4
    np.testing.assert_allclose(row(result.agreement), votes / 3)
    assert np.count_nonzero(result.agreement) == 7


def test_a_tie_is_no_lesion(toys, segment):
    result = segment("a+b")
    np.testing.assert_array_equal(row(result.classes) > 0, [a and b for a, b, _ in PATTERNS])
    np.testing.assert_allclose(row(result.agreement), [(a + b) / 2 for a, b, _ in PATTERNS])


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_nobody_votes_first(toys, segment, order):
    result, same = segment("+".join(order)), segment("a+b+c")
    for array in ("classes", "anomaly", "agreement"):
        np.testing.assert_allclose(getattr(result, array), getattr(same, array), rtol=1e-6)


def test_ground_glass_is_told_by_density_even_if_a_method_told_it(toys, segment):
    assert row(segment("a").classes).max() == 2
    assert row(segment("a+b+c").classes).max() == 1
    assert segment("a+b+c").measurements.band is not None


def test_calibrated_scores_are_averaged(toys, segment):
    result = segment("a+b+c")
    np.testing.assert_allclose(row(result.anomaly), [0.25 + sum(pattern) / 6 for pattern in PATTERNS], rtol=1e-6)
    assert result.run.warnings == result.lungs.warnings


@pytest.mark.parametrize("odd", NAMES)
def test_scores_that_are_no_probabilities_are_not_averaged_but_the_methods_counted(toys, segment, odd):
    toys[odd].prediction = Prediction(toys[odd].prediction.lesion, np.full(SHAPE, 900, np.float32))
    result = segment("a+b+c")
    np.testing.assert_array_equal(result.anomaly, result.agreement)
    assert f"the scores of {odd.upper()} are no probabilities" in result.run.warnings[-1]


def test_the_agreement_of_one_method_is_no_map(toys, segment):
    assert segment("a").agreement is None


# Who is asked


def test_each_is_asked_once_about_the_same_lungs(toys, segment, monkeypatch):
    found, find = [], pipeline.find_lungs
    monkeypatch.setattr(pipeline, "find_lungs", lambda *given: found.append(find(*given)) or found[-1])
    segment("a+b+c")
    assert [toy.asked for toy in toys.values()] == [found] * 3
    assert len(found) == 1


class Large:
    """Makes four arrays of its own on the way to a prediction."""

    card, weights = Card("large", "Large", "", ""), ""

    def predict(self, scan, lungs, compute, progress):
        scratch = [scan.hu + n for n in range(4)]
        return Prediction((scratch[0] > 0).astype(np.uint8), sum(scratch), calibrated=True)


def peak_of(method, scan):
    tracemalloc.start()
    method.predict(scan, None, None, lambda fraction, phase: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_that_of_one_method_with_a_byte_of_votes_and_a_float_of_scores_a_voxel():
    hu = np.zeros((20, 100, 100), np.float32)
    scan = Scan(hu, None, None, "large")
    alone, together = peak_of(Large(), scan), peak_of(Consensus([Large() for _ in range(5)]), scan)
    assert together <= alone + 5 * hu.size + 10_000


def test_all_that_lack_weights_are_named_before_any_work_is_done(toys, register, segment, monkeypatch):
    def lack(name):
        def load():
            raise WeightsError(f"no weights for '{name}'.")

        return load

    for name in ("d", "e"):
        register(name, lack(name))
    monkeypatch.setattr(pipeline, "find_lungs", lambda *_: pytest.fail("lungs were looked for"))
    with pytest.raises(WeightsError) as caught:
        segment("d+a+e")
    message = str(caught.value)
    assert message.startswith("2 of the 3 methods can't vote. Install what they lack, or leave them out. ")
    assert "d: no weights for 'd'. e: no weights for 'e'." in message
    assert toys["a"].asked == []


@pytest.mark.parametrize(
    ("method", "fault"),
    [("a+magic", "There is no method 'magic'"), ("a+a", "names a twice"), ("a+", "There is no method ''")],
)
def test_a_name_that_makes_no_sense_is_explained(toys, segment, method, fault):
    with pytest.raises(LabelFreeCovidSegError, match=fault):
        segment(method)


def test_one_that_learned_from_equalised_pictures_keeps_all_from_a_ct_and_is_named(toys, segment):
    toys["b"].card = replace(toys["b"].card, domain=base.CLAHE256)
    with pytest.raises(LabelFreeCovidSegError, match="weights of B were trained on locally equalised pictures"):
        segment("a+b")


def test_one_that_learned_nothing_keeps_none_from_a_ct(toys, segment):
    toys["b"].card = replace(toys["b"].card, domain=base.ANY)
    assert segment("a+b").measurements.regions


def test_progress_tells_who_works_and_never_goes_back(toys, segment):
    heard = []
    segment("b+c", progress=lambda *step: heard.append(step))
    fractions, phases = zip(*heard, strict=True)
    assert list(fractions) == sorted(fractions)
    its = [phase for phase in phases if ":" in phase]
    assert its == ["B: Beginning", "B: Ending", "C: Beginning", "C: Ending"]


# What a reader gets


def test_the_card_is_that_of_all(toys):
    card = base.card("a+b+c")
    assert card.name == "a+b+c"
    assert card.title == "Consensus of A, B and C"
    assert card.citation == "a et al.; b et al.; c et al."
    assert card.networks == ("a-net", "b-net", "c-net")
    assert card.seconds_per_megavoxel == 6.0
    assert base.card("b") is toys["b"].card


@pytest.mark.parametrize(
    ("names", "wanted"),
    [("cyclegan+uda", 0.0), ("cyclegan+normnet", 24.0), ("cyclegan+opacitynet", None)],
)
def test_a_consensus_looks_at_pictures_if_all_do(names, wanted):
    assert base.card(names).picture_mm == wanted


def test_a_warning_says_whose_it_is(toys, segment):
    toys["b"].prediction = Prediction(
        toys["b"].prediction.lesion, toys["b"].prediction.score, True, warnings=("Look.",)
    )
    assert "B: Look." in segment("a+b").run.warnings


def segment_file(ct, out, method):
    return cli.main(
        ["segment", str(ct), "-o", str(out), "--lungs", str(ct.with_name("lungs.nrrd")), "--method", method,
         "--device", "cpu", "--progress", "none"]
    )  # fmt: skip


def test_the_command_line_writes_the_agreement_and_the_report_names_all(toys, ct, tmp_path, capsys):
    assert segment_file(ct, tmp_path / "out", "a+b+c") == 0
    said = capsys.readouterr().out
    assert "Consensus of A, B and C on cpu" in said
    assert "agreement.nii.gz" in said
    image = sitk.ReadImage(str(tmp_path / "out" / "agreement.nii.gz"))
    assert image.GetSize() == sitk.ReadImage(str(ct)).GetSize()
    votes = [sum(pattern) / 3 for pattern in PATTERNS]
    np.testing.assert_allclose(row(sitk.GetArrayFromImage(image)), votes, atol=1 / 256)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Consensus of A, B and C" in report
    assert "a et al.; b et al.; c et al." in report
    assert "a 1.0; b 1.0; c 1.0" in report


def test_the_next_result_leaves_no_agreement_of_the_last_one(toys, ct, tmp_path):
    assert segment_file(ct, tmp_path / "out", "a+b") == 0
    assert segment_file(ct, tmp_path / "out", "a") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(output.FILES)


@pytest.mark.parametrize("moves", [0, 4, 6, 7, 12, 13])  # of thirteen, the first six or seven of which go out
@pytest.mark.parametrize("later", ["a", "a+b"])
def test_a_kill_between_two_renamings_leaves_a_whole_result(toys, segment, tmp_path, monkeypatch, later, moves):
    out = tmp_path / "out"
    output.write(segment("b+c" if later == "a" else "c"), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    result = segment(later)
    staged = output.stage(result, out)
    after = {path.name: path.read_bytes() for path in staged.iterdir()}
    rename, calls = output.os.replace, itertools.count()

    class Killed(BaseException):
        """Nothing is undone: a process that is killed does nothing any more."""

    def rename_or_die(source, target):
        if next(calls) >= moves:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(output.os, "replace", rename_or_die)
        patch.setattr(output, "discard", lambda staged: None)
        with contextlib.suppress(Killed):
            output.publish(staged, out, result.scan)
    output.recover(out)
    left = {path.name: path.read_bytes() for path in out.iterdir()}
    assert left == (after if moves >= 13 else before)
