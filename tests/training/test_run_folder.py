"""A run folder knows its data, its weights and who is at work in it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nvg_model
from nvg_model.config import PRESETS
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from training import checkpointing
from training.__main__ import main
from training.distributed import World
from training.errors import TrainingError
from training.recipes import recipe
from training.recipes.base import Recipe
from training.run_folder import alone_in
from training.tokenizer import train_tokenizer


def pictures(folder: Path, classes: str, seed: int = 0, each: int = 4) -> Path:
    """Random pictures of the classes, with the same file names whatever the seed."""
    random = np.random.RandomState(seed)
    for name in classes.split():
        for split in ("train", "held-out"):
            (folder / split / name).mkdir(parents=True)
            for index in range(each):
                pixels = random.randint(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data sets: a and b, the same with other pixels under the same names, with one more, and with other classes."""
    folder = tmp_path_factory.mktemp("sets")
    found = {
        "ab": pictures(folder / "ab", "a b"),
        "pixels": pictures(folder / "pixels", "a b", seed=1),
        "xy": pictures(folder / "xy", "x y"),
        "abc": pictures(folder / "abc", "a b c"),
    }
    found["more"] = shutil.copytree(found["ab"], folder / "more")
    shutil.copy(found["ab"] / "train" / "a" / "0.png", found["more"] / "train" / "a" / "9.png")
    found["moved"] = shutil.copytree(found["ab"], folder / "moved")
    return found


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two checkpoints of other weights."""
    paths = []
    for seed in range(2):
        nvg = NVG(PRESETS["tiny"], ("disc", "ring", "square"))
        nvg.content.initialize()
        nvg.structure.initialize()
        next(nvg.tokenizer.quantizer.parameters()).data.fill_(seed + 1.0)
        paths.append(str(nvg_model.save(nvg, tmp_path_factory.mktemp("start") / "start.safetensors")))
    return paths


def command(*arguments: object) -> int:
    """`python -m training ...` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["training", *map(str, arguments)])
        return main()


QUICK = {
    "tokenizer": ("--steps", 2, "--batch", 4),
    "decoder": ("--steps", 2, "--batch", 4, "--discriminator", "", "--warmup", 1),
    "cache": ("--views", 8),
    "generator": ("--steps", 2, "--batch", 4, "--views", 8),
    "few-step": ("--steps", 2, "--batch", 4, "--table-images", 2, "--teacher-steps", 2),
}


