"""A figure of what a method does, stage by stage, on the slice of a CT with most lesion.

python Testing/benchmarks/stages.py CT stages.png [--method NAME] [--lungs LUNGS] [--slice K]

A method needs its weights. The figure is composed of the method's own public functions; a method without a function in
`STAGES` shows what its prediction holds. matplotlib comes with VTK.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from LabelFreeCovidSegLib import device, read
from LabelFreeCovidSegLib.inference import predict_tiles
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods import base, cyclegan, gan3d, normnet, opacitynet
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.postprocess import box_mean
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.quantify import CONSOLIDATION, GROUND_GLASS
from LabelFreeCovidSegLib.scan import Grid, Scan, bounding_box, resample
from matplotlib import pyplot
from torch import Tensor, nn

Stages = dict[str, np.ndarray]
"""Title -> (k, j, i) on the method's working grid: bool is drawn over the first of the float ones, as an outline. The
last is the lesions."""

COLUMNS = 3
MARGIN_MM = 10.0
ORANGE = (0.90, 0.45, 0.0)
COMPUTE = device.Compute()


def normnet_stages(method: normnet.NormNet, scan: Scan, lungs: LungMask) -> tuple[Stages, Grid]:
    """The letters of the paper's figure 4, and the outline."""
    preset = method.preset
    work = normnet.Working.of(scan, lungs, preset.spacing_mm)
    probabilities = [
        predict_tiles(network, work.intensity, work.lung, preset.crop, COMPUTE) for network in method.networks
    ]
    spacing, growing = work.grid.spacing_mm, preset.growing
    bright = work.lung & (work.intensity >= normnet.TAU)
    healthy = (normnet.agreed if growing.soft else normnet.recognised)(probabilities, work.intensity)
    seeds = box_mean(bright * (1.0 - healthy) * work.lung, growing.seed_width_mm, spacing) > growing.seed_share
    hu = resample(scan.hu[work.box], work.source, work.grid)
    return {
        "CT, -800 to 100 HU": normnet.window(hu),
        "Lungs": work.lung,
        "Bright tissue, from -500 HU": bright.astype(np.float32),
        "Recognised as healthy": healthy.astype(np.float32),
        "Seeds: much is bright and not recognised": seeds & work.lung,
        "Lesions": normnet.outline(work.intensity, probabilities, work.lung, spacing, growing),
    }, work.grid


