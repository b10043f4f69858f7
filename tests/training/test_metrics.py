"""The metrics, each against a closed form, a brute-force count, or a case whose answer is known."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared_forks import finish, forked

import nvg_model
from nvg_model.render import to_pixels
from training.distributed import World
from training.errors import TrainingError
from training.metrics import adherence, memorisation
from training.metrics.classifier import ClassifierSettings, classify, load_or_train
from training.metrics.codes import CodeCounts
from training.metrics.distribution import Gaussian, frechet_distance, gaussian, inception_score, precision_recall
from training.metrics.features import inception
from training.metrics.pictures import Labelled, moved, to_images
from training.metrics.report import Measured, Report
from training.metrics.sampler import SampleSettings, read_samples, sample_classes, write_samples


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> torch.Tensor:
    return torch.linalg.qr(noise(size, size, seed=5)).Q


# Frechet distance


def test_frechet_distance_of_gaussians_with_the_same_axes() -> None:
    """|m|^2 + sum of (deviation - deviation)^2, in any rotation."""
    axes, a, b = rotation(6), torch.rand(6).double() + 0.1, torch.rand(6).double() + 0.1
    shift = noise(6, seed=1)
    first = Gaussian(torch.zeros(6).double(), axes @ torch.diag(a**2) @ axes.T)
    second = Gaussian(shift, axes @ torch.diag(b**2) @ axes.T)
    assert frechet_distance(first, second) == pytest.approx(float((shift**2).sum() + ((a - b) ** 2).sum()), abs=1e-10)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_of_singular_gaussians_with_other_axes() -> None:
    """Two lines along u and v: |u|^2 + |v|^2 - 2 |u.v|. A root of the product matrix fails here."""
    u, v = noise(20, seed=2), noise(20, seed=3)
    zero = torch.zeros(20).double()
    found = frechet_distance(Gaussian(zero, torch.outer(u, u)), Gaussian(zero, torch.outer(v, v)))
    assert found == pytest.approx(float(u @ u + v @ v - 2 * (u @ v).abs()), rel=1e-7)


def test_frechet_distance_does_not_suffer_from_a_large_offset() -> None:
    x, y = noise(200, 8), 1.3 * noise(200, 8, seed=1) + 0.1
    near = frechet_distance(gaussian(x), gaussian(y))
    far = frechet_distance(gaussian(x + 1e6), gaussian(y + 1e6))
    assert near > 0.5 and far == pytest.approx(near, rel=1e-5)


def test_weights_are_repetitions() -> None:
    """A picture of weight 3/7 counts as if it were there three times; only the bias correction differs."""
    x = noise(5, 3)
    times = torch.tensor([3, 1, 1, 1, 1])
    weights = times.double() / 7
    found, repeated = gaussian(x, weights), x.repeat_interleave(times, dim=0)
    assert torch.allclose(found.mean, repeated.mean(0))
    assert torch.allclose(found.covariance * (1 - (weights**2).sum()), torch.cov(repeated.T, correction=0))
    assert torch.allclose(gaussian(x).covariance, torch.cov(x.T))


# Inception score, precision, recall


def test_inception_score_of_known_answers() -> None:
    certain = 100.0 * F.one_hot(torch.arange(4).repeat(250), 4)
    assert inception_score(certain)[0] == pytest.approx(4, rel=0.02)
    assert inception_score(certain[:1])[0] == pytest.approx(1)
    mean, deviation = inception_score(torch.zeros(50, 4))
    assert (mean, deviation) == pytest.approx((1, 0))


def brute_force(points: torch.Tensor, members: torch.Tensor, k: int) -> list[bool]:
    inside = []
    for point in points:
        balls = [sorted((member - other).norm() for other in members)[k] for member in members]
        inside.append(any((point - member).norm() <= ball for member, ball in zip(members, balls, strict=True)))
    return inside


def test_precision_and_recall_by_brute_force() -> None:
    generated, real = noise(15, 2), noise(12, 2, seed=1) + 1.5
    weights = torch.rand(12, dtype=torch.float64)
    weights /= weights.sum()
    covered = torch.tensor(brute_force(real, generated, 3)).double()
    precision, recall = precision_recall(generated, real)
    assert 0 < precision < 1 and 0 < recall < 1
    assert precision == pytest.approx(np.mean(brute_force(generated, real, 3)))
    assert recall == pytest.approx(float(covered.mean()))
    assert precision_recall(generated, real, real_weights=weights)[1] == pytest.approx(float(covered @ weights))


def test_a_lost_mode_costs_recall_only() -> None:
    left, right = noise(60, 2, seed=2), noise(60, 2, seed=3) + 100
    assert precision_recall(left, torch.cat([left, right])) == (1.0, 0.5)
    assert precision_recall(torch.cat([left, right]), left) == (0.5, 1.0)
    assert precision_recall(left, right) == (0.0, 0.0)


def test_inception_without_torch_fidelity_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(TrainingError, match=r"pip install -e '\.\[inception\]'"):
        inception(torch.device("cpu"))


# Codes


def test_code_counts(tiny_model: nvg_model.NVG) -> None:
    sequence = tiny_model.tokenize(torch.rand(3, 3, 16, 16) * 2 - 1)
    codes = CodeCounts.empty(5, 32)
    codes.add(sequence)
    assert codes.tokens_per_stage() == [3, 6, 12, 24, 48]
    for stage in range(5):
        assert codes.used_per_stage()[stage] == len(set(sequence.tokens[:, stage].flatten().tolist())) / 32
    assert codes.used() == len(set(sequence.tokens.flatten().tolist())) / 32


def test_code_perplexity() -> None:
    counts = torch.zeros(2, 8, dtype=torch.long)
    counts[0, :2] = counts[1, 2:4] = 5
    assert CodeCounts(counts).perplexity() == pytest.approx(4)
    assert CodeCounts(counts).used() == 0.5


# Pictures


def drawings(count: int, seed: int = 0, side: int = 16) -> torch.Tensor:
    """uint8 [N,3,side,side]: coloured blots on white, no two alike."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:side, :side]
    pixels = np.full((count, 3, side, side), 255, np.uint8)
    for one in range(count):
        for _ in range(4):
            centre, radius = random.uniform(0.3, 0.7, 2) * side, random.uniform(0.08, 0.2) * side
            blot = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
            pixels[one][:, blot] = random.randint(0, 200, (3, 1))
    return torch.from_numpy(pixels)


