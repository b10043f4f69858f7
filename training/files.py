"""Files that are whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from nvg_model import files
from training.errors import TrainingError


@contextmanager
def replacing(
    path: Path, message: str = "{path} could not be written ({error}); free some room or choose another folder"
) -> Iterator[Path]:
    """`nvg_model.files.replacing`, with a sentence for what can go wrong.

    Args:
        message: of the error, with {path} and {error} in it.
    Raises:
        TrainingError: it could not be written; what was at `path` before is intact.
    """
    try:
        with files.replacing(path) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        raise TrainingError(message.format(path=path, error=error)) from error


def remove_partials(folder: Path) -> None:
    """Removes the leftovers of killed processes from a folder that no other process writes to."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)
