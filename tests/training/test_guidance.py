"""Guidance inside: what is learned is the result of two passes, and the command around it."""

import dataclasses

import pytest
import torch
from shared_models import random_tokens, with_names
from torch import Tensor

import nvg_model
from nvg_model.sampling import SamplingSettings
from training import checkpointing
from training.conversion import as_generator
from training.data.conversion_batch import GuidanceBatch, draw_guidance
from training.data.generator_batch import Batch
from training.distributed import Shard
from training.errors import TrainingError
from training.export import export
from training.guidance import converted, train_guidance
from training.losses.guidance import GuidanceObjective, guided, make_rows
from training.optim import optimizers
from training.recipes import recipe
from training.recipes.base import GuidanceRecipe, Recipe
from training.warm_start import starting_point, without_conversions


def guidance_recipe(**settings: object) -> Recipe:
    """smoke with a short conversion."""
    base = GuidanceRecipe(steps=4, batch=6, save_every=2, warmup=1, largest_guidance=3.0)
    return dataclasses.replace(recipe("smoke"), guidance=dataclasses.replace(base, **settings))  # type: ignore[arg-type]


def a_batch(count: int, seed: int = 0) -> Batch:
    """Random cached tokens, all content stages of every image."""
    content, structure = torch.arange(5).expand(count, -1), torch.zeros(count, 1, dtype=torch.long)
    return random_tokens(content, structure, torch.Generator().manual_seed(seed))


def test_the_conversion_starts_unguided(tiny_model):
    student = converted(tiny_model, 3.0)
    rows = make_rows(a_batch(2), tiny_model)
    plain = tiny_model.content(rows.canvas, rows.labels, rows.classes, rows.stage)
    for scale in (1.0, torch.linspace(1, 3, len(plain))):
        found = student.content(rows.canvas, rows.labels, rows.classes, rows.stage, guidance=scale)
        assert torch.equal(found, plain)
    trainable = {name.split(".")[0] for name, one in student.named_parameters() if one.requires_grad}
    assert trainable == {"content"} and not student.content.code_head.weight.requires_grad
    assert student.config.generator.largest_content_guidance == 3 and tiny_model.content.largest_guidance == 1


@pytest.mark.parametrize("stage", [0, 2, 4])
def test_the_target_is_the_result_of_two_passes(tiny_model, stage):
    """Its scores are those that sampling combines from two passes."""
    batch = dataclasses.replace(a_batch(3), content_stages=torch.full((3, 1), stage))
    rows, scale = make_rows(batch, tiny_model), torch.tensor([1.0, 2.0, 3.5])
    wanted = guided(tiny_model, rows, scale)
    canvas, labels = rows.canvas, rows.labels
    own = tiny_model.content.predict(canvas, labels, rows.classes, stage)
    null = tiny_model.content.predict(canvas, labels, None, stage)
    share = scale[:, None, None]
    assert torch.allclose(wanted, null[0] + share * (own[0] - null[0]), atol=1e-4)
    change = nvg_model.hierarchy.cluster_means(wanted - canvas, labels, 2**stage)
    assert torch.allclose(tiny_model.content.logits(change), null[1] + share * (own[1] - null[1]), atol=1e-3)


def test_it_learns(tiny_model):
    """A short training takes most of the error away, at scales and on canvases that it has not seen."""
    torch.manual_seed(0)
    teacher = nvg_model.NVG(tiny_model.config, tiny_model.classes)
    teacher.load_state_dict(tiny_model.state_dict())
    with torch.no_grad():  # classes that differ enough for guidance to matter
        teacher.content.class_embedding.weight.mul_(20)
    teacher.eval().requires_grad_(False)
    student = converted(teacher, 3.0)
    settings = guidance_recipe(learning_rate=2e-3, matrix_learning_rate=4e-3, warmup=0, steps=100)
    objective = GuidanceObjective(teacher, student, settings.guidance)
    both = optimizers(objective, as_generator(settings, settings.guidance))
    eight = dataclasses.replace(settings.guidance, batch=8)
    unseen = draw_guidance(a_batch(8, seed=99), 0, Shard(), eight, seed=5)

    def error() -> dict[str, Tensor]:
        with torch.no_grad():
            return objective(unseen, 0)[1]

    before = error()
    for step in range(60):
        batch = draw_guidance(a_batch(8, seed=step), step, Shard(), eight, seed=0)
        loss, _ = objective(batch, step)
        loss.backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    after = error()
    assert float(after["canvas_mse"]) < 0.3 * float(before["canvas_mse"])
    assert float(after["divergence"]) < 0.3 * float(before["divergence"])


def test_scales_are_those_of_the_whole_step():
    settings = GuidanceRecipe(batch=8, largest_guidance=4.0)
    whole = draw_guidance(a_batch(8), 3, Shard(), settings, seed=1).guidance
    halves = [draw_guidance(a_batch(4), 3, Shard(rank, 2), settings, seed=1).guidance for rank in range(2)]
    assert torch.equal(torch.cat(halves), whole) and float(whole.min()) >= 1 and 2.5 < float(whole.max()) <= 4
    assert not torch.equal(whole, draw_guidance(a_batch(8), 4, Shard(), settings, seed=1).guidance)


