"""The anomaly detectors in training: one cache for all, what a step does, and the threshold (METHODS 5.1 and 5.4)."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import cli
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.anomaly import ae, detector, f_anogan, kl_grad, vae
from LabelFreeCovidSegLib.methods.anomaly.detector import Preset
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training import anomaly, loop, prepare, recipes, runs
from LabelFreeCovidSegLib.training.anomaly import DetectorRecipe
from LabelFreeCovidSegLib.training.calibrate import best_threshold, mean_dice
from LabelFreeCovidSegLib.training.command import add_arguments
from LabelFreeCovidSegLib.training.detector import DetectorTrainee
from LabelFreeCovidSegLib.training.f_anogan import CRITIC_STEPS, GAN_SHARE, FAnoGANTrainee, gradient_penalty
from LabelFreeCovidSegLib.training.runs import Machine, Plan
from LabelFreeCovidSegLib.training.scanlist import ListedScan

SIDE = 32
TINY = Preset("tiny", (8, 8, 8), batch=2, iterations=4, spacing_mm=(6.0, 10.0, 10.0), side=SIDE, latent=4)
LEARNT = [name for name, module in base.BASELINES.items() if ".anomaly." in module and name != "threshold"]


def block(hu=-850):
    """A cached block: two boxes of lung in soft tissue."""
    volume = np.full((12, SIDE, SIDE), 40, np.int16)
    sides = np.zeros(volume.shape, np.uint8)
    for side, i in ((1, 4), (2, 18)):
        sides[:, 4:28, i : i + 10] = side
    volume[sides > 0] = hu
    return {"hu": volume, "healthy": sides}


def made(one=vae.DETECTOR, trainee=DetectorTrainee, preset=TINY):
    torch.manual_seed(0)
    return trainee(one, preset, [[block()], [block(-800)]], [block()])


def batch(trainee, share=0.0, number=0):
    samples = [trainee.sample(np.random.SeedSequence([number, place]), share) for place in range(2)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def updating(trainee, heard=lambda name, loss: None):
    """What the loop hands to `step`."""
    optimizers = trainee.optimizers()

    def update(name, loss):
        optimizers[name].zero_grad()
        loss.backward(inputs=[p for group in optimizers[name].param_groups for p in group["params"]])
        heard(name, loss)
        optimizers[name].step()

    return update


# One cache for all


def test_all_baselines_that_learn_have_a_recipe_and_one_cache():
    found = {name for name in recipes.REGISTRY if recipes.cache_of(name) == "anomaly"}
    assert found == set(LEARNT)
    assert len(found) == 11
    for name in found:
        recipe = recipes.recipe(name)
        assert recipe.detector.card.name == name
        assert recipe.detector is base._module(name).DETECTOR
        assert list(recipe.PRESETS)[:2] == ["small", "paper"]
    assert {recipes.recipe(name).PRESETS[preset].spacing_mm for name in found for preset in ("small", "paper")} == {
        (1.0, 3.2, 3.2)
    }
    assert recipes.cache_of("cyclegan") == "cyclegan"


def test_prepare_takes_the_name_of_the_cache_and_fit_that_of_a_detector():
    parser = argparse.ArgumentParser()
    add_arguments(parser, lambda parser: None)
    assert parser.parse_args(["prepare", "anomaly", "scans.toml", "-o", "cache"]).cache == "anomaly"
    assert parser.parse_args(["fit", "kl-grad", "cache", "-o", "run"]).method == "kl-grad"
    with pytest.raises(SystemExit):
        parser.parse_args(["prepare", "ae", "scans.toml", "-o", "cache"])


def test_the_published_numbers():
    paper = detector.PRESETS["paper"]
    assert (paper.learning_rate, paper.batch, paper.iterations) == (3e-4, 16, 6000)
    assert (paper.latent, paper.side, paper.spacing_mm) == (128, 128, (1.0, 3.2, 3.2))
    assert made().optimizers()["network"].param_groups[0]["betas"] == (0.5, 0.999)


def test_patients_are_refused(tmp_path):
    listed = ListedScan("one", tmp_path / "ct.nii.gz", covid=True)
    with pytest.raises(TrainingError, match="learns from near-healthy lungs alone"):
        anomaly.AE.blocks(listed, TINY)


# A step


def test_a_sample_is_a_healthy_slice_of_lung_alone_and_depends_on_its_seed_alone():
    trainee = made()
    first, again, other = (trainee.sample(np.random.SeedSequence(n), 0.0) for n in (1, 1, 3))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert first["key"] == again["key"] != other["key"]
    assert first["image"].shape == (1, SIDE, SIDE)
    assert first["image"].dtype == np.float32
    assert 0 <= first["image"].min() <= first["image"].max() < 0.6  # no chest wall, no lesion
    assert (first["image"] == 0).mean() > 0.5


def test_a_step_is_decided_by_its_batch():
    logged = []
    for state in (1, 2):
        trainee = made()
        torch.manual_seed(state)  # whatever was drawn before
        logged.append(trainee.step(batch(trainee), 0.0, updating(trainee)))
    for name in logged[0]:
        assert logged[0][name].item() == logged[1][name].item()
    assert logged[0]["loss"].item() == pytest.approx(
        sum(logged[0][name].item() for name in logged[0] if name != "loss"), rel=1e-6
    )


def test_training_lowers_the_loss_and_brings_reconstructions_of_the_held_out_scan_nearer():
    trainee = made(ae.DETECTOR)
    for optimizer in (optimizers := trainee.optimizers()).values():
        optimizer.param_groups[0]["lr"] = 1e-2

    def update(name, loss):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    def validated():
        trainee.network.eval()
        with torch.inference_mode():
            scores = [trainee.validate() for _ in range(2)]
        trainee.network.train()
        assert scores[0] == scores[1]
        return scores[0]

    before = validated()
    losses = [trainee.step(batch(trainee, number=n), 0.0, update)["loss"].item() for n in range(40)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert before < validated() < 0


def test_a_detector_needs_a_scan_that_sets_its_threshold():
    with pytest.raises(TrainingError, match=r"sets its threshold\. Hold one out: `--hold-out NAME`"):
        DetectorTrainee(ae.DETECTOR, TINY, [[block()]], [])


# The GAN


def test_the_gradient_penalty_is_of_the_norm_over_all_pixels_of_a_slice():
    torch.manual_seed(0)
    weight = torch.randn(1, 1, 8, 8)
    weight /= weight.norm()
    real, fake = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    assert gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake).item() == pytest.approx(0, abs=1e-9)
    assert gradient_penalty(lambda x: (x * 3 * weight).sum((1, 2, 3)), real, fake).item() == pytest.approx(4, rel=1e-4)


def test_the_slope_is_taken_between_pairs_of_real_and_made_slices():
    torch.manual_seed(0)
    places = []

    def critic(x):
        places.append(x.detach())
        return x.sum((1, 2, 3))

    gradient_penalty(critic, torch.ones(64, 1, 2, 2), torch.zeros(64, 1, 2, 2))
    shares = places[0][:, 0, 0, 0]
    assert (places[0] == shares[:, None, None, None]).all()
    assert 0 <= shares.min() < 0.2
    assert 0.8 < shares.max() <= 1


def test_the_critic_learns_from_five_batches_then_the_generator_and_afterwards_the_encoder_alone():
    trainee = made(f_anogan.DETECTOR, FAnoGANTrainee)
    parts = ("critic", "generator", "encoder")

    def now():
        return {n: [p.detach().clone() for p in getattr(trainee.network, n).parameters()] for n in parts}

    def moved(before):
        after = now()
        return {n for n in parts if any((p != q).any() for p, q in zip(before[n], after[n], strict=True))}

    names = []
    update = updating(trainee, lambda name, loss: names.append(name))
    given, before = batch(trainee, 0.0), now()
    assert given["image"].shape == (2, CRITIC_STEPS, SIDE, SIDE)
    assert all((given["image"][:, n] != given["image"][:, n + 1]).any() for n in range(CRITIC_STEPS - 1))
    assert set(trainee.step(given, 0.0, update)) == {"deceiving", "distance", "penalty"}
    assert names == ["critic"] * 5 + ["generator"]
    assert moved(before) == {"critic", "generator"}
    given, before = batch(trainee, GAN_SHARE), now()
    assert given["image"].shape == (2, 1, SIDE, SIDE)
    assert {"loss", "reconstruction", "features"} == set(trainee.step(given, GAN_SHARE, update))
    assert names[6:] == ["encoder"]
    assert moved(before) == {"encoder"}


# The threshold


def test_the_threshold_is_the_one_of_the_best_dice_in_steps_of_a_hundredth():
    score = np.array([0.1, 0.2, 0.305, 0.7, 0.31], np.float32)
    assert best_threshold([(score, np.array([False, False, True, True, True]))]) == 0.21
    assert best_threshold([(score, np.array([True] * 5))]) == 0.0
    assert best_threshold([(score, np.array([False, False, False, True, False]))]) == 0.32


def test_a_small_lesion_has_as_much_of_a_say_in_the_threshold_as_a_large_one():
    large = np.full(1000, 0.9, np.float32), np.arange(1000) < 900
    large[0][900:] = 0.3
    small = np.array([0.5, 0.0, 0.0, 0.0], np.float32), np.array([True, False, False, False])
    assert best_threshold([large]) == 0.31
    assert best_threshold([large, small]) == 0.31
    healthy = np.full(50, 0.4, np.float32), np.zeros(50, bool)
    assert best_threshold([large, small, healthy]) == 0.31
    faint = np.array([0.2, 0.1], np.float32), np.array([True, False])
    # Over all voxels 0.31 would be best: 0.11 costs the large one 100 voxels, and brings a single one.
    assert best_threshold([large, faint]) == 0.11
    assert mean_dice([large, faint, healthy], 0.11) == pytest.approx((2 * 900 / 1900 + 1) / 2)
    assert mean_dice([healthy], 0.5) == 0.0


class Sees(torch.nn.Module):
    """Rebuilds every lung as -750 HU, breathed out as far as these ever are."""

    def encode(self, x):
        return (x,)

    def decode(self, z):
        return torch.where(z > 0, 0.3, 0.0)


def calibrated(one):
    recipe = DetectorRecipe(one)
    state = one.build(TINY).state_dict()
    return recipe.calibrate(TINY, [state], [block()], silent)


def test_the_threshold_lies_between_healthy_lung_and_synthetic_lesions():
    class Knows(ae.AE):
        def build(self, preset):
            return Sees()

    found = DetectorRecipe(Knows()).calibrate(TINY, [{}], [block()], silent)
    assert found["tuned"] == {}
    assert 0 < found["threshold"] < 0.4


def test_what_depends_on_the_network_is_measured_with_the_threshold():
    torch.manual_seed(0)
    found = calibrated(kl_grad.DETECTOR)
    assert json.loads(json.dumps(found)) == found
    assert found["tuned"]["scale"] != 1
    assert replace(kl_grad.DETECTOR, **found["tuned"]).scale == found["tuned"]["scale"]


# From the cache to a method, for all


@pytest.fixture
def cache(tmp_path):
    """What `train prepare anomaly` writes of three scans."""
    folder = tmp_path / "cache"
    folder.mkdir()
    rows = []
    for name in ("anna", "bela", "carl"):
        np.savez_compressed(folder / f"{name}-0.npz", **block())
        rows.append({"name": name, "collection": "C", "licence": "CC0", "blocks": [f"{name}-0.npz"]})
    index = {"method": "anomaly", "spacing_mm": TINY.spacing_mm, "scans": rows}
    (folder / "cache.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(detector.PRESETS, "tiny", TINY)
    monkeypatch.setitem(DetectorRecipe.PRESETS, "tiny", TINY)


@pytest.mark.parametrize("name", ["vae", "f-anogan"])
def test_one_cache_makes_any_of_them_a_method(name, cache, tmp_path):
    plan = Plan.of(name, "tiny", hold_out="carl")
    runs.train(plan, prepare.open_cache(cache, name), tmp_path / "run", Machine(every=2, device="cpu"))
    entry = runs.export([tmp_path / "run"], cache, tmp_path / "models", "1")
    assert 0 <= entry.recipe["threshold"] <= 1
    method = base._module(name).load(tmp_path / "models")
    assert method.threshold == entry.recipe["threshold"]
    assert method.weights.startswith(f"{name} 1 (")


def test_a_cache_of_another_kind_is_refused_with_the_command_that_makes_one(cache):
    with pytest.raises(TrainingError, match="prepared for anomaly, not for cyclegan"):
        prepare.open_cache(cache, "cyclegan")
    index = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(index | {"method": "cyclegan"}))
    with pytest.raises(TrainingError, match="Run `train prepare anomaly` into another folder"):
        prepare.open_cache(cache, "ae")


@pytest.mark.parametrize("trained", [(vae.DETECTOR, DetectorTrainee), (f_anogan.DETECTOR, FAnoGANTrainee)])
def test_a_run_that_was_cut_off_resumes_to_the_same_bytes(trained, tmp_path):
    def stop(fraction, phase):
        if phase.startswith("Iteration 3,"):
            raise CancelledError(phase)

    def run(folder, progress=silent, resume=False):
        settings = loop.Settings(iterations=4, batch=2, every=2, device="cpu", choose=True)
        loop.fit(made(*trained), settings, {}, folder, resume, progress)
        return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]

    unbroken = run(tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        run(tmp_path / "cut", stop)
    assert run(tmp_path / "cut", resume=True) == unbroken


def test_segmenting_does_not_offer_them(capsys):
    with pytest.raises(SystemExit):
        cli.main(["segment", "ct.nii.gz", "--method", "f-anogan"])
    assert "'f-anogan' is what `evaluate` compares methods with" in capsys.readouterr().err
