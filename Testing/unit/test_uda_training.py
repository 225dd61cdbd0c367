"""Domain adaptation in training: which loss moves what, and whereto (METHODS 4.6)."""

from dataclasses import replace
from itertools import product
from math import log

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.networks.uda import Extractor, Generator
from LabelFreeCovidSegLib.store import Entry
from LabelFreeCovidSegLib.training import adversary, recipes
from LabelFreeCovidSegLib.training.uda import Adapted, SourceOnly, fall, one_of, segmentation_loss, trainee

PLANE = (32, 48)
TINY = replace(
    uda.PRESETS["small"], spacing_mm=(6.0, 6.0, 6.0), canvas=PLANE, channels=(3, 4, 5, 6), critic_width=4, batch=2
)
NETWORKS = ("extractor", "classifier", "generator", "discriminator")


def chest(lung=True):
    """A cached block: two boxes of lung in soft tissue, or the same of a patient."""
    hu = np.full((6, 32, 48), 40, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    for i in (4, 27):
        hu[:, 6:26, i : i + 17] = -860
        labels[:, 6:26, i : i + 17] = uda.LUNG
    return {"hu": hu, "labels": labels} if lung else {"hu": hu}


SCANS = [[chest()], [chest(lung=False)]]


def made(kind=Adapted, preset=TINY):
    torch.manual_seed(0)
    return kind(preset, SCANS)


def batch(trainee, number):
    samples = [trainee.sample(np.random.SeedSequence([number, place]), 0.0) for place in range(2)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def updating(trainee, heard=lambda name: None):
    """As what the loop hands to `step`, but all networks get the gradients that reach them, to be looked at."""
    optimizers = trainee.optimizers()
    for name, optimizer in optimizers.items():
        optimizer.param_groups[0]["lr"] = trainee.learning_rates(0.0)[name]

    def update(name, loss):
        for network in trainee.networks.values():
            network.zero_grad()
        loss.backward()
        heard(name)
        optimizers[name].step()

    return update


@pytest.mark.parametrize("name", uda.ABLATIONS)
def test_an_ablation_trains_the_generator_that_its_row_names_and_its_weights_segment(name, tmp_path):
    row = recipes.preset("uda", name)
    trainee = made(preset=replace(TINY, generator_levels=row.generator_levels))
    assert trainee.networks["generator"].levels[0] == max(row.generator_levels)
    assert all(value.isfinite() for value in trainee.step(batch(trainee, 0), 0.0, updating(trainee)).values())
    entry = Entry("uda", "0.1", {}, {"preset": name}, [], "Apache-2.0", True, "", "")
    weights.store_entry(entry, {"0.safetensors": uda.build(row).state_dict()}, tmp_path)
    assert uda.load(tmp_path).preset is row


def test_any_slice_of_any_scan_is_drawn():
    drawn = set()
    for number in range(200):
        seed = np.random.SeedSequence(number)
        drawn.add((one_of("ab", seed), int(np.random.default_rng(seed).integers(6))))
    assert drawn == set(product("ab", range(6)))


def weights_of(trainee, names=NETWORKS):
    return {n: [p.detach().clone() for p in trainee.networks[n].parameters()] for n in names}


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Even(torch.nn.Module):
    """A discriminator that has no idea."""

    def forward(self, image):
        return image.new_zeros(len(image), 4, *(extent // 8 for extent in image.shape[2:]))


class Brightness(torch.nn.Module):
    """A discriminator that takes bright slices for source and dark ones for target."""

    def forward(self, image):
        grey = torch.nn.functional.avg_pool2d(image, 8)
        never = torch.full_like(grey, -9.0)
        return torch.cat((5 * grey, never, -5 * grey, never), dim=1)


# The losses


def test_each_loss_has_its_number_of_terms():
    images = [torch.zeros(1, 1, 16, 16)] * 4
    assert adversary.discriminator_loss(Even(), *images).item() == pytest.approx(4 * log(4), abs=1e-4)
    assert adversary.generator_loss(Even(), *images).item() == pytest.approx(2 * log(4), abs=1e-4)
    assert adversary.crossing_loss(Even(), *images[:2]).item() == pytest.approx(2 * log(4), abs=1e-4)


def test_reconstruction_weighs_as_many_pixels_as_a_patch_has():
    real, off = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.25)
    excess = adversary.generator_loss(Even(), real, off, real, off) - 2 * log(4)
    assert excess.item() == pytest.approx(64 * 2 * 0.25, rel=1e-5)


@pytest.mark.parametrize("pixels", [256, 512])
def test_means_with_these_weights_are_in_the_proportions_of_the_papers_sums(pixels):
    patches = pixels // 8
    assert adversary.crossing_weight(0.1) == pytest.approx(0.1 * patches**2 / pixels**2)
    assert adversary.crossing_weight(0.1) == pytest.approx(0.0015625)


def test_what_is_called_source_is_pulled_to_source():
    scores = torch.zeros(1, 4, 1, 1, requires_grad=True)
    adversary.taken_for(scores, adversary.SOURCE_REAL).backward()
    np.testing.assert_allclose(scores.grad.flatten(), [0.25 - 1, 0.25, 0.25, 0.25])


def test_nothing_is_learned_where_the_label_is_not_known():
    scores = torch.zeros(1, 4, 2, 2, requires_grad=True)
    labels = torch.tensor([[[0, 1], [uda.UNKNOWN, 3]]], dtype=torch.uint8)
    segmentation_loss(scores, labels, (1.0, 1.0, 1.0, 1.0)).backward()
    touched = scores.grad.abs().sum(dim=1)[0] > 0
    assert touched.tolist() == [[True, True], [False, True]]


def test_a_pixel_counts_as_much_as_its_class():
    scores = torch.zeros(1, 4, 1, 2, requires_grad=True)
    segmentation_loss(scores, torch.tensor([[[1, 3]]]), (1.0, 1.0, 8.0, 3.0)).backward()
    lung, consolidation = scores.grad.abs().sum(dim=1)[0, 0].tolist()
    assert consolidation == pytest.approx(3 * lung)


# Which loss moves what


def test_each_update_moves_its_own_networks_and_no_other():
    adapted = made()
    moved, before = {}, weights_of(adapted)

    def heard(name):
        moved[name] = {n: any((p.grad is not None) and p.grad.any() for p in adapted.networks[n].parameters())
                       for n in NETWORKS}  # fmt: skip
        kept.append(weights_of(adapted))

    kept = []
    adapted.step(batch(adapted, 0), 0.0, updating(adapted, heard))
    assert list(moved) == ["discriminator", "generator", "segmenter"]
    assert [n for n in NETWORKS if moved["discriminator"][n]] == ["discriminator"]
    assert not moved["generator"]["extractor"]
    assert not moved["generator"]["classifier"]
    assert moved["generator"]["generator"]
    assert all(moved["segmenter"].values())  # f through d and g, which are not stepped
    kept.append(weights_of(adapted))
    steps = [[n for n in NETWORKS if not same(a[n], b[n])] for a, b in zip([before, *kept], kept, strict=False)]
    assert steps == [[], ["discriminator"], ["generator"], ["extractor", "classifier"]]


def test_the_extractor_learns_from_the_target_domain_through_generator_and_discriminator():
    adapted = made()
    f, g, d = (adapted.networks[name] for name in ("extractor", "generator", "discriminator"))
    target = batch(adapted, 0)["target"]
    image = g(f(target))
    adversary.crossing_loss(d, image.detach(), image).backward()
    assert all(p.grad.abs().sum() > 0 for p in f.levels[-1].parameters() if p.ndim > 1)


# Whereto


class Pull:
    """Slices made by untrained f and g from a bright source and a dark target, before a discriminator of brightness."""

    def __init__(self):
        torch.manual_seed(0)
        channels = (8, 16, 16, 16)
        self.f, self.g, self.d = Extractor(channels), Generator(channels), Brightness()
        j, i = np.ogrid[: PLANE[0], : PLANE[1]]
        stripes = (np.broadcast_to(j // 3 % 2, PLANE), np.broadcast_to(i // 5 % 2, PLANE))
        self.source, self.target = (
            torch.tensor(0.4 * pattern + level, dtype=torch.float32)[None, None]
            for pattern, level in zip(stripes, (0.5, -0.9), strict=True)
        )

    def made(self):
        return self.g(self.f(self.source)), self.g(self.f(self.target))

    def moved(self, network, loss):
        """By how much one step of `network` changes the mean of what is made of the source, and of the target."""
        before = [image.mean().item() for image in self.made()]
        loss.backward()
        torch.optim.SGD(network.parameters(), lr=1e-3).step()
        return [image.mean().item() - mean for image, mean in zip(self.made(), before, strict=True)]


def test_features_are_pulled_across_the_domains():
    pull = Pull()
    source, target = pull.moved(pull.f, adversary.crossing_loss(pull.d, *pull.made()))
    assert source < 0 < target


def test_the_generator_pulls_the_other_way():
    made_source, made_target = (image.detach().requires_grad_() for image in Pull().made())
    # As if it reconstructed perfectly, so that only the discriminator pulls.
    real = made_source.detach(), made_target.detach()
    adversary.generator_loss(Brightness(), real[0], made_source, real[1], made_target).backward()
    assert made_source.grad.max() <= 0 <= made_target.grad.min()
    assert made_source.grad.sum() < 0 < made_target.grad.sum()


def test_the_discriminator_gets_better_at_telling_the_four_kinds_apart():
    adapted = made()
    d, given = adapted.networks["discriminator"], batch(adapted, 0)
    images = [given["source"], -given["source"], given["target"], given["target"].flip(-1) / 2]
    adam = torch.optim.Adam(d.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        losses.append(adversary.discriminator_loss(d, *images))
        adam.zero_grad()
        losses[-1].backward()
        adam.step()
    assert losses[-1] < losses[0]


# Against training on the source domain alone


def test_without_weight_adaptation_changes_nothing_of_what_the_segmenter_learns():
    weightless, alone = made(preset=replace(TINY, alpha=0.0)), made(SourceOnly)
    for one in (weightless, alone):
        update = updating(one)
        for number in range(3):
            one.step(batch(one, number), 0.0, update)
    segmenter = NETWORKS[:2]
    for name in segmenter:
        assert same(*(weights_of(one, segmenter)[name] for one in (weightless, alone)))
    changed = weights_of(made(), segmenter)
    assert not same(changed["extractor"], weights_of(alone, segmenter)["extractor"])


def test_with_weight_it_does_change_it():
    adapted, alone = made(), made(SourceOnly)
    for one in (adapted, alone):
        one.step(batch(one, 0), 0.0, updating(one))
    assert not same(weights_of(adapted)["extractor"], weights_of(alone, NETWORKS[:2])["extractor"])


def test_the_source_domain_alone_needs_no_patient_and_no_discriminator():
    alone = SourceOnly(TINY, SCANS[:1])
    assert set(alone.networks) == {"extractor", "classifier"}
    assert set(alone.sample(np.random.SeedSequence(0), 0.0)) == {"source", "labels"}


@pytest.mark.parametrize(("scans", "message"), [(SCANS[:1], "covid = true"), (SCANS[1:], "no near-healthy scan")])
def test_a_domain_without_scans_is_said_to_be_missing(scans, message):
    with pytest.raises(TrainingError, match=message):
        trainee(TINY, scans, [])


def test_a_patients_scan_cannot_judge():
    with pytest.raises(TrainingError, match="Hold out a near-healthy scan"):
        trainee(TINY, SCANS, SCANS[1])


def test_a_scan_belongs_to_one_domain_and_the_held_out_one_to_none():
    adapted = Adapted(TINY, SCANS, [chest()])
    kept = [
        [id(block) for slices in domain for block in slices.blocks] for domain in (adapted.sources, adapted.targets)
    ]
    assert kept == [[id(block) for block in scan] for scan in SCANS]


# The schedule


@pytest.mark.parametrize(
    ("iteration", "rate"), [(0, 1e-5), (9_999, 1e-5), (10_000, 8e-6), (30_000, 1e-5 * 0.8**3), (99_999, 1e-5 * 0.8**9)]
)
def test_the_learning_rate_falls_to_eight_tenths_every_ten_thousand_iterations(iteration, rate):
    paper = replace(TINY, learning_rate=1e-5, critic_rate=1e-5)
    rates = made(preset=paper).learning_rates(iteration / uda.PRESETS["paper"].iterations)
    assert set(rates) == {"segmenter", "generator", "discriminator"}
    assert list(rates.values()) == pytest.approx([rate] * 3)


def test_the_paper_preset_trains_as_published():
    paper = uda.PRESETS["paper"]
    assert (paper.canvas, paper.batch, paper.iterations, paper.alpha) == ((512, 512), 1, 100_000, 0.1)
    assert paper.learning_rate == paper.critic_rate == 1e-5
    assert fall(0.5) == pytest.approx(0.8**5)
