"""Checkpoints of the Hugging Face hub: downloads, with progress, and a sentence for each reason why there is none."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvg_model.errors import CheckpointError, UnreachableError

HUB_FILE = "model.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def download(hub_id: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The file of a hub checkpoint: from the hub's cache, or downloaded into it, resumably.

    Args:
        hub_id: "owner/name" or "owner/name@revision".
        on_progress: called with (bytes done, bytes in all, 0 where unknown), perhaps on another thread; what it raises
            ends the download and is raised here. Never called by huggingface-hub before 1.0.
    Returns:
        Its path; the snapshot folder in it names the exact revision.
    Raises:
        CheckpointError: not a hub id, no such checkpoint, one that asks for an account, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    if not HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"{hub_id!r} is not a hub id; write owner/name or owner/name@revision")
    repository, _, revision = hub_id.partition("@")
    words: dict[str, Any] = {"revision": revision or None}
    raised: list[BaseException] = []
    if on_progress is not None and "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        words["tqdm_class"] = _progress_bar(on_progress, raised)
    try:
        with _quiet():
            path = Path(hf_hub_download(repository, HUB_FILE, **words))
    except Exception as error:  # of the hub's client and of whichever HTTP library it uses: they share no base class
        if raised:
            raise raised[0] from None
        raise _explained(error, repository, revision) from error
    if raised:  # on another thread, where it ended nothing
        raise raised[0]
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client from logging each of its attempts, and hints that are for programmers."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _explained(error: Exception, repository: str, revision: str) -> CheckpointError:
    """Why a file of the hub cannot be had, and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    by_hand = f"download {HUB_FILE} from {page}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UnreachableError(
            f"{repository} is not in the local cache and the hub cannot be reached; where there is a network, "
            f"{by_hand}, copy it here and pass its path"
        )
    if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError as well
        return CheckpointError(
            f"{repository} is gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"the hub has no {repository}, or it is private: check the name, and log in with `hf auth login` or set "
            "HF_TOKEN where it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repository} has no revision {revision or 'main'!r}; see those that it has at {page}")
    if isinstance(error, errors.EntryNotFoundError):
        return CheckpointError(f"{repository} has no {HUB_FILE}, so it is not an NVG checkpoint")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        reason = "the hub does not take the token; log in again with `hf auth login`, or remove HF_TOKEN"
    return CheckpointError(f"{repository} is neither a local file nor a readable hub checkpoint ({reason})")


def _progress_bar(on_progress: Callable[[int, int], None], raised: list[BaseException]) -> type:
    """A class of terminal progress bars for the hub's client. The first bar also reports; what is raised is noted."""
    from tqdm import tqdm

    made: list[Any] = []

    class Bar(tqdm):
        def __init__(self, *given: Any, **words: Any) -> None:
            super().__init__(*given, **words)
            self.bytes = int(words.get("initial") or 0)  # self.n stands still where the terminal's bar is off
            made.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            self.bytes += int(n or 0)
            if self is made[0]:  # the client may make a second one, for what comes over the network
                try:
                    on_progress(self.bytes, int(self.total or 0))
                except BaseException as error:
                    raised.append(error)
                    raise
            return shown

    return Bar
