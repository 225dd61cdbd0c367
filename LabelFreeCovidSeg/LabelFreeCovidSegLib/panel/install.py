"""What the computation needs beside Slicer itself, and how it gets there: asked for once, on first use, never before.

Nothing here is imported by Slicer's own process: the computation runs in a process of its own, so what was installed is
in use at once and no restart is needed. Slicer's own packages stay as they are.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from LabelFreeCovidSegLib import resources

TORCH = "torch>=2.8"
SIZES = {"torch": _("200 MB, 3 GB with CUDA"), "jinja2": "1 MB", "safetensors": "1 MB", "tqdm": "1 MB"}
UNTOUCHED = ("SimpleITK", "numpy", "scipy", "vtk", "pydicom", "torch")
"""Whatever of these is there stays in its version, unless a newer one is needed."""
HELP = "docs/troubleshooting.md"


def needed() -> list[str]:
    """Requirements of the computation, torch first."""
    lines = resources.path("requirements.txt").read_text(encoding="utf-8").splitlines()
    return [TORCH, *(line.strip() for line in lines if line.strip() and not line.startswith("#"))]


def missing(requirements: Sequence[str]) -> list[str]:
    """Those that are not installed, or in too old a version."""
    from packaging.requirements import Requirement

    def there(requirement: Requirement) -> bool:
        try:
            return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
        except importlib.metadata.PackageNotFoundError:
            return False

    return [text for text in requirements if not there(Requirement(text))]


def ensure(tell: Callable[[str], None]) -> bool:
    """Have everything there, with the user's consent; False if it is not, and `tell` has said why."""
    lacking = missing(needed())
    if not lacking:
        return True
    answer = _ask(lacking)
    if answer is None:
        tell(_("Nothing was installed, so nothing was computed."))
        return False
    tell(_("Installing {names}").format(names=", ".join(map(_name, lacking))))
    try:
        _install(lacking, answer)
    except Exception as error:  # pip, the network and other extensions fail in ways of their own
        tell(_failure(lacking, str(error)))
        return False
    importlib.invalidate_caches()
    lacking = missing(needed())
    if lacking:
        tell(_failure(lacking, _("they are still missing")))
    return not lacking


def _name(requirement: str) -> str:
    return requirement.partition(">")[0]


def _failure(lacking: Sequence[str], why: str) -> str:
    return _(
        "{names} could not be installed: {why}. See 'Installation fails in 3D Slicer' in {help}; offline, install "
        "from a folder of wheels."
    ).format(names=", ".join(map(_name, lacking)), why=why, help=HELP)


def _ask(lacking: Sequence[str]) -> str | None:
    """The one dialog: "" to install from the internet, a folder of wheels, or None."""
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setWindowTitle(_("Install what the computation needs?"))
    lines = [f"  {_name(text)} ({SIZES.get(_name(text), '')})" for text in lacking]
    box.setText(
        _("Slicer's Python still lacks:\n{list}\n\nNothing that Slicer itself brings is changed.").format(
            list="\n".join(lines)
        )
    )
    online = box.addButton(_("Install"), qt.QMessageBox.AcceptRole)
    offline = box.addButton(_("From a folder of wheels..."), qt.QMessageBox.ActionRole)
    box.addButton(qt.QMessageBox.Cancel)
    box.exec_()
    if box.clickedButton() == online:
        return ""
    if box.clickedButton() == offline:
        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of wheels")) or None
    return None


def _install(lacking: Sequence[str], wheels: str) -> None:
    if wheels:
        _pip(lacking, f'--no-index --find-links "{wheels}"')
        return
    if TORCH in lacking:
        _install_torch()
    rest = [text for text in lacking if text != TORCH]
    if not rest:
        return
    if hasattr(slicer, "packaging"):  # from Slicer 5.12 on
        from packaging.requirements import Requirement

        with _constraints(rest) as path:
            slicer.packaging.pip_ensure(
                [Requirement(text) for text in rest],
                constraints=path,
                prompt_install=False,
                requester="LabelFreeCovidSeg",
            )
    else:
        _pip(rest)


def _install_torch() -> None:
    """Through the PyTorch extension, which knows which build suits the graphics card and its driver."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        raise RuntimeError(_("the extension 'PyTorch' is missing. Install it with the Extensions Manager")) from None
    specifier = TORCH.removeprefix("torch")
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=specifier) is None:
        raise RuntimeError(_("the PyTorch extension did not install torch"))


def _pip(requirements: Sequence[str], options: str = "") -> None:
    with _constraints(requirements) as path:
        wanted = " ".join(f'"{text}"' for text in requirements)
        slicer.util.pip_install(f'{wanted} -c "{path}" {options}'.strip())


@contextmanager
def _constraints(requirements: Sequence[str]) -> Iterator[str]:
    """The path of a file that holds Slicer's own packages, but for those required, to the versions they have."""
    held = _versions(set(UNTOUCHED) - set(map(_name, requirements)))
    with tempfile.TemporaryDirectory(prefix="LabelFreeCovidSeg-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in held.items()), encoding="utf-8")
        yield str(path)


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