@pytest.fixture(scope="module")
def finished(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a and b, with everything in it that a run can have."""
    folder = tmp_path_factory.mktemp("finished")
    for name, options in QUICK.items():
        assert command(name, "smoke", "--data", sets["ab"], "--folder", folder, *options) == 0
    return folder


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file but the locks."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")}
    return {str(path): (one.st_size, one.st_mtime_ns) for path, one in found.items()}


OTHERS = {
    "xy": "was trained on 2 classes (a, b), not on 2 (x, y): give what it had, or choose another --folder",
    "abc": "was trained on 2 classes (a, b), not on 3 (a, b, c): give what it had, or choose another --folder",
    "pixels": "was trained on the 8 pictures in ",
    "more": "was trained on the 8 pictures in ",
}


# The classes of few-step are its generator's: pictures of others are left out, and named.
CASES = [(name, other) for name in QUICK for other in OTHERS if name != "few-step" or other in ("pixels", "more")]


@pytest.mark.parametrize(("name", "other"), CASES)
def test_other_data_is_refused_even_by_a_finished_run(
    name: str, other: str, sets: dict[str, Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    capsys.readouterr()
    status = command(name, "smoke", "--data", sets[other], "--folder", finished, *QUICK[name])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and said.startswith("error: ") and OTHERS[other] in said, said
    if other in ("pixels", "more"):
        assert f"not on the {9 if other == 'more' else 8} in {sets[other]}" in said and "identity.json" in said
    assert contents(finished) == before


def test_few_steps_want_the_classes_of_their_generator(
    sets: dict[str, Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--data", sets["xy"], "--folder", finished, *QUICK["few-step"])
    assert command("few-step", "smoke", *options) == 2
    assert "class 'a' has no pictures in " in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in QUICK if name != "cache"])
def test_a_finished_run_says_so_and_does_nothing(
    name: str, sets: dict[str, Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its data has moved."""
    before = contents(finished)
    capsys.readouterr()
    assert command(name, "smoke", "--data", sets["moved"], "--folder", finished, *QUICK[name]) == 0
    out = capsys.readouterr().out
    folder = finished / name
    assert out == f"{name}: finished at step 2, nothing to do in {folder}; more --steps would go on from there\n"
    after = contents(finished)
    changed = {path for path in before if before[path] != after[path]}
    assert changed <= {str(folder / "identity.json")} and before.keys() == after.keys()


def changed(**settings: Any) -> Recipe:
    base = recipe("smoke")
    quick = {"steps": 2, "batch": 4, "warmup": 1} | settings
    return dataclasses.replace(base, tokenizer=dataclasses.replace(base.tokenizer, **quick))


def test_what_changed_is_said_on_the_first_line(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tokenizer"
    train_tokenizer(changed(), sets["ab"], tmp_path)
    train_tokenizer(changed(steps=3, ema=0.5, learning_rate=2e-3), sets["ab"], tmp_path)
    train_tokenizer(changed(steps=4, ema=0.5, learning_rate=2e-3), sets["ab"], tmp_path)
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("tokenizer: ") and "held" not in line
    ]
    assert lines == [
        f"tokenizer: starts in {folder} with 8 pictures of 2 classes (a, b), 2 steps",
        f"tokenizer: goes on in {folder} at step 2 of 3; changed: steps 2 -> 3, ema 0.999 -> 0.5, "
        "learning_rate 0.001 -> 0.002",
        f"tokenizer: goes on in {folder} at step 3 of 4; changed: steps 3 -> 4",
    ]
    starts = checkpointing.read(folder / "state-00000004.pt")["meta"]["starts"]
    assert [(one["step"], one["recipe"]["tokenizer"]["ema"]) for one in starts] == [(0, 0.999), (2, 0.5), (3, 0.5)]


def test_pictures_that_were_changed_on_purpose_go_on(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the sentence says; other classes do not, even then."""
    own = shutil.copytree(sets["ab"], tmp_path / "own")
    train_tokenizer(changed(), own, tmp_path)
    (own / "train" / "a" / "0.png").unlink()
    with pytest.raises(
        TrainingError, match=r"trained on the 8 pictures in .*own, which have changed since \(now 7\): .*"
    ):
        train_tokenizer(changed(steps=3), own, tmp_path)
    (tmp_path / "tokenizer" / "identity.json").unlink()
    with pytest.raises(TrainingError, match=r"was trained on 2 classes \(a, b\), not on 2 \(x, y\)"):
        train_tokenizer(changed(steps=3), sets["xy"], tmp_path)
    train_tokenizer(changed(steps=3), own, tmp_path)
    with pytest.raises(TrainingError, match="was trained on the 7 pictures"):
        train_tokenizer(changed(steps=3), sets["ab"], tmp_path)


def test_another_start_is_refused(
    sets: dict[str, Path], starts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def go_on(start: str, steps: int) -> int:
        given = ("--start-from", start) if start else ()
        return command("generator", "finetune", "--data", sets["ab"], "--folder", tmp_path, "--steps", steps,
                       "--batch", 4, "--views", 8, "--save-every", 1, *given)  # fmt: skip

    assert go_on(starts[0], 1) == 0
    assert go_on(starts[1], 2) == 2
    assert f"was started from {starts[0]}, not from {starts[1]}: give what it had" in capsys.readouterr().err
    moved = shutil.copy(starts[0], tmp_path / "moved.safetensors")
    assert go_on(str(moved), 2) == 0
    shutil.copy(starts[1], moved)
    assert go_on(str(moved), 3) == 2
    assert f"from {moved}, not from {moved}, whose weights are others now" in capsys.readouterr().err


def test_generators_keep_their_tokenizer(
    sets: dict[str, Path], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert command("tokenizer", "smoke", "--data", sets["ab"], "--folder", tmp_path, "--steps", 3, "--batch", 4) == 0
    capsys.readouterr()
    more = ("--data", sets["ab"], "--folder", tmp_path, "--steps", 3, "--batch", 4)
    assert command("generator", "smoke", *more, "--views", 8) == 2
    assert "builds on a tokenizer that has been trained on, or exchanged, since" in capsys.readouterr().err
    for name, options in (("export", ("--folder", tmp_path)), ("few-step", more), ("decoder", more)):
        assert command(name, "smoke", *options) == 2
        assert "tokenizer" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_tokenizer_of_other_data_is_mentioned(
    sets: dict[str, Path], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "tokenizer", tmp_path / "tokenizer")
    assert command("generator", "smoke", "--data", sets["xy"], "--folder", tmp_path, *QUICK["generator"]) == 0
    assert "note: " in (out := capsys.readouterr().out) and f"other data, the 8 pictures in {sets['moved']}" in out


def test_a_run_from_before_identities_goes_on(sets: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generator" / "identity.json").unlink()
    options = ("--folder", tmp_path, "--steps", 3, "--batch", 4, "--views", 8)
    assert command("generator", "smoke", "--data", sets["xy"], *options) == 2
    assert command("generator", "smoke", "--data", sets["ab"], *options) == 0
    assert json.loads((tmp_path / "generator" / "identity.json").read_text())["classes"] == ["a", "b"]


HOLD = """
import sys, time
from pathlib import Path
from training.distributed import World
from training.run_folder import alone_in
with alone_in(Path(sys.argv[1]), World()):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_in_a_folder_says_so_and_a_dead_one_does_not_count(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tokenizer"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        assert command("tokenizer", "smoke", "--data", sets["ab"], "--folder", tmp_path, *QUICK["tokenizer"]) == 2
        said = capsys.readouterr().err.strip()
        assert f"another process ({first.pid} on " in said and f"is at work in {folder}; wait for it" in said
        assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with alone_in(folder, World()):
        pass


def test_a_mistake_leaves_no_folder(tmp_path: Path) -> None:
    assert command("tokenizer", "smoke", "--data", tmp_path / "nowhere", "--folder", tmp_path / "runs" / "one") == 2
    assert command("generator", "smoke", "--data", tmp_path / "nowhere", "--folder", tmp_path / "runs" / "one") == 2
    assert list(tmp_path.iterdir()) == []


def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path: Path) -> None:
    fork = HOLD.replace(
        "time.sleep(600)", "import os\n    if os.fork() == 0: time.sleep(20)\n    else: time.sleep(600)"
    )
    first = subprocess.Popen([sys.executable, "-c", fork, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    time.sleep(0.3)  # for the fork
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with alone_in(tmp_path, World()):
        pass


def test_an_export_keeps_what_the_start_had_and_says_what_ran(sets: dict[str, Path], tmp_path: Path) -> None:
    """Four sampling steps stay four; licence and attribution are the start's; the commands are those that ran."""
    sampling = SamplingSettings(structure_steps=4, content_guidance=(1.0, 4.0), top_p=(0.8, 0.3))
    start = NVG(PRESETS["tiny"], ("a", "disc", "x"), sampling)
    start.content.initialize()
    start.structure.initialize()
    start.tokenizer.quantizer.spread()
    rights = {"licence": "CC-BY-4.0", "attribution": "drawn by A"}
    path = nvg_model.save(start, tmp_path / "start.safetensors", {**rights, "commands": ["draw"]})
    options = ("--batch", 4, "--no-bfloat16", "--views", 8, "--start-from", path, "--data", sets["ab"])
    run, rate = tmp_path / "run", recipe("finetune").generator.learning_rate
    command("generator", "finetune", "--folder", run, "--steps", 1, *options)
    command("generator", "finetune", "--folder", run, "--steps", 2, "--learning-rate", 1e-5, *options)
    assert command("export", "finetune", "--folder", run, "--out", tmp_path / "out.safetensors") == 0
    model = nvg_model.load(tmp_path / "out.safetensors")
    found = model.provenance
    assert model.settings == sampling and model.classes == ("a", "b")
    assert {name: found[name] for name in rights} == rights
    assert found["start_provenance"] == {**rights, "commands": ["draw"]}
    said = "python -m training generator finetune --steps {} --batch 4 --no-bfloat16 --cached-views 8{}"
    said += " --start-from start.safetensors"
    assert found["commands"] == [
        said.format(1, ""),
        said.format(2, " --learning-rate 1e-05"),
        "python -m training export finetune",
    ]
    assert found["generator_steps_done"] == 2 and found["generator"]["learning_rate"] == 1e-5
    assert found["resumed"] == [{"step": 1, "changed": {"steps": [1, 2], "learning_rate": [rate, 1e-5]}}]
    assert "tokenizer" not in found and str(tmp_path) not in json.dumps({**found, "file": ""})


def test_an_export_says_how_tokenizer_decoder_and_few_steps_were_trained(finished: Path, tmp_path: Path) -> None:
    """Not what the recipe would have."""
    assert command("export", "smoke", "--folder", finished, "--out", tmp_path / "out.safetensors") == 0
    found = nvg_model.load(tmp_path / "out.safetensors").provenance
    assert found["commands"] == [
        "python -m training tokenizer smoke --steps 2 --batch 4",
        "python -m training decoder smoke --steps 2 --batch 4 --warmup 1 --discriminator ''",
        "python -m training generator smoke --steps 2 --batch 4 --cached-views 8",
        "python -m training few-step smoke --steps 2 --batch 4 --teacher-steps 2 --table-images 2",
        "python -m training export smoke",
    ]
    assert (found["tokenizer"]["steps"], found["tokenizer_steps_done"], found["decoder_steps_done"]) == (2, 2, 2)
    few = nvg_model.load(finished / "few-step" / "few-step.safetensors").provenance
    assert few["few_step"]["teacher_steps"] == 2 and few["generator_steps_done"] == 2 and "licence" in few
    assert few["commands"][-1].startswith("python -m training few-step smoke --steps 2")
