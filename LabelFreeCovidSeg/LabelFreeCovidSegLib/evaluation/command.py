"""`evaluate`: its arguments, and what it says at the end."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
from LabelFreeCovidSegLib.session import Session

LUNGS = ("lungnet", "classical", "lungmask", "given")


class _ListData(argparse.Action):
    """Print what to download, and end."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        from LabelFreeCovidSegLib.evaluation import datasets

        print(datasets.listing())
        parser.exit()


def add_arguments(
    parser: argparse.ArgumentParser, add_job_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Declare them."""
    from LabelFreeCovidSegLib.device import DEVICES, PRECISIONS
    from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS
    from LabelFreeCovidSegLib.methods.base import everything

    methods = list(everything())
    parser.add_argument(
        "--methods", nargs="+", choices=methods, metavar="METHOD",
        help=f"one or more of: {', '.join(methods)}; the others are compared with the first (default: all that have "
        "their weights on this computer)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DATA",
        help="NAME=FOLDER for a public data set, a folder of images/ and lesions/ (see --list-data), or the TOML file "
        "that describes one",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=["volume"], metavar="PROTOCOL",
        help=f"one or more of: {', '.join(PROTOCOLS)} (default: volume)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", metavar="OUT", type=Path, required=True, help="folder for results; what is there is gone on with"
    )
    parser.add_argument(
        "--lungs", choices=LUNGS, default="lungnet",
        help="given: those that the experts drew; in pictures, all others stand for finding them in each "
        "(default: lungnet)",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="(default: auto)")
    parser.add_argument("--list-data", action=_ListData, nargs=0, help="say which public data sets are known, and end")
    add_job_arguments(parser)


def run(arguments: argparse.Namespace, session: Session) -> tuple[str, dict[str, Any]]:
    """Evaluate.

    Returns:
        The tables, and the folder and files for a program.

    Raises:
        LabelFreeCovidSegError: some cases failed; the tables of all others are written.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise LabelFreeCovidSegError("Evaluating needs scikit-learn. Install it with `pip install scikit-learn`.")
    from LabelFreeCovidSegLib.evaluation import datasets, tables
    from LabelFreeCovidSegLib.evaluation.run import FILES, Plan, run
    from LabelFreeCovidSegLib.segment_file import Choices

    choices = Choices(lungs=arguments.lungs, device=arguments.device, precision=arguments.precision)
    unique = [
        list(dict.fromkeys(names)) for names in (arguments.methods or ready(), arguments.data, arguments.protocol)
    ]
    plan = Plan(unique[0], [datasets.find(text) for text in unique[1]], unique[2], choices)
    out: Path = arguments.out.absolute()
    made, failed = run(plan, out, session)
    if failed:
        name, error = next(iter(failed.items()))
        raise LabelFreeCovidSegError(
            f"{len(failed)} cases failed. The first, {name}: {error} The tables in {out} are without them; the same "
            "command tries them again."
        )
    written = "\n".join(f"  {name:18}{content}" for name, content in FILES.items())
    fields = {"folder": str(out), "files": {name: str(out / name) for name in FILES}}
    return f"{tables.markdown(made)}\nResults in {out}\n{written}", fields


def ready() -> list[str]:
    """The methods and baselines that have all their weights on this computer, or need none.

    Raises:
        WeightsError: a manifest can't be read.
    """
    from LabelFreeCovidSegLib import store
    from LabelFreeCovidSegLib.methods import base

    return [name for name in base.everything() if all(store.find(network) for network in base.card(name).networks)]
