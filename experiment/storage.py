"""What a checkpoint holds, to files and back: a pytree of arrays, and a nested dictionary."""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from errors import UserError

PyTree = Any
_ARRAY = "__array__"  # marks the place of an array in the JSON part of a dictionary


def save_tree(folder: Path, tree: PyTree) -> None:
    """Writes a pytree of JAX arrays (typed keys included) and NumPy arrays into a new `folder`.

    Sharded arrays are written from their shards, without gathering them first.
    """
    leaves, paths = _leaves(tree)
    named = dict(zip(paths, leaves, strict=True))
    data = {path: jax.random.key_data(x) if _is_key(x) else x for path, x in named.items()}
    record = [[path, *_signature(leaf), _key_impl(leaf)] for path, leaf in named.items()]
    folder.mkdir(parents=True)
    (folder / "leaves.json").write_text(json.dumps(record))
    # The array store refuses arrays without elements; their shape is all there is to know.
    data = {path: x for path, x in data.items() if x.size}
    if data:
        with _quiet_libraries(), _array_store() as store:
            store.save(folder.absolute() / "arrays", data)


def restore_tree(folder: Path, example: PyTree) -> PyTree:
    """Reads what `save_tree` wrote.

    Args:
      folder: the folder given to `save_tree`.
      example: pytree with the same structure, shapes and dtypes. Its leaves are arrays or
        `jax.ShapeDtypeStruct`s; results get their sharding, and are NumPy where they are NumPy.

    Raises:
      UserError: the structure, a shape or a dtype differs.
    """
    leaves, paths = _leaves(example)
    record = json.loads((folder / "leaves.json").read_text())
    named = dict(zip(paths, leaves, strict=True))
    wanted = [[path, *_signature(leaf)] for path, leaf in named.items()]
    _check_same_tree(folder, [entry[:3] for entry in record], wanted)
    impls = {path: impl for path, _, _, impl in record}
    full = {path: leaf for path, leaf in named.items() if np.prod(leaf.shape)}
    data: dict[str, Any] = {}
    if full:
        arguments = {path: _restore_argument(leaf) for path, leaf in full.items()}
        with _quiet_libraries(), _array_store() as store:
            request = ocp.args.PyTreeRestore(item=dict.fromkeys(full, 0), restore_args=arguments)
            data = store.restore(folder.absolute() / "arrays", args=request)
    restored = [_like(leaf, data.get(path), impls[path]) for path, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(example), restored)


def save_dict(folder: Path, values: dict[str, Any]) -> None:
    """Writes a dictionary into a new `folder`.

    Args:
      folder: created.
      values: strings, numbers, booleans, None and NumPy arrays and scalars, in lists and in
        dictionaries with string keys, nested at will.

    Raises:
      TypeError: anything else is in it.
    """
    arrays: dict[str, np.ndarray] = {}
    encoded = json.dumps(_encode(values, arrays))
    folder.mkdir(parents=True)
    (folder / "values.json").write_text(encoded)
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)


def restore_dict(folder: Path) -> dict[str, Any]:
    """Reads what `save_dict` wrote; arrays and floats are bit-identical, tuples are lists."""
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        return _decode(json.loads((folder / "values.json").read_text()), dict(arrays))


def tree_bytes(tree: PyTree) -> int:
    """Returns the size of the arrays of `tree` in memory, in bytes."""
    leaves = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]
    return sum(leaf.nbytes for leaf in leaves)


def _leaves(tree: PyTree) -> tuple[list[Any], list[str]]:
    """Returns the leaves and their unique names, e.g. `policy/params/Dense_0/kernel`."""
    with_paths = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    paths = [name(path, simple=True, separator="/") or "tree" for path, _ in with_paths]
    if len(set(paths)) < len(paths):
        raise ValueError(f"two arrays share a name: {sorted(paths)}")
    return [leaf for _, leaf in with_paths], paths


def _signature(leaf: Any) -> tuple[list[int], str]:
    return list(leaf.shape), str(leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str | None:
    return str(jax.random.key_impl(leaf)) if _is_key(leaf) else None


def _restore_argument(leaf: Any) -> ocp.RestoreArgs:
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) or not _is_committed(leaf):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding)


def _is_committed(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return leaf.sharding is not None and getattr(leaf, "committed", True)


def _like(example: Any, value: Any, impl: str | None) -> Any:
    """Returns the stored `value` (None: no elements) as the kind of array that `example` is."""
    if value is None:
        value = np.zeros(example.shape, example.dtype)
        if isinstance(example, jax.Array | jax.ShapeDtypeStruct) and _is_committed(example):
            return jax.device_put(value, example.sharding)
    if isinstance(example, np.ndarray | np.generic):
        return value
    value = jnp.asarray(value)
    return value if impl is None else jax.random.wrap_key_data(value, impl=impl)


def _check_same_tree(folder: Path, stored: list[list], wanted: list[list]) -> None:
    if stored == wanted:
        return
    old = {path: f"{dtype}{shape}" for path, shape, dtype in stored}
    new = {path: f"{dtype}{shape}" for path, shape, dtype in wanted}
    differing = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    lines = [f"  {n}: stored {old.get(n, '-')}, now {new.get(n, '-')}" for n in differing[:5]]
    more = f"\n  and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise UserError(
        f"The arrays in {folder.parent} are not those of this program:\n"
        + "\n".join(lines)
        + f"{more}\nUse the version of the code that wrote them, or start a new --workdir."
    )


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "?biufcSU":
            raise TypeError(f"cannot store an array of {value.dtype} without pickle")
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {_ARRAY: name, "scalar": isinstance(value, np.generic)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key != _ARRAY for key in value):
            raise TypeError(f"keys must be strings other than {_ARRAY!r}, got {list(value)}")
        return {key: _encode(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, arrays) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"cannot store a {type(value).__name__}: {value!r}")


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        array = arrays[value[_ARRAY]]
        return array[()] if value["scalar"] else array
    return {key: _decode(item, arrays) for key, item in value.items()}


@contextlib.contextmanager
def _array_store() -> Iterator[ocp.Checkpointer]:
    # The fastest of the library's layouts on 500 MB of replay: compression halves the size on disk
    # but takes four times as long.
    store = ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, use_compression=False)
    )
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps the storage libraries from logging; what matters reaches the user as an exception."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception:
        # One failed write fails hundreds of pending ones, each logged when it is garbage-collected.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    finally:
        logger.setLevel(level)
