"""Recipes of one's own: a preset at an image size, a TOML file, a Python file."""

import dataclasses
from pathlib import Path

import pytest

import nvg_model
from training.__main__ import main, options, with_recipe_name
from training.data.generator_batch import Source, number_of_views
from training.distributed import Shard
from training.errors import TrainingError
from training.generator import held_out_loss
from training.recipes import RECIPES, recipe
from training.recipes.base import GeneratorRecipe, Running
from training.recipes.own import OWN, SIZES

QUICK = ["--steps", "2", "--batch", "6"]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["training", *map(str, arguments)])
    return main()


@pytest.mark.parametrize("preset", OWN)
@pytest.mark.parametrize("side", SIZES)
def test_every_preset_fits_every_size(preset: str, side: int) -> None:
    """The configuration checks itself: widths, norms and a power of two of positions."""
    config = recipe(f"{preset}-{side}").config
    assert config.image_size == (side, side)
    assert config.positions == {16: 16, 32: 64, 64: 64, 128: 256, 256: 256, 512: 1024}[side]


def test_from_ones_own_folder_without_a_recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ["--image-size", "16", "--preset=small"]
    where = ["--data", data, "--folder", tmp_path]
    assert command(monkeypatch, "tokenizer", *size, *where, *QUICK) == 0
    assert command(monkeypatch, "generator", *where, *size, *QUICK, "--cached-views", "12") == 0
    out = tmp_path / "own.safetensors"
    assert command(monkeypatch, "export", *size, "--folder", tmp_path, "--out", out) == 0
    model = nvg_model.load(out)
    assert model.classes == ("disc", "ring", "square") and model.config.image_size == (16, 16)
    assert model.config.generator == dataclasses.replace(recipe("small-16").config.generator, num_classes=3)
    assert model.provenance["recipe"] == "small-16"


def test_a_recipe_in_a_toml_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "icons.toml"
    path.write_text(
        'base = "smoke"\nseed = 5\n[tokenizer]\nsteps = 2\nbatch = 4\nlearning_rate = 1\n'
        "[views]\nscale = [0.9, 1.0]\n[config.generator]\ncontent_depth = 1\n"
    )
    ours, base = recipe(str(path)), recipe("smoke")
    assert (ours.name, ours.seed, ours.views.scale) == ("icons", 5, (0.9, 1.0))
    assert ours.tokenizer == dataclasses.replace(base.tokenizer, steps=2, batch=4, learning_rate=1.0)
    assert ours.generator == base.generator and ours.config.autoencoder == base.config.autoencoder
    assert ours.config.generator == dataclasses.replace(base.config.generator, content_depth=1)
    where = ["--data", data, "--folder", tmp_path / "run"]
    assert command(monkeypatch, "tokenizer", path, *where) == 0
    assert command(monkeypatch, "generator", path, *where, *QUICK, "--cached-views", 12) == 0
    assert command(monkeypatch, "export", path, "--folder", tmp_path / "run") == 0
    assert nvg_model.load(tmp_path / "run" / "icons.safetensors").config.generator.content_depth == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_that_changes_nothing_is_its_base(name: str, tmp_path: Path) -> None:
    path = tmp_path / "same.toml"
    path.write_text(f'base = "{name}"\nname = "{name}"\n')
    assert recipe(str(path)) == recipe(name)


