"""Whether bfloat16 leaves the mask as float32 has it: Dice of the two, and seconds of each.

python Testing/benchmarks/precision.py CT [CT ...]
"""

import sys
import time
from pathlib import Path

from LabelFreeCovidSegLib import lungs, read
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import silent


def main() -> None:
    """Print a line a scan."""
    model = normnet.load()
    for path in map(Path, sys.argv[1:]):
        scan = read.read(path)
        mask = lungs.find_lungs(scan)
        masks, seconds = [], []
        for precision in ("float32", "bfloat16"):
            started = time.perf_counter()
            masks.append(model.predict(scan, mask, Compute("cpu", precision), silent).lesion > 0)
            seconds.append(time.perf_counter() - started)
        dice = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        print(f"{path.parent.name}: Dice {dice:.4f}, float32 {seconds[0]:.1f} s, bfloat16 {seconds[1]:.1f} s")


if __name__ == "__main__":
    main()
