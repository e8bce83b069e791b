"""What several tests of models use."""

import pytest

from tests.models.two_processes import work
from tests.several import on_processes


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """What two gloo processes compute: the mean of their losses and of their gradients, for each model."""
    out = tmp_path_factory.mktemp("two")
    on_processes(2, work, out)
    return out
