import re

import jax
import pytest

from agents.registry import make_agent
from errors import UserError
from experiment import memory, seeds
from tests.integration import tiny


def lifted(num_seeds=2, **changes):
    settings = tiny.config("mbpo", num_seeds=num_seeds, **changes)
    return seeds.lift(make_agent(settings, tiny.spec()), num_seeds)


def stored_bytes(tree):
    """Counts the bytes of arrays that exist; a random key is two 32-bit words."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total += sum(shard.data.nbytes for shard in leaf.addressable_shards)
    return total


@pytest.fixture
def available(monkeypatch):
    def set_available(count):
        monkeypatch.setattr(memory, "_available_bytes", lambda: count)

    return set_available


def test_the_told_size_is_what_the_state_takes(available):
    # 200,000 transitions of 3 + 1 + 1 + 3 + 2 floats are 7.6 MiB, the rest is below 1 %
    agent = lifted(replay_capacity=200_000)
    available(2**62)
    line = memory.check(agent.state_shape, 2)
    total = stored_bytes(agent.init([0, 1]))
    assert 2 * 200_000 * 40 < total < 1.01 * 2 * 200_000 * 40
    assert line == f"Memory: {total / 2**20:.1f} MiB for 2 seed(s); each: replay 7.6 MiB."


def test_a_state_just_too_large_is_refused_before_it_exists(available):
    agent = lifted()
    total = stored_bytes(agent.init([0, 1]))
    available(1.25 * total)
    memory.check(agent.state_shape, 2)
    available(1.25 * total - 1)
    flags = ["num_seeds", "replay_capacity", "rollout.starts", "rollout.retain_steps"]
    pattern = ".*".join(re.escape(f"--config.{flag}") for flag in flags)
    with pytest.raises(UserError, match=pattern):
        memory.check(agent.state_shape, 2)


def test_the_size_is_found_without_allocating():
    agent = lifted(replay_capacity=10**12)  # 40 TB
    with pytest.raises(UserError, match=r"Memory: \d+\.\d GiB for 2 seed"):
        memory.check(agent.state_shape, 2)
