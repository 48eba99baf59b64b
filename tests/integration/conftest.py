import jax
import pytest


@pytest.fixture(autouse=True)
def _rank_promotion():
    # Distrax adds a batch of noise to a mean of lower rank; see tests/agents/test_policies.py.
    with jax.numpy_rank_promotion("allow"):
        yield
