"""Files that are either complete or absent, and disk problems put in words."""

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from errors import UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}
_BLOCK = 1 << 24  # bytes read at a time


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces the content of `path`; whoever reads it sees the old text or the new, never a part.

    Raises:
      OSError: the folder is missing, full or not writable; the old file is then untouched.
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """`write_text_atomically` for bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync(path.parent)


def rename_durably(source: Path, target: Path) -> None:
    """Renames the folder `source` to `target` once everything below `source` is on disk.

    `target` may not exist. After a crash at any moment `target` is absent or complete.
    """
    for folder, _, names in os.walk(source):
        for name in names:
            fsync(Path(folder, name))
        fsync(Path(folder))
    os.rename(source, target)
    fsync(target.parent)


def fsync(path: Path) -> None:
    """Waits until the file, or the list of names in the folder, `path` is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprints(folder: Path) -> dict[str, list[int]]:
    """Returns `[bytes, CRC-32]` of every file below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _crc32(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


@contextlib.contextmanager
def disk_problems_as_user_errors(
    folder: Path, what: str, note: Callable[[], str] = str
) -> Iterator[None]:
    """Turns a full disk or a refused write inside the block into a `UserError`.

    Args:
      folder: the folder written to, named in the message.
      what: what was being written, e.g. "The metrics".
      note: returns a sentence to append to the message; called only on a problem.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = _disk_problem(error, folder)
        if problem is None:
            raise
        raise UserError(
            f"{what} could not be written to {folder}: {problem} {note()}".strip()
        ) from error


def _disk_problem(error: Exception, folder: Path) -> str | None:
    """Returns the problem and its remedy, or None when `error` is not about the disk."""
    code = error.errno if isinstance(error, OSError) else None
    # Array storage reports the operating system's message inside a ValueError, without the number.
    text = "" if isinstance(error, OSError) else str(error)
    if code in _NO_SPACE or any(os.strerror(known) in text for known in _NO_SPACE):
        return f"there is no space left ({free_space(folder)} free). Free some space there."
    if code in _NO_ACCESS or any(os.strerror(known) in text for known in _NO_ACCESS):
        return "you may not write there. Change its permissions or choose another folder."
    if code in _NOT_A_FOLDER:
        return "a file with this name is in the way. Remove it or choose another folder."
    if code == errno.ENOENT and not folder.exists():  # /proc refuses new folders like this too
        return "there is no such folder, and it cannot be created. Choose another one."
    return None


def check_free_space(folder: Path, size: int) -> None:
    """Raises the `OSError` of a full disk unless `size` bytes are free on the disk of `folder`."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def free_space(folder: Path) -> str:
    """Returns the free space on the disk of `folder`, which need not exist, e.g. `"3.1 GiB"`."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return readable_bytes(shutil.disk_usage(folder).free)


def readable_bytes(count: int) -> str:
    """Returns `count` bytes in MiB or GiB, e.g. `"512.0 MiB"`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
