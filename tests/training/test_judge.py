"""The judge: an ImageNet network that was not in the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nvg_model.render import to_pil
from nvg_model.sampling import SamplingSettings
from training.data.augmentation import stream
from training.errors import TrainingError
from training.evaluate import evaluate
from training.metrics.distribution import frechet_distance, frechet_of_sets, gaussian, kernel_distance
from training.metrics.evaluation import EvaluationSettings
from training.metrics.judge import Judge, Verdict, with_noise
from training.metrics.lite import Probe, nearest_classes
from training.metrics.pictures import Labelled


def groups(each: int, seed: int, apart: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [3 each, 8] around three places, and which."""
    generator = stream(seed)
    labels = torch.arange(3 * each) % 3
    return torch.randn(3 * each, 8, generator=generator) + apart * torch.eye(3, 8)[labels], labels


def labelled(labels: torch.Tensor) -> Labelled:
    return Labelled(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels, ("a", "b", "c"))


def test_the_distance_of_sets_is_that_of_their_gaussians() -> None:
    for many in (3, 20):  # fewer and more pictures than features
        (a, _), (b, _) = groups(many, 1), groups(many + 1, 2, apart=2.0)
        weights = torch.rand(len(b), generator=stream(3))
        weights /= weights.sum()
        expected = frechet_distance(gaussian(a), gaussian(b, weights))
        assert frechet_of_sets(a, b, weights) == pytest.approx(expected, rel=1e-5)
    assert frechet_of_sets(a, a) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_the_mean_over_pairs() -> None:
    (a, _), (b, _) = groups(4, 1), groups(5, 2, apart=2.0)
    a, b = a.double(), b.double()
    weights = torch.rand(len(b), generator=stream(3)).double()
    weights /= weights.sum()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 8 + 1) ** 3)

    within_a = [kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
    pairs_b = [(i, j) for i in range(len(b)) for j in range(len(b)) if i != j]
    share = sum(float(weights[i] * weights[j]) for i, j in pairs_b)
    within_b = sum(float(weights[i] * weights[j]) * kernel(b[i], b[j]) for i, j in pairs_b) / share
    across = sum(float(weights[j]) * kernel(x, b[j]) for x in a for j in range(len(b))) / len(a)
    expected = sum(within_a) / len(within_a) + within_b - 2 * across
    assert kernel_distance(a, b, weights) == pytest.approx(expected, rel=1e-9)
    same = [kernel_distance(groups(60, seed)[0], groups(60, seed + 50)[0]) for seed in range(8)]
    assert abs(sum(same) / 8) < 0.05 * kernel_distance(a, b)  # no bias: about 0 for two sets of one kind


def test_the_probe_and_the_nearest_tell_what_is_apart() -> None:
    features, labels = groups(30, 4)
    others, expected = groups(100, 5)
    probe = Probe(features, labels, 3, torch.full((90,), 1 / 90))
    assert float((probe(features) == labels).double().mean()) > 0.98
    assert float((probe(others) == expected).double().mean()) > 0.95
    assert float((nearest_classes(others, features, labels) == expected).double().mean()) > 0.85
    scaled = Probe(features * torch.tensor([100.0, *[1.0] * 7]), labels, 3, torch.full((90,), 1 / 90))
    assert torch.equal(scaled(others * torch.tensor([100.0, *[1.0] * 7])), probe(others))  # features are standardised


def test_a_verdict_tells_good_pictures_from_bad() -> None:
    features, labels = groups(40, 6)
    judge = Judge(features, labelled(labels))
    good, wrong = groups(40, 7)
    shifted = good + 3
    ours, theirs = judge.verdict(good, wrong).numbers, judge.verdict(shifted, wrong).numbers
    for name in ("Frechet distance", "kernel distance"):
        assert ours[name] < 0.3 * theirs[name]
    for name in ("precision", "recall", "probe", "nearest neighbour"):
        assert ours[name] > theirs[name] or theirs[name] == ours[name] == 1
    mistaken = judge.verdict(good, (wrong + 1) % 3).numbers
    assert mistaken["probe"] < 0.05 and mistaken["Frechet distance"] == ours["Frechet distance"]


def test_every_class_counts_alike() -> None:
    """A set in which one class comes three times as often is as near to the training pictures as one that is even."""
    features, labels = groups(60, 8)
    uneven = torch.cat([torch.arange(180), *[torch.arange(0, 180, 3)] * 2])
    numbers = Judge(features, labelled(labels)).verdict(features[uneven], labels[uneven]).numbers
    even = Judge(features, labelled(labels)).verdict(features, labels).numbers
    assert numbers["Frechet distance"] < 0.05 and even["Frechet distance"] < 1e-6
    assert numbers["probe"] == pytest.approx(even["probe"]) and numbers["precision"] == pytest.approx(1)
    others, wanted = groups(60, 9)
    pairs = [
        Judge(features[one], labelled(labels[one])).verdict(others[two], wanted[two]).numbers["kernel distance"]
        for one in (torch.arange(180), uneven) for two in (torch.arange(180), uneven)
    ]  # fmt: skip
    far = 1000 * kernel_distance(features + 1, others)
    assert max(map(abs, pairs)) < 0.1 * far


def test_noise_is_told_where_there_are_seeds() -> None:
    base = dict.fromkeys(("kernel distance", "precision", "recall", "probe", "nearest neighbour"), 0.5)
    verdicts = [Verdict(base | {"Frechet distance": value}, torch.zeros(1)) for value in (10.0, 14.0)]
    alone, both = with_noise(verdicts[:1], 7)["Frechet distance"], with_noise(verdicts, 7)["Frechet distance"]
    assert (alone.value, alone.note) == (10, "7 pictures")
    assert (both.value, both.note) == (12, "mean of 2 seeds, deviation 2.83; 7 pictures each")
    assert with_noise(verdicts, 7)["probe"].note == "mean of 2 seeds, deviation 0.0 points; 7 pictures each"


def test_the_judge_of_a_checkpoint(tiny: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "pictures")
    for index, name in enumerate(("heart", "bird", "boat")):
        for split, count in (("train", 6), ("held-out", 2)):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = torch.full((1, 3, 16, 16), 0.9)
                image[:, index, 4:12, 4:12] = 2 * torch.rand(8, 8, generator=stream(index, count, number)) - 1
                to_pil(image)[0].save(folder / f"{number}.png")
    settings = EvaluationSettings(
        str(tiny), data, tmp_path / "out", parts=("judge",), features="lite0", per_class=4, seeds=2,
        sampling=SamplingSettings(structure_steps=2),
        device="cpu",
    )  # fmt: skip
    assert evaluate(settings) is not None
    read = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    measured = read["measured"]
    assert "mean of 2 seeds" in measured["judge lite0: generated"]["probe"]["note"]
    # noise in one colour for each class: the network tells the colours, and a random decoder's pictures from them
    assert measured["judge lite0: held out"]["probe"]["value"] > 0.8
    halves = measured["judge lite0: half of the training pictures by the other"]
    for name in ("generated", "reconstructed"):
        assert measured[f"judge lite0: {name}"]["kernel distance"]["value"] > halves["kernel distance"]["value"]
    assert len(read["tables"]["What lite0 takes every class for"]) == 3
    assert (tmp_path / "out" / "samples-seed-1" / "samples.npz").is_file()


def test_without_imagenet_features_there_is_no_judge(tiny: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(str(tiny), "nowhere", tmp_path, parts=("judge",), device="cpu")
    with pytest.raises(TrainingError, match="choose --features lite0"):
        evaluate(settings)
