"""Pictures held in memory and decoded on demand are the same; broken files; views of both kinds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.augmentation import (
    AugmentationSettings,
    compose,
    draw_views,
    plain_images,
    stream,
)
from training.data.dataset import ImageDataset, open_dataset
from training.errors import TrainingError

SIZE = (16, 16)


def write(folder: Path, per_class: int = 6, sides: tuple[int, int] = (24, 40)) -> Path:
    """Two classes of noise, opaque and half transparent by turns."""
    random = np.random.RandomState(1)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = random.randint(0, 256, (*sides, 4), np.uint8)
            if index % 2:
                pixels[..., 3] = 255
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def both(folder: Path, margin: float | None = None, tolerance: float = 0.01) -> tuple[ImageDataset, ImageDataset]:
    return (
        open_dataset(folder, SIZE, split="all", margin=margin, tolerance=tolerance),
        open_dataset(folder, SIZE, split="all", margin=margin, tolerance=tolerance, memory=0),
    )


@pytest.mark.parametrize("margin", [None, 1.125])
def test_memory_changes_nothing(margin: float | None, tmp_path: Path) -> None:
    held, on_demand = both(write(tmp_path), margin)
    index, corner = torch.tensor([3, 0, 11, 3]), torch.rand(4, 2, generator=stream(1))
    assert torch.equal(held.load(index, corner), on_demand.load(index, corner))
    assert held.load(index).shape == (4, 4, *SIZE) and held.load(index).dtype == torch.uint8
    for name in ("cat", "dog"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
    assert torch.equal(held.load(index), held.load(index))  # the files are needed no more
    with pytest.raises(TrainingError, match="are broken, more than"):
        on_demand.load(index)


def test_pictures_that_turn_out_larger_than_the_memory_are_not_held(tmp_path: Path) -> None:
    write(tmp_path, sides=(24, 240))
    square = 12 * 4 * 18 * 18
    pictures = open_dataset(tmp_path, SIZE, split="all", margin=1.125, memory=square)
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(TrainingError, match=r"cat/0\.png cannot be read"):
        pictures.load(torch.tensor([0]))


def test_crops_lie_where_they_should(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(18 * 36, dtype=np.uint16).astype(np.uint8).reshape(18, 36))
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png")
    pictures = open_dataset(tmp_path, SIZE, split="all", margin=1.125)
    grey = np.asarray(image)
    for corner, top, left in (((0.0, 0.0), 0, 0), ((0.999, 0.999), 2, 20), ((0.5, 0.5), 1, 10)):
        crop = pictures.load(torch.tensor([0]), torch.tensor([corner]))[0, 0].numpy()
        assert np.array_equal(crop, grey[top : top + 16, left : left + 16])
    assert np.array_equal(pictures.load(torch.tensor([0]))[0, 0].numpy(), grey[1:17, 10:26])  # the centre


def test_a_margin_below_one(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the margin is 0\.5; give at least 1"):
        open_dataset(write(tmp_path), SIZE, margin=0.5)


def break_files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])


def test_broken_files_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_files(write(tmp_path), "cat/2.png", "dog/5.png")
    held, on_demand = both(tmp_path, tolerance=0.2)
    assert len(held) == 10 and len(held.skipped) == 2 and "cat/2.png" not in held.names
    told = capsys.readouterr().err
    assert all(f"left out: {name} cannot be read as a picture (" in told for name in ("cat/2.png", "dog/5.png"))
    # On demand the next of the class takes its place, also after the last.
    loaded = on_demand.load(torch.tensor([2, 3, 11, 6, 2]))
    assert torch.equal(loaded[0], loaded[1]) and torch.equal(loaded[2], loaded[3]) and torch.equal(loaded[4], loaded[0])
    told = capsys.readouterr().err
    assert told.count("cat/2.png") == 1 and told.count("dog/5.png") == 1


def test_too_many_broken_files(tmp_path: Path) -> None:
    break_files(write(tmp_path), "cat/1.png", "cat/2.png", "dog/3.png", "dog/5.png")
    with pytest.raises(TrainingError) as caught:
        both(tmp_path)
    said = str(caught.value)
    assert f"of 12 pictures in {tmp_path}, 4 are broken, more than 1.00%: cat/1.png cannot be read as a picture" in said
    assert "and 1 more; repair or remove them" in said and "\n" not in said
    on_demand = open_dataset(tmp_path, SIZE, split="all", memory=0)
    with pytest.raises(TrainingError, match=r"1 are broken, more than 1\.00%: dog/3\.png"):
        on_demand.load(torch.tensor([0, 9]))


def test_a_class_of_broken_files(tmp_path: Path) -> None:
    break_files(write(tmp_path), *(f"cat/{index}.png" for index in range(6)))
    with pytest.raises(TrainingError, match="class 'cat' has no pictures"):
        open_dataset(tmp_path, SIZE, split="all", tolerance=1)
    with pytest.raises(TrainingError, match="class 'cat' has no readable pictures"):
        open_dataset(tmp_path, SIZE, split="all", tolerance=1, memory=0).load(torch.tensor([0]))


def test_the_views_of_existing_recipes_stay_as_they_are(tmp_path: Path) -> None:
    """The order of the draws is frozen: saved runs and caches go on with the same views."""
    pictures = open_dataset(write(tmp_path, sides=SIZE), SIZE, split="all")
    index, settings, generator = torch.arange(12), AugmentationSettings(), stream(0, 1, 64)
    scale = 0.86 + (1.0 - 0.86) * torch.rand(12, generator=generator)
    flip = torch.where(torch.rand(12, generator=generator) < 0.5, -1.0, 1.0)
    shift = 0.04 * (2 * torch.rand(12, 2, generator=generator) - 1)
    colour = 0.75 + (1 - 0.75) * torch.rand(12, 3, generator=generator)
    white = torch.rand(12, 1, generator=generator) < 0.7
    files = [np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1) for name in pictures.names]
    wanted = compose(torch.from_numpy(np.stack(files)), scale, flip, shift, torch.where(white, 1.0, colour))
    found_by = stream(0, 1, 64)
    assert torch.equal(draw_views(pictures, index, settings, found_by).images, wanted)
    assert torch.equal(torch.rand(3, generator=found_by), torch.rand(3, generator=generator))
    # The draws themselves, as first recorded: the generator and its keys must stay, too.
    assert torch.rand(2, generator=stream(0, 1, 64), dtype=torch.float64).tolist() == [
        0.439177857195707,
        0.8726835877967807,
    ]


def test_what_is_opaque_stays_within_the_view(tmp_path: Path) -> None:
    """With shifts far larger than the room: the object touches the edge and loses nothing."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:20, 3:23] = 255
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "train" / "a" / "0.png")
    pictures = open_dataset(tmp_path, (32, 32))
    areas, edges = [], []
    for seed in range(20):
        settings = AugmentationSettings(shift=0.5, scale=(0.8, 1.0), whole=True)
        opacity = draw_views(pictures, torch.tensor([0]), settings, stream(seed)).opacity
        scale = 0.8 + 0.2 * float(torch.rand(1, generator=stream(seed)))
        areas.append(float(opacity.sum()) / (12 * 20 * scale**2))
        inside = (opacity[0] > 0.3).nonzero()
        edges.append(bool((inside.amin(0) == 0).any() or (inside.amax(0) == 31).any()))
    assert min(areas) > 0.93 and max(areas) < 1.07 and sum(edges) > 10


