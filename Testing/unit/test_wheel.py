"""The wheel, in an environment of its own, segments the phantom from another folder."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom

ROOT = Path(__file__).parents[2]


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.installs
def test_the_installed_wheel_segments_a_scan(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 39e6
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", wheel)
    # The dependencies are this environment's: the plain path brings them along, but not the editable install.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = phantom.make(shape=(60, 128, 170), spacing_mm=(5.0, 2.0, 2.0))
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), str(elsewhere / "ct.nii.gz"))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where = run(python, "-c", "import LabelFreeCovidSegLib as p; print(p.__file__)", cwd=elsewhere, env=clean)
    assert str(environment) in where
    run(python, "-m", "LabelFreeCovidSegLib", "segment", "ct.nii.gz", "-o", "out", cwd=elsewhere, env=clean)
    both = json.loads((elsewhere / "out" / "measurements.json").read_text())["regions"][0]
    truth = (made.lesions > 0).sum() * made.scan.grid.voxel_ml
    assert both["lesion_ml"] > 0.5 * truth  # what else it marks is judged elsewhere
