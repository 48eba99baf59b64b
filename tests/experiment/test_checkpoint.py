import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from errors import UserError
from experiment import storage
from experiment.checkpoint import Checkpointer

ROOT = Path(__file__).parents[2]


class Part(NamedTuple):
    weights: jax.Array
    nothing: None
    empty: tuple


@pytest.fixture
def sharding():
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    return NamedSharding(jax.make_mesh((2,), ("seed",)), PartitionSpec("seed"))


def make_state(sharding=None):
    """Returns a state with every kind of leaf, NaNs and negative zeros among them."""
    rng = np.random.default_rng(0)
    special = np.array([[0x7FC12345, 0x80000000], [0xFF800000, 0x00000001]], np.uint32)
    params = {"Dense/0.a": {"kernel": rng.normal(size=(2, 3, 5)).astype(np.float32)}}
    state = {
        "special": special.view(np.float32),
        "half": np.arange(8, dtype=jnp.bfloat16).reshape(2, 4) / 3,
        "ints": np.array([[-(2**31)], [2**31 - 1]], np.int32),
        "bools": np.array([True, False]),
        "raw_key": np.asarray(jax.random.key_data(jax.random.split(jax.random.key(7), 2))),
        "none_of_it": np.zeros((2, 0, 3), np.float32),
        "part": Part(rng.normal(size=(2, 2)).astype(np.float32), None, ()),
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "list": [np.zeros((2,), np.int8), (np.ones((2,), np.uint32),)],
    }
    state["opt_state"] = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (2, *x.shape)), state["opt_state"]
    )
    state["keys"] = jax.random.split(jax.random.key(3), 2)
    state["other_keys"] = jax.random.split(jax.random.key(3, impl="rbg"), 2)
    return jax.device_put(state, sharding) if sharding else jax.tree.map(jnp.asarray, state)


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_bit_identical(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert list(map(bits, jax.tree.leaves(one))) == list(map(bits, jax.tree.leaves(two)))


def example_of(state):
    def struct(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(struct, state)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("as_struct", [False, True])
def test_every_kind_of_leaf_returns_bit_identical_with_its_sharding(tmp_path, sharding, as_struct):
    state = make_state(sharding)
    Checkpointer(tmp_path / "new").save(12, state, {})
    example = example_of(state) if as_struct else state
    step, restored, driver = Checkpointer(tmp_path / "new").restore(example)
    assert (step, driver) == (12, {})
    assert_bit_identical(restored, state)
    for leaf in jax.tree.leaves(restored):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    drawn = jax.vmap(jax.random.uniform)
    np.testing.assert_array_equal(drawn(restored["keys"]), drawn(state["keys"]))


def test_state_on_the_default_device_stays_free_to_move(tmp_path):
    state = make_state()
    Checkpointer(tmp_path).save(0, state, {})
    _, restored, _ = Checkpointer(tmp_path).restore(state)
    assert_bit_identical(restored, state)
    assert [x.committed for x in jax.tree.leaves(restored)] == [
        x.committed for x in jax.tree.leaves(state)
    ]


def test_sharding_of_the_example_wins(tmp_path, sharding):
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    Checkpointer(tmp_path).save(0, {"x": jnp.asarray(value)}, {})
    example = {"x": jax.ShapeDtypeStruct((2, 3), np.float32, sharding=sharding)}
    _, restored, _ = Checkpointer(tmp_path).restore(example)
    assert restored["x"].sharding == sharding
    np.testing.assert_array_equal(restored["x"], value)


def test_driver_values_return_bit_identical(tmp_path):
    rng = np.random.default_rng(1)
    logs = [rng.normal(size=(n, 3)).astype(np.float32) for n in (0, 4, 1)]
    driver = {
        "logs": logs,
        "wide": rng.normal(size=3),
        "scalar": np.float32(0.1),
        "flag": True,
        "none": None,
        "third": 1 / 3,
        "state": {"position": 2**127 - 1, "name": "PCG64 ±"},
        "nested": [[1, [2.5]], {}],
    }
    Checkpointer(tmp_path).save(1, {}, driver)
    _, _, restored = Checkpointer(tmp_path).restore({})
    for old, new in zip(logs, restored.pop("logs"), strict=True):
        assert bits(old) == bits(new)
    assert bits(restored.pop("wide")) == bits(driver["wide"])
    assert isinstance(restored["scalar"], np.float32)
    del driver["logs"], driver["wide"]
    assert restored == driver


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([object()]), {"__array__": "a"}])
def test_what_only_pickle_could_store_is_refused(tmp_path, value):
    with pytest.raises(TypeError):
        Checkpointer(tmp_path).save(1, {}, {"value": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_no_more_and_no_fewer_than_the_newest_are_kept(tmp_path, keep):
    checkpointer = Checkpointer(tmp_path, keep)
    for step in range(7):
        checkpointer.save(step, {}, {})
        newest = range(max(0, step + 1 - keep), step + 1)
        assert names(tmp_path) == [f"latest_{number:06d}" for number in newest]


def test_the_same_step_may_be_saved_again(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step, value in [(10, 0), (20, 1), (20, 2)]:
        checkpointer.save(step, {"x": jnp.int32(value)}, {"value": value})
    assert len(names(tmp_path)) == 2
    step, state, driver = checkpointer.restore({"x": jnp.int32(0)})
    assert (step, int(state["x"]), driver) == (20, 2, {"value": 2})


def test_nothing_stored_gives_none(tmp_path):
    assert Checkpointer(tmp_path / "absent").restore({}) is None
    assert Checkpointer(tmp_path / "absent").restore_best({}) is None
    assert not (tmp_path / "absent").exists()


def test_best_is_separate_from_latest(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for value in (1.0, 2.0):
        checkpointer.save_best({"w": jnp.float32(value)}, {"return": value})
    checkpointer.save(5, {"x": jnp.int32(5)}, {})
    params, info = Checkpointer(tmp_path).restore_best({"w": jnp.float32(0)})
    assert (float(params["w"]), info) == (2.0, {"return": 2.0})
    assert len(names(tmp_path)) == 2


def test_leftovers_are_ignored_by_readers_and_removed_by_the_next_save(tmp_path):
    Checkpointer(tmp_path).save(3, {"x": jnp.int32(3)}, {})
    (tmp_path / "tmp_123_latest_000009").mkdir()
    step, _, _ = Checkpointer(tmp_path).restore({"x": jnp.int32(0)})
    assert step == 3
    assert names(tmp_path) == ["latest_000000", "tmp_123_latest_000009"]
    Checkpointer(tmp_path).save(4, {"x": jnp.int32(4)}, {})
    assert names(tmp_path) == ["latest_000001"]


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove", "no list of files"])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, capfd, damage):
    checkpointer = Checkpointer(tmp_path, keep=2)
    state = {"x": jnp.arange(50_000, dtype=jnp.float32)}
    checkpointer.save(1, state, {})
    checkpointer.save(2, state, {})
    newest = tmp_path / "latest_000001"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[1000] ^= 1
    if damage == "flip a bit":
        largest.write_bytes(content)
    elif damage == "cut":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        largest.unlink()
    else:
        (newest / "files.json").unlink()
    step, restored, _ = checkpointer.restore(state)
    assert step == 1
    assert_bit_identical(restored, state)
    assert "latest_000001" in capfd.readouterr().err
    checkpointer.save(3, state, {})
    assert checkpointer.restore(state)[0] == 3


def test_only_damaged_ones_is_an_error_not_a_fresh_start(tmp_path):
    Checkpointer(tmp_path).save(1, {"x": jnp.int32(1)}, {})
    (tmp_path / "latest_000000" / "values" / "values.json").write_text("{")
    with pytest.raises(UserError, match=r"No checkpoint .*\n.*values/values\.json"):
        Checkpointer(tmp_path).restore({"x": jnp.int32(1)})


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({"x": jnp.zeros((2, 5))}, r"x: stored float32\[2, 3\], now float32\[2, 5\]"),
        ({"x": jnp.zeros((2, 3), jnp.int32)}, r"now int32\[2, 3\]"),
        ({"y": jnp.zeros((2, 3))}, r"x: stored float32\[2, 3\], now -"),
    ],
)
def test_another_structure_shape_or_dtype_is_named(tmp_path, example, words):
    Checkpointer(tmp_path).save(1, {"x": jnp.zeros((2, 3))}, {})
    with pytest.raises(UserError, match=words):
        Checkpointer(tmp_path).restore(example)


_SAVE_FOREVER = """
import sys
import jax, jax.numpy as jnp
from pathlib import Path
from experiment.checkpoint import Checkpointer
checkpointer = Checkpointer(Path(sys.argv[1]))
state = {"x": jnp.zeros(500_000), "key": jax.random.key(0)}
found = checkpointer.restore(state)
step = found[0] if found else 0
while True:
    step += 1
    state = {"x": jnp.full(500_000, step, jnp.float32), "key": jax.random.key(step)}
    checkpointer.save(step, state, {"step": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_loadable_checkpoint(tmp_path):
    delays = random.Random(0)
    example = {"x": jnp.zeros(500_000), "key": jax.random.key(0)}
    command = [sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)]
    last = 0
    for _ in range(5):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            announced = int(process.stdout.readline())
            time.sleep(delays.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
            announced = int((process.stdout.read().split() or [announced])[-1])
        step, state, driver = Checkpointer(tmp_path).restore(example)
        assert step in (announced, announced + 1)  # renamed, but killed before saying so
        assert step > last
        assert driver == {"step": step}
        assert_bit_identical(
            state, {"x": jnp.full(500_000, step, jnp.float32), "key": jax.random.key(step)}
        )
        last = step


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("too_large", ["state", "driver"])
def test_full_disk_names_folder_and_sizes_and_keeps_the_previous(small_disk, capfd, too_large):
    checkpointer = Checkpointer(small_disk)
    checkpointer.save(7, {"x": jnp.arange(10)}, {})
    big = np.random.default_rng(0).normal(size=1_000_000)
    state = {f"x{i}": jnp.asarray(big, jnp.float32) for i in range(5)}
    arguments = (state, {}) if too_large == "state" else ({"x": jnp.arange(10)}, {"log": big})
    with pytest.raises(UserError) as error:
        checkpointer.save(8, *arguments)
    message = str(error.value)
    assert f"{small_disk}: there is no space left" in message
    assert "MiB free" in message
    assert "step 7 is intact" in message
    assert ("takes 20.1 MiB" in message) == (too_large == "state")
    assert names(small_disk) == ["latest_000000"]
    assert checkpointer.restore({"x": jnp.arange(10)})[0] == 7
    assert capfd.readouterr().err == ""


def test_file_size_limit_is_reported_like_a_full_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(7, {"x": jnp.arange(10)}, {})
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match="step 7 is intact"):
            checkpointer.save(8, {"x": jnp.arange(1_000_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == ["latest_000000"]


def test_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"choose another folder.*There is no earlier one"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, {"x": jnp.arange(3)}, {})


def test_no_pickle_is_written_or_loaded(tmp_path):
    Checkpointer(tmp_path).save(1, {"x": jnp.arange(3)}, {"a": np.arange(3)})
    values = tmp_path / "latest_000000" / "values"
    np.savez(values / "arrays.npz", a0=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        storage.restore_dict(values)
    record = json.loads((tmp_path / "latest_000000" / "arrays" / "leaves.json").read_text())
    assert record == [["x", [3], "int32", None]]
