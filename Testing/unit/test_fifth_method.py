"""Another method is one file (`Testing/support/dense.py`) and its line in the registry; every door then has it."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib import cli, output, pipeline, store, weights
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.read import read

LESION = np.s_[10:28, 20:35, 15:30]
LESION_ML = 18 * 15 * 15 * 0.064


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    """The line in the registry; and whoever runs the test has no weights of their own."""
    monkeypatch.setitem(base.REGISTRY, "dense", "dense")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "mine"))


@pytest.fixture
def package(tmp_path):
    """The method's weights as somebody would hand them on."""
    entry = store.Entry("dense", "1.2.3", {}, {}, [], "Apache-2.0", True, "Nobody.", "Chest CT in HU.")
    weights.store_entry(entry, {"dense-0.safetensors": {"hu": torch.tensor(-600.0)}}, tmp_path / "package")
    path = tmp_path / "dense.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "package").iterdir():
            archive.write(file, file.name)
    return path


@pytest.fixture
def installed(package):
    store.install(package)


@pytest.fixture
def ct(tmp_path):
    """A body of two lungs, one with a lesion of 72 x 60 x 60 mm, beside the mask of its lungs."""
    hu = np.full((60, 70, 90), -1000, np.int16)
    hu[:, 5:65, 5:85] = 40
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[5:55, 12:58, 10:40], lungs[5:55, 12:58, 50:80] = 1, 2
    hu[lungs > 0] = -850
    hu[LESION] = -500
    for name, array in (("ct.nii.gz", hu), ("lungs.nii.gz", lungs)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        sitk.WriteImage(image, str(tmp_path / name))
    return tmp_path / "ct.nii.gz"


def segment(ct, out, method):
    """The command line as a user types it, in this process."""
    return cli.main(
        ["segment", str(ct), "-o", str(out), "--lungs", str(ct.with_name("lungs.nii.gz")), "--method", method,
         "--device", "cpu", "--progress", "none"]
    )  # fmt: skip


def test_the_pipeline_runs_it(installed, ct):
    result = pipeline.segment(read(ct), "dense", ct.with_name("lungs.nii.gz"), "cpu")
    assert result.measurements.regions[0].lesion_ml == pytest.approx(LESION_ML)
    assert result.run.card.title == "Density"
    assert result.run.weights.startswith("dense 1.2.3 (")


def test_the_command_line_runs_it_and_the_report_names_it(installed, ct, tmp_path, capsys):
    assert segment(ct, tmp_path / "out", "dense") == 0
    assert "Density on cpu" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Density: Lung that is denser than a number of Hounsfield units." in report
    assert "Nobody. Nowhere &lt;2026&gt;." in report
    assert "dense 1.2.3 (" in report
    numbers = json.loads((tmp_path / "out" / output.MEASUREMENTS).read_text(encoding="utf-8"))
    assert numbers["method"]["name"] == "dense"
    assert numbers["regions"][0]["lesion_ml"] == pytest.approx(LESION_ML)


def test_its_healthy_reconstruction_is_written(installed, ct, tmp_path):
    assert segment(ct, tmp_path / "out", "dense") == 0
    healthy = sitk.ReadImage(str(tmp_path / "out" / "healthy.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(ct)))
    expected[LESION] = -850
    np.testing.assert_array_equal(sitk.GetArrayFromImage(healthy), expected)
    assert healthy.GetPixelID() == sitk.sitkInt16


def test_the_batch_runs_it_makes_a_lost_map_again_and_takes_none_for_a_scan(installed, ct, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "scans" / "results"
    scans.mkdir()
    ct.rename(scans / ct.name)
    command = ["batch", str(scans), "-o", str(out), "--method", "dense", "--device", "cpu", "--progress", "none"]
    assert cli.main(command) == 0
    lost = out / "ct.nii.gz" / "healthy.nii.gz"
    lost.unlink()
    assert cli.main(command) == 0
    assert lost.is_file()
    out.rename(scans / "earlier")
    assert cli.main(command) == 0
    table = (out / "batch.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [["ct.nii.gz", "done"]]


def test_methods_and_models_list_it(package, capsys):
    assert cli.main(["methods"]) == 0
    assert "dense: Density\n  Lung that is denser" in capsys.readouterr().out
    assert cli.main(["models", "install", str(package)]) == 0
    assert cli.main(["models"]) == 0
    assert "dense 1.2.3: verified" in capsys.readouterr().out


def test_without_its_weights_it_says_how_to_get_them():
    with pytest.raises(WeightsError, match=r"no weights for 'dense'\. Install them: labelfreecovidseg models install"):
        base.load("dense")


def test_help_and_wrong_usage_name_it(ct, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["segment", "--help"])
    assert f"{', '.join(base.REGISTRY)}, or several joined by +" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as exit_:
        segment(ct, tmp_path / "out", "dens")
    assert exit_.value.code == 2
    assert f"There is no method 'dens'. Choose one of: {', '.join(base.REGISTRY)}; for" in capsys.readouterr().err


@pytest.mark.parametrize("name", base.everything())
def test_the_card_of_every_method_needs_no_torch(name):
    code = f"""
import sys
from LabelFreeCovidSegLib.methods.base import card
sys.modules["torch"] = None
print(card({name!r}).name, "SimpleITK" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.split() == [name, "False"], said.stderr


@pytest.mark.parametrize("name", ["cyclegan", "gan3d", "uda"])
def test_nor_do_those_need_it_whose_weights_do_not_ship_yet(name):
    code = f"""
import sys
sys.modules["torch"] = None
from LabelFreeCovidSegLib.methods import {name} as method
print(method.CARD.name, "SimpleITK" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.split() == [name, "False"], said.stderr
