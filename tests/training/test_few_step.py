"""Conversion to few steps: what is learned is the average of the velocity, and the command around it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from shared_models import random_tokens, with_names
from torch import Tensor

import nvg_model
from nvg_model.generation import Request
from nvg_model.networks import StructureGenerator
from nvg_model.sampling import SamplingSettings, time_grid
from training import checkpointing
from training.__main__ import main
from training.conversion import as_generator
from training.data.augmentation import AugmentationSettings
from training.data.conversion_batch import draw_few_step, draw_parts, draw_spans
from training.data.generator_batch import Batch, Source, assemble
from training.distributed import Shard, World
from training.errors import TrainingError
from training.export import export
from training.few_step import converted, train_few_step
from training.losses.average_velocity import (
    FewStepObjective,
    StructureRows,
    guided_velocity,
    make_rows,
    student_velocity,
    teacher_run,
)
from training.metrics.classifier import ClassifierSettings
from training.optim import optimizers
from training.recipes import recipe
from training.recipes.base import FewStepRecipe, Recipe
from training.run_folder import Identity
from training.split_agreement import METHODS, Images, agreement, picture_measure, splits, to_markdown, with_steps

SPREAD = 0.5  # of the data in the flow known in closed form


class GaussianFlow(StructureGenerator):
    """The exact flow from standard noise to a centred Gaussian: every state keeps its direction, z_0 = SPREAD z_1."""

    def forward(self, z: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        """Velocity noise - data, expected at z."""
        t = t[:, None, None]
        return (t - (1 - t) * SPREAD**2) / (t**2 + (1 - t) ** 2 * SPREAD**2) * z


def smooth_tiny(tiny_model: nvg_model.NVG) -> nvg_model.NVG:
    """The tiny model with a time factor that can be differentiated by."""
    generator = dataclasses.replace(tiny_model.config.generator, time_factor=4.0)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), tiny_model.classes)
    model.load_state_dict(tiny_model.state_dict())
    return model.eval().requires_grad_(False)


def few_step_recipe(**settings: object) -> Recipe:
    """smoke with a short conversion."""
    base = FewStepRecipe(
        steps=4, batch=6, save_every=2, warmup=1, teacher_steps=4, spans=2, table_images=3, largest_guidance=3.0
    )
    return dataclasses.replace(recipe("smoke"), few_step=dataclasses.replace(base, **settings))  # type: ignore[arg-type]


def a_batch(count: int, generator: torch.Generator, splits_each: int = 2) -> Batch:
    """Random cached tokens, some splits of every image."""
    stages = torch.rand(count, 3, generator=generator).argsort(1)[:, :splits_each]
    return random_tokens(stages, stages, generator)


def some_rows(count: int = 3) -> tuple[StructureRows, Tensor, Tensor, Tensor]:
    """StructureRows of different stages with their state, t and span, span < t."""
    generator = torch.Generator().manual_seed(5)
    stage = torch.arange(count) % 3
    known = torch.arange(4) < stage[:, None, None]
    rows = StructureRows(
        canvas=torch.randn(count, 16, 8, generator=generator),
        labels=torch.stack([torch.arange(16) // 2 ** (4 - one) for one in stage.tolist()]),
        classes=torch.arange(count) % 3,
        stage=stage,
        guidance=1 + 2 * torch.rand(count, generator=generator),
        clean=torch.where(known, 1.0, 0.0).expand(-1, 16, -1),
        known=known,
    )
    t = 0.3 + 0.7 * torch.rand(count, generator=generator)
    return rows, rows.project(torch.randn(count, 16, 4, generator=generator)), t, 0.8 * t


def test_the_conversion_starts_as_the_trained_flow(tiny_model):
    student = converted(tiny_model, 3.0)
    rows, z, t, span = some_rows()
    trained = tiny_model.structure(z, t, rows.canvas, rows.labels, rows.classes, rows.stage)
    for length in (0 * span, span):
        u = student_velocity(student.structure, rows, z, t, length)
        assert torch.equal(u, torch.where(rows.known, 0.0, trained))
    assert student.config.generator.flow == "average" and tiny_model.config.generator.flow == "velocity"
    trainable = {name.split(".")[0] for name, one in student.named_parameters() if one.requires_grad}
    assert trainable == {"structure"}


def test_guided_velocity_is_that_of_two_passes(tiny_model):
    rows, z, t, _ = some_rows()
    flow = tiny_model.structure
    own, null = (
        flow(z, t, rows.canvas, rows.labels, classes, rows.stage)
        for classes in (rows.classes, torch.full_like(rows.classes, 3))
    )
    wanted = null + rows.guidance[:, None, None] * (own - null)
    assert torch.allclose(guided_velocity(flow, rows, z, t), torch.where(rows.known, 0.0, wanted), atol=1e-5)


@pytest.mark.parametrize("structure_input", ["partial", "noise"])
def test_the_teachers_path_is_that_of_sampling(tiny_model, structure_input):
    """Where the flow starts from noise in all channels (paper, table 2), none is known in the conversion either."""
    generator = dataclasses.replace(tiny_model.config.generator, structure_input=structure_input)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator))
    model.load_state_dict(tiny_model.state_dict())
    model.eval().requires_grad_(False)
    stage, steps, guidance = 2, 3, 2.0
    random = torch.Generator().manual_seed(4)
    batch = dataclasses.replace(
        a_batch(3, random, splits_each=1), structure_stages=torch.full((3, 1), stage), classes=torch.tensor([0, 1, 2])
    )
    rows = make_rows(batch, model, torch.full((3,), guidance))
    grid = torch.tensor(time_grid(steps, 16))
    path = teacher_run(model.structure, rows, rows.project(batch.noise), grid.expand(3, -1), no_autocast)
    settings = SamplingSettings(structure_guidance=(guidance, guidance), structure_steps=steps, solver="multistep")
    stages = assemble(batch, model.tokenizer)
    run = model.run(Request(batch.classes, settings=settings))
    end = run.integrate(stages.canvases[:, stage], stages.structure[:, stage], batch.noise, stage)
    assert torch.allclose(path[-1], end, atol=1e-4)


def no_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def test_the_derivative_equals_finite_differences(tiny_model):
    """meanflow's target, v - (t - r) du/dt, with du/dt as the change of u along the path, r fixed."""
    teacher = smooth_tiny(tiny_model).double()
    torch.manual_seed(0)
    student = converted(teacher, 3.0).double()
    for parameter in student.structure.average_mlp[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    objective = FewStepObjective(teacher, student, FewStepRecipe(objective="meanflow"))
    rows, z, t, span = some_rows()
    target = objective._meanflow(rows, z, t, span)
    v, h = guided_velocity(teacher.structure, rows, z, t), 1e-2

    def u(by: float) -> Tensor:
        return student_velocity(student.structure, rows, z + by * v, t + by, span + by)

    slope = (8 * (u(h) - u(-h)) - (u(2 * h) - u(-2 * h))) / (12 * h)
    assert float(slope.detach().abs().max()) > 0.1  # or there would be nothing to compare
    assert torch.allclose(target, v - span[:, None, None] * slope, atol=2e-2 * float(slope.detach().abs().max()))
    assert bool((target[rows.known.expand_as(v)] == 0).all())  # known channels stand still


@pytest.mark.parametrize(("name", "share"), [("trajectory", 0.2), ("meanflow", 0.5), ("shortcut", 0.9)])
def test_one_step_of_a_flow_known_in_closed_form(tiny_model, name, share):
    """After a short training one step's error is but a share of that of one step of the exact velocity."""
    teacher = smooth_tiny(tiny_model)
    torch.manual_seed(0)
    teacher.structure.initialize()
    student = converted(teacher, 2.5)
    teacher.structure = GaussianFlow(teacher.config)
    settings = few_step_recipe(
        objective=name, batch=8, teacher_steps=4, spans=2, structure_stages=2, largest_guidance=2.5, split_weight=0.0
    )
    objective = FewStepObjective(teacher, student, settings.few_step)
    rates = dataclasses.replace(
        as_generator(settings, settings.few_step, structure_stages=2), matrix_learning_rate=0.004, learning_rate=0.004
    )
    both = optimizers(objective, rates)
    rows, noise, _, _ = some_rows(12)
    one = torch.ones(12)

    def error() -> float:
        with torch.no_grad():
            end = noise - student_velocity(student.structure, rows, noise, one, one)
        return float((end - SPREAD * noise)[~rows.known.expand_as(noise)].square().mean().sqrt())

    before = error()
    for step in range(60):
        images = a_batch(8, torch.Generator().manual_seed(step))
        loss, _ = objective(draw_few_step(images, step, Shard(), settings.few_step, 0), 0)
        for optimizer in both:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in both:
            optimizer.step()
    euler_error = SPREAD  # z_1 - v(z_1) = 0, and z_0 = SPREAD z_1 with z_1 of unit variance
    assert error() < share * euler_error < before


def test_draws_are_shared_and_within_bounds():
    settings = FewStepRecipe(batch=8, structure_stages=2, teacher_steps=8, spans=3)
    whole = a_batch(8, torch.Generator().manual_seed(0))
    parts = [draw_few_step(whole, 5, Shard(number, 2), settings, 1) for number in range(2)]
    together = draw_few_step(whole, 5, Shard(), settings, 1)
    for name in ("guidance", "spans", "jitter", "parts"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(together, name))
    assert not torch.equal(draw_few_step(whole, 6, Shard(), settings, 1).guidance, together.guidance)
    generator = torch.Generator().manual_seed(0)
    t, r = draw_spans((4000,), generator).unbind(-1)
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())
    assert all(0.15 < float(share.float().mean()) < 0.35 for share in (t == 1, r == 0, t == r))
    first, last = draw_parts((4000,), 8, generator).unbind(-1)
    assert bool(((first >= 0) & (last <= 8)).all()) and set((last - first).tolist()) == {1, 2, 4, 8}
    assert set(first[last - first == 1].tolist()) == set(range(8))


