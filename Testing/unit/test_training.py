"""Training: samples by seed, runs that resume to the byte, checkpoints that refuse strangers."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.training import loop, prepare, scanlist
from LabelFreeCovidSegLib.training.augment import augment, thicken
from LabelFreeCovidSegLib.training.crops import Block, cut
from LabelFreeCovidSegLib.training.loop import BEST, CHECKPOINT, Settings
from LabelFreeCovidSegLib.training.normnet import NormNetTrainee
from scipy import ndimage

TINY = replace(normnet.PRESETS["small"], spacing_mm=(4.0, 3.0, 3.0), crop=(16, 32, 32), channels=(4, 8, 8), batch=2)
RECIPE = {"method": "normnet", "seed": 0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0), lesions=())
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), folder / "ct.nii.gz")
    listed = [scanlist.ListedScan("chest", folder / "ct.nii.gz", exclude=((28, 31),))]
    return prepare.prepare("normnet", TINY, listed, folder / "cache")


def trainee(cache, preset=TINY):
    blocks = cache.blocks("chest")
    return NormNetTrainee(preset, [blocks], blocks)


def train(cache, folder, iterations=6, resume=False, progress=lambda *_: None, **settings):
    torch.manual_seed(0)
    given = Settings(iterations=iterations, batch=2, every=2, device="cpu", **settings)
    loop.fit(trainee(cache), given, RECIPE, folder, resume, progress)
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def stop_at(iteration):
    """Progress that cancels when it hears of `iteration`."""

    def progress(fraction, phase):
        if phase.startswith(f"Iteration {iteration},"):
            raise CancelledError(phase)

    return progress


def test_a_sample_depends_on_its_seed_alone(cache):
    made = trainee(cache)
    first = made.sample(np.random.SeedSequence(1), 0.0)
    made.sample(np.random.SeedSequence(2), 0.0)
    again, other = made.sample(np.random.SeedSequence(1), 0.0), made.sample(np.random.SeedSequence(2), 0.0)
    for name in ("image", "target"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    assert first["image"].shape == first["target"].shape == (1, *TINY.crop)
    assert first["image"].min() >= 0
    assert first["image"].max() <= 1
    assert set(np.unique(first["target"])) <= {0, 1}


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(cache, tmp_path):
    one, same, other = (train(cache, tmp_path / str(n), 3, seed=seed) for n, seed in enumerate((0, 0, 1)))
    assert one == same
    assert one != other


def test_drawing_samples_in_another_process_changes_nothing(cache, tmp_path):
    assert train(cache, tmp_path / "here", 3) == train(cache, tmp_path / "there", 3, workers=1)


def test_a_run_that_was_cut_off_resumes_to_the_same_bytes_and_curves(cache, tmp_path):
    unbroken = train(cache, tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        train(cache, tmp_path / "cut", progress=stop_at(3))
    assert loop.read_checkpoint(tmp_path / "cut" / CHECKPOINT).iteration == 2
    assert train(cache, tmp_path / "cut", resume=True) == unbroken
    curves = [list(csv.reader((tmp_path / run / "curves.csv").open())) for run in ("unbroken", "cut")]
    assert curves[0] == curves[1]
    assert [row[0] for row in curves[0]] == ["iteration", *"123456"]


def test_training_that_is_killed_resumes_to_the_same_bytes(cache, tmp_path):
    script = """
