"""The eleven anomaly detectors: what each lowers and what each calls abnormal (METHODS 5.3 and 5.4)."""

import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import picture_pipeline, store, weights
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.evaluation.command import ready
from LabelFreeCovidSegLib.evaluation.judged import Judged
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.anomaly import (
    ae,
    bayesian_vae,
    constrained_vae,
    context_vae,
    detector,
    f_anogan,
    gmvae,
    kl_grad,
    vae,
    vae_original,
    vae_restoration,
)
from LabelFreeCovidSegLib.methods.anomaly.detector import (
    Detector,
    Preset,
    Trained,
    difference,
    divergence,
    drawn,
    filtered,
    on_canvas,
    scored,
)
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Grid, Scan
from scipy import ndimage
from torch import nn

TINY = Preset("tiny", (8, 8, 8), batch=2, iterations=4, spacing_mm=(4.0, 4.0, 4.0), side=32, latent=4)
CPU = Compute()
LEARNT = [name for name, module in base.BASELINES.items() if ".anomaly." in module and name != "threshold"]


def load(name):
    """The detector of a name, without weights."""
    return base._module(name).DETECTOR


def slices(count=2, seed=0):
    """Slices of a dark box that is not quite even, in black."""
    x = torch.zeros(count, 1, 32, 32)
    x[..., 6:26, 4:28] = 0.2 + 0.02 * torch.rand(count, 1, 20, 24, generator=torch.Generator().manual_seed(seed))
    return x


def built(one, seed=0):
    torch.manual_seed(seed)
    return one.build(TINY).eval()


class Halves(nn.Module):
    """Means that are half a slice, all of them with one standard deviation; and the way back."""

    def __init__(self, log_sd=0.0):
        super().__init__()
        self.log_sd = log_sd

    def encode(self, x):
        return x / 2, torch.full_like(x, self.log_sd)

    def decode(self, z):
        return 2 * z


# What they share


def test_the_divergence_counts_what_a_normal_distribution_is_off_in_each_number():
    zeros = torch.zeros(3, 5)
    assert divergence(zeros, zeros).tolist() == [0, 0, 0]
    torch.testing.assert_close(divergence(zeros + 1, zeros), torch.full((3,), 5 * 0.5))
    log_sd = torch.full((3, 1, 2), 0.5)  # (e - 1 - 1) / 2 each
    torch.testing.assert_close(divergence(torch.zeros(3, 1, 2), log_sd), torch.full((3,), np.e - 2.0).float())


def test_samples_have_the_mean_and_the_standard_deviation():
    torch.manual_seed(0)
    many = drawn(torch.full((40_000,), 3.0), torch.full((40_000,), np.log(0.5)))
    assert many.mean().item() == pytest.approx(3, abs=0.02)
    assert many.std().item() == pytest.approx(0.5, abs=0.02)


def test_differences_are_summed_over_a_slice():
    x = torch.zeros(2, 1, 2, 2)
    x[1] = -0.5
    assert difference(x, torch.zeros(2, 1, 2, 2)).tolist() == [0, 2]


def test_only_what_is_brighter_than_rebuilt_is_abnormal():
    network = SimpleNamespace(encode=lambda x: (torch.tensor([[0.5, 0.5]]),), decode=lambda z: z)
    torch.testing.assert_close(ae.DETECTOR.score(network, torch.tensor([[0.9, 0.1]])), torch.tensor([[0.4, 0.0]]))


@pytest.mark.parametrize("name", LEARNT)
def test_every_detector_rebuilds_scores_and_learns_something(name):
    one, x = load(name), slices()
    network = one.build(TINY).train()
    torch.manual_seed(0)
    terms = one.losses(network, x)
    assert "reconstruction" in terms
    sum(terms.values()).backward()
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    reached = [p.grad is not None for part, p in network.named_parameters() if not part.startswith("gene")]
    assert any(reached)
    network.eval()
    with torch.no_grad():
        assert one.reconstruct(network, x).shape == x.shape
        assert one.score(network, x).shape == x.shape
        assert one.score(network, x).min() >= 0


