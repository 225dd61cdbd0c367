"""What domain adaptation is compared with: each loss, and what it moves (METHODS 6)."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods import base, uda
from LabelFreeCovidSegLib.networks.doubt_critic import DoubtCritic
from LabelFreeCovidSegLib.networks.prototypes import Prototypes, likeness, prototypes
from LabelFreeCovidSegLib.training import domains, recipes, variety
from LabelFreeCovidSegLib.training.adaptation import advent, intrada, minent, self_ensembling, ssl
from LabelFreeCovidSegLib.training.running_mean import follow
from LabelFreeCovidSegLib.training.uda import BothDomains, SourceOnly
from LabelFreeCovidSegLib.training.variety import turned
from scipy import ndimage

ROWS = ("source-only", "target-only", "minent", "advent", "intrada", "self-ensembling", "ssl")
PLANE = (32, 64)
TINY = replace(
    uda.PRESETS["small"], spacing_mm=(6.0, 6.0, 6.0), canvas=PLANE, channels=(3, 4, 5, 6), critic_width=2, batch=2,
    iterations=100,
)  # fmt: skip


def chest(healthy):
    """A cached block: two boxes of lung in soft tissue, or the same of a patient."""
    hu = np.full((6, 32, 48), 40, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    for i in (4, 27):
        hu[:, 6:26, i : i + 17] = -860
        labels[:, 6:26, i : i + 17] = uda.LUNG
    return {"hu": hu, "labels": labels} if healthy else {"hu": hu}


def made(kind, preset=TINY):
    torch.manual_seed(0)
    return kind(preset, [[chest(True)], [chest(False)]])


def batch(trainee, number=0, share=0.0):
    samples = [trainee.sample(np.random.SeedSequence([number, place]), share) for place in range(2)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def updating(trainee, rate=1e-2):
    """As what the loop hands to `step`: only the optimizer's own networks get gradients."""
    optimizers = trainee.optimizers()

    def update(name, loss):
        group = optimizers[name].param_groups[0]
        group["lr"] = rate
        optimizers[name].zero_grad()
        loss.backward(inputs=group["params"])
        optimizers[name].step()

    return update


def weights(trainee):
    return {name: [p.detach().clone() for p in net.parameters()] for name, net in trainee.networks.items()}


def moved(trainee, before):
    """The networks whose weights are other ones than `before`."""
    after = weights(trainee)
    return {n for n in after if any(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))}


# The rows


@pytest.mark.parametrize("name", ROWS)
def test_each_row_has_a_card_of_its_name_a_recipe_and_the_two_presets_at_least(name):
    card = base.card(name)
    assert (card.name, card.networks) == (name, (name,))
    assert card.kind == (base.SUPERVISED if name == "target-only" else base.LABEL_FREE)
    equalised = ["small-clahe256"] if name == "source-only" else []
    assert list(recipes.recipe(name).PRESETS) == ["small", "paper", *equalised]
    assert card.citation == recipes.recipe(name).CITATION


def test_the_rows_are_trained_on_the_grid_and_the_network_that_they_are_compared_with():
    for name in ROWS:
        for preset in ("small", "paper"):
            row, own = recipes.preset(name, preset), uda.PRESETS[preset]
            assert (row.spacing_mm, row.canvas, row.channels) == (own.spacing_mm, own.canvas, own.channels)


def test_one_cache_is_enough_for_the_rows_that_learn_from_the_same_slices():
    learns_from = {name: recipes.cache_of(name) for name in ("uda", *ROWS)}
    assert learns_from.pop("target-only") == "target-only"
    assert set(learns_from.values()) == {"uda"}
    assert recipes.CACHES["uda"] == "uda"


def test_a_row_that_adapts_says_that_it_needs_a_patient():
    for kind in (minent.MinEnt, advent.AdvEnt, intrada.IntraDA, self_ensembling.SelfEnsembling, ssl.FewShot):
        with pytest.raises(TrainingError, match="covid = true"):
            kind(TINY, [[chest(True)]])


# MinEnt


