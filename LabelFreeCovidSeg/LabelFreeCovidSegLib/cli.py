"""The command line: `python -m LabelFreeCovidSegLib COMMAND ...`.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 cancelled.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib import __version__
from LabelFreeCovidSegLib.console import REPORTERS, Outcome, reporter
from LabelFreeCovidSegLib.errors import CancelledError, LabelFreeCovidSegError
from LabelFreeCovidSegLib.session import CANCELLED_EXIT, Session

if TYPE_CHECKING:
    from LabelFreeCovidSegLib.pipeline import Result
    from LabelFreeCovidSegLib.segment_file import Choices
    from LabelFreeCovidSegLib.store import Stored

DISCLAIMER = "Research software. Not a medical device."


@dataclass(frozen=True)
class Command:
    """A word after the program's name.

    Attributes:
        help: one line for the list of commands.
        add_arguments: declares its arguments; called only if it is the one asked for.
        run: does it.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Session], Outcome]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process if None.

    Raises:
        SystemExit: wrong usage (code 2), `--help` or `--version` (code 0).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(argv).parse_args(argv)
    told = reporter(arguments.progress)
    try:
        with Session(told, arguments.watch_stdin) as session:
            told.done(COMMANDS[arguments.command].run(arguments, session))
        return 0
    except CancelledError as error:
        told.failed("CancelledError", str(error))
        return CANCELLED_EXIT
    except LabelFreeCovidSegError as error:
        told.failed(type(error).__name__, str(error))
        return 1
    except Exception as error:  # the last place where a fault of the program can be told to whoever started it
        traceback.print_exc()
        told.failed(type(error).__name__, f"{type(error).__name__}: {error}")
        return 1
    finally:
        told.close()


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labelfreecovidseg",
        description="COVID-19 pneumonia lesions outlined in chest CT, by networks that never saw a lesion label.",
        epilog=DISCLAIMER,
    )
    parser.add_argument("--version", action="version", version=f"LabelFreeCovidSeg {__version__}")
    parser.set_defaults(progress="none", watch_stdin=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        its_parser = commands.add_parser(name, help=command.help, description=command.help)
        if name in argv[:1]:
            command.add_arguments(its_parser)
    return parser


def _add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that takes a while has."""
    parser.add_argument(
        "--progress", choices=REPORTERS, default="bar", help="json: one JSON object a line (default: bar)"
    )
    parser.add_argument("--watch-stdin", action="store_true", help="cancel when standard input is closed")


def _add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    from LabelFreeCovidSegLib.methods.base import PICTURES

    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "ct", metavar="CT", type=Path, nargs="?", help="a DICOM folder, or a NIfTI, NRRD or MetaImage file in HU"
    )
    what.add_argument(
        "--slices", metavar="FOLDER", type=Path, help="axial slices as 8-bit PNG or JPEG pictures, instead of a CT"
    )
    parser.add_argument(
        "-o", "--out", metavar="OUT", type=Path, help="folder for the results (default: <name of CT>-lesions, here)"
    )
    parser.add_argument(
        "--lungs",
        default="lungnet",
        help="lungnet, classical, lungmask, or the file of a lung mask (default: lungnet); of pictures, a folder of "
        "masks of the same names (default: found in each picture)",
    )
    _add_slices_arguments(parser)
    _add_choices(parser, f"; with --slices {' and '.join(PICTURES)}, too (default: whichever knows such pictures)")


def _add_slices_arguments(parser: argparse.ArgumentParser) -> None:
    """What nobody can see in a picture."""
    group = parser.add_argument_group("only with --slices")
    group.add_argument(
        "--orientation",
        choices=("LP", "LA", "RP", "RA", "PL", "PR", "AL", "AR"),
        help="where rows, then columns, run to: Left, Right, Anterior, Posterior (default: LP, as radiologists see it)",
    )
    group.add_argument(
        "--pixel-mm", type=_pixel_mm, help="size of a pixel, 0.2 to 3 (default: guessed from the lungs' width)"
    )
    group.add_argument("--equalised", action="store_true", help="the pictures were equalised place by place (CLAHE)")
    group.add_argument(
        "--stack",
        action="store_true",
        help="the pictures are neighbouring slices of a scan, in the order of their names",
    )


def _pixel_mm(text: str) -> float:
    with suppress(ValueError):
        if 0.2 <= (value := float(text)) <= 3.0:
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is no size of a pixel of a chest CT. Give millimetres, 0.2 to 3.")


def _add_choices(parser: argparse.ArgumentParser, in_pictures: str = "") -> None:
    """How to segment.

    Args:
        in_pictures: what there is to say of methods where pictures are taken, too.
    """
    from LabelFreeCovidSegLib.device import DEVICES, PRECISIONS
    from LabelFreeCovidSegLib.methods.base import DEFAULT, REGISTRY

    parser.add_argument(
        "--method",
        type=_method,
        metavar="NAME[+NAME...]",
        help=f"{', '.join(REGISTRY)}, or several joined by +, which vote (default: {DEFAULT}){in_pictures}",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="(default: auto)")
    _add_job_arguments(parser)


def _method(name: str) -> str:
    from LabelFreeCovidSegLib.methods import base

    try:
        members = base.members(name)
    except LabelFreeCovidSegError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    for member in members:
        if member in base.BASELINES:
            raise argparse.ArgumentTypeError(f"'{member}' is what `evaluate` compares methods with. Choose a method.")
    return name


def _segment(arguments: argparse.Namespace, session: Session) -> Outcome:
    if arguments.slices:
        return _segment_slices(arguments, session)
    for name in ("orientation", "pixel_mm", "equalised", "stack"):
        if getattr(arguments, name):
            option = "--" + name.replace("_", "-")
            raise LabelFreeCovidSegError(
                f"{option} is for pictures (--slices FOLDER). Leave it out: a CT tells that itself."
            )
    progress = session.reporter.progress
    progress(0.0, "Starting")
    from LabelFreeCovidSegLib import output, segment_file

    out: Path = (arguments.out or default_out(arguments.ct)).absolute()
    result, staged = segment_file.stage(arguments.ct, out, _choices(arguments), session, progress)
    with session.last_step():
        files = output.publish(staged, out, result.scan)
    fields = {"folder": str(out), "files": {name: str(path) for name, path in files.items()}}
    return Outcome(_summary(result, files), fields)


def _segment_slices(arguments: argparse.Namespace, session: Session) -> Outcome:
    session.reporter.progress(0.0, "Starting")
    from LabelFreeCovidSegLib import segment_slices

    if arguments.lungs in ("classical", "lungmask"):
        raise LabelFreeCovidSegError(
            f"--lungs {arguments.lungs} is for a CT. For pictures, name a folder of masks, or leave it out to have the "
            "lungs found."
        )
    out: Path = (arguments.out or default_out(arguments.slices)).absolute()
    choices = segment_slices.Choices(
        arguments.method,
        None if arguments.lungs == "lungnet" else Path(arguments.lungs),
        arguments.orientation or "LP",
        arguments.pixel_mm,
        arguments.equalised,
        arguments.stack,
        arguments.device,
        arguments.precision,
    )
    rows, warnings = segment_slices.run(arguments.slices, out, choices, session)
    lines = [f"{len(rows)} pictures, of which {_count(rows)}"]
    lines += [f"Please note: {warning}" for warning in warnings]
    lines += ["", f"Results in {out}"]
    lines += [f"  {name:18}{content}" for name, content in segment_slices.CONTENTS.items()]
    files = {name: str(out / name) for name in segment_slices.CONTENTS}
    return Outcome("\n".join([*lines, "", DISCLAIMER]), {"folder": str(out), "files": files})


def _count(rows: Sequence[dict[str, Any]]) -> str:
    counts = Counter(row["state"] for row in rows)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) + "."


def _choices(arguments: argparse.Namespace) -> Choices:
    from LabelFreeCovidSegLib.methods.base import DEFAULT
    from LabelFreeCovidSegLib.segment_file import Choices

    return Choices(arguments.method or DEFAULT, arguments.lungs, arguments.device, arguments.precision)


def default_out(ct: Path) -> Path:
    """Where results go if nobody says: `<name of the file or folder>-lesions` in the current folder."""
    path = ct.resolve()
    name = path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem
    return Path(f"{name}-lesions")


def _summary(result: Result, files: Mapping[str, Path]) -> str:
    """What a person wants to see at the end: the numbers, the warnings, and where everything lies."""
    from LabelFreeCovidSegLib.output import NAMES

    regions, band, run = result.measurements.regions, result.measurements.band, result.run
    lines = [f"{'':10}{'lung':>10}{'ground glass':>15}{'consolidation':>15}{'lesion':>10}{'of lung':>10}"]
    lines += [
        f"{region.name:10}{region.lung_ml:7.0f} mL{region.ground_glass_ml:12.1f} mL{region.consolidation_ml:12.1f} mL"
        f"{region.lesion_ml:7.1f} mL{region.lesion_percent:8.1f} %"
        for region in regions
    ]
    lines += [
        f"Consolidation from {band.consolidation_hu:g} HU on, in the CT smoothed by {band.smoothing_mm:g} mm."
        if band
        else "The method itself told ground glass and consolidation apart.",
        f"{run.card.title} on {run.compute.device} in {run.compute.precision}, {sum(run.seconds.values()):.0f} s.",
    ]
    lines += result.scan.notes
    lines += [f"Please note: {warning}" for warning in run.warnings]
    lines += ["", f"Results in {files['report.html'].parent}"]
    lines += [f"  {name:18}{NAMES[name]}" for name in files]
    return "\n".join([*lines, "", DISCLAIMER])


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder that holds the scans, at any depth")
    parser.add_argument(
        "-o", "--out", metavar="OUT", type=Path, required=True, help="folder for the results, one folder a scan"
    )
    parser.add_argument(
        "--lungs", choices=("lungnet", "classical", "lungmask"), default="lungnet", help="(default: lungnet)"
    )
    _add_choices(parser)


def _batch(arguments: argparse.Namespace, session: Session) -> Outcome:
    session.reporter.progress(0.0, "Starting")
    from LabelFreeCovidSegLib import batch

    rows = batch.run(arguments.folder, arguments.out, _choices(arguments), session)
    table = arguments.out.absolute() / batch.TABLE
    failed = [row for row in rows if row.state == batch.FAILED]
    done = sum(row.state == batch.DONE for row in rows)
    if failed:
        raise LabelFreeCovidSegError(
            f"{len(failed)} of {len(failed) + done} scans failed. The first, {failed[0].path}: {failed[0].error} "
            f"{table} says how each scan stands; the same command tries those that failed again."
        )
    return Outcome(
        f"{done} {'scan' if done == 1 else 'scans'} done. Table: {table}\n\n{DISCLAIMER}",
        {"folder": str(table.parent), "table": str(table)},
    )


def _add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, required=True, help="file for the CT, .nii.gz or .nrrd")
    parser.add_argument("--healthy", action="store_true", help="the same chest without lesions")
    _add_job_arguments(parser)


def _sample(arguments: argparse.Namespace, session: Session) -> Outcome:
    session.reporter.progress(0.0, "Making the sample")
    import SimpleITK as sitk

    from LabelFreeCovidSegLib import output, phantom

    path: Path = arguments.out.absolute()
    output.check_new_image(path)
    chest = phantom.make(lesions=()) if arguments.healthy else phantom.make()
    output.write_image(sitk.Cast(chest.image(), sitk.sitkInt16), path)
    return Outcome(f"Sample CT in {path}", {"file": str(path)})


def _methods(arguments: argparse.Namespace, session: Session) -> Outcome:
    from LabelFreeCovidSegLib.methods import consensus
    from LabelFreeCovidSegLib.methods.base import PICTURES, REGISTRY, card

    cards = [card(name) for name in REGISTRY | PICTURES]
    paragraphs = [f"{card.name}: {card.title}\n  {card.summary}\n  {card.citation}" for card in cards]
    return Outcome("\n\n".join([*paragraphs, f"NAME+NAME...: Consensus\n  {consensus.SUMMARY}"]))


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="install FILE")
    install = actions.add_parser("install", help="put weights into your own store")
    install.add_argument("file", metavar="FILE", type=Path, help="a .zip of a store, or its folder")


def _models(arguments: argparse.Namespace, session: Session) -> Outcome:
    from LabelFreeCovidSegLib import store

    if arguments.action == "install":
        lines = [f"Installed {stored.entry.label} in {stored.folder}" for stored in store.install(arguments.file)]
        return Outcome("\n".join(lines))
    all_stored = store.entries()
    used = {stored.entry.name: stored for stored in reversed(all_stored)}
    paragraphs = [_described(stored, stored is used[stored.entry.name]) for stored in all_stored]
    return Outcome("\n\n".join([*paragraphs, f"Your own weights lie in {store.user_folder()}"]))


def _described(stored: Stored, used: bool) -> str:
    """What a user has to know of weights."""
    entry = stored.entry
    hidden = "" if used else ", not used because yours go before it"
    commercial = "yes" if entry.commercial_use else "no"
    if entry.commercial_use and not entry.licence_confirmed:
        commercial += ", once the licences of the training scans are confirmed"
    licence = f"licence {entry.licence}; commercial use: {commercial}"
    return f"{entry.name} {entry.version}: {stored.state}{hidden}\n  {licence}\n  {stored.folder}"


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    from LabelFreeCovidSegLib.training import command

    command.add_arguments(parser, _add_job_arguments)


def _train(arguments: argparse.Namespace, session: Session) -> Outcome:
    from LabelFreeCovidSegLib.training import command

    return Outcome(command.run(arguments, session.reporter.progress))


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from LabelFreeCovidSegLib.evaluation import command

    command.add_arguments(parser, _add_job_arguments)


def _evaluate(arguments: argparse.Namespace, session: Session) -> Outcome:
    from LabelFreeCovidSegLib.evaluation import command

    return Outcome(*command.run(arguments, session))


COMMANDS = {
    "segment": Command(
        "Outline the lesions of one chest CT or of pictures of slices.", _add_segment_arguments, _segment
    ),
    "batch": Command("Outline the lesions of every chest CT in a folder.", _add_batch_arguments, _batch),
    "sample": Command("Make the sample: a procedural chest CT with lesions.", _add_sample_arguments, _sample),
    "methods": Command("List the methods: what they are, and what to cite.", lambda parser: None, _methods),
    "models": Command("List the weights on this computer, or install some.", _add_models_arguments, _models),
    "train": Command("Train a method on unlabelled scans.", _add_train_arguments, _train),
    "evaluate": Command("Measure methods against experts' outlines.", _add_evaluate_arguments, _evaluate),
}
"""To add a command, add a line: its module may be heavy, as long as it is imported inside the functions named here."""
