"""What the 3-D GAN and its slice network learn from, and how: slabs, pseudo masks, two phases."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import gan3d
from LabelFreeCovidSegLib.methods.gan3d import still
from LabelFreeCovidSegLib.networks.dense_unet3d import latent_shape
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training import gan3d as gan3d_training
from LabelFreeCovidSegLib.training import loop, slabs
from LabelFreeCovidSegLib.training.gan3d import PRESETS, Gan3DTrainee, trainee
from LabelFreeCovidSegLib.training.loop import CHECKPOINT, Settings
from LabelFreeCovidSegLib.training.perlin import blotched
from LabelFreeCovidSegLib.training.pseudo import pseudo_slices
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from LabelFreeCovidSegLib.training.slabs import SlabDomains
from torch import nn

TINY = replace(
    PRESETS["small"], canvas=(16, 32, 32), base=2, critic_channels=(4, 4, 8), slice_base=4, batch=1, slices=4,
    iterations=6, gan_share=0.5, pool=4,
)  # fmt: skip
GAN, NO_CONTRAST = replace(TINY, segmenter=False, gan_share=1.0), replace(TINY, contrast=False)
FIRST, SECOND = 0.0, 0.5
"""Shares at which either phase begins."""


def block(kind, seed=0):
    """Two boxes of lung on the tiny canvas, 40 slices high; a patient's right lung is full of disease."""
    rng = np.random.default_rng(seed)
    sides = np.zeros((40, 32, 32), np.uint8)
    sides[2:38, 4:28, 2:14], sides[2:38, 4:28, 18:30] = 1, 2
    hu = np.where(sides > 0, rng.normal(-850, 30, sides.shape), 0).astype(np.int16)
    if kind == "ill":
        hu[sides == 1] += 400
    return {"hu": hu, kind: sides}


HEALTHY, ILL = [block("healthy")], [block("ill", 1)]


def made(preset=TINY, train=(HEALTHY, ILL), judge=()):
    torch.manual_seed(0)
    return Gan3DTrainee(preset, train, judge)


def batch(learner, share, seed=0):
    sample = learner.sample(np.random.SeedSequence(seed), share)
    return {name: torch.from_numpy(array)[None] for name, array in sample.items()}


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def run(learner, share, watch=lambda name, loss: None):
    """One iteration; the names of its updates, and after each of them which networks it had changed."""
    optimizers, events = learner.optimizers(), []

    def update(name, loss):
        watch(name, loss)
        before = {key: state(network) for key, network in learner.networks.items()}
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        optimizers[name].step()
        changed = {key for key, network in learner.networks.items() if not same(before[key], state(network))}
        events.append((name, changed))

    return events, learner.step(batch(learner, share), share, update)


EQUALISED = replace(TINY, domain="clahe256", pixel_mm=3.0)


def whole(kind, seed=0):
    """As `block`, in whole slices of another size: a body in air."""
    small, margin = block(kind, seed), ((0, 0), (16, 24), (22, 14))
    body = np.pad(np.pad(small["hu"], ((0, 0), (6, 6), (8, 8)), constant_values=40), ((0, 0), (10, 18), (14, 6)),
                  constant_values=-1000)  # fmt: skip
    return {"hu": body, kind: np.pad(small[kind], margin), "box": np.array([(16 + 4, 16 + 28), (22 + 2, 22 + 30)])}


def test_for_equalised_pictures_whole_slices_are_cached_and_where_both_lungs_lie(tmp_path, monkeypatch):
    made_up, path = whole("healthy"), tmp_path / "ct.nii.gz"
    image = sitk.GetImageFromArray(made_up["hu"])
    image.SetSpacing((3.0, 3.0, TINY.slice_mm))
    sitk.WriteImage(image, path)
    monkeypatch.setattr(slabs, "find_lungs", lambda scan, way: LungMask(made_up["healthy"], way))
    (there,) = slabs.slab_blocks(ListedScan("a", path, lungs="right"), EQUALISED)
    (patient,) = slabs.slab_blocks(ListedScan("a", path, covid=True), EQUALISED)
    np.testing.assert_allclose(there["hu"], made_up["hu"][2:38], atol=2)  # cached in steps of 4
    np.testing.assert_array_equal(there["healthy"], made_up["healthy"][2:38] * (made_up["healthy"][2:38] == 1))
    np.testing.assert_array_equal(patient["ill"], made_up["healthy"][2:38])
    np.testing.assert_array_equal(there["box"], made_up["box"])