def test_entropy_is_1_of_equal_classes_and_0_of_a_certain_one():
    certain = 1000.0 * torch.nn.functional.one_hot(torch.zeros(1, 2, 2, dtype=int), 4).movedim(3, 1)
    assert minent.entropy(torch.zeros(1, 4, 2, 2)).item() == pytest.approx(1)
    assert minent.entropy(certain).item() == 0
    two_of_four = torch.tensor([0.0, 0.0, -1000.0, -1000.0])[None, :, None, None]
    assert minent.entropy(two_of_four).item() == pytest.approx(0.5)


def test_self_information_is_what_each_class_adds():
    scores = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[None, :, None, None]
    expected = [0.5 * 1 / 2, 0.25 * 2 / 2, 0.125 * 3 / 2, 0.125 * 3 / 2]
    np.testing.assert_allclose(minent.self_information(scores).flatten(), expected, rtol=1e-5)


def test_minent_lowers_the_doubt_of_the_target_domain(monkeypatch):
    monkeypatch.setattr(minent, "WEIGHT", 1e4)
    trainee = made(minent.MinEnt)
    given, update = batch(trainee), updating(trainee, rate=1e-6)
    before = minent.entropy(trainee.scores(given["target"])).item()
    trainee.step(given, 0.0, update)
    assert minent.entropy(trainee.scores(given["target"])).item() < before


def test_rates_of_minent_and_advent_fall_to_0_with_a_power_of_nine_tenths():
    trainee = made(advent.AdvEnt, replace(TINY, learning_rate=2.5e-4, critic_rate=1e-4))
    assert trainee.learning_rates(0.0) == pytest.approx({"segmenter": 2.5e-4, "discriminator": 1e-4})
    assert trainee.learning_rates(0.5)["segmenter"] == pytest.approx(2.5e-4 * 0.5**0.9)
    assert set(trainee.learning_rates(1.0).values()) == {0.0}


# AdvEnt


class Constant(torch.nn.Module):
    """A discriminator that has no idea, whatever it is shown."""

    def forward(self, maps):
        return 0.0 * maps.sum(dim=1, keepdim=True)


class Doubtful(torch.nn.Module):
    """A discriminator that takes doubt for the target domain."""

    def forward(self, maps):
        return maps.sum(dim=1, keepdim=True)


def test_a_verdict_depends_on_94_by_94_pixels():
    given = torch.rand(1, 4, 224, 224, requires_grad=True)
    DoubtCritic(4, 2)(given)[0, 0, 3, 3].backward()
    touched = (given.grad[0] != 0).any(dim=0)
    assert (int(touched.any(dim=0).sum()), int(touched.any(dim=1).sum())) == (94, 94)


@pytest.mark.parametrize(("critic", "told"), [(Constant(), False), (DoubtCritic(4, 2), True)])
def test_what_a_discriminator_cannot_tell_teaches_nothing(critic, told):
    trainee = made(advent.AdvEnt)
    trainee.networks["discriminator"] = critic
    f = trainee.networks["extractor"]
    losses = {}

    def update(name, loss):
        losses[name] = loss

    scalars = trainee.step(batch(trainee), 0.0, update)
    (losses["segmenter"] - scalars["segmentation"]).backward()
    assert any(p.grad.any() for p in f.parameters()) is told


def test_the_target_domain_is_pulled_to_the_doubts_of_the_source(monkeypatch):
    monkeypatch.setattr(advent, "WEIGHT", 1e4)
    trainee = made(advent.AdvEnt)
    trainee.networks["discriminator"] = Doubtful()
    given, optimizer = batch(trainee), trainee.networks
    before = minent.entropy(trainee.scores(given["target"])).item()

    def update(name, loss):
        if name == "segmenter":
            loss.backward()
            parameters = [p for n in ("extractor", "classifier") for p in optimizer[n].parameters()]
            torch.optim.SGD(parameters, lr=1e-6).step()

    trainee.step(given, 0.0, update)
    assert minent.entropy(trainee.scores(given["target"])).item() < before