def test_the_command_resumes_to_equal_weights_and_exports(linked, data, tmp_path, capsys):
    whole, broken = (linked(tmp_path / name) for name in ("whole", "broken"))
    train_few_step(few_step_recipe(), data, whole)
    train_few_step(few_step_recipe(steps=2), data, broken)
    path = train_few_step(few_step_recipe(), data, broken)
    one, other = (checkpointing.latest(run / "few-step") for run in (whole, broken))
    assert one is not None and other is not None and one["step"] == other["step"] == 4
    for a, b in ((one["average"], other["average"]), (one["phases"][0]["module"], other["phases"][0]["module"])):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    rows = json.loads((whole / "few-step" / "table.json").read_text())
    wanted = [(method, steps) for method, numbers in METHODS.items() for steps in numbers]
    assert [(row["method"], row["steps"]) for row in rows] == wanted
    assert rows[0]["agreement"] == 1 and len(rows[0]["by_stage"]) == 3
    assert "| average velocity | 1 |" in capsys.readouterr().out
    model = nvg_model.load(path)
    assert model.structure.averages and model.settings.structure_steps == 2
    exported = nvg_model.load(export(few_step_recipe(sampling_steps=4), whole, tmp_path / "out.safetensors"))
    assert exported.config == model.config and exported.settings.structure_steps == 2, "as it was trained for"
    weights = torch.cat(
        [model.structure.average_mlp[0].weight.flatten(), model.structure.structure_in.weight.flatten()]
    )
    found = torch.cat(
        [exported.structure.average_mlp[0].weight.flatten(), exported.structure.structure_in.weight.flatten()]
    )
    assert torch.allclose(found, weights, atol=1e-3)  # exported in half precision
    assert exported.provenance["few_step_steps_done"] == 4 and "few-step smoke" in exported.provenance["commands"][-2]
    assert bool(torch.isfinite(exported.decode(exported.generate(["disc", None], seed=1))).all())


