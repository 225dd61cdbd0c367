"""Wall time and peak memory of one segmentation, as a user starts it.

python Testing/benchmarks/segment.py CT [further options of `segment`]
"""

import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Run it once, into a folder that is thrown away, and print what it said and took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "LabelFreeCovidSegLib", "segment", *sys.argv[1:], "-o", f"{folder}/out"]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kilobytes on Linux
    print(f"{seconds:.1f} s wall, {peak:.2f} GB peak memory")


if __name__ == "__main__":
    main()