def test_a_batch_keeps_its_names():
    images = dataclasses.replace(a_batch(2), names=("a.png", "b.png"))
    assert GuidanceBatch(images, torch.ones(2, 5)).names == ("a.png", "b.png")


def test_the_command_resumes_to_equal_weights_and_exports(linked, data, tmp_path):
    whole, broken = (linked(tmp_path / name) for name in ("whole", "broken"))
    train_guidance(guidance_recipe(), data, whole)
    train_guidance(guidance_recipe(steps=2), data, broken)
    path = train_guidance(guidance_recipe(), data, broken)
    one, other = (checkpointing.latest(run / "guidance") for run in (whole, broken))
    assert one is not None and other is not None and one["step"] == other["step"] == 4
    assert all(torch.equal(one["average"][name], other["average"][name]) for name in one["average"])
    model = nvg_model.load(path)
    assert model.content.largest_guidance == 3
    exported = nvg_model.load(export(guidance_recipe(), whole, tmp_path / "out.safetensors"))
    assert exported.config == model.config
    wanted = model.content.guidance_mlp[-1].weight
    assert float(wanted.detach().abs().max()) > 0
    assert torch.allclose(exported.content.guidance_mlp[-1].weight, wanted, atol=1e-3)  # exported in half precision
    assert exported.provenance["guidance_steps_done"] == 4
    assert "guidance smoke" in exported.provenance["commands"][-2]
    assert bool(torch.isfinite(exported.decode(exported.generate(["disc", None], seed=1))).all())


def test_a_checkpoint_of_another_run_is_not_mixed_in(tiny_model, linked, data, tmp_path):
    named = with_names(tiny_model)
    teacher = nvg_model.save(named, tmp_path / "teacher.safetensors")
    run = linked(tmp_path / "run")
    student = nvg_model.load(train_guidance(guidance_recipe(teacher=str(teacher), steps=1), data, run))
    assert student.classes == named.classes
    assert torch.equal(student.structure.structure_in.weight, named.structure.structure_in.weight)
    with pytest.raises(TrainingError, match=r"guidance was converted from .*teacher\.safetensors, not from this run's"):
        export(guidance_recipe(), run, tmp_path / "out.safetensors")


def test_wrong_settings(tiny_model):
    with pytest.raises(TrainingError, match="the largest guidance is 1, and 1 is none; give more than 1"):
        converted(tiny_model, 1.0)
    with pytest.raises(TrainingError, match="the model has its content guidance inside already; convert a trained"):
        converted(converted(tiny_model, 2.0), 2.0)


def lively_student(tiny_model: nvg_model.NVG) -> nvg_model.NVG:
    """A conversion whose result depends on the scale."""
    student = converted(tiny_model, 3.0)
    torch.manual_seed(1)
    torch.nn.init.normal_(student.content.guidance_mlp[-1].weight, std=0.2)
    return student


def test_training_goes_on_without_guidance_inside(tiny_model, tmp_path):
    """Fine-tuning starts from the network at scale 1, so that its loss is that of the data."""
    student = lively_student(tiny_model)
    plain = without_conversions(student, "student")
    rows = make_rows(a_batch(2), tiny_model)
    inputs = rows.canvas, rows.labels, rows.classes, rows.stage
    wanted = student.content(*inputs, guidance=1.0)
    assert not torch.allclose(student.content(*inputs, guidance=3.0), wanted, atol=1e-3)
    assert torch.allclose(plain.content(*inputs), wanted, atol=1e-5)
    assert plain.content.largest_guidance == 1 and plain.config == tiny_model.config
    path = nvg_model.save(student, tmp_path / "student.safetensors")
    started = starting_point(dataclasses.replace(recipe("smoke"), start=str(path)), tmp_path, student.classes)
    assert started.config == tiny_model.config
    assert without_conversions(tiny_model, "tiny") is tiny_model


def test_a_few_step_checkpoint_is_not_trained_on(tiny_model, tmp_path):
    generator = dataclasses.replace(tiny_model.config.generator, flow="average", largest_guidance=3.0)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), tiny_model.classes)
    path = nvg_model.save(model, tmp_path / "few.safetensors")
    with pytest.raises(TrainingError, match=r"few\.safetensors has a structure flow of few steps, which cannot be tr"):
        starting_point(dataclasses.replace(recipe("smoke"), start=str(path)), tmp_path, model.classes)


def test_sampling_takes_one_pass_inside_and_two_outside(tiny_model, monkeypatch):
    student = lively_student(tiny_model)
    rows: list[int] = []
    forward = student.content.forward

    def counted(canvas: Tensor, *others: object, **more: object) -> Tensor:
        rows.append(len(canvas))
        return forward(canvas, *others, **more)

    monkeypatch.setattr(student.content, "forward", counted)
    for largest, wanted in ((3.0, [1] * 5), (4.0, [1, 1, 1, 2, 2])):  # 1, 1.75, 2.5, 3.25, 4
        rows.clear()
        student.generate([0], seed=2, settings=SamplingSettings(content_guidance=(1.0, largest), structure_steps=1))
        assert rows == wanted
