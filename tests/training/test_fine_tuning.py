"""Fine-tuning: LoRA, new classes, more blocks, and starting from a checkpoint."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from shared_models import fresh

import nvg_model
from nvg_model.config import PRESETS
from training.data.generator_batch import Source
from training.distributed import Shard
from training.errors import TrainingError
from training.export import export
from training.generator import train_generator
from training.losses.generators import GeneratorObjective
from training.optim import optimizers, set_learning_rate
from training.recipes import recipe
from training.recipes.base import GeneratorRecipe, Recipe
from training.warm_start import plain_weights, starting_point, with_classes


def test_lora_starts_as_the_network_and_merges_into_one(source: Source) -> None:
    nvg = fresh()
    for block in (*nvg.content.transformer.blocks, *nvg.structure.transformer.blocks):
        torch.nn.init.normal_(block.linear_out.weight, std=0.1)
    plain = {name: value.clone() for name, value in nvg.state_dict().items()}
    batch = source.draw(0, Shard())
    expected = GeneratorObjective(nvg, source.settings)(batch, 0)[0]
    settings = dataclasses.replace(source.settings, lora_rank=2, optimizer="adamw")
    objective = GeneratorObjective(nvg, settings)
    assert torch.equal(objective(batch, 0)[0], expected)
    trained = [name for name, one in objective.named_parameters() if one.requires_grad]
    assert all("parametrizations" in name or "class_embedding" in name for name in trained)
    (optimizer,) = optimizers(objective, settings)
    for _ in range(2):
        optimizer.zero_grad()
        objective(batch, 0)[0].backward()
        optimizer.step()
    merged = plain_weights(objective.state_dict(), {})
    other = fresh()
    other.load_state_dict(merged, strict=False)
    assert merged.keys() == {name for name in plain if not name.startswith("tokenizer.")}
    assert not torch.equal(merged["content.transformer.blocks.0.linear_in.weight"],
                           plain["content.transformer.blocks.0.linear_in.weight"])  # fmt: skip
    again = GeneratorObjective(other, source.settings)(batch, 0)[0]
    assert torch.allclose(again, objective(batch, 0)[0], atol=1e-5)


def test_new_classes_start_from_the_mean_and_old_ones_stay() -> None:
    start = fresh()
    torch.nn.init.normal_(start.content.class_embedding.weight)
    nvg = with_classes(start, ("ring", "star", "disc"))
    old, new = start.content.class_embedding.weight, nvg.content.class_embedding.weight
    assert torch.equal(new[0], old[1]) and torch.equal(new[2], old[0]) and torch.equal(new[3], old[3])
    assert torch.allclose(new[1], old[:3].mean(0))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_class_embeddings_are_trained_alone_at_first(optimizer: Literal["muon", "adamw"]) -> None:
    nvg = fresh()
    settings = GeneratorRecipe(
        steps=10, optimizer=optimizer, class_steps=40, class_learning_rate=0.5, learning_rate=0.1
    )
    objective = GeneratorObjective(nvg, settings)
    both, before = optimizers(objective, settings), {name: one.clone() for name, one in objective.named_parameters()}

    def changed(step: int) -> set[str]:
        set_learning_rate(both, 0.5, step)
        for parameter in objective.parameters():
            parameter.grad = torch.ones_like(parameter)
        for one in both:
            one.step()
        return {name for name, one in objective.named_parameters() if not torch.equal(one, before[name])}

    classes = {"content.class_embedding.weight", "structure.class_embedding.weight"}
    assert changed(0) == changed(1) == classes  # a fifth of the steps, whatever is asked for
    rows = nvg.content.class_embedding.weight - before["content.class_embedding.weight"]
    assert float(rows.detach().mean()) == pytest.approx(-2 * 0.25, rel=0.1)  # half the class rate, twice
    assert changed(2) == before.keys()
    usual = optimizers(objective, GeneratorRecipe(steps=9, optimizer=optimizer))
    assert len(usual[-1].param_groups) == len(both[-1].param_groups) - 1  # as in the saves of older runs


@pytest.mark.parametrize("rank", [0, 4])
def test_fine_tuning_a_checkpoint_on_a_folder(data: Path, tmp_path: Path, rank: int) -> None:
    nvg_model.save(fresh(), tmp_path / "start.safetensors")
    base = recipe("finetune")
    settings = dataclasses.replace(base.generator, steps=4, batch=6, cached_views=12, lora_rank=rank, optimizer="adamw")
    chosen = dataclasses.replace(base, generator=settings, start=str(tmp_path / "start.safetensors"))
    train_generator(chosen, data, tmp_path)
    model = nvg_model.load(export(chosen, tmp_path, tmp_path / "out.safetensors"))
    assert model.classes == ("disc", "ring", "square") and model.config == dataclasses.replace(PRESETS["tiny"])
    assert torch.isfinite(model.decode(model.generate(["ring"], seed=1))).all()
    tokenizer = nvg_model.load(tmp_path / "start.safetensors").tokenizer.state_dict()
    for name, value in model.tokenizer.state_dict().items():
        assert torch.allclose(value, tokenizer[name], atol=1e-3), name


def test_more_blocks_change_nothing_until_they_are_trained(data: Path, tmp_path: Path) -> None:
    start = nvg_model.save(fresh(), tmp_path / "start.safetensors")
    plain = nvg_model.load(start)
    assert plain.config.generator is not None
    depth = plain.config.generator.content_depth
    base = dataclasses.replace(recipe("finetune"), start=str(start))

    def chosen(networks: Literal["content", "structure"], **changes: int) -> Recipe:
        settings = dataclasses.replace(base.generator, networks=networks, steps=2, batch=6, cached_views=12, **changes)
        return dataclasses.replace(base, generator=settings)

    deep = starting_point(chosen("content", content_depth=depth + 1, structure_depth=5), tmp_path, plain.classes)
    images = [model.decode(model.generate(["ring", "disc"], seed=1)) for model in (plain, deep)]
    assert torch.equal(images[0], images[1])
    assert len(deep.content.transformer.blocks) == depth + 1 and len(deep.structure.transformer.blocks) == 5

    train_generator(chosen("content", content_depth=depth + 1), data, tmp_path)
    train_generator(chosen("structure", structure_depth=5), data, tmp_path)  # the other as deep as it was
    model = nvg_model.load(export(base, tmp_path, tmp_path / "out.safetensors"))
    assert model.config.generator is not None
    assert (model.config.generator.content_depth, model.config.generator.structure_depth) == (depth + 1, 5)
    assert torch.isfinite(model.decode(model.generate(["ring"], seed=1))).all()
    for network in (model.content, model.structure):
        assert network.transformer.blocks[-1].linear_out.weight.count_nonzero() > 0, "they are trained"


def test_fewer_blocks_are_evenly_chosen_ones(tmp_path: Path) -> None:
    plain = fresh()
    assert plain.config.generator is not None
    generator = dataclasses.replace(plain.config.generator, content_depth=5)
    deep = nvg_model.NVG(dataclasses.replace(plain.config, generator=generator), plain.classes)
    deep.content.initialize()
    start = nvg_model.save(deep, tmp_path / "start.safetensors")
    base = dataclasses.replace(recipe("finetune"), start=str(start))
    for asked, kept in ((1, [4]), (2, [0, 4]), (3, [0, 2, 4])):
        settings = dataclasses.replace(base.generator, content_depth=asked)
        shallow = starting_point(dataclasses.replace(base, generator=settings), tmp_path, plain.classes)
        blocks, wanted = shallow.content.transformer.blocks, [deep.content.transformer.blocks[one] for one in kept]
        for block, of_start in zip(blocks, wanted, strict=True):
            assert torch.equal(block.linear_in.weight, of_start.linear_in.weight)
        assert len(shallow.structure.transformer.blocks) == generator.structure_depth


def test_the_depth_of_a_network_is_a_setting(data: Path, tmp_path: Path) -> None:
    base = recipe("smoke")
    (tmp_path / "tokenizer").mkdir()
    torch.save(fresh().tokenizer.state_dict(), tmp_path / "tokenizer" / "tokenizer.pt")
    short = dataclasses.replace(base.generator, steps=2, batch=6, cached_views=12, sample_every=0)
    settings = dataclasses.replace(short, content_depth=3, structure_depth=1)
    train_generator(dataclasses.replace(base, generator=settings), data, tmp_path)
    model = nvg_model.load(export(base, tmp_path, tmp_path / "out.safetensors"))
    assert model.config.generator is not None
    assert (model.config.generator.content_depth, model.config.generator.structure_depth) == (3, 1)
    with pytest.raises(TrainingError, match="--structure-depth -1 is not a number of blocks"):
        train_generator(
            dataclasses.replace(base, generator=dataclasses.replace(short, structure_depth=-1)), data, tmp_path
        )
    alone = dataclasses.replace(short, networks="content", content_depth=4, structure_depth=1)
    with pytest.raises(TrainingError, match=r"does not fit the recipe; they differ in .*blocks\.3"):
        train_generator(dataclasses.replace(base, generator=alone), data, tmp_path)