def test_in_slabs_of_equalised_pictures_the_box_of_both_lungs_fills_the_canvas():
    domains = SlabDomains(EQUALISED, [[whole("healthy")]])
    for draw in (domains.healthy, domains.infected, domains.foreign):
        drawn, again = ([draw(np.random.SeedSequence(n)) for n in range(16)] for _ in range(2))
        ends = set()
        for one, same in zip(drawn, again, strict=True):
            np.testing.assert_array_equal(one.hu, same.hu)
            assert one.hu.shape == one.lung.shape == one.lesion.shape == TINY.canvas
            assert not (one.lesion & ~one.lung).any()
            assert -800 <= one.hu[one.lung].min() <= one.hu[one.lung].max() <= 100
            ends.add(tuple(np.flatnonzero(one.lung.any(axis=(0, 1)))[[0, -1]]))
        # Both lungs, or either one where it lies, to a pixel of the picture.
        expected = np.array([(0, 31), (0, 13), (18, 31)])
        nearest = [int(np.abs(expected - found).max(axis=1).argmin()) for found in ends]
        assert set(nearest) == {0, 1, 2}
        assert np.abs(expected[nearest] - np.array(list(ends))).max() <= 2


def test_planted_lesions_of_equalised_pictures_are_brighter_than_the_lung_around_them():
    domains = SlabDomains(EQUALISED, [[whole("healthy")], [whole("ill")]])
    ill = [slab for slab in (domains.infected(np.random.SeedSequence(n)) for n in range(8)) if slab.lesion.any()]
    assert ill
    assert all(np.median(s.hu[s.lesion]) > np.median(s.hu[s.lung & ~s.lesion]) for s in ill)


def test_the_networks_learn_from_equalised_pictures_as_from_others():
    learner = made(EQUALISED, ([whole("healthy")], [whole("ill")]), [whole("healthy")])
    assert batch(learner, FIRST)["ill"].shape == (1, 1, *TINY.canvas)
    for share in (FIRST, SECOND):
        run(learner, share)
    with torch.inference_mode():
        assert 0.0 <= learner.validate() <= 1.0


def test_a_slab_is_a_random_part_of_the_lungs_and_nothing_else():
    domains = SlabDomains(TINY, [HEALTHY])
    slabs = [domains.healthy(np.random.SeedSequence(n)) for n in range(40)]
    heights = {int(slab.lung.any(axis=(1, 2)).sum()) for slab in slabs}
    assert min(heights) >= 6
    assert max(heights) == 16
    assert {tuple(np.flatnonzero(slab.lung.any(axis=(0, 1)))[[0, -1]]) for slab in slabs} == {
        (2, 29),
        (2, 13),
        (18, 29),
    }
    assert all(not slab.image[~slab.lung].any() for slab in slabs)
    assert not any(slab.lesion.any() for slab in slabs)


def test_ill_slabs_are_of_patients_or_of_healthy_lungs_made_ill():
    domains = SlabDomains(TINY, [HEALTHY, ILL])
    slabs = [domains.ill(np.random.SeedSequence(n)) for n in range(40)]
    synthetic = sum(slab.lesion.any() for slab in slabs)
    assert 5 < synthetic < 30
    none = SlabDomains(TINY, [HEALTHY])
    assert sum(none.ill(np.random.SeedSequence(n)).lesion.any() for n in range(40)) > synthetic


