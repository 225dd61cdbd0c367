"""Where the files that are not Python lie: weights, terminologies, icons."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(*parts: str) -> Path:
    """The path of a file or folder of `Resources`, e.g. `path("Models", "normnet.safetensors")`; it need not exist.

    A wheel carries `Resources` inside the package; in Slicer's module folder and in a checkout it lies beside it.
    """
    inside = _PACKAGE / "Resources"
    return (inside if inside.is_dir() else _PACKAGE.parent / "Resources").joinpath(*parts)