import sys
sys.path[:0] = sys.argv[3].split(";")
from pathlib import Path
import test_training as t
from LabelFreeCovidSegLib.training.prepare import open_cache
cache, folder = open_cache(Path(sys.argv[1]), "normnet"), Path(sys.argv[2])
t.train(cache, folder, choose=True, progress=lambda f, phase: print(phase, flush=True))
"""
    paths = ";".join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(loop.__file__)) + "/.."])
    command = [sys.executable, "-c", script, str(cache.folder), str(tmp_path / "killed"), paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("Iteration 5,"):
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert loop.read_checkpoint(tmp_path / "killed" / CHECKPOINT).iteration == 4
    resumed, unbroken = (train(cache, tmp_path / run, resume=True, choose=True) for run in ("killed", "unbroken"))
    assert resumed == unbroken
    assert len(unbroken) == 2


class Climber:
    """A weight that grows by 1 an iteration, and is best at 4."""

    def __init__(self, best_at=4.0):
        self.network, self.best_at, self.judged = torch.nn.Linear(1, 1, bias=False), best_at, []
        self.networks = {"network": self.network}
        torch.nn.init.zeros_(self.network.weight)

    def optimizers(self):
        return {"network": torch.optim.SGD(self.network.parameters(), lr=1.0)}

    def learning_rates(self, share):
        return {"network": 1.0}

    def sample(self, seed, share):
        return {"one": np.ones(1, np.float32)}

    def step(self, batch, share, update):
        assert self.network.training
        loss = -self.network(batch["one"]).mean()
        update("network", loss)
        return {"loss": loss}

    def validate(self):
        assert not self.network.training
        self.judged.append(self.network.weight.item())
        return -abs(self.judged[-1] - self.best_at)


CHOOSING = Settings(iterations=9, batch=1, every=2, device="cpu", choose=True)


def test_the_best_network_is_kept_beside_the_last(tmp_path):
    climber = Climber()
    assert loop.fit(climber, CHOOSING, RECIPE, tmp_path) == tmp_path / BEST
    assert climber.judged == [2, 4, 6, 8, 9]
    best, last = (loop.read_checkpoint(tmp_path / file) for file in (BEST, CHECKPOINT))
    assert (best.iteration, best.best, best.below("network")["weight"].item()) == (4, 0, 4)
    assert (last.iteration, last.best, last.below("network")["weight"].item()) == (9, 0, 9)
    assert set(best.tensors) == {"network/weight"}
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [float(row["validation"] or "inf") for row in rows] == [inf, -2, inf, 0, inf, -2, inf, -4, -5]


def test_without_a_scan_that_chooses_the_last_network_counts(tmp_path):
    climber = Climber()
    assert loop.fit(climber, replace(CHOOSING, choose=False), RECIPE, tmp_path) == tmp_path / CHECKPOINT
    assert not climber.judged
    assert not (tmp_path / BEST).exists()
    assert "validation" not in (tmp_path / "curves.csv").read_text()


def test_a_resumed_run_remembers_how_good_the_best_was(tmp_path):
    with pytest.raises(CancelledError):
        loop.fit(Climber(), CHOOSING, RECIPE, tmp_path, progress=stop_at(7))
    loop.fit(Climber(), CHOOSING, RECIPE, tmp_path, resume=True)
    assert loop.read_checkpoint(tmp_path / BEST).iteration == 4


def test_a_score_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="The validation is nan at iteration 2"):
        loop.fit(Climber(best_at=nan), CHOOSING, RECIPE, tmp_path)


class Duel:
    """Two networks against each other over two phases, with a memory that is part of the run."""

    def __init__(self):
        torch.manual_seed(3)
        self.networks = {
            "maker": torch.nn.Linear(2, 2),
            "judge": torch.nn.Linear(2, 1),
            "memory": torch.nn.BatchNorm1d(2, affine=False),
        }
        self.updates = []

    def optimizers(self):
        return {name: torch.optim.Adam(self.networks[name].parameters()) for name in ("maker", "judge")}

    def learning_rates(self, share):
        return {"maker": 0.1 * (1 - share), "judge": 0.2}

    def sample(self, seed, share):
        drawn = {"noise": np.random.default_rng(seed).normal(size=2).astype(np.float32)}
        return drawn if share < 0.5 else drawn | {"late": np.ones(1, np.float32)}

    def step(self, batch, share, update):
        maker, judge, memory = self.networks.values()
        made = memory(maker(batch["noise"]))
        judging = judge(made.detach()).square().mean()
        for _ in range(2):
            self.update(update, "judge", judge(made.detach()).square().mean())
        making = -judge(made).mean()
        self.update(update, "maker", making)
        return {"judging": judging} if share < 0.5 else {"making": making, "late": batch["late"].mean()}

    def update(self, update, name, loss):
        before = {n: [p.detach().clone() for p in network.parameters()] for n, network in self.networks.items()}
        update(name, loss)
        moved = {
            n for n in before
            if any(not torch.equal(p, q) for p, q in zip(before[n], self.networks[n].parameters(), strict=True))
        }  # fmt: skip
        self.updates.append((name, moved))

    def validate(self):
        return float(self.networks["memory"].running_mean.sum())


DUEL = Settings(iterations=6, batch=2, every=1, device="cpu", choose=True)


def duel(folder, resume=False, progress=lambda *_: None):
    trainee = Duel()
    loop.fit(trainee, DUEL, RECIPE, folder, resume, progress)
    return trainee, [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def test_an_update_moves_the_networks_of_its_optimizer_alone_though_the_loss_reaches_others(tmp_path):
    trainee, _ = duel(tmp_path)
    assert trainee.updates == [("judge", {"judge"}), ("judge", {"judge"}), ("maker", {"maker"})] * 6


@pytest.mark.parametrize("cut", range(1, 6))
def test_several_networks_resume_to_the_same_bytes_in_every_phase(tmp_path, cut):
    _, unbroken = duel(tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        duel(tmp_path / "cut", progress=stop_at(cut))
    assert loop.read_checkpoint(tmp_path / "cut" / CHECKPOINT).iteration == cut
    assert duel(tmp_path / "cut", resume=True)[1] == unbroken
    assert (tmp_path / "cut" / "curves.csv").read_text() == (tmp_path / "unbroken" / "curves.csv").read_text()


def test_what_is_measured_in_a_later_phase_gets_columns_of_its_own(tmp_path):
    duel(tmp_path)
    header, *rows = csv.reader((tmp_path / "curves.csv").open())
    assert header == ["iteration", "judging", "validation", "making", "late"]
    assert [[bool(cell) for cell in row[1:]] for row in rows] == [[True, True, False, False]] * 3 + [
        [False, True, True, True]
    ] * 3
    assert [row[4] for row in rows] == ["", "", "", "1", "1", "1"]


class Twice(Climber):
    """Climbs by two updates an iteration, and remembers where it stood before each."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def step(self, batch, share, update):
        for _ in range(2):
            height = self.network(batch["one"]).mean()
            self.seen.append(height.item())
            update("network", -height)
        return {"height": height}