def test_synthetic_lesions_are_brighter_than_the_lung_around():
    domains = SlabDomains(TINY, [HEALTHY])
    slabs = [domains.infected(np.random.SeedSequence(n)) for n in range(20)]
    inside = np.concatenate([slab.hu[slab.lesion] for slab in slabs])
    around = np.concatenate([slab.hu[slab.lung & ~slab.lesion] for slab in slabs])
    assert inside.mean() > around.mean() + 100


def test_a_sample_depends_on_its_seed_and_its_phase_alone():
    learner = made()
    first, again, other = (learner.sample(np.random.SeedSequence(n), FIRST) for n in (1, 1, 2))
    assert first.keys() == {"key", "healthy", "noisy", "ill", "lungs", "z"}
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()
    assert first["healthy"].shape == (1, *TINY.canvas)
    assert np.abs(first["z"]).max() <= 0.5
    assert (first["noisy"] != first["healthy"]).any()
    assert learner.sample(np.random.SeedSequence(1), SECOND).keys() == {"key"}


def test_an_update_of_one_adversary_leaves_the_other_as_it_is():
    events, losses = run(made(), FIRST)
    assert events == [("generator", {"contender"}), ("discriminator", {"discriminator"}), ("generator", {"contender"})]
    assert {"mending", "telling", "deceiving"} <= losses.keys()


@pytest.mark.parametrize(("kept", "inertia"), [(0.0, 0.0), (0.75, 0.75), (0.75, 0.9)])
def test_the_generator_is_the_mean_of_what_competed(kept, inertia):
    learner = made(replace(TINY, inertia=inertia))
    learner.preset = replace(learner.preset, iterations=10)
    before = [p.clone() for p in learner.generator.parameters()]
    run(learner, 0.3)  # after three iterations; this is the fourth
    for mean, old, new in zip(learner.generator.parameters(), before, learner.contender.parameters(), strict=True):
        torch.testing.assert_close(mean, kept * old + (1 - kept) * new)


def test_the_discriminators_loss_has_no_way_back_to_the_generator():
    learner, seen = made(), []

    def watch(name, loss):
        if name == "discriminator":
            seen.extend(
                torch.autograd.grad(loss, list(learner.contender.parameters()), retain_graph=True, allow_unused=True)
            )

    run(learner, FIRST, watch)
    assert seen
    assert all(gradient is None for gradient in seen)


def test_nothing_beyond_the_lungs_counts():
    learner, seen = made(), []
    learner.contender = lambda image, z: torch.where(image > 0, image, 0.9)
    learner.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0][:, 0]))
    sample = batch(learner, FIRST)
    sample["noisy"] = sample["healthy"]
    assert learner.compete(sample, lambda name, loss: None)["mending"] == 0
    (lungs,) = sample["lungs"]
    assert not seen[0][~lungs].any()
    assert seen[0][lungs].all()


def test_a_contrastive_step_changes_what_is_segmented_but_no_decoder():
    learner = made()
    slices = torch.rand(2, 1, 32, 32)

    def answer():
        with torch.no_grad():
            segmented = learner.segmenter.eval()(slices)
        learner.segmenter.train()
        return segmented

    first, decoder, seen = answer(), [p.clone() for p in learner.segmenter.decoder.parameters()], []

    def watch(name, loss):
        if name == "segmenter":  # the contrastive step is done, this one not yet
            kept = all(torch.equal(*pair) for pair in zip(decoder, learner.segmenter.decoder.parameters(), strict=True))
            seen.append((kept, torch.equal(first, answer())))

    learner.slices = paired(learner)
    # Batch norm moves as the slice network sees its own batch: without that, only what was learned counts.
    for layer in learner.segmenter.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    events, losses = run(learner, SECOND, watch)
    assert [name for name, _ in events] == ["contrast", "segmenter"]
    assert losses.keys() == {"contrast", "segmentation"}
    assert seen == [(True, False)]


def paired(learner):
    """Pseudo masks of which some slices are high and some are low."""
    slices = pseudo_slices(learner.generator, learner.pool(), torch.device("cpu"))
    return replace(slices, high=np.array([0, 1]), low=np.array([2, 3]))