def test_a_checkpoint_can_be_converted(tiny_model, data, tmp_path):
    """With the checkpoint's classes, and a token cache of its own; its result is not mixed into another export."""
    named = with_names(tiny_model)
    teacher = nvg_model.save(named, tmp_path / "teacher.safetensors")
    settings = few_step_recipe(teacher=str(teacher), steps=2, objective="shortcut")
    student = nvg_model.load(train_few_step(settings, data, tmp_path / "run"))
    assert student.classes == named.classes and student.structure.averages
    assert (tmp_path / "run" / "few-step" / "cache.safetensors").is_file()
    assert torch.equal(student.content.code_head.weight, named.content.code_head.weight)
    with pytest.raises(TrainingError, match="a structure generator of few steps already; convert a trained"):
        converted(student, 3.0)


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Path:
    """The training pictures as wide photos in a flat folder, with a label file."""
    folder, rows = tmp_path / "photos", ["file,class"]
    folder.mkdir()
    for path in sorted((data / "train").glob("*/*.png")):
        photo = Image.new("RGB", (32, 16), "black")  # stretched, it would have black sides
        photo.paste(Image.alpha_composite(Image.new("RGBA", (16, 16), "white"), Image.open(path)), (8, 0))
        photo.save(folder / f"{path.parent.name}-{path.name}")
        rows.append(f"{path.parent.name}-{path.name},{path.parent.name}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_photos_in_a_flat_folder_are_read_as_for_the_generator(tiny_model, photos, tmp_path):
    teacher = nvg_model.save(with_names(tiny_model), tmp_path / "teacher.safetensors", dtype=torch.float32)
    base = dataclasses.replace(few_step_recipe(teacher=str(teacher), steps=1), views=AugmentationSettings(margin=1.0))
    train_few_step(base, photos, tmp_path / "run")
    model = nvg_model.load(teacher)
    dataset = base.dataset(photos, "train")
    wanted = Source.make(base, model, dataset, tmp_path, World(), Identity.of(dataset, photos, "", {})).cache
    with safe_open(tmp_path / "run" / "few-step" / "cache.safetensors", framework="pt") as file:
        assert wanted is not None and torch.equal(file.get_tensor("tokens"), wanted.tokens)


def test_an_export_does_not_mix_two_models(linked, data, tiny_model, tmp_path):
    run = linked(tmp_path / "run")
    named = with_names(tiny_model)
    teacher = nvg_model.save(named, tmp_path / "teacher.safetensors")
    train_few_step(few_step_recipe(teacher=str(teacher), steps=1), data, run)
    with pytest.raises(
        TrainingError, match=r"was converted from .*teacher\.safetensors, not from this run's generator"
    ):
        export(few_step_recipe(), run, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "meanflow"}, "a time_factor of 1000 makes too steep"),
        (
            {"largest_guidance": 2.0},
            r"structure guidance \(1.0, 2.5\), and the converted one knows the scales from 1 to 2;",
        ),
        ({"spans": 0}, "teacher_steps and spans must be at least 1"),
    ],
)
def test_wrong_settings(settings, said, linked, data, tmp_path):
    with pytest.raises(TrainingError, match=said):
        train_few_step(few_step_recipe(**settings), data, linked(tmp_path / "run"))


