"""How episodes of the continuous cart-pole are counted, and that PETS learns it."""

import pandas as pd
import pytest

from benchmarks import pets_cartpole
from benchmarks.pets_cartpole import Episode
from configs import pets

SMALL = {
    "initial_steps": 20,
    "model.hidden_width": 16,
    "model.hidden_depth": 1,
    "model.train_every": 10,
    "model.max_epochs": 1,
    "planner.horizon": 2,
    "planner.num_candidates": 8,
    "planner.num_elites": 2,
    "planner.num_iterations": 1,
}


def test_episodes_count_from_the_first_that_begins_after_the_random_steps(monkeypatch):
    config = pets.get_config()
    config.update_from_flattened_dict(SMALL)
    monkeypatch.setattr(pets, "get_config", lambda: config)
    episodes = list(pets_cartpole.train(seed=0, most=3))
    assert [episode.episode for episode in episodes] == [1, 2, 3]
    assert all(episode.total < 200 for episode in episodes)
    # a step brings 1, but nothing if the pole falls
    starts = [episode.env_steps - (episode.total + 1) for episode in episodes]
    assert starts[0] >= 20
    assert starts[1:] == [episode.env_steps for episode in episodes[:-1]]


def test_a_seed_is_finished_that_held_the_pole_or_had_all_episodes(tmp_path):
    path = tmp_path / "cartpole.csv"
    assert pets_cartpole.finished(pets_cartpole.read(path), 2) == []
    rows = [(0, 1, 20.0), (0, 2, 200.0), (1, 1, 30.0), (1, 2, 30.0), (2, 1, 199.0)]
    table = pd.DataFrame([Episode(*row, 250, 9.0) for row in rows])
    table.to_csv(path, index=False)
    assert pets_cartpole.finished(pets_cartpole.read(path), 2) == [0, 1]


@pytest.mark.slow
@pytest.mark.long
def test_pets_holds_the_pole():
    assert max(episode.total for episode in pets_cartpole.train(seed=0, most=8)) >= 195