def test_pixels_and_images() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_pixels(to_images(pixels)), pixels)


def test_moved_shifts_scales_and_mirrors_over_white() -> None:
    images = to_images(drawings(1))
    one, none = torch.ones(1), torch.zeros(1, 2)
    assert torch.allclose(moved(images, one, one, none), images, atol=1e-5)
    assert torch.allclose(moved(images, one, -one, none), images.flip(3), atol=1e-5)
    right = moved(images, one, one, torch.tensor([[3 / 16, 0.0]]))
    assert torch.allclose(right[..., 3:], images[..., :-3], atol=1e-5) and bool((right[..., :3] > 0.999).all())
    half = (1 - moved(images, one / 2, one, none)).sum() / (1 - images).sum()
    assert float(half) == pytest.approx(0.25, rel=0.1)


def test_weights_of_classes() -> None:
    labelled = Labelled(drawings(4), torch.tensor([0, 0, 0, 2]), ("a", "b", "c"))
    assert labelled.weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


# Classifier


def three_kinds(count: int, seed: int) -> Labelled:
    """Red, green and blue blots."""
    pixels, labels = drawings(count, seed), torch.arange(count) % 3
    shown = pixels.amin(1) < 255
    for colour in range(3):
        pixels[:, colour][shown] = (
            torch.where(labels[:, None, None] == colour, 200, 30).expand(-1, 16, 16)[shown].byte()
        )
    return Labelled(pixels, labels, ("red", "green", "blue"))


def test_the_classifier_learns_and_is_trained_once(tmp_path: Path) -> None:
    train, held_out = three_kinds(60, seed=1), three_kinds(30, seed=2)
    settings = ClassifierSettings(steps=25, batch=16)
    model = load_or_train(tmp_path, train, settings)
    features, logits = classify(model, held_out.pixels)
    assert float((logits.argmax(1) == held_out.labels).double().mean()) > 0.9
    assert features.shape == (30, 64) and not model.training
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = classify(load_or_train(tmp_path, train, settings), held_out.pixels)[1]
    assert torch.equal(again, logits) and path.stat().st_mtime_ns == written
    other = Labelled(train.pixels, 2 - train.labels, train.classes[::-1])  # the same pictures, another order of classes
    assert torch.equal(classify(load_or_train(tmp_path, other, settings), held_out.pixels)[1], logits.flip(1))
    assert len(list(tmp_path.iterdir())) == 1
    path.unlink()
    assert torch.equal(classify(load_or_train(tmp_path, train, settings), held_out.pixels)[1], logits)
    load_or_train(tmp_path, train.at(torch.arange(59)), ClassifierSettings(steps=1))
    load_or_train(tmp_path, train, ClassifierSettings(steps=1, seed=1))
    assert len(list(tmp_path.iterdir())) == 3