def test_each_of_advents_updates_moves_its_own_networks():
    trainee = made(advent.AdvEnt)
    apply, steps, before = updating(trainee), {}, weights(trainee)

    def update(name, loss):
        nonlocal before
        apply(name, loss)
        steps[name], before = moved(trainee, before), weights(trainee)

    trainee.step(batch(trainee), 0.0, update)
    assert steps == {"segmenter": {"extractor", "classifier"}, "discriminator": {"discriminator"}}


# IntraDA


def test_two_thirds_of_the_slices_are_easy_and_they_are_those_with_less_doubt():
    doubts = torch.rand(100, generator=torch.Generator().manual_seed(0))
    easy, hard = intrada.parted(doubts)
    assert (len(easy), len(hard)) == (67, 33)
    assert sorted([*easy.tolist(), *hard.tolist()]) == list(range(100))
    assert doubts[easy].max() <= doubts[hard].min()


def test_easy_slices_keep_the_answers_of_the_first_phase(monkeypatch):
    monkeypatch.setattr(intrada, "POOL", 6)
    first = made(advent.AdvEnt)
    ranked = intrada.ranked(first, torch.device("cpu"))
    assert (len(ranked.easy), len(ranked.hard)) == (4, 2)
    with torch.no_grad():
        np.testing.assert_array_equal(first.scores(ranked.easy).argmax(dim=1), ranked.labels)
        assert minent.entropy(first.scores(ranked.easy)) < minent.entropy(first.scores(ranked.hard))
    given = intrada.drawn(ranked, [3, 4, 5])
    assert [given[name].shape for name in ("source", "labels", "target")] == [
        (3, 1, *PLANE),
        (3, *PLANE),
        (3, 1, *PLANE),
    ]


def test_the_second_phase_begins_where_the_first_began_and_leaves_it_as_it_is(monkeypatch):
    monkeypatch.setattr(intrada, "POOL", 6)
    trainee = made(intrada.IntraDA)
    start = weights(trainee)
    for name in ("extractor", "classifier", "discriminator"):
        assert all(torch.equal(a, b) for a, b in zip(start[name], start[intrada.FIRST + name], strict=True))
    update = updating(trainee)
    trainee.step(batch(trainee), 0.0, update)
    assert moved(trainee, start) == {intrada.FIRST + name for name in ("extractor", "classifier", "discriminator")}
    assert trainee.validate() == -1.0
    between = weights(trainee)
    trainee.step(batch(trainee, share=0.5), 0.5, update)
    assert moved(trainee, between) == {"extractor", "classifier", "discriminator"}


def test_each_phase_has_the_rates_of_a_run_of_its_own():
    trainee = made(intrada.IntraDA)
    one, two = (trainee.learning_rates(share) for share in (0.25, 0.75))
    alone = trainee.first.learning_rates(0.5)
    assert {name: one["first_" + name] for name in alone} == pytest.approx(alone)
    assert {name: two[name] for name in alone} == pytest.approx(alone)
    assert {two["first_" + name] for name in alone} == {0.0}


# Self-ensembling


def test_after_its_first_step_the_teacher_is_the_average():
    teacher, student = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    expected = (teacher.weight + student.weight).detach() / 2
    follow(teacher, student, self_ensembling.keeps(1, 0.0))
    np.testing.assert_allclose(teacher.weight.detach(), expected, rtol=1e-6)


def test_the_teacher_grows_slow():
    assert self_ensembling.keeps(3, 0.0) == 0.75
    assert self_ensembling.keeps(10_000, 49.9) == 0.99
    assert self_ensembling.keeps(10_000, 50.0) == 0.999


def test_consistency_counts_in_full_after_100_epochs():
    assert self_ensembling.consistency_weight(0.0) == pytest.approx(20 * exp(-5))
    assert self_ensembling.consistency_weight(50.0) == pytest.approx(20 * exp(-1.25))
    assert self_ensembling.consistency_weight(100.0) == self_ensembling.consistency_weight(350.0) == 20


def test_the_rate_rises_over_50_epochs_and_falls_to_0():
    rates = [
        made(self_ensembling.SelfEnsembling).learning_rates(epoch / 350)["segmenter"] / TINY.learning_rate
        for epoch in (0, 25, 50, 200, 350)
    ]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-9)


