"""python -m LabelFreeCovidSegLib"""

import sys

from LabelFreeCovidSegLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
