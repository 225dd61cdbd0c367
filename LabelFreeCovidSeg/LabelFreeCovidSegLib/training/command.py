"""`train prepare`, `fit`, `export` and `leave-one-out` of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from LabelFreeCovidSegLib.device import DEVICES, PRECISIONS
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.training.recipes import CACHES, REGISTRY

AddArguments = Callable[[argparse.ArgumentParser], None]
Steps = argparse._SubParsersAction  # argparse has no public name for it


def add_arguments(parser: argparse.ArgumentParser, add_job_arguments: AddArguments) -> None:
    """Declare the steps and their options.

    Args:
        add_job_arguments: declares what every command that takes a while has.
    """
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for add in (_add_prepare, _add_fit, _add_export, _add_leave_one_out):
        add_job_arguments(add(steps))


def _whole(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `least` on."""

    def number(text: str) -> int:
        with suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} on.")

    return number


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", choices=list(REGISTRY), metavar="METHOD", help=f"one of: {', '.join(REGISTRY)}")


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help="grid and network (default: what ships)")


def _add_prepare(steps: Steps) -> argparse.ArgumentParser:
    prepare = steps.add_parser("prepare", help="turn scans into a compact cache")
    prepare.add_argument(
        "cache", choices=list(reversed(CACHES)), metavar="METHOD",
        help=f"one of: {', '.join(reversed(CACHES))}",
    )  # fmt: skip
    prepare.add_argument("lists", type=Path, nargs="+", metavar="list", help="TOML list of scans (docs/training.md)")
    prepare.add_argument("-o", "--out", type=Path, required=True, help="folder for the cache")
    prepare.add_argument("--root", type=Path, help="folder that the list's paths start from (default: the list's own)")
    _add_preset(prepare)
    return prepare


def _add_fit(steps: Steps) -> argparse.ArgumentParser:
    fit = steps.add_parser("fit", help="train a network on a cache")
    _add_plan(fit, "folder for checkpoint and curves")
    fit.add_argument("--seed", type=_whole(0), default=0)
    fit.add_argument("--without", metavar="NAME", action="append", default=[], help="a scan to leave out; repeatable")
    fit.add_argument("--devices", type=_whole(1), default=1, help="how many GPUs (default: 1)")
    fit.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    return fit


def _add_plan(parser: argparse.ArgumentParser, out: str) -> None:
    """What every step that trains has."""
    _add_method(parser)
    parser.add_argument("cache", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help=out)
    _add_preset(parser)
    parser.add_argument("--iterations", type=_whole(1), help="default: the preset's")
    parser.add_argument(
        "--batch", type=_whole(1), help="samples an iteration, over all devices (default: the preset's)"
    )
    parser.add_argument(
        "--precision",
        choices=[p for p in PRECISIONS if p != "auto"],
        default="float32",
        help="float32 repeats bit for bit on a CPU; bfloat16 is faster and does not (default: float32)",
    )
    parser.add_argument(
        "--hold-out", metavar="NAME", help="the scan that chooses the checkpoint, never trained on (default: the last)"
    )
    parser.add_argument(
        "--every", type=_whole(1), default=100, help="iterations between checkpoints, and validations (default: 100)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--workers", type=_whole(0), default=0, help="processes that draw samples; 0 inside Slicer (default)"
    )


def _add_export(steps: Steps) -> argparse.ArgumentParser:
    export = steps.add_parser("export", help="turn runs into weights for segmenting")
    export.add_argument("runs", type=Path, nargs="+", help="folders of `fit`: one, or one a voting network")
    export.add_argument("--cache", type=Path, required=True, help="the cache they were trained on")
    export.add_argument("-o", "--out", type=Path, help="model store (default: the program's)")
    export.add_argument("--version", required=True)
    return export


def _add_leave_one_out(steps: Steps) -> argparse.ArgumentParser:
    left = steps.add_parser("leave-one-out", help="train once without each scan, to be judged on that scan")
    _add_plan(left, "folder for FOLD/seed-N (runs) and FOLD/models; what is there already is gone on with")
    left.add_argument(
        "--fold", metavar="A[,B]", action="append", required=True, help="scans to leave out together; repeatable"
    )
    left.add_argument("--seeds", type=_whole(0), nargs="+", default=[0], help="one run each (default: 0)")
    return left


def run(arguments: argparse.Namespace, progress: Progress) -> str:
    """Do one step, and say in a sentence what came of it."""
    steps = {"prepare": _prepare, "fit": _fit, "export": _export, "leave-one-out": _leave_one_out}
    return steps[arguments.step](arguments, progress)


def _prepare(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib.training import prepare, recipes, scanlist

    method = recipes.CACHES[arguments.cache]
    preset = recipes.preset(method, arguments.preset)
    listed = scanlist.read(*arguments.lists, root=arguments.root)
    cache = prepare.prepare(method, preset, listed, arguments.out, progress)
    blocks = sum(len(scan.blocks) for scan in cache.scans)
    return f"{arguments.out}: {len(cache.scans)} scans in {blocks} blocks for {arguments.cache}."


def _fit(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib.training import prepare, runs

    plan = runs.Plan.of(
        arguments.method, arguments.preset, arguments.batch, arguments.iterations, seed=arguments.seed,
        precision=arguments.precision, hold_out=arguments.hold_out, without=tuple(arguments.without),
    )  # fmt: skip
    machine = runs.Machine(arguments.every, arguments.device, arguments.devices, arguments.workers)
    cache = prepare.open_cache(arguments.cache, arguments.method)
    file = runs.train(plan, cache, arguments.out, machine, arguments.resume, progress)
    return f"{file}: trained for {plan.preset.iterations} iterations."


def _export(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib import store
    from LabelFreeCovidSegLib.training import runs

    folder = arguments.out or store.folder()
    entry = runs.export(arguments.runs, arguments.cache, folder, arguments.version, progress)
    error = entry.recipe.get("calibration_error")
    calibrated = f" Expected calibration error {error['before']}, calibrated {error['after']}." if error else ""
    return f"{folder}: {entry.label}.{calibrated}"


def _leave_one_out(arguments: argparse.Namespace, progress: Progress) -> str:
    from LabelFreeCovidSegLib.training import leave_one_out, prepare, runs

    plan = runs.Plan.of(
        arguments.method, arguments.preset, arguments.batch, arguments.iterations,
        precision=arguments.precision, hold_out=arguments.hold_out,
    )  # fmt: skip
    machine = runs.Machine(arguments.every, arguments.device, workers=arguments.workers)
    cache = prepare.open_cache(arguments.cache, arguments.method)
    folds = [tuple(fold.split(",")) for fold in arguments.fold]
    stores = leave_one_out.leave_one_out(plan, cache, folds, arguments.seeds, arguments.out, machine, progress)
    return "\n".join(f"{store}" for store in stores)