# Memorisation


def test_nearest_finds_moved_pictures_on_other_backgrounds() -> None:
    train = drawings(40, side=64)
    chosen = torch.tensor([3, 17, 30, 39])
    scale, flip = torch.tensor([0.86, 0.9, 1.0, 0.97]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    shift = torch.tensor([[0.04, -0.04], [0.0, 0.03], [0.02, 0.02], [-0.04, 0.0]])
    copies = moved(to_images(train[chosen]), scale, flip, shift)
    tinted = torch.where(copies > 0.99, torch.tensor([0.9, 0.6, 0.7])[:, None, None], copies)
    found = memorisation.nearest(to_pixels(torch.cat([copies, tinted])), train)
    assert found.picture.tolist() == 2 * chosen.tolist()
    assert [memorisation.VARIANTS[one][1] for one in found.variant] == 2 * flip.tolist()
    others = memorisation.nearest(drawings(40, seed=1, side=64), train)
    assert float(found.distance.max()) < 0.7 * float(others.distance.min())


def test_copies_are_noticed_and_new_pictures_are_not(tiny_model: nvg_model.NVG) -> None:
    train = Labelled(drawings(50), torch.zeros(50, dtype=torch.long), ("a",))
    held_out = Labelled(drawings(40, seed=1), torch.zeros(40, dtype=torch.long), ("a",))
    generated = torch.cat([train.pixels[:10], drawings(30, seed=2)])
    found = memorisation.memorisation(tiny_model, generated, train, held_out)
    assert found.nearest.distance[:10].amax() < 1e-3 and found.nearest.picture[:10].tolist() == list(range(10))
    assert found.held_out_share == pytest.approx(0.1, abs=0.03)
    assert found.share == float((found.nearest.distance < found.threshold).double().mean()) >= 0.25
    sheet = memorisation.sheet(generated, train, found.nearest, count=10)
    assert sheet.width > 8 * 96 and sheet.height > 4 * 96


# Structure adherence


def test_agreement_ignores_which_half_is_called_0() -> None:
    given = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    found = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]])
    result = adherence.compare(given, found)
    assert result.agreement.tolist() == [1.0, 0.5]
    assert (result.mean, result.followed) == (0.75, 0.5)
    assert result.by_chance == 0.5  # 0101 with 1100, and 0011 with 0110


