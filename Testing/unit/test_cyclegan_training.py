"""The cycle-GAN in training: losses, their wiring, the history, domains, and a toy (METHODS 1.5, 1.6 and 1.9)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import cyclegan
from LabelFreeCovidSegLib.methods.cyclegan import Preset
from LabelFreeCovidSegLib.training import cycle, loop, lung_slices, runs
from LabelFreeCovidSegLib.training import cyclegan as recipe
from LabelFreeCovidSegLib.training.cycle import History, generated, judging_loss
from LabelFreeCovidSegLib.training.cyclegan import CycleGANTrainee, shifted
from LabelFreeCovidSegLib.training.loop import CHECKPOINT, Settings
from LabelFreeCovidSegLib.training.lung_slices import SliceDomains, placed
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from torch import nn

SIDE = 64
TINY = Preset(
    "tiny", (4.0, 3.0, 3.0), SIDE, (2, 3, 4), (2, 2, 2, 2), background=-1.0, batch=2, iterations=6, history=3
)  # fmt: skip
GENERATORS = ("contender", "to_infected")
JUDGES = ("judge_healthy", "judge_infected")


def block(kind="healthy", hu=-860):
    """A cached block: two boxes of lung in soft tissue."""
    volume = np.full((10, SIDE, SIDE), 40, np.int16)
    sides = np.zeros(volume.shape, np.uint8)
    for side, i in ((1, 6), (2, 36)):
        sides[:, 10:54, i : i + 22] = side
    volume[sides > 0] = hu
    return {"hu": volume, kind: sides}


SCANS = [[block()], [block("ill", hu=-700)]]


def made(preset=TINY, scans=SCANS, judge=()):
    torch.manual_seed(0)
    return CycleGANTrainee(preset, scans, judge)


def batch(trainee, number=0):
    samples = [trainee.sample(np.random.SeedSequence([number, place]), 0.0) for place in range(2)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def updating(trainee, heard=lambda name: None):
    """What the loop hands to `step`."""
    optimizers = trainee.optimizers()
    for name, optimizer in optimizers.items():
        optimizer.param_groups[0]["lr"] = trainee.learning_rates(0.0)[name]

    def update(name, loss):
        optimizers[name].zero_grad()
        loss.backward(inputs=[p for group in optimizers[name].param_groups for p in group["params"]])
        heard(name)
        optimizers[name].step()

    return update


def half(x):
    return torch.full((len(x), 1, 2, 2), 0.5)


def same(x):
    return x


X, Y = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4) - 1


# The losses


def test_generators_that_change_nothing_lose_nothing_but_the_verdicts():
    found = generated(same, same, half, half, X, Y)
    assert (found.cycle.item(), found.identity.item()) == (0, 0)
    assert found.adversarial.item() == pytest.approx(0.5)
    assert found.loss.item() == pytest.approx(0.5)
    assert judging_loss(half, X, Y).item() == pytest.approx(0.25)


def test_slices_go_to_the_other_domain_and_back():
    found = generated(lambda x: x - 1, lambda y: y + 1, half, half, X, Y)
    assert found.cycle.item() == pytest.approx(0, abs=1e-6)
    assert found.identity.item() == pytest.approx(1 + 1)
    torch.testing.assert_close(found.healthy, X - 1)
    torch.testing.assert_close(found.infected, Y + 1)
    assert found.loss.item() == pytest.approx(0.5 + 5 * 2, rel=1e-5)


def test_each_term_belongs_to_its_own_generator_and_discriminator():
    found = generated(lambda x: x - 1, same, half, lambda x: torch.ones(1), X, Y)
    assert found.adversarial.item() == pytest.approx(0.25)  # only the judge of healthy slices is in doubt
    assert found.cycle.item() == pytest.approx(2)  # neither comes back
    assert found.identity.item() == pytest.approx(1)  # only healthy slices are changed
    assert found.loss.item() == pytest.approx(0.25 + 10 * 2 + 5 * 1, rel=1e-5)


def test_a_discriminator_is_pulled_to_1_for_real_slices_and_to_0_for_made_ones():
    real, fake = torch.tensor([0.2], requires_grad=True), torch.tensor([0.7])
    verdict = nn.Parameter(torch.tensor(1.0))
    loss = judging_loss(lambda x: verdict * x, real, fake)
    assert loss.item() == pytest.approx((0.8**2 + 0.7**2) / 2)


def test_discriminators_see_made_slices_without_their_gradients():
    trainee = made()
    given = batch(trainee)
    networks = trainee.networks
    found = generated(*(networks[name] for name in (*GENERATORS, *JUDGES)), given["infected"], given["healthy"])
    judging_loss(networks["judge_healthy"], given["healthy"], found.healthy).backward()
    judging_loss(networks["judge_infected"], given["infected"], found.infected).backward()
    assert all(p.grad is None or not p.grad.any() for name in GENERATORS for p in networks[name].parameters())
    assert all(p.grad is not None for name in JUDGES for p in networks[name].parameters())


def test_each_update_moves_its_own_networks_and_no_other():
    trainee = made()

    def now():
        return {n: [p.detach().clone() for p in trainee.networks[n].parameters()] for n in (*GENERATORS, *JUDGES)}

    states, names = [now()], []

    def heard(name):
        names.append(name)
        states.append(now())

    logged = trainee.step(batch(trainee), 0.0, updating(trainee, heard))
    states.append(now())
    assert names == ["generators", "judges"]
    moved = [
        {n for n in a if any(not torch.equal(p, q) for p, q in zip(a[n], b[n], strict=True))}
        for a, b in pairwise(states)
    ]
    assert moved == [set(), set(GENERATORS), set(JUDGES)]
    assert {"cycle", "identity", "adversarial", "judging_healthy", "judging_infected"} < set(logged)


def test_the_learning_rate_is_constant_for_half_of_the_iterations_and_falls_to_0_in_a_straight_line():
    trainee = made(replace(TINY, learning_rate=2e-4))
    rates = [trainee.learning_rates(epoch / 100)["generators"] for epoch in range(101)]
    assert rates[:51] == [2e-4] * 51
    assert all(a > b for a, b in pairwise(rates[50:]))
    assert rates[75] == pytest.approx(1e-4)
    assert rates[85] == pytest.approx(6e-5)  # of the epoch that the paper chose
    assert rates[100] == 0
    assert trainee.learning_rates(0.85)["judges"] == pytest.approx(6e-5)


def test_weights_begin_as_published():
    trainee = made(replace(TINY, widths=(16, 16, 16)))
    weight = torch.cat([p.flatten() for n, p in trainee.networks["to_healthy"].named_parameters() if "weight" in n])
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for n, p in trainee.networks["judge_healthy"].named_parameters() if "bias" in n)
    settings = [optimizer.param_groups[0]["betas"] for optimizer in trainee.optimizers().values()]
    assert settings == [(0.5, 0.999)] * 2


def test_what_is_kept_is_the_mean_of_the_contender_on_its_way():
    trainee = made(replace(TINY, inertia=0.9))
    update, on_the_way = updating(trainee), []
    for iteration in range(3):
        trainee.step(batch(trainee, iteration), iteration / TINY.iterations, update)
        on_the_way.append({name: tensor.clone() for name, tensor in trainee.networks["contender"].state_dict().items()})
    assert not all(torch.equal(tensor, on_the_way[2][name]) for name, tensor in on_the_way[0].items())
    for name, mean in trainee.networks["to_healthy"].state_dict().items():
        torch.testing.assert_close(mean, sum(state[name] for state in on_the_way) / 3)


def test_without_inertia_what_is_kept_is_the_contender():
    trainee = made()
    trainee.step(batch(trainee), 0.0, updating(trainee))
    for name, tensor in trainee.networks["to_healthy"].state_dict().items():
        torch.testing.assert_close(tensor, trainee.networks["contender"].state_dict()[name])


# The history


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)


def numbers(slices):
    return slices[:, 0, 0, 0].tolist()


def test_the_history_shows_what_is_new_until_it_is_full_and_then_half_of_the_time_what_is_old():
    history = History(3, 2)
    never, first, last = [0.9, 0.0], [0.1, 0.0], [0.1, 0.99]
    assert numbers(history(numbered(1, 2, 3), torch.tensor([first] * 3))) == [1, 2, 3]
    assert numbers(history(numbered(4, 5, 6), torch.tensor([first, never, last]))) == [1, 5, 3]
    assert numbers(history.slices) == [4, 2, 6]
    assert numbers(history(numbered(7), torch.tensor([first]))) == [4]


def test_the_history_holds_no_gradients():
    history, given = History(1, 2), torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert not history(given * 2, torch.zeros(1, 2)).requires_grad
    assert not history.slices.requires_grad


# The domains


def test_a_sample_depends_on_its_seed_alone():
    trainee = made()
    first = trainee.sample(np.random.SeedSequence(1), 0.0)
    other = trainee.sample(np.random.SeedSequence(2), 0.0)
    again = trainee.sample(np.random.SeedSequence(1), 0.0)
    for name in ("infected", "healthy"):
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()
        assert first[name].shape == (1, SIDE, SIDE)
        assert first[name].dtype == np.float32
        assert np.abs(first[name]).max() <= 1
        assert (first[name] == TINY.background).mean() > 0.4  # nothing but lung


def seeds(count):
    return [np.random.SeedSequence([5, number]) for number in range(count)]


def test_infected_slices_are_of_patients_or_planted_and_healthy_ones_of_neither():
    # In the toy's HU nobody is breathed out further than -740, where patients begin.
    domains = SliceDomains(TINY, [[block(hu=-980)], [block("ill", hu=0)]])
    infected = [domains.infected(seed) for seed in seeds(24)]
    patients = [np.median(s.hu[s.lung]) >= 0 for s in infected]
    assert 4 <= sum(patients) <= 20
    planted = [s for s, patient in zip(infected, patients, strict=True) if not patient]
    assert sum(s.lesion.any() for s in planted) >= len(planted) / 3
    assert all(not (s.lesion & ~s.lung).any() for s in planted)
    healthy = [domains.healthy(seed) for seed in seeds(24)]
    assert all(np.median(s.hu[s.lung]) < -500 for s in healthy)
    assert not any(s.lesion.any() for s in healthy)
    assert {int(s.lung.any(axis=(0, 1))[:32].any()) + int(s.lung.any(axis=(0, 1))[32:].any()) for s in healthy} == {
        1,
        2,
    }


def test_without_patients_every_infected_slice_is_planted():
    domains = SliceDomains(TINY, [[block(hu=-980)]])
    slices = [domains.infected(seed) for seed in seeds(8)]
    assert any(s.lesion.any() for s in slices)
    assert all(np.median(s.hu[s.lung & ~s.lesion]) < -500 for s in slices if (s.lung & ~s.lesion).any())


def test_patients_alone_teach_nothing_and_can_t_judge():
    with pytest.raises(TrainingError, match="no near-healthy scan"):
        made(scans=SCANS[1:])
    with pytest.raises(TrainingError, match="no near-healthy scan to learn from or to judge by"):
        made(judge=SCANS[1])


def test_a_shifted_slice_is_filled_up_with_background():
    given = np.ones((1, SIDE, SIDE), np.float32)
    for number in range(8):
        moved = shifted(given, TINY, np.random.default_rng(number))
        assert moved.shape == given.shape
        kept = (moved == 1).sum()
        assert kept >= (SIDE - 5) ** 2  # 15 mm are 5 pixels
        assert set(np.unique(moved)) <= {1.0, TINY.background}
    assert any((shifted(given, TINY, np.random.default_rng(n)) != 1).any() for n in range(4))


class Healer(nn.Module):
    """A generator that makes the lesions of `views` as dark as air, or nothing of them."""

    def __init__(self, views, knows):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.views, self.knows = views, knows

    def forward(self, x):
        view = next(view for view in self.views if np.array_equal(recipe.image(view, TINY), x[0].numpy()))
        return torch.where(torch.from_numpy(view.lesion)[None] & torch.tensor(self.knows), -1.0, x)


def test_a_generator_that_knows_lesions_scores_higher_than_one_that_changes_nothing():
    trainee = made(judge=SCANS[0])
    scores = []
    for knows in (True, False):
        trainee.networks["to_healthy"] = Healer(trainee.views, knows)
        scores.append(trainee.validate())
    assert scores[0] > 0.4  # two clusters leave the faint rim of a lesion to the lung
    assert scores[1] == 0
    healthy = [view for view in trainee.views if not view.lesion.any()]
    assert len(trainee.views) / 3 <= len(healthy) < len(trainee.views)


# Through the loop


def train(folder, progress=lambda *_: None, **settings):
    given = Settings(iterations=6, batch=2, every=2, device="cpu", choose=True)
    trainee = made(judge=SCANS[0])
    loop.fit(trainee, given, {"method": "cyclegan"}, folder, progress=progress, **settings)
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def test_a_run_that_was_cut_off_resumes_to_the_same_bytes_history_and_all(tmp_path):
    def stop(fraction, phase):
        if phase.startswith("Iteration 5,"):
            raise CancelledError(phase)

    unbroken = train(tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        train(tmp_path / "cut", stop)
    found = loop.read_checkpoint(tmp_path / "cut" / CHECKPOINT)
    assert found.iteration == 4
    assert found.tensors["made_healthy/filled"] == TINY.history
    assert found.tensors["made_healthy/slices"].any()
    assert train(tmp_path / "cut", resume=True) == unbroken
    state = runs.shipped(found, recipe.SHIPS)
    cyclegan.build(TINY).load_state_dict(state)


# A toy: a texture, with bright blobs in it or without


TOY = replace(TINY, side=32, widths=(8, 16, 16, 16), critic_widths=(8, 16, 16, 16), history=8, learning_rate=2e-3)


def textures(rng, blobs):
    """Slices (4, 1, 32, 32) of a grid of lines and, where asked for, bright discs; and the discs."""
    j, i = np.ogrid[:32, :32]
    phase = rng.uniform(0, 6.28, (4, 1, 1))
    grey = -0.7 + 0.15 * np.sin(j / 2 + phase) * np.sin(i / 2 + phase) + 0.03 * rng.standard_normal((4, 32, 32))
    centres, radii = rng.uniform(7, 25, (4, 2, 1, 1)), rng.uniform(3, 6, (4, 1, 1))
    discs = blobs * ((j - centres[:, 0]) ** 2 + (i - centres[:, 1]) ** 2 <= radii**2) > 0
    grey = grey + 0.9 * discs
    return torch.from_numpy(grey.astype(np.float32))[:, None], torch.from_numpy(discs)[:, None]


def test_blobs_are_taken_away_and_the_texture_around_them_is_not():
    torch.manual_seed(0)
    trainee = CycleGANTrainee(TOY, SCANS)
    update, rng = updating(trainee), np.random.default_rng(0)
    for _ in range(100):
        given = {"infected": textures(rng, 1)[0], "healthy": textures(rng, 0)[0], "chance": torch.rand(4, 2, 2)}
        trainee.step(given, 0.0, update)
    infected, discs = textures(rng, 1)
    healthy, _ = textures(rng, 0)
    with torch.no_grad():
        taken = infected - trainee.networks["to_healthy"](infected)
        kept = (trainee.networks["to_healthy"](healthy) - healthy).abs().mean()
    inside, outside = taken[discs].mean().item(), taken[~discs].abs().mean().item()
    assert inside > 5 * outside
    assert kept < 0.1


def test_the_published_weights_of_the_losses():
    assert (cycle.CYCLE_WEIGHT, cycle.IDENTITY_WEIGHT) == (10, 5)
    paper = cyclegan.PRESETS["paper"]
    assert (paper.history, paper.batch, paper.learning_rate, paper.spacing_mm) == (50, 1, 2e-4, (1.0, 1.0, 1.0))


# Equalised pictures

EQUALISED = replace(TINY, domain="clahe256")


def whole(kind="healthy", hu=-860):
    """As `block`, in whole slices of another size: a body in air."""
    margin = ((0, 0), (16, 16), (22, 22))
    small = block(kind, hu)
    body = np.pad(np.pad(small["hu"], ((0, 0), (6, 6), (8, 8)), constant_values=40), ((0, 0), (10, 10), (14, 14)),
                  constant_values=-1000)  # fmt: skip
    return {"hu": body, kind: np.pad(small[kind], margin)}


def test_for_equalised_pictures_whole_slices_are_cached(tmp_path, monkeypatch):
    made_up, path = {name: np.tile(array, (2, 1, 1)) for name, array in whole().items()}, tmp_path / "ct.nii.gz"
    image = sitk.GetImageFromArray(made_up["hu"])
    image.SetSpacing((3.0, 3.0, 4.0))
    sitk.WriteImage(image, path)
    monkeypatch.setattr(lung_slices, "find_lungs", lambda scan, way: LungMask(made_up["healthy"], way))
    (patient,) = recipe.blocks(ListedScan("a", path, lungs="right", covid=True), EQUALISED)
    (there,) = recipe.blocks(ListedScan("a", path), EQUALISED)
    assert (set(there), set(patient)) == ({"hu", "healthy"}, {"hu", "ill"})
    np.testing.assert_array_equal(there["hu"], made_up["hu"])
    np.testing.assert_array_equal(patient["ill"], there["healthy"] * (there["healthy"] == 1))


def test_slices_of_equalised_pictures_lie_on_the_canvas_with_their_lungs_in_the_middle():
    domains = SliceDomains(EQUALISED, [[whole()], [whole("ill", hu=-700)]])
    for draw in (domains.healthy, domains.infected, domains.planted):
        for one, again in zip(map(draw, seeds(4)), map(draw, seeds(4)), strict=True):
            np.testing.assert_array_equal(one.hu, again.hu)
            assert one.hu.shape == one.lung.shape == one.lesion.shape == (1, SIDE, SIDE)
            assert not (one.lesion & ~one.lung).any()
            for axis in (1, 2):
                there = np.flatnonzero(one.lung.any(axis=(0, 3 - axis)))
                assert abs(there[0] - (SIDE - 1 - there[-1])) <= 2
            assert -800 <= one.hu[one.lung].min() <= one.hu[one.lung].max() <= 100


def test_planted_lesions_of_equalised_pictures_are_brighter_than_the_lung_around_them():
    domains = SliceDomains(EQUALISED, [[whole()]])
    ill = [s for s in map(domains.planted, seeds(8)) if s.lesion.any()]
    assert ill
    assert all(np.median(s.hu[s.lesion]) > np.median(s.hu[s.lung & ~s.lesion]) for s in ill)


def test_what_is_larger_than_the_canvas_is_cut_off_at_both_ends():
    plane = np.arange(10, dtype=np.float32)[:, None].repeat(3, axis=1)
    canvas = placed(plane, 6, -1.0)
    np.testing.assert_array_equal(canvas[:, 1], [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(canvas[0], [-1, 2, 2, 2, -1, -1])


def test_the_networks_learn_from_them_as_from_others():
    trainee = made(EQUALISED, [[whole()], [whole("ill", hu=-700)]], [whole()])
    given = batch(trainee)
    assert given["infected"].shape == given["healthy"].shape == (2, 1, SIDE, SIDE)
    trainee.step(given, 0.0, updating(trainee))
    assert 0.0 <= trainee.validate() <= 1.0