def test_some_views_stand_still(tmp_path: Path) -> None:
    """So many as asked are neither moved nor scaled; the others are those that there would be without."""
    pictures = open_dataset(write(tmp_path, sides=SIZE), SIZE, split="all")
    index = torch.arange(12).repeat(20)
    settings = AugmentationSettings(flip=0.0, white=1.0, still=0.6)
    views, moved = draw_views(pictures, index, settings, stream(2)).images, replace(settings, still=0.0)
    still = (views == plain_images(pictures, index)).flatten(1).all(1)
    assert 0.5 < float(still.float().mean()) < 0.7
    assert torch.equal(views[~still], draw_views(pictures, index, moved, stream(2)).images[~still])


@pytest.mark.parametrize("settings", [
    AugmentationSettings(), AugmentationSettings(margin=1.125), AugmentationSettings(shift=0.5, whole=True),
    AugmentationSettings(still=0.5),
])  # fmt: skip
def test_a_part_of_a_batch_has_the_same_views(settings: AugmentationSettings, tmp_path: Path) -> None:
    pictures = open_dataset(write(tmp_path), SIZE, split="all", margin=settings.margin)
    index = torch.tensor([4, 4, 9, 1, 0, 7])
    whole = draw_views(pictures, index, settings, stream(3)).images
    assert not torch.equal(whole[0], whole[1])
    parts = [draw_views(pictures, index, settings, stream(3), part).images for part in (slice(0, 2), slice(2, 6))]
    assert torch.equal(torch.cat(parts), whole)


def test_views_of_photos(tmp_path: Path) -> None:
    pictures = open_dataset(write(tmp_path), SIZE, split="all", margin=1.125)
    index = torch.full((64,), 1)  # an opaque one
    views = draw_views(pictures, index, AugmentationSettings(margin=1.125), stream(3)).images
    image = torch.from_numpy(pictures.fetch(1)[:3].copy()).float() / 127.5 - 1
    crops = image.unfold(1, 16, 1).unfold(2, 16, 1).flatten(1, 2).transpose(0, 1)
    both_ways = torch.cat([crops, crops.flip(3)])
    distance = (views[:, None] - both_ways[None]).abs().amax((2, 3, 4))
    assert bool((distance.amin(1) < 1e-5).all())  # every view is a crop, whole pixels, flipped or not
    found = distance.argmin(1)
    assert len(set(found.tolist())) > 25 and 15 < int((found < len(crops)).sum()) < 49
    unflipped = draw_views(pictures, index, AugmentationSettings(margin=1.125, flip=0.0), stream(3)).images
    assert bool(((unflipped[:, None] - crops[None]).abs().amax((2, 3, 4)).amin(1) < 1e-5).all())


def test_plain_views_of_photos_are_their_centre_on_white(tmp_path: Path) -> None:
    pictures = open_dataset(write(tmp_path), SIZE, split="all", margin=1.125)
    pixels = pictures.load(torch.tensor([0])).float() / 255
    wanted = pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    assert torch.allclose(plain_images(pictures, torch.tensor([0])), 2 * wanted - 1, atol=1e-6)


def test_views_of_another_kind_than_the_pictures(tmp_path: Path) -> None:
    pictures = open_dataset(write(tmp_path), SIZE, split="all")
    with pytest.raises(ValueError, match=r"opened with margin None, the views want 1\.125"):
        draw_views(pictures, torch.tensor([0]), AugmentationSettings(margin=1.125), stream(1))