def test_a_mirrored_map_is_the_flipped_one_also_where_a_slice_is_no_square():
    image = torch.rand(1, 2, 6, 10)
    for matrix, axes in ((np.diag([1.0, -1.0]), [3]), (np.diag([-1.0, 1.0]), [2])):
        turned_map = self_ensembling.warped(image, torch.from_numpy(matrix).float()[None])
        np.testing.assert_allclose(turned_map, image.flip(axes), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_teachers_answer_is_turned_as_the_slice_is(seed):
    matrix = turned(np.random.default_rng(seed))
    image = np.random.default_rng(9).random((24, 40)).astype(np.float32)
    middle = (np.array(image.shape) - 1) / 2
    expected = ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest")
    found = self_ensembling.warped(torch.from_numpy(image)[None, None], torch.from_numpy(matrix).float()[None])
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-4)


def test_only_the_student_learns_by_gradients_and_the_teacher_follows():
    trainee = made(self_ensembling.SelfEnsembling)
    before = weights(trainee)
    trainee.step(batch(trainee), 0.0, updating(trainee))
    after = weights(trainee)
    assert moved(trainee, before) == set(trainee.networks)
    for name in ("extractor", "classifier"):
        for old, teacher, student in zip(before[name], after[name], after["student_" + name], strict=True):
            np.testing.assert_allclose(teacher, (old + student) / 2, atol=1e-6)
    group = trainee.optimizers()["segmenter"].param_groups[0]
    assert group["weight_decay"] == 6e-4
    assert {id(p) for p in group["params"]} == {
        id(p) for name in ("extractor", "classifier") for p in trainee.networks["student_" + name].parameters()
    }


def test_the_dice_loss_is_0_of_right_answers_and_passes_over_what_is_not_known():
    trainee = made(self_ensembling.SelfEnsembling)
    labels = torch.tensor([[[0, 1], [2, 3]], [[0, 1], [3, uda.UNKNOWN]]], dtype=torch.uint8)
    right = torch.nn.functional.one_hot(labels.clamp(max=3).long(), 4).movedim(3, 1).float()
    assert trainee.dice_loss(right, labels).item() == pytest.approx(0, abs=1e-4)
    wrong = right.clone()
    wrong[1, :, 1, 1] = torch.tensor([1.0, 0, 0, 0])
    assert trainee.dice_loss(wrong, labels).item() == pytest.approx(0, abs=1e-4)
    assert trainee.dice_loss(right.roll(1, dims=1), labels).item() == pytest.approx(1, abs=1e-4)


# Superpixels and prototypes


def halves():
    """Features (2, 8, 8): the left half points one way, the right half the other."""
    features = torch.zeros(2, 8, 8)
    features[0, :, :4] = 3.0
    features[1, :, 4:] = 0.5
    return features


def test_cells_that_a_mask_fills_are_prototypes_and_so_is_all_of_it():
    mask = torch.zeros(8, 8)
    mask[:4, 2:8] = 1  # with 2 x 2 cells it fills the upper right one
    found = prototypes(halves(), mask, cells=2, whole=True)
    # 8 pixels of (3, 0) and 16 of (0, 0.5) are (1, 1/3) on average.
    np.testing.assert_allclose(found, [[0, 1], [0.9487, 0.3162]], atol=1e-4)
    np.testing.assert_allclose(prototypes(halves(), mask, cells=2, whole=False), [[0, 1]])
    assert prototypes(halves(), torch.zeros(8, 8), cells=2, whole=True).shape == (0, 2)


def test_likeness_is_20_along_a_prototype_and_the_most_alike_decide():
    features = halves()[None]
    left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    np.testing.assert_allclose(likeness(features, left)[0, 0], [20] * 4 + [0] * 4)
    np.testing.assert_allclose(likeness(features, torch.cat((left, right)))[0, 0], [20] * 8, atol=1e-4)
    assert (likeness(features, left[:0]) == -20).all()