def test_an_autoencoder_of_dark_slices_does_not_rebuild_a_disc():
    torch.manual_seed(0)
    x = torch.full((8, 1, 32, 32), 0.2)
    network = ae.DETECTOR.build(TINY).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        ae.DETECTOR.losses(network, x)["reconstruction"].backward()
        optimizer.step()
    network.eval()
    j, i = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((j - 14) ** 2 + (i - 18) ** 2 <= 25)[None, None]
    with torch.no_grad():
        clear, ill = (ae.DETECTOR.score(network, one) for one in (x[:1], x[:1] + 0.6 * disc))
    assert clear.mean() < 0.02
    assert ill[disc].mean() >= 0.5 * 0.6


# What they vary


def test_a_vae_weighs_the_divergence_and_rebuilds_without_chance():
    x, network = slices(), Halves(log_sd=-30.0)
    terms = vae.VAE(alpha=0.5).losses(network, x)
    assert terms["reconstruction"].item() == pytest.approx(0, abs=1e-3)
    expected = 0.5 * divergence(*network.encode(x)).mean()
    torch.testing.assert_close(terms["divergence"], expected)
    torch.testing.assert_close(vae.DETECTOR.reconstruct(Halves(log_sd=2.0), x), x)
    assert vae.DETECTOR.alpha == 1e-6


def test_the_constraint_is_how_far_the_mean_moves():
    x = slices()
    one = constrained_vae.ConstrainedVAE(alpha=0.0, rho=3.0)
    still = Halves(log_sd=-30.0)
    assert one.losses(still, x)["constraint"].item() == pytest.approx(0, abs=1e-9)
    still.decode = lambda z: 2 * z + 1.0
    assert one.losses(still, x)["constraint"].item() == pytest.approx(3 * 0.5**2, rel=1e-4)


def test_holes_differ_between_slices_lie_in_the_lungs_and_are_compared_with_what_was_there():
    torch.manual_seed(1)
    x, one = slices(8), context_vae.ContextVAE(pixels=6)
    given = x.clone()
    holes = (one.cut(x) == 0) & (x > 0)
    torch.testing.assert_close(x, given)
    areas = holes.flatten(1).sum(dim=1)
    assert ((areas >= 36) & (areas <= 3 * 36)).all()
    assert len(set(areas.tolist())) > 1
    assert any((a != b).any() for a, b in pairwise(holes))
    kept = torch.where(holes, torch.tensor(0.0), x)
    torch.testing.assert_close(kept.sum() + (x * holes).sum(), x.sum())
    torch.manual_seed(1)
    network = Halves(log_sd=-30.0)  # rebuilds what it is given, holes and all
    context = one.losses(network, x)["context"].item()
    assert context == pytest.approx((x * holes).flatten(1).sum(dim=1).mean().item(), rel=1e-4)
    assert not one.cut(torch.zeros(1, 1, 32, 32)).any()


def test_the_published_hole_is_a_quarter_of_the_slice_wide():
    torch.manual_seed(0)
    x = torch.ones(1, 1, 128, 128)
    holes = [int((replace(context_vae.DETECTOR, holes=1).cut(x) == 0).sum()) for _ in range(4)]
    assert holes == [32 * 32] * 4


