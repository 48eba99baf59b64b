import json

import jax
import numpy as np
import pytest

from errors import UserError
from experiment import loop, restore
from tests.integration import tiny

SEEDS = [5, 6]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run of two seeds, its configuration and its last state."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = tiny.config("sac", total_steps=164, epoch_length=50, seed=SEEDS[0], num_seeds=2)
    loop.train_and_evaluate(config, workdir)
    run = loop.Run(config, workdir)
    return workdir, config, jax.device_get(run._state)


@pytest.fixture
def stored(trained, tmp_path):
    """A folder with that run's config.json and nothing else, and a function that edits it."""
    path = tmp_path / "config.json"
    path.write_text((trained[0] / "config.json").read_text())

    def edit(change):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return tmp_path, edit


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_latest_checkpoint_is_the_state_the_run_ended_with(trained):
    workdir, config, state = trained
    restored = restore.restore(workdir)
    assert (restored.env_step, restored.seeds) == (164, SEEDS)
    assert restored.config == config
    jax.tree.map(np.testing.assert_array_equal, _data(restored.state), _data(state))
    jax.tree.map(np.testing.assert_array_equal, restored.policy, state.sac.policy)


def test_the_best_checkpoint_is_the_policy_of_the_best_evaluation(trained):
    workdir, _, _ = trained
    restored = restore.restore(workdir, "best")
    tables = [
        np.genfromtxt(workdir / f"metrics/seed_{k}.csv", delimiter=",", names=True) for k in SEEDS
    ]
    means = np.mean([table["evalreturn"] for table in tables], axis=0)
    assert restored.env_step == tables[0]["env_step"][means.argmax()]
    assert restored.state is None
    assert restored.greedy(3)(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 1)


def test_the_folder_stays_as_it_is_even_while_another_process_writes_there(trained):
    workdir, _, _ = trained
    half_written = workdir / "checkpoints" / "tmp_1_latest_000009"
    half_written.mkdir()
    before = listing(workdir)
    for checkpoint in ("latest", "best"):
        restore.restore(workdir, checkpoint)
    assert listing(workdir) == before
    half_written.rmdir()


def test_one_seed_of_the_state_behaves_as_in_the_run(trained):
    workdir, _, state = trained
    restored = restore.restore(workdir)
    observation = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    expected = [
        restored.agent.act(jax.tree.map(lambda x, k=k: x[k], state.sac.policy), (), observation)[0]
        for k in range(2)
    ]
    one_by_one = [
        restored.agent.act(restore.seed_slice(restored.policy, k), (), observation)[0]
        for k in range(2)
    ]
    np.testing.assert_array_equal(one_by_one, expected)
    together = restored.greedy(1)(np.stack([observation, observation]))
    np.testing.assert_allclose(together, expected, rtol=1e-5)
    assert not np.allclose(*together)


def test_fields_that_did_not_exist_yet_have_their_defaults(trained, stored):
    folder, edit = stored
    edit(lambda content: content["config"]["flow"].pop("squash"))
    edit(lambda content: content["config"]["sac"].pop("layer_norm"))
    assert restore.stored_config(folder) == trained[1]


def test_a_field_of_a_later_version_is_refused_with_the_commit(stored):
    folder, edit = stored
    edit(lambda content: content["config"]["model"].update(novelty=1))
    edit(
        lambda content: content["environment"].update(git={"commit": "0123456789", "dirty": False})
    )
    with pytest.raises(
        UserError, match=r"another version .*commit 0123456.*config\.model\.novelty"
    ):
        restore.stored_config(folder)


def test_a_folder_without_checkpoint_says_when_there_will_be_one(stored):
    folder, edit = stored
    with pytest.raises(UserError, match=r"no checkpoint.* 64 steps after its start"):
        restore.restore(folder)
    edit(lambda content: content["config"]["checkpoint"].update(every_epochs=0))
    with pytest.raises(UserError, match=r"config\.checkpoint\.every_epochs=0"):
        restore.restore(folder)


def test_arrays_of_another_architecture_are_named(trained, stored):
    folder, edit = stored
    (folder / "checkpoints").symlink_to(trained[0] / "checkpoints")
    edit(lambda content: content["config"]["sac"].update(hidden_width=9))
    with pytest.raises(UserError, match="not those of this program"):
        restore.restore(folder)


def _data(tree):
    """Returns a tree with keys as numbers."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
