"""Dice on the phantom's planted lesions, beside what a perfect network reaches through the same post-processing.

    python Testing/benchmarks/phantom.py [--seed 0] [--precision auto]

The last columns are the ceiling and what is left if the true lungs are given.
"""

import argparse

from LabelFreeCovidSegLib import device, lungs, phantom
from LabelFreeCovidSegLib.evaluation import planted
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import silent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=device.PRECISIONS, default="auto")
    arguments = parser.parse_args()
    model = normnet.load()
    compute = device.choose("auto", arguments.precision)
    print(f"{model.weights}, phantom seed {arguments.seed}, {compute.device} {compute.precision}")
    made = phantom.make(arguments.seed)
    found, true = lungs.find_lungs(made.scan), LungMask(made.lungs, "phantom")
    columns = {
        "found": model.predict(made.scan, found, compute, silent).lesion,
        "perfect": planted.perfect(made, found, model.preset),
        "found, true lungs": model.predict(made.scan, true, compute, silent).lesion,
        "perfect, true lungs": planted.perfect(made, true, model.preset),
    }
    tables = [planted.means(planted.score(lesion, made)) for lesion in columns.values()]
    print(f"{'Dice':30}" + "".join(f"{name:>22}" for name in columns))
    for kind, radius in sorted(tables[0]):
        print(f"{kind:22}{radius:5.0f} mm" + "".join(f"{table[kind, radius]:22.2f}" for table in tables))
    false = [100 * planted.false_share(lesion, made) for lesion in columns.values()]
    print(f"{'false marks, % of lung':30}" + "".join(f"{share:22.2f}" for share in false))
    healthy = phantom.make(arguments.seed, lesions=())
    mask = lungs.find_lungs(healthy.scan)
    lesion = model.predict(healthy.scan, mask, compute, silent).lesion
    print(f"no lesion planted: {100 * planted.false_share(lesion, healthy):.2f} % of the lung marked")


if __name__ == "__main__":
    main()
