"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the block has ended well and all is on the disk.

    Folders that are missing are made. What was at `path` before is intact until then.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        partial.replace(path)
        if os.name == "posix":  # other systems do not open folders
            _flush_folder(path.parent)  # the new name is on the disk only when the folder is
    finally:
        with suppress(OSError):  # there is nothing to remove where nothing could be written
            partial.unlink(missing_ok=True)


def _flush_folder(path: Path) -> None:
    """Until the names in a folder are on the disk, where the file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # it has no such request for folders
            raise
    finally:
        os.close(descriptor)
