"""The evaluation command on a tiny checkpoint and generated pictures, all parts for real."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import torch

import nvg_model
from nvg_model.render import to_pil
from nvg_model.sampling import SamplingSettings, StageFlow
from training.distributed import World
from training.errors import TrainingError
from training.evaluate import evaluate, train_classifier, write_samples_of
from training.metrics.classifier import ClassifierSettings
from training.metrics.evaluation import EvaluationSettings, Part
from training.metrics.parts import PARTS, halves
from training.metrics.pictures import Labelled, read_split
from training.metrics.sampler import SampleSettings
from training.schedule import Found, ScheduleSearch, choose, passes
from training.tune import TuneSettings, tune

CLASSES = ("heart", "bird", "boat")  # of the tiny model
QUICK = ClassifierSettings(steps=30, batch=16)
FEW = SamplingSettings(structure_steps=2)


def write_pictures(folder: Path, classes: tuple[str, ...], train: int = 6, held_out: int = 2) -> Path:
    """Noise in one colour for each class, 16x16."""
    random = torch.Generator().manual_seed(0)
    for index, name in enumerate(classes):
        for split, count in (("train", train), ("held-out", held_out)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = torch.full((1, 3, 16, 16), 0.9)
                image[:, index % 3, 4:12, 4:12] = 2 * torch.rand(8, 8, generator=random) - 1
                to_pil(image)[0].save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_pictures(tmp_path_factory.mktemp("pictures"), CLASSES))


@pytest.fixture(scope="module")
def finished(tiny: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationSettings, dict]:
    """All parts of an evaluation: its settings, and what evaluation.json says."""
    folder = tmp_path_factory.mktemp("evaluation")
    settings = EvaluationSettings(
        str(tiny),
        data,
        folder / "out",
        per_class=4,
        maps=4,
        batch=5,
        sampling=FEW,
        classifier=QUICK,
        classifiers=folder,
        device="cpu",
    )
    assert evaluate(settings) is not None
    return settings, json.loads((settings.out / "evaluation.json").read_text())


def value(read: dict, section: str, name: str) -> float:
    return read["measured"][section][name]["value"]


def test_every_part_is_measured(finished: tuple[EvaluationSettings, dict]) -> None:
    settings, read = finished
    assert list(read["measured"]) == [
        "tokenizer", "distribution", "classifier", "memorisation", "structure adherence", "cost",
    ]  # fmt: skip
    assert read["about"]["seed"] == 0 and read["about"]["sampling"]["structure_steps"] == 2
    for section, rows in read["measured"].items():
        for name, one in rows.items():
            if one["unit"] == "%":
                assert 0 <= one["value"] <= 1, (section, name)
    names = {path.name for path in settings.out.iterdir()}
    assert names == {"evaluation.json", "evaluation.md", "nearest.png", "samples"}


def test_the_numbers_are_those_of_the_parts(
    finished: tuple[EvaluationSettings, dict], tiny_model: nvg_model.NVG, data: str
) -> None:
    _, read = finished
    images = read_split(data, "held-out", (16, 16), CLASSES).pixels / 127.5 - 1
    output = tiny_model.decode(tiny_model.tokenize(images))
    error = (output - images).square().mean(dim=(1, 2, 3))
    assert value(read, "tokenizer", "PSNR") == pytest.approx(float((10 * (4 / error).log10()).mean()), abs=0.01)
    rows = read["tables"]["Accuracy of every class"]
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [row["generated"].split(" of ")[1] for row in rows] == ["4", "4", "4"]
    right = sum(int(row["held out"].split(" of ")[0]) for row in rows)
    assert value(read, "classifier", "accuracy, held out") == pytest.approx(right / 6)
    # A random generator is far from pictures whose halves are near each other.
    generated, real = (value(read, "distribution", f"Frechet distance{kind}") for kind in (", smaller", ", real"))
    assert generated > 2 * real
    assert value(read, "cost", "time, one image") > 0
    before = float(read["measured"]["cost"]["peak memory"]["note"].split()[0])
    assert before + 1 < value(read, "cost", "peak memory") < before + 500


def test_too_few_pictures_for_a_distance_are_said_so(finished: tuple[EvaluationSettings, dict]) -> None:
    _, read = finished
    assert "6 pictures for 64 features: too few" in read["measured"]["tokenizer"]["rFID"]["note"]
    assert read["measured"]["tokenizer"]["LPIPS"]["value"] is None
    assert "--lpips" in read["measured"]["tokenizer"]["LPIPS"]["note"]


def test_a_second_run_uses_the_samples_and_gives_the_same(finished: tuple[EvaluationSettings, dict]) -> None:
    settings, read = finished
    samples = settings.out / "samples" / "samples.npz"
    made = samples.stat().st_mtime_ns
    again = EvaluationSettings(**{**vars(settings), "parts": ("classifier", "distribution")})
    report = evaluate(again)
    assert report is not None and samples.stat().st_mtime_ns == made
    for section in ("classifier", "distribution"):
        assert json.loads(report.to_json())["measured"][section] == read["measured"][section]


def test_other_sampling_settings_are_refused_in_the_same_folder(finished: tuple[EvaluationSettings, dict]) -> None:
    settings, _ = finished
    other = EvaluationSettings(
        **{**vars(settings), "parts": ("classifier",), "sampling": SamplingSettings(structure_steps=3)}
    )
    with pytest.raises(TrainingError, match=r"differ in sampling\); delete it or choose another folder"):
        evaluate(other)


def test_another_process_only_samples(tiny: Path, data: str, tmp_path: Path) -> None:
    settings = EvaluationSettings(
        str(tiny), data, tmp_path, per_class=2, batch=2, sampling=FEW, device="cpu", classifiers=tmp_path
    )
    assert evaluate(settings, World(1, 3)) is None
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["samples-00000002-00000004.npy"]
    assert not list(tmp_path.rglob("evaluation*")) and not list(tmp_path.rglob("classifier*"))


def test_a_tokenizer_alone(tiny_model: nvg_model.NVG, data: str, tmp_path: Path) -> None:
    config = nvg_model.NVGConfig(tiny_model.config.image_size, tiny_model.config.autoencoder, None)
    model = nvg_model.NVG(config)
    model.tokenizer.load_state_dict(tiny_model.tokenizer.state_dict())
    path = nvg_model.save(model, tmp_path / "tokenizer.safetensors", {"licence": "none"})
    settings = EvaluationSettings(
        str(path), data, tmp_path / "out", classifier=QUICK, classifiers=tmp_path, device="cpu"
    )
    report = evaluate(settings)
    assert report is not None and list(report.sections) == ["tokenizer"]
    with pytest.raises(TrainingError, match="has no generator; choose --parts tokenizer"):
        evaluate(EvaluationSettings(**{**vars(settings), "parts": ("classifier",)}))
    with pytest.raises(TrainingError, match="nothing to sample"):
        write_samples_of(str(path), tmp_path / "samples", SampleSettings(2), device="cpu")


def test_samples_as_a_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_samples_of(str(tiny), tmp_path, SampleSettings(4, batch=2, sampling=FEW), device="cpu")
    assert path == tmp_path / "samples.npz" and f"4 samples: {path}" in capsys.readouterr().out


def test_the_classifier_as_a_command(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train_classifier(data, (16, 16), QUICK, tmp_path)
    assert result["accuracy"] > 0.8  # one colour for each class
    assert "18 pictures in 3 classes" in capsys.readouterr().out


def test_sampling_settings_are_tuned_one_after_the_other(
    tiny: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"content_guidance": ((1.0, 1.0), (2.0, 3.0)), "structure_guidance": (), "top_p": ((1.0, 0.5), (0.5, 0.1))}
    chosen = TuneSettings(
        str(tiny), data, tmp_path, **values, per_class=4, classifier=QUICK, classifiers=tmp_path  # type: ignore[arg-type]
    )  # fmt: skip
    best = tune(chosen)
    trials = json.loads((tmp_path / "tune.json").read_text())["trials"]
    start = nvg_model.load(str(tiny)).settings
    expected = 1 + sum(
        value != getattr(start, name) for name in ("content_guidance", "top_p") for value in values[name]
    )
    assert len(trials) == expected
    lowest = min(trials, key=lambda trial: trial["frechet_distance"])
    assert lowest["sampling"] == json.loads(json.dumps(dataclasses.asdict(best)))
    assert tuple(trials[0]["sampling"]["top_p"]) == start.top_p
    # what was found for the guidance stays while top-p is tried
    guided = min((trial for trial in trials if tuple(trial["sampling"]["top_p"]) == start.top_p),
                 key=lambda trial: trial["frechet_distance"])  # fmt: skip
    assert trials[-1]["sampling"]["content_guidance"] == guided["sampling"]["content_guidance"]
    assert str(best) in capsys.readouterr().out
    assert tune(chosen) == best


def test_halves_share_every_class() -> None:
    labels = torch.tensor([0] * 7 + [1] * 4 + [2])
    pictures = Labelled(torch.zeros(12, 3, 2, 2, dtype=torch.uint8), labels, CLASSES)
    first, second = halves(pictures, seed=1)
    assert labels[first].bincount().tolist() == [4, 2, 1] and labels[second].bincount().tolist() == [3, 2]
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(12))


# Wrong use: one sentence each.


def test_tuning_without_a_generator_or_without_pictures(data: str, tmp_path: Path) -> None:
    config = dataclasses.replace(nvg_model.preset("tiny"), generator=None)
    path = nvg_model.save(nvg_model.NVG(config), tmp_path / "tokenizer.safetensors")
    with pytest.raises(TrainingError, match="nothing to sample"):
        tune(TuneSettings(str(path), data, tmp_path))
    with pytest.raises(TrainingError, match="per_class is 0"):
        TuneSettings(str(path), data, tmp_path, per_class=0)


def test_no_such_checkpoint(data: str, tmp_path: Path) -> None:
    with pytest.raises(nvg_model.CheckpointError, match="nowhere"):
        evaluate(EvaluationSettings(str(tmp_path / "nowhere.safetensors"), data, tmp_path))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("heart", "bird", "boat", "clock"), "has no class 'clock'"),
        (("heart", "bird"), r"has a class 'boat' and the train pictures of .* have not \(1 classes differ\)"),
    ],
)
def test_classes_differ(tiny: Path, tmp_path: Path, classes: tuple[str, ...], message: str) -> None:
    folder = write_pictures(tmp_path / "data", classes)
    settings = EvaluationSettings(str(tiny), str(folder), tmp_path / "out", parts=("tokenizer",), device="cpu")
    with pytest.raises(TrainingError, match=message) as caught:
        evaluate(settings)
    assert "\n" not in str(caught.value)


def test_no_data(tiny: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(
        str(tiny), str(tmp_path / "none"), tmp_path / "out", parts=("tokenizer",), device="cpu"
    )
    with pytest.raises(TrainingError, match="none"):
        evaluate(settings)


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"maps": 0}, {"limit": 0}, {"parts": ()}])
def test_settings_are_checked(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least"):
        EvaluationSettings("emoji64", str(tmp_path), tmp_path, **wrong)


def test_every_part_has_a_function() -> None:
    assert set(get_args(Part)) == set(PARTS)


def test_read_split_orders_classes_as_the_checkpoint_and_keeps_to_the_limit(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, CLASSES, train=4)
    train = read_split(folder, "train", (16, 16), CLASSES)
    assert train.labels.bincount().tolist() == [4, 4, 4] and train.classes == CLASSES
    for label in range(3):  # noise is in the channel of the class
        varies = train.pixels[train.labels == label].float().var(dim=(0, 2, 3))
        assert int(varies.argmax()) == label
    some = read_split(folder, "train", (8, 8), CLASSES, limit=6)
    assert some.labels.bincount().tolist() == [2, 2, 2] and some.pixels.shape == (6, 3, 8, 8)


def test_a_schedule_is_learned_and_written(
    tiny: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ScheduleSearch(3, (1, 2, 4), ("euler",), (1, 2), (0.0,), (False,), agreement=1.0, reference_steps=4)
    chosen = tune(TuneSettings(str(tiny), data, tmp_path, "schedule", search, write=True))
    written = nvg_model.load(tmp_path / "model.safetensors")
    assert written.settings == chosen
    read = json.loads((tmp_path / "schedule.json").read_text())
    assert SamplingSettings(**read["chosen"]) == chosen
    assert [len(stage) for stage in read["tried"]] == [3, 5, 5], "the first is unguided"
    costs = [sum(stage["passes"] for stage in one) for one in read["schedules"]]
    agreements = [sum(stage["agreement"] for stage in one) for one in read["schedules"]]
    assert costs == sorted(costs) and agreements == sorted(agreements) and costs[0] == 1 + 2 + 2
    assert "no schedule agrees in 100.0%" in capsys.readouterr().out
    assert torch.isfinite(written.generate("bird", settings=chosen).canvases).all()


def test_what_a_way_costs() -> None:
    way = StageFlow(4, "euler", False, 2, 0.0)
    assert passes(way, 16, True) == 2 + 1 + 2 + 1 and passes(way, 16, False) == 4
    assert passes(dataclasses.replace(way, reuse=True), 16, True) == 2 + 4 * 16 / 33
    assert passes(dataclasses.replace(way, solver="heun", guidance_every=1), 16, True) == 16


def test_the_passes_go_to_where_they_gain_most() -> None:
    def found(*points: tuple[float, float]) -> list[Found]:
        return [Found(StageFlow(1, "euler", False, 1, None), *point) for point in points]

    schedules = choose([found((2, 0.8), (4, 0.9), (6, 0.91)), found((2, 0.7), (4, 0.72), (8, 0.94))])
    assert [[one.passes for one in chosen] for chosen in schedules] == [[2, 2], [4, 2], [4, 8], [6, 8]]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("pictures", 0, "schedule.pictures is 0"), ("agreement", 1.5, "schedule.agreement is 1.5"),
     ("solvers", ("rk4",), "schedule.solvers names 'rk4'; there are euler")],
)  # fmt: skip
def test_wrong_searches(field: str, value: object, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        ScheduleSearch(**{field: value})  # type: ignore[arg-type]