def test_without_dropout_one_bayesian_sample_is_the_vae_and_with_it_samples_differ_but_not_from_call_to_call():
    x = slices()
    plain = bayesian_vae.BayesianVAE(dropout=0.0, samples=1)
    network = built(plain)
    with torch.no_grad():
        torch.testing.assert_close(plain.reconstruct(network, x), vae.DETECTOR.reconstruct(network, x))
    one = bayesian_vae.DETECTOR
    network = built(one)
    with torch.no_grad():
        torch.manual_seed(0)
        first, other = (vae.VAE.reconstruct(one, network, x) for _ in range(2))
        assert (first != other).any()
        torch.manual_seed(0)
        torch.testing.assert_close(replace(one, samples=2).reconstruct(network, x), (first + other) / 2)
    image = x[:, 0].numpy()
    again = [scored(one, network, image, CPU, silent) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    assert (one.samples, one.dropout) == (20, 0.2)


class OneGaussian(nn.Module):
    """Of a GMVAE whose only class is the standard normal distribution, whatever w is; w is standard normal."""

    classes = 1

    def encode(self, x):
        mean, log_variance = x.flatten(1)[:, :4], torch.full((len(x), 4), -0.7)
        return mean, log_variance, torch.zeros(len(x), 1), torch.zeros(len(x), 1)

    def gaussians(self, w):
        return torch.zeros(len(w), self.classes, 4), torch.zeros(len(w), self.classes, 4)

    def decode(self, z):
        return z[:, :1, None, None].expand(-1, 1, 32, 32)


def test_a_gmvae_of_one_standard_class_is_a_vae_but_for_a_constant():
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network = OneGaussian()
    terms = gmvae.GMVAE(classes=1).losses(network, x)
    mean, log_variance, *_ = network.encode(x)
    torch.testing.assert_close(terms["divergence"], divergence(mean, log_variance / 2).mean())
    assert terms["outer"].item() == 0
    assert terms["class"].item() == 1


def test_classes_count_for_what_they_are_likely_to_have_made():
    network = OneGaussian()
    network.encode = lambda x: (torch.zeros(2, 4), torch.full((2, 4), -20.0), torch.ones(2, 1), torch.zeros(2, 1))
    far = torch.zeros(2, 9, 4)
    far[:, 1:] = 10.0  # one class is where z is, the others are far away
    network.gaussians = lambda w: (far, torch.zeros(2, 9, 4))
    terms = gmvae.DETECTOR.losses(network, torch.zeros(2, 1, 32, 32))
    assert terms["class"].item() == pytest.approx(np.log(9), rel=1e-4)
    assert terms["divergence"].item() == pytest.approx(0.5 * 4 * (20 - 1), rel=1e-4)
    assert terms["outer"].item() == pytest.approx(0.5)
    far[:] = 0.0  # all the same: no class is likelier, which counts as much as `least`
    assert gmvae.DETECTOR.losses(network, torch.zeros(2, 1, 32, 32))["class"].item() == 1


def test_kl_grad_is_the_slope_of_the_divergence_smoothed_and_scaled():
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 16, 16] = 0.8
    found = kl_grad.KLGrad(scale=0.1).score(Halves(), x)  # the slope of (x / 2)^2 / 2 is x / 4
    bell = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    expected = 2.0 * np.outer(bell, bell) / bell.sum() ** 2
    np.testing.assert_allclose(found[0, 0, 14:19, 14:19].numpy(), expected, rtol=1e-4)
    assert found.sum().item() == pytest.approx(2.0, rel=1e-4)


def test_kl_grad_is_scaled_by_healthy_slices():
    x = slices(4)
    tuned = kl_grad.DETECTOR.tuned(Halves(), x)
    assert tuned.scale == pytest.approx(0.2 / 4, rel=0.15)
    assert (tuned.score(Halves(), x)[x > 0] > 1).float().mean() <= 0.0011


def test_restoring_in_no_steps_changes_nothing_and_each_step_lowers_the_objective():
    x, one = slices(), vae_restoration.VAERestoration(rate=1e-4)
    network = built(one)
    torch.testing.assert_close(replace(one, steps=0).restored(network, x), x)
    assert not replace(one, steps=0).score(network, x).any()
    values = [one.objective(network, replace(one, steps=n).restored(network, x)).sum().item() for n in range(6)]
    assert all(a > b for a, b in pairwise(values))


def test_a_slice_is_restored_alike_alone_and_in_a_batch():
    x = slices(3)
    one = vae_restoration.VAERestoration(steps=3)
    network = built(one)
    torch.testing.assert_close(one.restored(network, x)[:1], one.restored(network, x[:1]), rtol=0, atol=1e-5)


def test_the_total_variation_is_weighed_and_its_weight_changes_healthy_slices_least():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = 1.0
    assert vae_restoration.variation(x).tolist() == [4]
    network = SimpleNamespace(encode=lambda x: (x * 0, x * 0), decode=lambda z: z)
    one = vae_restoration.VAERestoration(alpha=0.0, smoothness=0.5)
    assert one.objective(network, x).tolist() == [1 + 0.5 * 4]
    one = replace(one, steps=5)
    trained, healthy = built(one), slices()
    changes = {
        s: (healthy - replace(one, smoothness=s).restored(trained, healthy)).abs().sum().item()
        for s in vae_restoration.SMOOTHNESSES
    }
    assert changes[one.tuned(trained, healthy).smoothness] == min(changes.values())


def test_f_anogan_sees_slices_half_as_fine_and_compares_them_with_the_critic_s_eyes():
    x = slices()
    torch.testing.assert_close(f_anogan.coarse(x)[0, 0, 5, 5], x[0, 0, 10:12, 10:12].mean())
    one = f_anogan.FAnoGAN(kappa=2.0)
    network = SimpleNamespace(
        encoder=lambda x: x, generator=lambda z: z + 0.5, critic=SimpleNamespace(features=lambda x: 3 * x)
    )
    terms = one.losses(network, x)
    assert terms["reconstruction"].item() == pytest.approx(0.25)
    assert terms["features"].item() == pytest.approx(2 * 9 * 0.25)
    assert one.reconstruct(network, torch.ones(1, 1, 32, 32)).tolist() == torch.full((1, 1, 32, 32), 1.5).tolist()


