"""Scans -> a compact cache of healthy lung, so that the machine that trains needs neither the scans nor SimpleITK.

A block is a piece of lung without focal findings: contiguous slices on the working grid, HU as int16, rounded to
4 HU (far below the noise of any CT, and half the size on disk). Only CTs are opened: no mask file ever is.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, Scan, bounding_box, resample
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from LabelFreeCovidSegLib.weights import write_atomically

INDEX = "cache.json"
KEPT_AROUND_MM = 6.0
"""HU are kept this far around the lung, for filters of the augmentation that look beyond its border."""
EXCLUDED_AROUND_MM = 2.0
"""Slices this near to a focal finding are left out with it (METHODS: +- 2 mm in z)."""
THINNEST_BLOCK_MM = 16.0
EDGE_DEPTH_MM = 1.6
"""Two voxels of the paper's grid in-plane."""
SIDES = {"both": (RIGHT, LEFT), "right": (RIGHT,), "left": (LEFT,)}


@dataclass(frozen=True, eq=False)
class Block:
    """A piece of healthy lung on the working grid.

    Attributes:
        hu: (k, j, i) int16; air where no lung is near.
        lung: (k, j, i) bool, without the erroneous edges (M).
    """

    hu: np.ndarray
    lung: np.ndarray


@dataclass(frozen=True)
class CachedScan:
    """A prepared scan: where it came from and the files of its blocks."""

    name: str
    collection: str
    licence: str
    lung_ml: float
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """What `prepare` wrote: the working grid and the scans."""

    folder: Path
    spacing_mm: Lengths
    scans: tuple[CachedScan, ...]

    def blocks(self, scan: CachedScan) -> list[Block]:
        """Read the blocks of one scan."""
        blocks = []
        for file in scan.blocks:
            with np.load(self.folder / file, allow_pickle=False) as arrays:
                blocks.append(Block(arrays["hu"], arrays["lung"] > 0))
        return blocks


def prepare(
    scans: list[ListedScan], folder: Path, spacing_mm: Lengths, bright_hu: float, progress: Progress = silent
) -> Cache:
    """Write a cache of `scans` into `folder`; its index appears last.

    Args:
        spacing_mm: the working grid, along (k, j, i).
        bright_hu: from here on tissue is bright; erroneous edges are looked for among bright tissue.

    Raises:
        ScanError, LungError: a scan that can't be used.
        TrainingError: a scan without a usable block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cached = []
    for number, listed in enumerate(scans):
        step = part(progress, number / len(scans), (number + 1) / len(scans))
        step(0.0, f"Preparing {listed.name}")
        blocks = healthy_blocks(listed, spacing_mm, bright_hu)
        if not blocks:
            raise TrainingError(f"{listed.path}: no {THINNEST_BLOCK_MM:.0f} mm of lung are left. Exclude fewer slices.")
        files = tuple(f"{listed.name}-{n}.npz" for n in range(len(blocks)))
        for file, block in zip(files, blocks, strict=True):
            data = io.BytesIO()
            np.savez_compressed(data, hu=block.hu, lung=block.lung.astype(np.uint8))
            write_atomically(folder / file, data.getvalue())
        lung_ml = sum(float(block.lung.sum()) for block in blocks) * float(np.prod(spacing_mm)) / 1000.0
        cached.append(CachedScan(listed.name, listed.collection, listed.licence, round(lung_ml, 1), files))
    cache = Cache(folder, spacing_mm, tuple(cached))
    index = {"spacing_mm": spacing_mm, "scans": [asdict(scan) for scan in cache.scans]}
    write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return cache


def open_cache(folder: Path) -> Cache:
    """The cache in `folder`. Raises `TrainingError` where there is none."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        scans = tuple(CachedScan(**{**row, "blocks": tuple(row["blocks"])}) for row in index["scans"])
        return Cache(folder, tuple(index["spacing_mm"]), scans)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder}: not a cache of prepared scans ({error}). Run `train prepare` first.") from error


def healthy_blocks(listed: ListedScan, spacing_mm: Lengths, bright_hu: float) -> list[Block]:
    """Read a scan, find its lungs and cut what is healthy of them into blocks on the working grid."""
    scan = read(listed.path)
    labels = find_lungs(scan).labels
    lung = np.isin(labels, SIDES[listed.lungs])
    margin = tuple(int(np.ceil(KEPT_AROUND_MM / size)) for size in scan.grid.spacing_mm)
    box = bounding_box(lung, margin)
    source = scan.grid.covering(box, scan.grid.spacing_mm)
    grid = source.covering(tuple(slice(0, n) for n in source.shape), spacing_mm)
    hu = resample(scan.hu[box], source, grid, outside=AIR_HU)
    lung = resample(lung[box].astype(np.uint8), source, grid, nearest=True) > 0
    kept = ndimage.distance_transform_edt(~lung, sampling=spacing_mm) <= KEPT_AROUND_MM
    lung &= ~erroneous_edges(hu >= bright_hu, lung, spacing_mm)
    hu = np.where(kept, 4 * np.round(np.clip(hu, AIR_HU, 1500.0) / 4), AIR_HU).astype(np.int16)
    return [
        Block(hu[part], lung[part])
        for part in _free_slices(listed, scan, box[0].start, grid.shape[0], spacing_mm[0])
        if lung[part].any()
    ]


def _free_slices(listed: ListedScan, scan: Scan, first: int, count: int, spacing_mm: float) -> list[slice]:
    """Runs of slices of the working grid, of which slice 0 begins at scan slice `first`, without excluded ones."""
    thickness = scan.grid.spacing_mm[0]
    centres = (np.arange(count) + 0.5) * spacing_mm + first * thickness
    free = np.ones(count, dtype=bool)
    for lower, upper in listed.exclude:
        free &= (centres < lower * thickness - EXCLUDED_AROUND_MM) | (
            centres > (upper + 1) * thickness + EXCLUDED_AROUND_MM
        )
    runs, _ = ndimage.label(free)
    return [run for (run,) in ndimage.find_objects(runs) if (run.stop - run.start) * spacing_mm >= THINNEST_BLOCK_MM]


def erroneous_edges(bright: np.ndarray, lung: np.ndarray, spacing_mm: Lengths) -> np.ndarray:
    """Bright pieces that are border of the lung mask rather than vessel (Yao et al. 2021, section III-A).

    A 26-connected piece goes if most of its voxels lie within two voxels of the paper's grid from the mask's edge,
    measured in the slice. Vessels that reach the hilum stay: most of them is inside.

    Args:
        bright: (k, j, i) bool, bright tissue, in the lung or not.
        lung: (k, j, i) bool (M').

    Returns:
        (k, j, i) bool (E).
    """
    depth = np.empty(lung.shape, dtype=np.float32)
    for depth_slice, lung_slice in zip(depth, lung, strict=True):
        padded = np.pad(lung_slice, 1)
        depth_slice[...] = ndimage.distance_transform_edt(padded, sampling=spacing_mm[1:])[1:-1, 1:-1]
    # The mask's edge runs half a voxel before the nearest centre outside.
    band = lung & (depth - min(spacing_mm[1:]) / 2 <= EDGE_DEPTH_MM)
    pieces, count = ndimage.label(bright & lung, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    at_edge = np.bincount(pieces[band], minlength=count + 1)
    wrong = 2 * at_edge > sizes
    wrong[0] = False
    return wrong[pieces]
