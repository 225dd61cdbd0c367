"""What the tests of the bridge to MRML use."""

from mrml import any_patient, centres, child, make_results, patient, scene, temporary  # noqa: F401
