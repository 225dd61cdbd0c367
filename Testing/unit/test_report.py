"""The report: it says everything, needs nothing, and its pictures are the right way round."""

import base64
import itertools
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from LabelFreeCovidSegLib import quantify, report, terminology
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.pipeline import Result, Run
from LabelFreeCovidSegLib.scan import Grid, Scan

SHAPE = (30, 40, 80)
SPACING_MM = (6.0, 3.0, 3.0)  # (k, j, i): 180 x 120 x 240 mm
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
RIGHT_LUNG, LEFT_LUNG = np.s_[2:28, 5:35, 5:35], np.s_[2:28, 5:35, 45:75]
LESION = np.s_[20:26, 20:30, 10:25]  # upper right lung


@pytest.fixture
def result() -> Result:
    hu = np.full(SHAPE, 40.0, np.float32)
    labels, classes = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    labels[RIGHT_LUNG], labels[LEFT_LUNG] = 1, 2
    hu[labels > 0] = -850
    hu[LESION], classes[LESION] = -600, 1
    grid = Grid(SHAPE[::-1], SPACING_MM[::-1], (-120.0, -60.0, -90.0), IDENTITY)
    lungs = LungMask(labels, "classical")
    run = Run(
        card=Card("stand-in", "Stand-in", "Knows the answer.", "Nobody, nowhere."),
        weights="stand-in 1.0 (12ab34cd)",
        compute=Compute("cpu", "bfloat16"),
        seconds={"lungs": 1.0, "lesions": 2.5},
        versions={"LabelFreeCovidSeg": "0.1.0", "torch": "2.13.0"},
        warnings=("The left lung touches the <end> of the scan.",),
    )
    scan = Scan(hu, grid, grid, "patient <b>&17</b>")
    measurements = quantify.measure(classes, lungs, grid.voxel_ml)
    return Result(scan, lungs, classes, np.zeros(SHAPE, np.float32), measurements, run)