# On a scan


TILT = np.deg2rad(20)
TILTED = (np.cos(TILT), -np.sin(TILT), 0.0, np.sin(TILT), np.cos(TILT), 0.0, 0.0, 0.0, 1.0)


def chest(lesion_hu=None):
    """Two lungs of -800 HU in soft tissue, with a lesion in one; and the lungs and the lesion."""
    grid = Grid((52, 44, 20), (2.0, 2.0, 4.0), (-150.0, 20.0, -700.0), TILTED)
    k, j, i = np.ogrid[:20, :44, :52]
    right = ((j - 22) / 18) ** 2 + ((i - 13) / 11) ** 2 + ((k - 10) / 9) ** 2 < 1
    left = ((j - 22) / 18) ** 2 + ((i - 39) / 11) ** 2 + ((k - 10) / 9) ** 2 < 1
    lesion = (2 * (k - 10)) ** 2 + (j - 22) ** 2 + (i - 13) ** 2 < 8**2
    hu = np.where(right | left, -800.0, 40.0)
    if lesion_hu is not None:
        hu[lesion] = lesion_hu
    scan = Scan(hu.astype(np.float32), grid, grid, "scan")
    return scan, LungMask((right + 2 * left).astype(np.uint8), "given"), lesion


class Dark(Detector):
    """Knows that healthy lung is as dark as the window goes, and remembers what it was shown."""

    card = base.Card("dark", "", "", "")
    shown_to: list = []  # noqa: RUF012

    def build(self, preset):
        raise AssertionError("it needs no network")

    def losses(self, network, x):
        raise AssertionError("it is not trained")

    def reconstruct(self, network, x):
        self.shown_to.append(x)
        return torch.zeros_like(x)


def test_a_lesion_is_outlined_on_the_scan_s_own_grid_and_nothing_around_the_lungs_is():
    scan, lungs, lesion = chest(-300.0)
    found = Trained(Dark(), nn.Identity(), TINY, 0.2, "none").predict(scan, lungs, CPU, silent)
    assert found.lesion.shape == found.score.shape == scan.hu.shape
    assert 2 * (found.lesion & lesion).sum() / (found.lesion.sum() + lesion.sum()) > 0.85
    assert found.score[10, 22, 13] == pytest.approx(500 / 900, abs=0.01)
    assert not found.score[lungs.labels == 0].any()
    # No wall of the chest leaks into the lungs: they are as dark as they are.
    clear = Trained(Dark(), nn.Identity(), TINY, 0.2, "none").predict(*chest()[:2], CPU, silent)
    assert clear.score.max() == 0
    np.testing.assert_array_equal(found.lesion > 0, (found.score >= np.float32(0.2)) & (lungs.labels > 0))


def test_a_single_picture_is_a_slice_like_any_other_unless_it_was_equalised():
    scan, lungs, lesion = chest(-300.0)
    middle = slice(10, 11)
    alone = replace(scan, hu=scan.hu[middle], grid=replace(scan.grid, size=(52, 44, 1)))
    seen = replace(lungs, labels=lungs.labels[middle])
    found = Trained(Dark(), nn.Identity(), TINY, 0.2, "none").predict(alone, seen, CPU, silent)
    assert found.lesion.shape == (1, 44, 52)
    assert 2 * (found.lesion & lesion[middle]).sum() / (found.lesion.sum() + lesion[middle].sum()) > 0.85
    for name in LEARNT:
        assert picture_pipeline.unfit(base.card(name), "its weights", False) == ""
        assert "its weights were trained on Hounsfield" in picture_pipeline.unfit(base.card(name), "its weights", True)


