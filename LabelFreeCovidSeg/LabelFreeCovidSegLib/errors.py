"""The errors a user can meet. Each message says what is wrong, where, and what to do about it."""


class LabelFreeCovidSegError(Exception):
    """Anything that stops the program for a reason that its user can understand."""


class ScanError(LabelFreeCovidSegError):
    """The input is not a chest CT in Hounsfield units that can be worked on."""


class LungError(LabelFreeCovidSegError):
    """No usable lung mask: none found, or the given one does not fit the scan."""


class WeightsError(LabelFreeCovidSegError):
    """A weight file is missing, damaged or not the one its manifest describes."""


class TrainingError(LabelFreeCovidSegError):
    """Training can't start or go on: an unusable cache, or a checkpoint of another run."""


class DataSetError(LabelFreeCovidSegError):
    """A data set is not there as its owners publish it, or one of its expert masks can't be used."""


class OutputError(LabelFreeCovidSegError):
    """The results can't be written or read back."""


class CancelledError(LabelFreeCovidSegError):
    """The user asked to stop."""
