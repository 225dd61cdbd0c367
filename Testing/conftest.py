"""For all tests: the same examples in every run, no time limit that a busy machine would break, and only the weights
that ship.
"""

import os
import tempfile

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Whoever runs the tests may have weights of their own; the tests' children inherit this.
os.environ["LABELFREECOVIDSEG_MODELS"] = os.path.join(tempfile.gettempdir(), "LabelFreeCovidSeg-no-models")