def test_a_pixel_is_the_mean_over_its_area_and_has_no_chest_wall_in_it_where_there_is_lung():
    scan, lungs, _ = chest()
    rng = np.random.default_rng(0)
    scan.hu[lungs.labels > 0] += rng.normal(0, 100, np.count_nonzero(lungs.labels)).astype(np.float32)
    work = on_canvas(scan, lungs, TINY)
    inside = work.hu[work.lung & ndimage.binary_erosion(work.lung)]
    assert inside.mean() == pytest.approx(-800, abs=5)
    assert inside.std() < 60  # of four pixels
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    rim = (work.lung & ~ndimage.binary_erosion(work.lung, in_plane))[3:-3]  # where lungs taper, slices are mixed
    assert work.hu[3:-3][rim].mean() == pytest.approx(-800, abs=10)
    assert np.median(work.hu[~work.lung & (work.hu > -700)]) == pytest.approx(40)


def test_all_but_one_see_nothing_but_lung():
    hu, lung = np.array([[[-800.0, -350.0, 100.0]]]), np.array([[[True, True, False]]])
    for name in LEARNT:
        beyond = 1 if load(name) is vae_original.DETECTOR else 0
        np.testing.assert_allclose(load(name).shown(hu, lung), [[[0, 0.5, beyond]]])


def test_specks_go_and_what_is_wider_than_half_of_the_median_filter_stays():
    lung = np.ones((9, 24, 24), bool)
    score = np.zeros(lung.shape, np.float32)
    score[4, 4, 4] = score[2:7, 12:18, 12:18] = 1.0
    found = filtered(score, lung, (1.0, 3.2, 3.2))
    assert found[4, 4, 4] == 0
    assert found[4, 14, 14] == 1
    assert filtered(score, ~lung, (1.0, 3.2, 3.2)).max() == 0
    assert tuple(5 * mm for mm in detector.PRESETS["paper"].spacing_mm) == detector.MEDIAN_MM


def test_no_frozen_threshold_beats_the_oracle_s():
    scan, lungs, lesion = chest(-300.0)
    found = Trained(Dark(), nn.Identity(), TINY, 0.0, "none").predict(scan, lungs, CPU, silent)
    lesion = lesion & (lungs.labels > 0)

    def judged(mask):
        return Judged(mask, found.score, lesion, lungs.labels, scan.hu, scan.grid)

    def dsc(protocol, mask):
        protocol = PROTOCOLS[protocol]
        return protocol.summarise(protocol.select({"one": protocol.measure(judged(mask))}))["DSC"].mean

    frozen = [dsc("volume", found.score >= np.float32(t)) for t in np.linspace(0, 1, 101)]
    assert dsc("oracle_threshold", lesion) == pytest.approx(max(frozen))


# Weights


def stored(name, folder, **recipe):
    one = load(name)
    entry = store.Entry(name, "1", {}, {"preset": "tiny", **recipe}, [], "Apache-2.0", False, "", "")
    weights.store_entry(entry, {f"{name}.safetensors": built(one).state_dict()}, folder)
    return one


@pytest.mark.parametrize("name", LEARNT)
def test_every_detector_comes_out_of_the_user_s_store_with_its_threshold(name, tmp_path, monkeypatch):
    monkeypatch.setitem(detector.PRESETS, "tiny", TINY)
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    assert name not in ready()
    with pytest.raises(WeightsError, match=f"no weights for '{name}'"):
        base.load(name)
    few = {"steps": 3} if name == "vae-restoration" else {}
    stored(name, tmp_path, tuned=asdict(load(name)) | few, threshold=0.25)
    method = base.load(name)
    assert name in ready()
    assert method.threshold == 0.25
    assert method.weights.startswith(f"{name} 1 (")
    assert base.card(name) is method.card
    assert base.card(name).name == name
    found = method.predict(*chest(-300.0)[:2], CPU, silent)
    again = method.predict(*chest(-300.0)[:2], CPU, silent)
    assert 0 <= found.score.min() <= found.score.max() <= 1
    np.testing.assert_array_equal(found.score, again.score)


def test_what_was_measured_in_training_comes_with_the_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(detector.PRESETS, "tiny", TINY)
    stored("kl-grad", tmp_path, tuned=asdict(replace(kl_grad.DETECTOR, scale=7.0)), threshold=0.5)
    assert kl_grad.load(tmp_path).detector.scale == 7
    stored("ae", tmp_path)
    with pytest.raises(WeightsError, match=r"have no threshold\. Train and export them with `--hold-out`"):
        ae.load(tmp_path)


def test_their_cards_need_no_torch():
    code = f"""
import sys
from LabelFreeCovidSegLib.methods.base import card
sys.modules["torch"] = None
print(*(card(name).name for name in {LEARNT!r}), "SimpleITK" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.split() == [*LEARNT, "False"], said.stderr
