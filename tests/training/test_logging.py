"""What a run leaves to read."""

import shutil
import subprocess
from pathlib import Path

import pytest

import training
from training.logging import commit_of

OURS = Path(training.__file__).parent


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit, and in it an untracked copy of a package."""
    (tmp_path / "README").write_text("a stranger's")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_strangers_commit_is_not_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_of(repository / "training") == ""  # copied
    deeper = repository / "venv" / "site-packages"
    deeper.mkdir(parents=True)
    shutil.move(repository / "training", deeper)
    assert commit_of(deeper / "training") == ""  # installed
    alone = shutil.copytree(deeper / "training", repository.parent / f"{repository.name}-alone" / "training")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))  # as git sets it for its hooks
    monkeypatch.setenv("GIT_WORK_TREE", str(alone.parent))
    assert commit_of(alone) == ""


def test_a_strangers_commit_is_not_named_where_the_package_was_committed(repository: Path) -> None:
    git(repository, "add", "training")
    git(repository, "commit", "-q", "-m", "vendored")
    assert commit_of(repository / "training") == ""


def test_our_own_commit_is_named(repository: Path) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "nvg"\n')
    git(repository, "add", "training", "pyproject.toml")
    git(repository, "commit", "-q", "-m", "ours")
    head = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository / "training") == head
    (repository / "README").write_text("changed")
    assert commit_of(repository / "training") == f"{head}+"
