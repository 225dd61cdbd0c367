"""Rules of the house that no other test would notice broken."""

import subprocess
import sys
import tomllib
from pathlib import Path

import LabelFreeCovidSegLib
import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "SimpleITK", "scipy", "monai", "vtk", "slicer", "lightning_fabric"}


@pytest.mark.parametrize("module", ["", ".device", ".methods.base", ".cli", ".resources", ".terminology"])
def test_importing_what_the_panel_and_the_command_line_start_with_is_cheap(module):
    code = f"import LabelFreeCovidSegLib{module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_the_package_and_its_metadata_have_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == LabelFreeCovidSegLib.__version__


def test_no_tracked_file_is_too_large_for_the_catalogue():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    sizes = [path.stat().st_size for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    assert sum(sizes) < 40e6
    assert max(sizes, default=0) < 12e6