def test_what_was_shown_last_is_remembered_and_classes_that_never_were_score_least():
    head = Prototypes(channels=2, classes=3, room=2)
    assert (head(halves()[None]) == -20).all()
    labels = torch.zeros(16, 16, dtype=torch.uint8)
    labels[:, 8:] = 1
    head.remember(halves(), labels, cells=2)
    found = head(halves()[None])
    np.testing.assert_array_equal(found.argmax(dim=1)[0], (labels == 1)[::2, ::2])
    assert (found[:, 2] == -20).all()
    head.remember(halves().flip(2), labels, cells=2)
    np.testing.assert_array_equal(head(halves()[None]).argmax(dim=1)[0], (labels == 0)[::2, ::2])
    head.remember(halves(), torch.full_like(labels, uda.UNKNOWN), cells=2)
    np.testing.assert_array_equal(head(halves()[None]).argmax(dim=1)[0], (labels == 0)[::2, ::2])


def test_superpixels_repeat_cover_the_slice_and_stop_at_edges():
    image = np.where(np.arange(96) < 50, -0.8, 0.1).astype(np.float32) * np.ones((72, 1), np.float32)
    numbers = ssl.superpixels(image)
    np.testing.assert_array_equal(numbers, ssl.superpixels(image))
    assert numbers.shape == image.shape
    crossing = set(np.unique(numbers[:, :50])) & set(np.unique(numbers[:, 50:]))
    assert len(np.unique(numbers)) > 6
    assert not crossing


@pytest.mark.parametrize("seed", range(4))
def test_an_episode_shows_the_same_piece_of_the_body_twice(seed, monkeypatch):
    monkeypatch.setattr(variety, "VARIETY", replace(variety.VARIETY, gamma=(1.0, 1.0)))
    ramp = np.linspace(-900, 390, 96).astype(np.int16) * np.ones((1, 48, 1), np.int16)  # a grey says where it is
    preset = replace(TINY, canvas=(96, 144))
    views, pieces = ssl.episode(domains.Slices.of([{"hu": ramp}]), preset, np.random.SeedSequence(seed))
    assert (views.shape, pieces.shape) == ((2, 1, 96, 144), (2, 96, 144))
    means = [view[0][piece == 1].mean() for view, piece in zip(views, pieces, strict=True)]
    assert means[0] == pytest.approx(means[1], abs=0.05)


def test_features_that_know_the_piece_find_it_there_and_back():
    pieces = torch.zeros(2, 16, 16, dtype=torch.uint8)
    pieces[0, :8, :8] = pieces[1, 8:, 8:] = 1
    known = torch.stack([torch.stack((piece, 1 - piece)) for piece in pieces[:, ::2, ::2].float()])
    good = ssl.episode_losses(known, pieces)
    bad = ssl.episode_losses(torch.stack((known[0], known[1].flip(0))), pieces)
    assert max(good) < 0.5 < bad[0]


def test_labels_reach_the_prototypes_alone():
    trainee = made(ssl.FewShot)
    given, (one, other) = batch(trainee), (made(ssl.FewShot), made(ssl.FewShot))
    for each, labels in ((one, given["labels"]), (other, torch.full_like(given["labels"], uda.LUNG))):
        for _ in range(2):  # at first there is nothing to compare with
            each.step(given | {"labels": labels}, 0.0, updating(each))
    assert not moved(one, weights(other))
    assert not torch.equal(one.prototypes.vectors, other.prototypes.vectors)
    assert one.prototypes.vectors[uda.LUNG].any()


# Beside each other


def test_without_their_terms_the_rows_learn_what_the_source_domain_teaches(monkeypatch):
    """MinEnt without its entropy is the source domain alone with its optimizer."""
    monkeypatch.setattr(minent, "WEIGHT", 0.0)

    class Alone(BothDomains):
        optimizers = minent.MinEnt.optimizers
        step = SourceOnly.step

    one, alone = made(minent.MinEnt), made(Alone)
    for trainee in (one, alone):
        trainee.step(batch(trainee), 0.0, updating(trainee))
    for name, parameters in weights(one).items():
        for a, b in zip(parameters, weights(alone)[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
