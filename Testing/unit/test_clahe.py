"""The steps of clahe256 on slices whose outcome can be told beforehand, and what methods are shown of them."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from LabelFreeCovidSegLib import picture_pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.methods import gan3d, uda
from LabelFreeCovidSegLib.pictures import Picture
from LabelFreeCovidSegLib.scan import bounding_box
from LabelFreeCovidSegLib.training.clahe import clahe256, seen, stretched
from slice_pictures import chest_slice

RNG = np.random.default_rng(0)


def test_a_slice_becomes_what_its_definition_says():
    hu = RNG.normal(-500, 200, (300, 410)).astype(np.float32)
    small = cv2.resize(hu, (256, 256), interpolation=cv2.INTER_CUBIC)
    eight_bit = ((small - small.min()) / (small.max() - small.min()) * 255).astype(np.uint8)
    expected = cv2.createCLAHE(clipLimit=7, tileGridSize=(8, 8)).apply(eight_bit)
    grey, _ = clahe256(hu, hu > 0)
    assert grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - expected).mean() < 0.1  # rounding


def test_neither_gain_nor_offset_of_the_greys_matters():
    hu = RNG.integers(-1000, 1000, (256, 256)).astype(np.float32)
    lung = hu < 0
    one, other = (clahe256(values, lung)[0].astype(int) for values in (hu, 2 * hu - 512))
    assert np.abs(one - other).max() <= 4


def test_contrast_is_made_equal_place_by_place():
    """Side by side, noise of a tenth of the contrast comes out with more than a quarter of it."""
    noise = RNG.normal(0, 200, (256, 256))
    hu = np.where(np.arange(256) < 128, noise / 10, noise)
    grey, _ = clahe256(hu, hu > 0)
    faint, strong = (grey[:, part].std() for part in (np.s_[32:96], np.s_[160:224]))
    assert faint > strong / 4


def test_the_lungs_come_along_a_quarter_of_a_pixel_wide():
    lung = np.zeros((512, 512), bool)
    lung[100:301, 100:300] = True
    _, small = clahe256(RNG.normal(size=lung.shape), lung)
    assert small.shape == (256, 256)
    expected = np.zeros((256, 256), bool)
    expected[50:151, 50:150] = True  # of row 150, half is lung
    np.testing.assert_array_equal(small, expected)


def test_a_slice_of_one_density_is_black():
    assert not clahe256(np.full((100, 100), -1000.0), np.zeros((100, 100), bool))[0].any()


# What a method is shown


class Recorder(torch.nn.Module):
    """Finds nothing, and keeps what it was shown."""

    def forward(self, slices):
        self.shown = slices[0, 0].numpy()
        return torch.zeros(len(slices), 4, *slices.shape[2:])


def test_training_shows_what_a_picture_in_a_folder_comes_to():
    chest = chest_slice()
    grey, lung = clahe256(chest.hu, chest.lung)
    recorder, preset = Recorder(), replace(uda.PRESETS["small-clahe256"], canvas=(16, 16))
    model = uda.DomainAdaptation(recorder, preset, "none")
    upright = Picture("a.png", grey).upright("LP")
    picture_pipeline.outline([upright], model, Compute(), lung[None], equalised=True)
    (image,) = seen(chest.hu, chest.lung, preset.spacing_mm[1], uda.AROUND_MM)
    shown = recorder.shown[np.ix_(*((recorder.shown > -1).any(axis=axis) for axis in (1, 0)))]  # without the canvas
    assert np.abs(np.subtract(image.shape, shown.shape)).max() <= 1
    both = tuple(slice(0, min(sides)) for sides in zip(image.shape, shown.shape, strict=True))
    assert np.abs(uda.window(image)[both] - shown[both]).mean() < 0.02


class Same(torch.nn.Module):
    """A generator to which all lungs are healthy."""

    def forward(self, slabs, latent):
        return slabs


class Watching(torch.nn.Module):
    """As `Recorder`, in the place of a slice network."""

    def forward(self, slices):
        self.shown = slices[0, 0].numpy()
        return torch.zeros_like(slices)


def test_training_shows_a_method_that_stretches_the_lungs_what_a_picture_comes_to():
    chest = chest_slice()
    grey, lung = clahe256(chest.hu, chest.lung)
    watching, preset = Watching(), replace(gan3d.PRESETS["small-clahe256"], canvas=(16, 96, 96))
    model = gan3d.Gan3D({"generator": Same(), "segmenter": watching}, preset, gan3d.Threshold(), "none")
    upright = Picture("a.png", grey).upright("LP")
    picture_pipeline.outline([upright], model, Compute(), lung[None], equalised=True)
    box = bounding_box(chest.lung, (0, 0))
    image, moved = stretched(chest.hu, box, preset.canvas[1:], chest.lung.astype(np.uint8))
    assert image.shape == moved.shape == preset.canvas[1:]
    there = (moved > 0) & (watching.shown > 0)
    assert there.sum() > 0.95 * np.count_nonzero(watching.shown)
    assert np.abs(gan3d.window(image)[there] - watching.shown[there]).mean() < 0.03


def test_labels_go_where_the_slice_goes():
    chest = chest_slice()
    labels = chest.lung + 2 * (chest.lesion & chest.lung).astype(np.uint8)
    image, moved = seen(chest.hu, chest.lung, 1.5, 20.0, labels)
    assert (image.shape, image.dtype, moved.dtype) == (moved.shape, np.float32, np.uint8)
    assert set(np.unique(moved)) == {0, 1, 3}
    healthy, ill, beside = (np.median(image[moved == label]) for label in (1, 3, 0))
    assert healthy < ill < beside