def test_lowered_precision_sees_the_weights_that_an_update_has_changed(tmp_path):
    trainee = Twice()
    loop.fit(trainee, Settings(iterations=2, batch=1, device="cpu", precision="bfloat16"), RECIPE, tmp_path)
    assert trainee.seen == [0, 1, 2, 3]


def test_a_network_that_knows_what_is_healthy_scores_higher_than_one_that_knows_nothing(cache):
    made = trainee(cache)

    class Answer(torch.nn.Module):
        """Recognises as healthy what is bright in `known` views."""

        def __init__(self, known):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.known = known

        def forward(self, image):
            view = next(view for view in made.views if np.array_equal(view.image, image[0, 0].numpy()))
            healthy = torch.from_numpy(~view.lesion)[None, None] & torch.tensor(self.known)
            return torch.cat([torch.zeros(image.shape), torch.where(healthy, 9.0, -9.0)], dim=1)

    scores = []
    for known in (True, False):
        made.networks["network"] = Answer(known)
        scores.append(made.validate())
    knowing, blind = scores
    assert blind < knowing <= 1
    healthy = [view for view in made.views if not view.lesion.any()]
    assert 3 <= len(healthy) < len(made.views)


def test_a_run_is_not_overwritten_unasked(cache, tmp_path):
    (before,) = train(cache, tmp_path, 2)
    with pytest.raises(TrainingError, match=r"there is a run already\. Pass --resume"):
        train(cache, tmp_path, 2)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_recipe_is_refused_with_the_difference(cache, tmp_path):
    train(cache, tmp_path, 2)
    settings = Settings(iterations=4, batch=2, device="cpu")
    with pytest.raises(TrainingError, match="differs in seed"):
        loop.fit(trainee(cache), settings, {**RECIPE, "seed": 9}, tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04N."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / CHECKPOINT
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="not a checkpoint of a training run"):
        loop.read_checkpoint(path)


def test_a_crop_near_the_end_of_a_block_is_filled_up_with_air():
    lung = np.zeros((4, 8, 8), bool)
    lung[:, :2, :2] = True
    block = Block(np.where(lung, -850, -1024).astype(np.int16), lung)
    hu, inside = cut(block, (16, 16, 16), np.random.default_rng(0))
    assert hu.shape == inside.shape == (16, 16, 16)
    assert inside.sum() == lung.sum()
    assert (hu[~inside] == -1024).all()


def test_augmentation_keeps_lung_and_density_together():
    hu = np.full((8, 24, 24), -1000.0, np.float32)
    lung = np.zeros(hu.shape, bool)
    lung[:, 4:20, 2:10] = True
    hu[lung] = 0.0
    for seed in range(8):
        varied, inside = augment(hu, lung, (1.5, 1.0, 1.0), np.random.default_rng(seed))
        core = ndimage.binary_erosion(inside, iterations=2, border_value=1)  # other masks differ by less than 2 mm
        far = ~ndimage.binary_dilation(inside, iterations=2)
        assert core.any()
        assert varied[core].mean() > varied[far].mean() + 400


def test_thick_slices_are_straight_lines_between_their_centres():
    hu = np.random.default_rng(0).normal(size=(31, 2, 2)).astype(np.float32)
    thick = thicken(hu, 3.0)
    bends = np.abs(np.diff(thick, n=2, axis=0)).max(axis=(1, 2))
    assert (bends[2::3] > 1e-3).any()
    np.testing.assert_allclose(np.delete(bends, np.s_[2::3]), 0, atol=1e-5)
    assert thicken(hu, 0.8) is hu


@pytest.mark.parametrize("slices", [2.0, 2.5, 3.0, 4.0])
def test_thick_slices_shift_nothing(slices):
    k = np.arange(121, dtype=np.float32)[:, None, None]
    far_from_the_ends = slice(10, 100)
    assert (thicken(k, slices) - k)[far_from_the_ends].mean() == pytest.approx(0, abs=0.06)


def test_the_loss_falls_within_a_few_iterations(cache, tmp_path):
    torch.manual_seed(0)
    preset = replace(TINY, learning_rate=1e-2)
    loop.fit(trainee(cache, preset), Settings(iterations=30, batch=2, device="cpu"), RECIPE, tmp_path)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "curves.csv").open())]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
