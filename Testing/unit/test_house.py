"""Rules of the house that no other test would notice broken."""

import ast
import re
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
    assert sum(sizes) < 48e6
    assert max(sizes, default=0) < 12e6


def said():
    """What the program may say, with … for what it fills in."""
    for path in (ROOT / "LabelFreeCovidSeg").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                yield re.sub(r"\{\w+\}", "…", node.value)  # for `str.format`


def pattern(message):
    """Any word but a plain one may have been filled in."""
    words = [
        re.escape(word) if word.isalpha() and word.islower() else rf"(?:{re.escape(word)}|\S*…\S*)"
        for word in message.split()
    ]
    return " ".join(words)


def test_every_message_in_troubleshooting_is_one_of_the_programs():
    headings = re.findall(r"^\*\*.+", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [message for heading in headings for message in re.findall('"([^"]+)"', heading)]
    assert len(quoted) > 20
    everything = "\n".join(said())
    assert [message for message in quoted if not re.search(pattern(message), everything)] == []