@pytest.mark.parametrize("grid", [(8, 8), (16, 16), (4, 8)])
def test_shapes_cover_half_and_mirror_each_other(grid: tuple[int, int]) -> None:
    shapes = {name: one.view(grid) for name, one in adherence.shapes(grid).items()}
    assert all(int(one.sum()) == one.numel() // 2 for one in shapes.values())
    left, right = shapes["circle left"], shapes["circle right"]
    assert float((left.flip(1) == right).double().mean()) > 0.9
    assert int(left[:, : grid[1] // 2].sum()) > int(left[:, grid[1] // 2 :].sum())
    rectangle = shapes["rectangle"].double()
    assert float((rectangle == rectangle.flip(1)).double().mean()) > 0.8


def test_adherence_of_generated_pictures(tiny_model: nvg_model.NVG) -> None:
    """The same as by hand, and independent of the batches."""
    maps = torch.stack(list(adherence.shapes((4, 4)).values()))
    classes = torch.tensor([0, 1, 2])
    result = adherence.adherence(tiny_model, maps, classes, seed=3)
    structure = torch.stack([torch.zeros_like(maps[1]), maps[1]])[None]
    alone = tiny_model.decode(tiny_model.generate([1], seed=3, structure=structure, first_item=1))
    same = (tiny_model.tokenize(alone).structure[0, 1] == maps[1]).double().mean()
    assert float(result.agreement[1]) == float(max(same, 1 - same))


def test_reconstruction_adherence_of_a_perfect_tokenizer_is_whole(tiny_model: nvg_model.NVG) -> None:
    pixels = drawings(3)
    maps = adherence.first_splits(tiny_model, pixels)
    assert torch.equal(maps.sum(1), torch.full((3,), 8))
    assert adherence.compare(maps, maps).followed == 1
    assert 0.5 <= adherence.reconstruction_adherence(tiny_model, pixels).mean <= 1


# Samples

FEW = nvg_model.SamplingSettings(structure_steps=2)  # quick


def whole(path: Path) -> np.ndarray:
    with np.load(path) as file:
        assert file.files == ["arr_0"]
        return file["arr_0"]


@pytest.fixture(scope="module")
def samples(tiny_model: nvg_model.NVG, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Eleven samples, made at once."""
    path = write_samples(
        tiny_model, tmp_path_factory.mktemp("samples"), SampleSettings(11, seed=4, batch=3, sampling=FEW)
    )
    assert path is not None
    return whole(path)


def test_samples_are_what_the_evaluator_reads(tiny_model: nvg_model.NVG, samples: np.ndarray, tmp_path: Path) -> None:
    assert samples.shape == (11, 16, 16, 3) and samples.dtype == np.uint8
    assert sample_classes(11, 3).bincount().tolist() == [4, 4, 3]
    image = tiny_model.decode(tiny_model.generate([7 % 3], seed=4, settings=FEW, first_item=7))  # sample 7 alone
    assert np.abs(to_pixels(image)[0].permute(1, 2, 0).numpy().astype(int) - samples[7]).max() <= 1
    assert len(np.unique(samples.reshape(11, -1), axis=0)) == 11
    path = write_samples(tiny_model, tmp_path, SampleSettings(2, seed=4, batch=3, sampling=FEW))
    assert path is not None and torch.equal(read_samples(path), torch.from_numpy(samples[:2]).permute(0, 3, 1, 2))


def test_processes_share_the_samples(tiny_model: nvg_model.NVG, samples: np.ndarray, tmp_path: Path) -> None:
    settings = SampleSettings(11, seed=4, batch=3, sampling=FEW)
    assert write_samples(tiny_model, tmp_path, settings, World(1, 2)) is None
    shards = sorted(tmp_path.glob("*.npy"))
    assert [len(np.load(path)) for path in shards] == [3, 2]
    made = [path.stat().st_mtime_ns for path in shards]
    path = write_samples(tiny_model, tmp_path, settings, World(2, 3))  # another number of processes goes on
    assert path is None and [path.stat().st_mtime_ns for path in shards] == made
    path = write_samples(tiny_model, tmp_path, settings)
    assert path is not None and np.array_equal(whole(path), samples)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lock", "samples.npz", "sampling.json"]


def test_a_killed_run_goes_on(tiny: Path, tiny_model: nvg_model.NVG, samples: np.ndarray, tmp_path: Path) -> None:
    """The first of two processes is killed amid its work; both start again, and the first waits for the second."""
    script = (
        "import sys; from pathlib import Path; import nvg_model; from training.distributed import World\n"
        "from training.metrics.sampler import SampleSettings, write_samples\n"
        "checkpoint, folder, rank = sys.argv[1:]\n"
        "settings = SampleSettings(11, seed=4, batch=3, sampling=nvg_model.SamplingSettings(structure_steps=2))\n"
        "write_samples(nvg_model.load(checkpoint), Path(folder), settings, World(int(rank), 2))"
    )

    with forked(script, (tiny, tmp_path, 0), tmp_path / "first") as (killed,):
        while not list(tmp_path.glob("samples-*.npy")):
            assert killed.is_alive()
            time.sleep(0.01)
    assert not (tmp_path / "samples.npz").exists()
    with forked(script, (tiny, tmp_path, 1), tmp_path / "second") as second:
        path = write_samples(tiny_model, tmp_path, SampleSettings(11, seed=4, batch=3, sampling=FEW), World(0, 2))
        finish(second, tmp_path / "second")
    assert path is not None and np.array_equal(whole(path), samples)


def test_a_folder_of_other_samples_is_refused(tiny_model: nvg_model.NVG, tmp_path: Path) -> None:
    write_samples(tiny_model, tmp_path, SampleSettings(2, batch=2))
    with pytest.raises(TrainingError, match="differ in count, seed"):
        write_samples(tiny_model, tmp_path, SampleSettings(3, seed=1, batch=2))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"batch": 0}])
def test_sample_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="must be at least"):
        SampleSettings(**wrong)


# Report


def test_the_report_as_json_and_table(tmp_path: Path) -> None:
    report = Report({"checkpoint": "x"})
    report.sections["part"] = {
        "share": Measured(0.125, "%", "a note"),
        "count": Measured(3),
        "absent": Measured(None, "", "not available: why"),
    }
    report.tables["rows"] = [{"class": "a", "right": 1}, {"class": "long name", "right": 20}]
    report.write(tmp_path)
    read = json.loads((tmp_path / "evaluation.json").read_text())
    assert read["measured"]["part"]["share"] == {"value": 0.125, "unit": "%", "note": "a note"}
    assert read["measured"]["part"]["absent"]["value"] is None and read["tables"]["rows"][1]["right"] == 20
    text = (tmp_path / "evaluation.md").read_text()
    assert "| share  | 12.5%         | a note" in text and "| absent | not available |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table[:5]}) == 1 and len({len(line) for line in table[5:]}) == 1