def test_a_recipe_in_a_python_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom training.recipes import recipe\n"
        "RECIPE = dataclasses.replace(recipe('smoke'), name='', seed=9)\n"
    )
    assert recipe(str(path)) == dataclasses.replace(recipe("smoke"), name="mine", seed=9)
    path.write_text("recipe = 3\n")
    with pytest.raises(TrainingError, match=r"mine\.py has no RECIPE; end it with RECIPE = Recipe\(\.\.\.\)"):
        recipe(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('base = "smoke"\n[tokenizer]\nsteps = "3"\n', "Expected int, got str - at tokenizer.steps; correct it"),
        ('base = "smoke"\n[tokenizer]\nsteps = 1.5\n', "Expected int, got float - at tokenizer.steps"),
        ('base = "smoke"\n[tokenizer]\nsteeps = 3\n', "there is no setting tokenizer.steeps; there are steps"),
        ('base = "smoke"\n[tokeniser]\nsteps = 3\n', "there is no setting tokeniser; there are tokenizer"),
        (
            'base = "smoke"\n[tokenizer]\ndiscriminator = "big"\n',
            "Invalid enum value 'big' - at tokenizer.discriminator",
        ),
        (
            'base = "smoke"\n[config]\nimage_size = [24, 24]\n',
            "gives 36 latent positions; the stages need a power of two",
        ),
        ("seed = 3\n", 'does not say what it changes; begin it with base = "small-64"'),
        ('base = "nothing"\n', "there is no recipe 'nothing'; there are emoji64"),
        ("base = \n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(TrainingError) as caught:
        recipe(str(tmp_path / "wrong.toml"))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "smal"], "there is no preset 'smal'; there are small, medium, large"),
        (["--image-size", "60"], "the image size 60 is none of 16, 32, 64, 128, 256, 512"),
        (["--data", "x", "--image-size"], "--image-size needs a value"),
        (["emoji64", "--image-size", "64"], "the recipe emoji64 has a size; leave --image-size out"),
        (["nowhere.toml"], "there is no recipe nowhere.toml; give the path of a .toml or .py file"),
    ],
)
def test_wrong_sizes_and_presets(arguments: list[str], said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        recipe(with_recipe_name(arguments)[0])
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--cached-views", "7"], ["--views", "7"], ["--views=7", "--views.flip", "0"]])
def test_the_number_of_cached_views_has_a_name_of_its_own(arguments: list[str]) -> None:
    chosen = options("generator", "generator", ["smoke", *arguments])[0]
    assert chosen.generator.cached_views == 7 and chosen.views.flip == (0 if "--views.flip" in arguments else 0.5)


@pytest.mark.parametrize(
    ("asked", "pictures", "views"),
    [(None, 37, 1184), (None, 5000, 24_000), (None, 30_000, 30_000), (0, 37, 0), (12_000, 37, 12_000)],
)
def test_as_many_views_are_cached_as_the_data_needs(asked: int | None, pictures: int, views: int) -> None:
    assert number_of_views(GeneratorRecipe(steps=1, cached_views=asked), pictures) == views


def test_a_negative_number_of_views_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"--cached-views -1 is no number of views; give 0 for no cache"):
        number_of_views(GeneratorRecipe(steps=1, cached_views=-1), 37)


@pytest.mark.parametrize("base", [recipe("finetune").generator, recipe("small").tokenizer])
def test_samples_are_made_early_by_default(base: Running) -> None:
    looks = [step for step in range(1, base.steps) if base.watches_after(step)]
    assert looks[0] <= 50 and len(looks) >= 3


class _Pictures:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize(("pictures", "views"), [(2, 16), (5, 40), (9, 72), (85, 256), (5000, 256)])
def test_the_held_out_check_is_as_large_as_the_set(
    pictures: int, views: int, tiny_model: nvg_model.NVG, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes through its views in parts of 32 at most."""
    seen: list[tuple[int, int, int]] = []

    def draw(self: Source, step: int, share: Shard) -> tuple[int, int]:
        seen.append((self.settings.batch, share.part, share.parts))
        return share.part, share.parts

    monkeypatch.setattr(Source, "draw", draw)
    measure = held_out_loss(
        recipe("smoke"), tiny_model, lambda batch, step: (float(batch[0]), {"part": batch[0]}), _Pictures(pictures)
    )  # type: ignore[arg-type]
    values = measure()
    batch, parts = seen[0][0], seen[0][2]
    assert views <= batch < views + parts and batch % parts == 0 and batch // parts <= 32
    assert [part for _, part, _ in seen] == list(range(parts))
    assert values == {"loss": (parts - 1) / 2, "part": (parts - 1) / 2}
