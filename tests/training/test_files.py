"""Files are replaced whole, or stay as they were."""

import errno
import os
import stat
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.files import remove_partials, replacing


def test_a_file_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
    assert synced == [False, True]  # the file, then the folder with its new name


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TrainingError, match="free some room"), replacing(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_the_message_may_be_another(tmp_path: Path) -> None:
    path = tmp_path / "{a}.txt"
    with pytest.raises(TrainingError) as caught, replacing(path, "no {path}: {error}!"):
        raise OSError("full")
    assert str(caught.value) == f"no {path}: full!"


def test_a_file_system_that_cannot_flush_folders_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")  # as on some network shares
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("whole")
    (tmp_path / ".a.txt.123.partial").write_text("half")
    remove_partials(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
