"""`train prepare`, `train fit` and `train export` of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.device import DEVICES, PRECISIONS
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import Progress

LICENCE = "Apache-2.0"

AddArguments = Callable[[argparse.ArgumentParser], None]
Steps = argparse._SubParsersAction  # argparse has no public name for it


def add_arguments(parser: argparse.ArgumentParser, add_job_arguments: AddArguments) -> None:
    """Declare the three steps and their options.

    Args:
        add_job_arguments: declares what every command that takes a while has.
    """
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for add in (_add_prepare, _add_fit, _add_export):
        add_job_arguments(add(steps))


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=sorted(normnet.PRESETS), default="small", help="grid and network (default: small)"
    )


def _add_prepare(steps: Steps) -> argparse.ArgumentParser:
    prepare = steps.add_parser("prepare", help="turn scans into a compact cache")
    prepare.add_argument("list", type=Path, help="TOML list of scans (docs/training.md)")
    prepare.add_argument("-o", "--out", type=Path, required=True, help="folder for the cache")
    prepare.add_argument("--root", type=Path, help="folder that the list's paths start from (default: the list's own)")
    _add_preset(prepare)
    return prepare


def _add_fit(steps: Steps) -> argparse.ArgumentParser:
    fit = steps.add_parser("fit", help="train a network on a cache")
    fit.add_argument("method", choices=["normnet"])
    fit.add_argument("cache", type=Path)
    fit.add_argument("-o", "--out", type=Path, required=True, help="folder for checkpoint and curves")
    _add_preset(fit)
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--iterations", type=int, help="default: the preset's")
    fit.add_argument("--batch", type=int, help="crops an iteration, over all devices (default: the preset's)")
    fit.add_argument(
        "--precision",
        choices=[p for p in PRECISIONS if p != "auto"],
        default="float32",
        help="float32 repeats bit for bit on a CPU; bfloat16 is faster and does not (default: float32)",
    )
    fit.add_argument("--every", type=int, default=100, help="iterations between checkpoints (default: 100)")
    fit.add_argument("--device", choices=DEVICES, default="auto")
    fit.add_argument("--devices", type=int, default=1, help="how many GPUs (default: 1)")
    fit.add_argument("--workers", type=int, default=0, help="processes that draw crops; 0 inside Slicer (default: 0)")
    fit.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    return fit


def _add_export(steps: Steps) -> argparse.ArgumentParser:
    export = steps.add_parser("export", help="turn checkpoints into weights for segmenting")
    export.add_argument("runs", type=Path, nargs="+", help="folders of `fit`, one a voting network")
    export.add_argument("--cache", type=Path, required=True, help="the cache they were trained on")
    export.add_argument("-o", "--out", type=Path, default=weights.folder(), help="model store (default: the program's)")
    export.add_argument("--version", required=True)
    return export


def run(arguments: argparse.Namespace, progress: Progress) -> str:
    """Do one step, and say in a sentence what came of it."""
    return {"prepare": _prepare, "fit": _fit, "export": _export}[arguments.step](arguments, progress)


def _prepare(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib.training import prepare, scanlist

    preset = normnet.PRESETS[arguments.preset]
    listed = scanlist.read(arguments.list, arguments.root)
    cache = prepare.prepare(listed, arguments.out, preset.spacing_mm, normnet.BRIGHT_HU, progress)
    litres = sum(scan.lung_ml for scan in cache.scans) / 1000.0
    return f"{arguments.out}: {len(cache.scans)} scans, {litres:.1f} litres of healthy lung."


def _fit(arguments: argparse.Namespace, progress: Progress) -> str:
    import torch

    from LabelFreeCovidSegLib.training import loop
    from LabelFreeCovidSegLib.training.normnet import NormNetTrainee
    from LabelFreeCovidSegLib.training.prepare import open_cache

    preset = normnet.PRESETS[arguments.preset]
    preset = replace(
        preset, batch=arguments.batch or preset.batch, iterations=arguments.iterations or preset.iterations
    )
    cache = open_cache(arguments.cache)
    torch.manual_seed(arguments.seed)
    settings = loop.Settings(
        seed=arguments.seed, iterations=preset.iterations, batch=preset.batch, precision=arguments.precision,
        every=arguments.every, device=arguments.device, devices=arguments.devices, workers=arguments.workers,
    )  # fmt: skip
    recipe = {
        "method": arguments.method,
        "preset": preset.name,
        "seed": settings.seed,
        "iterations": settings.iterations,
        "batch": settings.batch,
        "precision": settings.precision,
        "scans": [scan.name for scan in cache.scans],
    }
    checkpoint = loop.fit(NormNetTrainee(preset, cache), settings, recipe, arguments.out, arguments.resume, progress)
    return f"{checkpoint}: trained for {settings.iterations} iterations."


def _export(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib.errors import TrainingError
    from LabelFreeCovidSegLib.training import loop
    from LabelFreeCovidSegLib.training.prepare import open_cache

    cache = open_cache(arguments.cache)
    states, recipes = {}, []
    for run_folder in arguments.runs:
        recipe, iteration, tensors = loop.read_checkpoint(run_folder / loop.CHECKPOINT)
        if iteration != recipe["iterations"] or recipe["scans"] != [scan.name for scan in cache.scans]:
            raise TrainingError(f"{run_folder}: not trained to its end on {arguments.cache}. Run `fit --resume`.")
        states[f"{recipe['method']}-{recipe['preset']}-{recipe['seed']}.safetensors"] = loop.network_state(tensors)
        recipes.append(recipe)
    shared = {key: value for key, value in recipes[0].items() if key not in ("seed", "scans", "method")}
    entry = weights.Entry(
        name=recipes[0]["method"],
        version=arguments.version,
        files={},
        recipe={**shared, "seeds": [recipe["seed"] for recipe in recipes]},
        scans=[asdict(scan) | {"blocks": len(scan.blocks)} for scan in cache.scans],
        licence=LICENCE,
        licence_confirmed=False,
        citation=normnet.CARD.citation,
        expects="Chest CT in Hounsfield units, whole lungs, any slice thickness up to 5 mm; lungs found beforehand.",
    )
    written = weights.store_entry(entry, states, arguments.out)
    return f"{arguments.out}: {written.label}."
