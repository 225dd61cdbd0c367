"""The CMake lists and the tree agree: what is not listed would be missing from the installed extension."""

import re
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "LabelFreeCovidSeg"


def listed(variable: str) -> list[str]:
    text = (MODULE / "CMakeLists.txt").read_text()
    block = re.search(rf"set\({variable}\n(.*?)\n\s*\)", text, re.DOTALL)
    assert block, f"no list {variable}"
    return block[1].replace("${MODULE_NAME}", "LabelFreeCovidSeg").split()


def present() -> set[str]:
    """Every file that the module consists of; the headless scripts in `Scripts` are not part of it."""
    files = (
        path.relative_to(MODULE)
        for path in MODULE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in {"CMakeLists.txt", ".gitkeep"}
    )
    return {path.as_posix() for path in files if path.parts[0] in {"LabelFreeCovidSegLib", "Resources"}} | {
        "LabelFreeCovidSeg.py"
    }


def test_every_python_file_is_listed_and_every_listed_one_exists():
    assert set(listed("MODULE_PYTHON_SCRIPTS")) == {file for file in present() if file.endswith(".py")}


def test_every_resource_is_listed_and_every_listed_one_exists():
    assert set(listed("MODULE_PYTHON_RESOURCES")) == {file for file in present() if not file.endswith(".py")}


def test_nothing_is_listed_twice():
    names = listed("MODULE_PYTHON_SCRIPTS") + listed("MODULE_PYTHON_RESOURCES")
    assert len(names) == len(set(names))