def test_the_generator_is_frozen_in_the_second_phase():
    events, _ = run(made(), SECOND)
    assert not any({"generator", "contender", "discriminator"} & changed for _, changed in events)


def test_without_contrast_only_the_slice_network_learns_in_the_second_phase():
    learner = made(NO_CONTRAST)
    learner.slices = paired(learner)
    assert run(learner, SECOND)[0] == [("segmenter", {"segmenter"})]


def test_the_gan_alone_has_no_slice_network_and_no_second_phase():
    learner = made(GAN)
    assert learner.networks.keys() == {"generator", "contender", "discriminator"}
    assert learner.optimizers().keys() == learner.learning_rates(0.99).keys() == {"generator", "discriminator"}
    assert "healthy" in learner.sample(np.random.SeedSequence(0), 0.999)


def test_the_slice_networks_rate_falls_in_its_own_phase_only():
    learner = made(replace(TINY, decays=10))
    rates = [learner.learning_rates(share)["segmenter"] / TINY.slice_rate for share in (0.0, 0.5, 0.5501, 0.9999)]
    assert rates == pytest.approx([1.0, 1.0, 0.9, 0.9**9])


def test_a_pseudo_mask_is_what_the_generator_takes_away_within_the_lung():
    slabs = made().pool()
    dark = pseudo_slices(lambda image, z: torch.full_like(image, 0.1), slabs, torch.device("cpu"))
    lung = np.concatenate([slab.lung[slab.lung.any(axis=(1, 2))] for slab in slabs])
    image = np.concatenate([slab.image[slab.lung.any(axis=(1, 2))] for slab in slabs])
    np.testing.assert_allclose(dark.masks[:, 0], np.clip(image - 0.1, 0, 1) * lung, atol=1e-3)
    np.testing.assert_allclose(dark.images[:, 0], image, atol=1e-3)
    nothing = pseudo_slices(lambda image, z: image + 0.2, slabs, torch.device("cpu"))
    assert not nothing.masks.any()


def test_both_phases_work_in_bfloat16():
    learner = made()
    with torch.autocast("cpu", torch.bfloat16):
        losses = [value for share in (FIRST, SECOND) for value in run(learner, share)[1].values()]
    assert all(loss.isfinite() for loss in losses)


def test_pairs_are_half_high_and_half_low():
    slices = paired(made())
    slices = replace(slices, images=torch.arange(len(slices.images)).half()[:, None, None, None])
    images, labels = slices.draw_pairs(6, np.random.default_rng(0))
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert set(images[:3].flatten().tolist()) <= {0, 1}
    assert set(images[3:].flatten().tolist()) <= {2, 3}


def test_networks_are_judged_by_what_they_outline_of_lesions_that_are_known():
    learner = made(GAN, judge=HEALTHY)
    assert [view.lesion.any() for view in learner.views][:3:2] == [False, True]
    learner.score = lambda view: view.lesion.astype(np.float32) / 20
    assert learner.validate() == 1.0
    learner.score = lambda view: np.where(view.lesion & (view.hu < -500), 1.0, 0.0)
    assert 0.0 < learner.validate() < 1.0


def test_the_threshold_lies_between_healthy_lung_and_lesions_unless_the_preset_has_one():
    networks = gan3d.build(GAN)
    nn.init.zeros_(networks["generator"].out.weight)
    nn.init.constant_(networks["generator"].out.bias, -20.0)  # takes everything away: the score is the image
    views = gan3d_training.views(GAN, HEALTHY, gan3d_training.FIT_SEED)
    rest, lesions = (np.concatenate([v.image[v.lung & (v.lesion == ill)] for v in views]) for ill in (False, True))
    found = gan3d_training.calibrate(GAN, [networks.state_dict()], HEALTHY, silent)
    assert found.keys() == {"threshold"}
    # On this coarse grid the soft rims of lesions, hardly brighter than lung, are more than half of them.
    assert np.quantile(rest, 0.95) < found["threshold"] < np.quantile(lesions, 0.8)
    paper = replace(GAN, threshold=gan3d.Threshold())
    assert gan3d_training.calibrate(paper, [networks.state_dict()], HEALTHY, silent) == {}