class HealthyLast(nn.Module):
    """An OpacityNet whose last class, which is what `predict_tiles` gives, is bright healthy tissue."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: Tensor) -> Tensor:
        return self.network(tiles)[:, [0, opacitynet.OPACITY, opacitynet.BRIGHT_HEALTHY]]


def opacitynet_stages(method: opacitynet.OpacityNet, scan: Scan, lungs: LungMask) -> tuple[Stages, Grid]:
    """What the networks say to both questions, and how the outline is made of it."""
    work = normnet.Working.of(scan, lungs, method.preset.spacing_mm)
    image = opacitynet.window(work.hu) * work.lung

    def mean(networks: Iterable[nn.Module]) -> np.ndarray:
        found = [predict_tiles(network, image, work.lung, method.preset.crop, COMPUTE) for network in networks]
        return np.mean(found, axis=0) * work.lung

    probability = mean(method.networks)
    judged = opacitynet.outlined(probability, work.hu, work.lung, work.grid.spacing_mm)
    return {
        "CT, -1000 to 200 HU": opacitynet.window(work.hu),
        "Lungs": work.lung,
        "Bright and healthy": mean(map(HealthyLast, method.networks)),
        "Lesion": probability,
        f"Lesion, from {opacitynet.LESION_PROBABILITY} on": probability > opacitynet.LESION_PROBABILITY,
        "Sharp, thick, large, without gaps": judged > opacitynet.LESION_PROBABILITY,
    }, work.grid


def cyclegan_stages(method: cyclegan.CycleGAN, scan: Scan, lungs: LungMask) -> tuple[Stages, Grid]:
    """Slice, what the generator makes of it, and how the difference becomes an outline."""
    preset = method.preset
    work = LungSlices.of(scan, lungs, preset.spacing_mm, preset.side)
    image = cyclegan.shown(work.hu, work.lung, preset.background)
    made = cyclegan.made_healthy(method.generator, image, COMPUTE, silent)
    spacing = work.grid.spacing_mm
    excess = cyclegan.filtered(cyclegan.removed(image, made, work.lung), spacing, preset.outlining)
    limit = cyclegan.threshold(excess[work.lung], preset.outlining)
    return {
        "CT, -800 to 100 HU": (cyclegan.window(work.hu) + 1) / 2,
        "Lungs": work.lung,
        "Made healthy": np.where(work.lung, (made + 1) / 2, 0.0),
        "Taken away": excess / 2,
        "Clusters of lesion": work.lung & (excess > limit),
        "Lesions": cyclegan.outline(excess, work.lung, spacing, preset.outlining),
    }, work.grid


def gan3d_stages(method: gan3d.Gan3D, scan: Scan, lungs: LungMask) -> tuple[Stages, Grid]:
    """Slice, what the generator makes of it, the difference, and what the slice network says.

    All on the generator's slices, where predicting gives the slice network the scan's own.
    """
    preset = method.preset
    frame = gan3d.Frame.of(scan, lungs, preset.slice_mm, preset.canvas)
    made = gan3d.healthy(method.networks["generator"], frame.image, preset.canvas, COMPUTE, silent)
    taken = gan3d.removed(frame.image, made) * frame.lung
    score = taken
    if preset.segmenter:
        score = gan3d.segmented(method.networks["segmenter"], frame.image, COMPUTE, silent) * frame.lung
    return {
        "CT, -1000 to 400 HU": gan3d.window(frame.hu),
        "Lungs": frame.lung,
        "Made healthy": made * frame.lung,
        "Taken away": taken,
        "Score of the slice network": score,
        "Lesions": method.threshold.lesion(score),
    }, frame.grid


STAGES: dict[str, Callable[..., tuple[Stages, Grid]]] = {
    "opacitynet": opacitynet_stages,
    "normnet": normnet_stages,
    "cyclegan": cyclegan_stages,
    "gan3d": gan3d_stages,
}


def other_stages(method: base.Method, scan: Scan, lungs: LungMask) -> tuple[Stages, Grid]:
    """What any method gives: its anomaly map, its lesions, and what else there is in its prediction."""
    found = method.predict(scan, lungs, COMPUTE, silent)
    stages = {"CT, -800 to 100 HU": normnet.window(scan.hu), "Lungs": lungs.labels > 0}
    if found.healthy_hu is not None:
        stages["Made healthy"] = normnet.window(found.healthy_hu)
    stages["Anomaly map"] = found.score
    if found.agreement is not None:
        stages["Agreement"] = found.agreement
    if found.classes is not None:
        stages["Ground glass"] = found.classes == GROUND_GLASS
        stages["Consolidation"] = found.classes == CONSOLIDATION
    stages["Lesions"] = found.lesion > 0
    return stages, scan.grid


def draw(stages: Stages, grid: Grid, lung: np.ndarray, k: int, path: Path) -> None:
    """Write one slice of all stages as a picture, cut to the lungs."""
    _, rows, columns = bounding_box(lung, tuple(round(MARGIN_MM / mm) for mm in grid.spacing_mm))
    first = next(iter(stages.values()))
    cut = np.s_[k, rows, columns]
    height, width = (mm * n for mm, n in zip(grid.spacing_mm[1:], first[cut].shape, strict=True))
    lines = -(-len(stages) // COLUMNS)
    figure, axes = pyplot.subplots(
        lines, COLUMNS, figsize=(9, 9 / COLUMNS * lines * (height / width + 0.09)), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, volume) in zip(axes.flat, stages.items(), strict=False):
        mask = volume.dtype == bool
        picture = (first if mask else volume)[cut]
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=grid.spacing_mm[1] / grid.spacing_mm[2])
        if mask and volume[cut].any():
            axis.contour(volume[cut], levels=[0.5], colors=[ORANGE], linewidths=0.9)
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Compute the stages and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--method", default="normnet", help="as for `segment`")
    parser.add_argument("--lungs", default="classical")
    parser.add_argument("--slice", type=int, help="of the method's own grid, from the feet")
    arguments = parser.parse_args()
    scan = read.read(arguments.ct)
    lungs = find_lungs(scan, arguments.lungs)
    stages, grid = STAGES.get(arguments.method, other_stages)(base.load(arguments.method), scan, lungs)
    k = arguments.slice
    if k is None:
        k = int(np.count_nonzero(list(stages.values())[-1], axis=(1, 2)).argmax())
    draw(stages, grid, stages["Lungs"], k, arguments.picture)
    print(f"Slice {k} of {grid.shape[0]}: {arguments.picture}")


if __name__ == "__main__":
    main()