def test_the_frechet_distance_of_a_table(tiny_model, data, tmp_path):
    """A number for every way to sample, the same when asked again."""
    named = with_names(tiny_model)
    measure = picture_measure(named, data, 36, ClassifierSettings(steps=2, batch=8), tmp_path)
    one, other = (measure(named, with_steps(named.settings, steps)).frechet_distance for steps in (1, 4))
    assert one > 0 and other > 0 and one != other
    assert measure(named, with_steps(named.settings, 1)).frechet_distance == one


def test_the_frechet_distance_of_photos_is_that_of_their_centres(tiny_model, photos, tmp_path):
    named, few = with_names(tiny_model), ClassifierSettings(steps=2, batch=8)
    centres, stretched = (
        picture_measure(named, photos, 12, few, tmp_path, margin=margin)(
            named, with_steps(named.settings, 1)
        ).frechet_distance
        for margin in (1.0, None)
    )
    assert centres > 0 and centres != stretched


def test_without_a_generator_the_command_says_so(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["training", "few-step", "smoke", "--data", str(data), "--folder", str(tmp_path)])
    assert main() == 2
    assert "there is no saved generator" in capsys.readouterr().err


def test_agreement_and_its_table(tiny_model):
    images = Images.generate(tiny_model, 4, with_steps(tiny_model.settings, 4))
    settings = with_steps(tiny_model.settings, 2)
    wanted = splits(tiny_model, images, settings)
    assert agreement(wanted, wanted) == [1, 1, 1] and agreement(~wanted, wanted) == [0, 0, 0]
    usual = [torch.tensor(time_grid(2, 16))] * 3
    assert torch.equal(splits(tiny_model, images, settings, usual), wanted)
    assert not torch.equal(splits(tiny_model, images, settings, [torch.tensor([1, 0.2, 0])] * 3), wanted)
    rows = [
        {"method": "euler", "steps": 4, "agreement": 0.75, "by_stage": [1.0, 0.5], "seconds_per_image": 0.0625},
        {"method": "even", "steps": 2, "agreement": 0.5, "by_stage": [0.5, 0.5]},
    ]
    assert to_markdown(rows).splitlines() == [
        "| method | steps | splits as with 25 Euler steps | by stage | seconds an image |",
        "| --- | --- | --- | --- | --- |",
        "| euler | 4 | 75.0% | 100.0% 50.0% | 0.062 |",
        "| even | 2 | 50.0% | 50.0% 50.0% |  |",
    ]
