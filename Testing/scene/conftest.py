"""What the tests of the bridge to MRML use."""

import pytest
from mrml import any_patient, centres, child, make_results, patient, scene, temporary  # noqa: F401


@pytest.fixture
def ct(scene, patient):  # noqa: F811
    return patient.load()
