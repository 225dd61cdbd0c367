"""Run inside Slicer by run_in_slicer.sh: the module's own test, and its result as the exit code."""

import unittest

import slicer

from LabelFreeCovidSeg import LabelFreeCovidSegTest

names = unittest.TestLoader().getTestCaseNames(LabelFreeCovidSegTest)
result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(map(LabelFreeCovidSegTest, names)))
slicer.util.exit(0 if result.wasSuccessful() else 1)
