"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from training.errors import TrainingError


@contextmanager
def replacing(
    path: Path, message: str = "{path} could not be written ({error}); free some room or choose another folder"
) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the block has ended well and all is on the disk.

    Args:
        message: of the error, with {path} and {error} in it.
    Raises:
        TrainingError: it could not be written; what was at `path` before is intact.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        partial.replace(path)
        if os.name == "posix":  # other systems do not open folders
            _flush_folder(path.parent)  # the new name is on the disk only when the folder is
    except (OSError, SafetensorError) as error:
        raise TrainingError(message.format(path=path, error=error)) from error
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Removes what processes that were killed have left behind in a folder to which no other process writes now."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def _flush_folder(path: Path) -> None:
    """Until the names in a folder are on the disk, where the file system can tell."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # it has no such request for folders
            raise


def _flush(path: Path) -> None:
    """Until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