class Page(HTMLParser):
    """The text of a page, and every attribute that could fetch something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.sources = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def pixels(uri: str, folder: Path) -> np.ndarray:
    path = folder / "picture.png"
    path.write_bytes(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def centre(area: np.ndarray) -> np.ndarray:
    """Row and column of the middle of `area`, as shares of the picture."""
    return np.argwhere(area).mean(axis=0) / area.shape


def coloured(overlay: np.ndarray, segment: terminology.Segment) -> np.ndarray:
    return (overlay[..., :3] == segment.rgb).all(axis=-1) & (overlay[..., 3] > 0)


def test_everything_that_a_reader_must_know_is_said(result):
    text = " ".join(Page(report.render(result)).text.split())
    for said in (
        "Research software. Not a medical device.",
        "Ground-glass opacity",
        "Consolidation",
        "Consolidation: lesion of −300 HU and denser in the CT smoothed by a Gaussian of 1 mm",
        "Stand-in: Knows the answer.",
        "Nobody, nowhere.",
        "stand-in 1.0 (12ab34cd)",
        "cpu, bfloat16",
        "lungs 1.0 s, lesions 2.5 s; in all 3.5 s",
        "torch 2.13.0",
        "The left lung touches the <end> of the scan.",
    ):
        assert said in text
    # 26 x 30 x 30 voxels of 54 mm3 a lung; 6 x 10 x 15 of them lesion.
    assert "Both lungs 2,527 mL 48.6 mL 0.0 mL 48.6 mL 1.9 %" in text
    assert "Right lung 1,264 mL 48.6 mL 0.0 mL 48.6 mL 3.8 %" in text
    assert "Left lung 1,264 mL 0.0 mL 0.0 mL 0.0 mL 0.0 %" in text


def test_a_name_with_html_in_it_is_shown_and_not_obeyed(result):
    page = Page(report.render(result))
    assert "patient <b>&17</b>" in page.text
    assert "b" not in page.tags


def test_no_threshold_is_claimed_where_the_method_itself_told_the_classes_apart(result):
    page = report.render(replace(result, measurements=replace(result.measurements, band=None)))
    assert "The method itself told" in page
    assert "HU and denser" in report.render(result)
    assert "HU and denser" not in page


def test_a_result_without_warnings_has_no_warning_box(result):
    clean = replace(result, run=replace(result.run, warnings=()))
    assert 'class="warnings"' in report.render(result)
    assert 'class="warnings"' not in report.render(clean)


def test_nothing_is_fetched_and_nothing_is_executed(result):
    html = report.render(result)
    page = Page(html)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in html
    assert "url(" not in html
    assert len(html) < 3_000_000


def test_axial_pictures_go_from_head_to_feet_with_the_patients_right_at_the_left(result, tmp_path):
    axial, _ = report.pictures(result)
    assert len(axial) == report.AXIAL
    heights = [int(picture.caption.split()[1]) * (1 if picture.caption[0] == "S" else -1) for picture in axial]
    assert heights == sorted(heights, reverse=True)
    shown = [picture for picture in axial if picture.lesion_cm2]
    assert shown[0].lesion_cm2 == pytest.approx(10 * 15 * 0.09)
    row, column = centre(coloured(pixels(shown[0].overlay, tmp_path), terminology.GROUND_GLASS))
    assert column < 0.4  # the lesion is in the right lung
    assert row > 0.5  # and lies towards the back


def test_coronal_pictures_have_the_head_at_the_top(result, tmp_path):
    _, coronal = report.pictures(result)
    assert len(coronal) == report.CORONAL
    most = max(coronal, key=lambda picture: picture.lesion_cm2)
    row, column = centre(coloured(pixels(most.overlay, tmp_path), terminology.GROUND_GLASS))
    assert row < 0.4
    assert column < 0.4
    tops = [top for _, top in most.marks]
    assert [number for number, _ in most.marks] == list(range(1, report.AXIAL + 1))
    assert tops == sorted(tops)
    assert tops[0] > 0
    assert tops[-1] < 100


def test_pictures_have_the_proportions_of_the_patient(result, tmp_path):
    axial, coronal = report.pictures(result)
    # Lungs plus 8 mm, in whole voxels: k 2-1..28+1, j 5-3..35+3, i 5-3..75+3.
    assert (axial[0].width, axial[0].height) == (76 * 3 / 0.75, 36 * 3 / 0.75)
    assert (coronal[0].width, coronal[0].height) == (76 * 3 / 0.75, 28 * 6 / 0.75)
    assert pixels(axial[0].ct, tmp_path).shape == pixels(axial[0].overlay, tmp_path).shape[:2] == (144, 304)


def test_the_ct_is_grey_by_the_lung_window_and_stays_readable_under_the_lesion(result, tmp_path):
    picture = next(picture for picture in report.pictures(result)[0] if picture.lesion_cm2)
    ct, overlay = pixels(picture.ct, tmp_path), pixels(picture.overlay, tmp_path)
    low, high = report.WINDOW_HU
    middle = np.s_[96:100, 52:56]  # inside the lesion
    assert ct[middle] == pytest.approx(255 * (-600 - low) / (high - low), abs=1)
    assert (overlay[middle][..., 3] < 64).all()  # a quarter of the opacity at most
    border = coloured(overlay, terminology.GROUND_GLASS) & (overlay[..., 3] == 255)
    assert border.any()
    assert overlay[0, 0, 3] == 0


@given(
    extent=st.integers(1, 120),
    first=st.integers(0, 20),
    count=st.integers(1, 12),
    data=st.data(),
)
def test_chosen_slices_span_the_lungs_and_show_the_one_with_most_lesion(extent, first, count, data):
    lungs = np.zeros((first + extent + 3, 12, 2), np.uint8)
    lungs[first : first + extent] = 1
    area = np.zeros(len(lungs), int)
    for k in data.draw(st.lists(st.integers(first, first + extent - 1), max_size=12)):
        area[k] += 1
    lesion = np.zeros(lungs.shape, bool)
    for k, voxels in enumerate(area):
        lesion[k, :voxels, 0] = True
    chosen = report.choose_slices(lungs, lesion, axis=0, count=count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, extent)
    assert area[chosen].max() == area.max()
    edges = [first, *chosen, first + extent - 1]
    assert max(b - a for a, b in itertools.pairwise(edges)) <= 2 * np.ceil(extent / count)
    assert min(chosen) >= first
    assert max(chosen) < first + extent
