import pytest
import torch
from hypothesis import settings

settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def global_random_state():
    """The global random state must be the same after the test as before."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
