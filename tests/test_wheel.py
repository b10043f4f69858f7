"""What `pip install` brings: the packages whole, their data, the shipped workflows, and nothing of the tests."""

import os
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from nvg_nodes.standalone import shipped
from nvg_nodes.standalone.workflow import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The paths inside the wheel; nothing is packed for it."""
    return {file.distribution_path.replace(os.sep, "/") for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_holds_the_packages_and_their_data(files: set[str]) -> None:
    for package in ("nvg_model", "nvg_nodes", "training"):
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert there and not there - files, "modules are missing"
        assert f"{package}/py.typed" in files
    assert "nvg_model/weights/emoji64.safetensors" in files and "nvg_nodes/web/docs/NVGGenerate.md" in files
    workflows = {path.name for path in (ROOT / "workflows").glob("*.json")}
    assert len(workflows) > 9 and not {f"nvg_nodes/workflows/{name}" for name in workflows} - files
    assert "nvg_nodes/workflows/input/example.png" in files  # the picture that they load


def test_the_wheel_holds_nothing_else(files: set[str]) -> None:
    assert {path.split("/")[0] for path in files} == {"nvg_model", "nvg_nodes", "training"}
    assert not [path for path in files if path.endswith((".pyc", ".toml~")) or "__pycache__" in path]


def test_the_changelog_speaks_of_the_version() -> None:
    version = WheelBuilder(str(ROOT)).metadata.version
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    sections = [line for line in lines if line.startswith("## ")]
    assert sections[0] == "## [Unreleased]" and sections[1].startswith(f"## [{version}] - 2")


@pytest.mark.parametrize("name", ["Generate", "generate", "01 Generate", "01 Generate.json", "Generate.json"])
def test_a_shipped_workflow_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find(name) == shipped.folder() / "01 Generate.json"


def test_a_file_of_ones_own_goes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "03 Generate.json").write_text("{}")
    assert shipped.find("Generate") == Path("03 Generate.json")
    assert shipped.find("elsewhere/Generate.json") == Path("elsewhere/Generate.json")  # refused when it is read


def test_a_name_that_is_none_lists_those_that_are(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["Genrate"]) == 2
    assert "'Genrate'; those that come with NVG are Generate, Batch grid, " in capsys.readouterr().err