def test_a_slice_network_that_has_not_begun_is_never_the_best():
    learner = made(judge=HEALTHY)
    assert learner.validate() == -1.0
    run(learner, SECOND)
    with torch.inference_mode():
        assert learner.validate() >= 0.0


def balls(rng, count):
    """A cube of lung with bright balls in it, the lung alone, and where the balls are; (16, 16, 16) each."""
    lung, ball = np.zeros((2, 16, 16, 16), bool)
    lung[2:14, 2:14, 2:14] = True
    k, j, i = np.ogrid[:16, :16, :16]
    for z, y, x in rng.uniform(5, 11, (count, 3)):
        ball |= (k - z) ** 2 + (j - y) ** 2 + (i - x) ** 2 < 7
    image = rng.uniform(0.1, 0.3, lung.shape) * lung + 0.4 * ball
    return image.astype(np.float32), lung, ball


def test_against_an_adversary_a_generator_learns_to_take_away_what_healthy_lungs_do_not_have():
    learner, rng = made(replace(GAN, critic_channels=(8, 16))), np.random.default_rng(0)
    optimizers = learner.optimizers()
    for optimizer in optimizers.values():
        optimizer.param_groups[0]["lr"] = 2e-3

    def update(name, loss):
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        optimizers[name].step()

    for _ in range(100):
        (healthy, lung, _), (ill, around, _) = balls(rng, 0), balls(rng, 2)
        latent = rng.uniform(-0.5, 0.5, (2, *latent_shape(lung.shape))).astype(np.float32)
        sample = {"healthy": healthy[None], "noisy": blotched(healthy, lung, rng)[None], "ill": ill[None]}
        sample |= {"lungs": np.stack((lung, around)), "z": latent}
        learner.compete({name: torch.from_numpy(array)[None] for name, array in sample.items()}, update)
    image, lung, ball = balls(np.random.default_rng(99), 2)
    with torch.no_grad():
        made_healthy = learner.contender(torch.from_numpy(image)[None, None], still(1, image.shape, "cpu"))
    taken = image - made_healthy[0, 0].numpy()
    assert taken[ball].mean() > 0.1
    assert taken[ball].mean() > 3 * np.abs(taken[lung & ~ball]).mean()


def test_scans_of_patients_alone_can_neither_teach_nor_judge():
    with pytest.raises(TrainingError, match="no near-healthy scan"):
        trainee(TINY, [ILL], [])
    with pytest.raises(TrainingError, match="can't judge"):
        trainee(TINY, [HEALTHY], ILL)


def fit(folder, resume=False, stop=None):
    def progress(fraction, phase):
        if stop and phase.startswith(f"Iteration {stop},"):
            raise CancelledError(phase)

    torch.manual_seed(0)
    learner = Gan3DTrainee(TINY, [HEALTHY, ILL], HEALTHY)
    settings = Settings(iterations=TINY.iterations, batch=1, every=1, choose=True, device="cpu")
    loop.fit(learner, settings, {"method": "gan3d"}, folder, resume, progress)
    return [(folder / name).read_bytes() for name in (CHECKPOINT, loop.BEST, "curves.csv")]


def test_a_run_that_is_cut_off_in_either_phase_or_between_resumes_to_the_same_bytes(tmp_path):
    unbroken = fit(tmp_path / "unbroken")
    for stop in (2, 3, 5):
        with pytest.raises(CancelledError):
            fit(tmp_path / str(stop), stop=stop)
        assert loop.read_checkpoint(tmp_path / str(stop) / CHECKPOINT).iteration == stop
        assert fit(tmp_path / str(stop), resume=True) == unbroken
