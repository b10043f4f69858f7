"""What the paper's release does and our small recipes do not: every row of the table in docs/training.md.

Expected values come from a formula written another way than in the code under test.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nvg_model.config import PRESETS
from nvg_model.model import NVG
from training import warm_start as initialisation
from training.data.augmentation import draw_epochs, draw_views, stream
from training.data.generator_batch import Source
from training.distributed import Shard
from training.generator import prepare, schedule, train_generator
from training.losses.generators import GeneratorObjective
from training.losses.lpips import LPIPS
from training.optim import AveragedWeights, cosine, optimizers
from training.recipes import recipe
from training.recipes.base import Recipe
from training.recipes.paper import IMAGENET, PAPER, TOKENIZER
from training.tokenizer import train_tokenizer

GENERATORS = ["d12", "d16", "d20", "d24"]


def paper_on(preset: str = "tiny", **changes: object) -> Recipe:
    """The recipe d16 with a small model, without downloads."""
    settings = dataclasses.replace(
        recipe("d16").generator, repa_weight=0.0, bfloat16=False, compile=False, workers=0, **changes  # type: ignore[arg-type]
    )  # fmt: skip
    return dataclasses.replace(recipe("d16"), config=PRESETS[preset], generator=settings)


def tiny() -> NVG:
    torch.manual_seed(0)
    nvg = NVG(PRESETS["tiny"], ("disc", "ring", "square"))
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


# The recipes


@pytest.mark.parametrize("name", GENERATORS)
def test_a_recipe_is_section_8_line_by_line(name: str) -> None:
    made, epochs = recipe(name), {"d12": 40, "d16": 200, "d20": 250, "d24": 350}[name]
    one = made.generator
    assert made.config == PRESETS[name] and one.steps * one.batch == pytest.approx(epochs * IMAGENET, abs=one.batch)
    assert (one.optimizer, one.weight_decay, one.decay_all, one.clip) == ("adamw", 0.05, True, 1.0)
    assert one.learning_rate == one.head_learning_rate == pytest.approx(1e-4 * one.batch / 256)
    assert (one.warmup, one.warmup_start, one.initialisation, one.order) == (1000, 0.005, "xavier", "epochs")
    assert (one.ema, one.ema_warmup, one.label_dropout, one.bfloat16) == (0.9999, False, 0.1, True)
    assert (one.repa_weight, one.repa_layer, one.cached_views) == (0.5, 8, 0)
    assert (one.content_stages, one.structure_stages) == (made.config.splits + 1, made.config.splits - 1)
    assert made.config.generator is not None
    assert made.config.generator.drop_path == pytest.approx(0.1 * int(name[1:]) / 24)
    assert (made.views.margin, made.views.flip) == (1.125, 0)
    # What helps small machines is off.
    assert (one.split_weight, one.time_logit, one.token_noise, one.own_tokens, one.lora_rank) == (0, (0, 1), 0, 0, 0)
    assert not any((one.content_stage_odds, one.structure_stage_odds, one.content_stage_weights))
    assert not one.structure_stage_weights


def test_the_tokenizer_is_section_8_line_by_line() -> None:
    assert {made.tokenizer for made in PAPER.values()} == {TOKENIZER}
    one = TOKENIZER
    assert one.steps * one.batch == pytest.approx(100 * IMAGENET, abs=one.batch)
    assert one.soft_assignment_steps * one.batch == pytest.approx(IMAGENET, abs=one.batch)
    assert (one.batch, one.learning_rate, one.warmup, one.order, one.clip) == (256, 1e-4, 0, "epochs", 1.0)
    assert (one.ema, one.ema_warmup, one.bfloat16) == (0.9999, False, False)
    assert (one.lpips_weight, one.quantizer_weight, one.adversarial_weight, one.lecam_weight) == (1, 1, 0.1, 0.001)
    assert one.clamp_output and one.adversarial_by_image
    assert (one.discriminator, one.discriminator_loss, one.discriminator_weight_decay) == ("dino", "hinge", 5e-4)
    assert not any((one.gradient_weight, one.ssim_weight, one.cycle_weight, one.separation_weight, one.decoder_only))


def test_our_own_recipes_keep_what_helps_small_machines() -> None:
    for name in ("emoji64", "finetune", "smoke"):
        made = recipe(name)
        for one in (made.tokenizer, made.decoder, made.generator):
            assert one.order == "balanced" and one.ema_warmup
        assert not any(one.clamp_output or one.adversarial_by_image for one in (made.tokenizer, made.decoder))
        one = made.generator
        assert (one.initialisation, one.decay_all, one.warmup_start, one.final_rate) == ("normal", False, 0.0, 0.1)
        assert not one.decay_after_warmup and made.views.flip > 0


def test_every_row_of_the_docs_names_a_test() -> None:
    root = Path(__file__).resolve().parents[2]
    section = (root / "docs/training.md").read_text().split("## As the paper and its release\n")[1].split("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    names = ("test_paper.py", "test_paper_tokenizer.py", "test_golden_training.py")
    files = "".join((root / "tests/training" / name).read_text() for name in names)
    known = set(re.findall(r"^def (test_\w+)", files, re.MULTILINE))
    assert len(rows) >= 17
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2])
        assert named and set(named) <= known, row


# Schedules, averages, weight decay


@pytest.mark.parametrize("name", GENERATORS)
def test_the_generators_rate(name: str) -> None:
    """Against torch's own linear schedules; d24 decays from epoch 200 on, to 0.01."""
    settings = recipe(name).generator
    steps, rate = settings.steps, schedule(settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.005, total_iters=1000)
    for step in range(1001):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        warmup.step()
    start = 200 / 350 * steps if name == "d24" else 0.8 * steps + 1000
    final = 0.01 if name == "d24" else 0.1
    assert rate(math.floor(start)) == 1 > rate(math.floor(start) + 1) > 1 - 2 / (steps - start)
    for share in (0.25, 0.5, 1.0):
        step = start + share * (steps - start)
        assert rate(step) == pytest.approx((1 - share) * 1 + share * final, rel=1e-9)  # type: ignore[arg-type]


def test_the_tokenizers_rate_is_a_cosine_from_the_first_step() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert cosine(step, 50, TOKENIZER.warmup) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        expected.step()


def test_the_averages_have_one_decay_from_the_first_step_on() -> None:
    """d^n w_0 + (1-d) sum of d^(n-k) w_k, whereas ours forget the start."""
    values, decay = [3.0, -1.0, 4.0, 1.0, -5.0], 0.9
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(values[0])
    constant, rising = AveragedWeights(module, decay, warmup=False), AveragedWeights(module, decay)
    for step, value in enumerate(values[1:]):
        module.weight.data.fill_(value)
        constant.update(step)
        rising.update(step)
    n = len(values) - 1
    expected = decay**n * values[0] + (1 - decay) * sum(decay ** (n - k) * values[k] for k in range(1, n + 1))
    assert float(constant.state_dict()["weight"]) == pytest.approx(expected, rel=1e-6)
    assert float(rising.state_dict()["weight"]) != pytest.approx(expected, rel=1e-2)


def test_weight_decay_shrinks_every_matrix_and_nothing_else() -> None:
    """A step without gradients leaves what decays at 1 - rate * 0.05 of itself."""
    nvg, settings = tiny(), paper_on(learning_rate=0.1, head_learning_rate=0.1).generator
    for parameter in nvg.parameters():
        parameter.data.fill_(1.0)
    objective = GeneratorObjective(nvg, settings)
    (optimizer,) = optimizers(objective, settings)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {name: float(value.detach().flatten()[0]) for name, value in objective.named_parameters()}
    for name, value in objective.named_parameters():
        matrix = name.endswith("start_canvas") or (value.dim() > 1 and not name.endswith("qk_scale"))
        assert shrunk[name] == pytest.approx(1 - 0.1 * 0.05 if matrix else 1.0, rel=1e-6), name
    assert shrunk["content.code_head.weight"] < 1 == shrunk["content.code_head.bias"]


# Pictures


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven wide pictures that grow lighter to the right: six of class a, one of class b."""
    folder = tmp_path_factory.mktemp("ramps")
    for split in ("train", "held-out"):
        for index in range(7):
            place = folder / split / ("b" if index == 6 else "a") / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.tile(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], (32, 1, 3))
            Image.fromarray(pixels).save(place)
    return folder


def test_epochs_show_every_picture_once(ramps: Path) -> None:
    pictures = paper_on().dataset(ramps, "train")
    settings = paper_on(batch=4).generator
    source = Source(settings, paper_on(batch=4), PRESETS["tiny"], pictures, None)
    names = [name for step in range(14) for name in source.draw(step, Shard()).names]
    epochs = [tuple(names[start : start + 7]) for start in range(0, 56, 7)]
    assert all(sorted(epoch) == sorted(pictures.names) for epoch in epochs)
    assert len(set(epochs)) > 5
    halves = [source.draw(1, Shard(part, 2)).names for part in range(2)]
    assert halves[0] + halves[1] == tuple(names[4:8])  # over the end of an epoch, whatever the processes
    assert draw_epochs(7, 4, 40, 0).tolist() == torch.cat([draw_epochs(7, 4, 1, 0), draw_epochs(7, 5, 39, 0)]).tolist()


def test_views_are_never_flipped(ramps: Path) -> None:
    made = paper_on()
    views = draw_views(made.dataset(ramps, "train"), torch.arange(7).repeat(8), made.views, stream(0)).images
    assert (views[..., 0].mean(dim=(1, 2)) < views[..., -1].mean(dim=(1, 2))).all()


# Initialisation


def test_initial_weights() -> None:
    nvg = NVG(PRESETS["d12"])
    torch.manual_seed(0)
    initialisation.as_released(nvg)
    for network in (nvg.content, nvg.structure):
        for name, part in network.named_modules():
            if isinstance(part, nn.Linear):
                limit = math.sqrt(6 / (part.in_features + part.out_features))
                assert 0.97 * limit < float(part.weight.detach().abs().max()) <= limit, name
                assert float(part.weight.detach().square().mean()) == pytest.approx(limit**2 / 3, rel=0.1), name
                assert not part.bias.any(), name
            elif isinstance(part, nn.Embedding):
                assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.05), name
    assert float(nvg.content.start_canvas.detach().std()) == pytest.approx(1, rel=0.05)
    assert all(bool((one == 1).all()) for name, one in nvg.named_parameters() if name.endswith("qk_scale"))


def test_the_code_head_is_not_made_of_the_codes(ramps: Path) -> None:
    made = paper_on(batch=4)
    source = Source(made.generator, made, made.config, made.dataset(ramps, "train"), None)
    nvg = tiny()
    initialisation.as_released(nvg)
    before = nvg.content.code_head.weight.clone()
    prepare(nvg, source, made.generator)
    assert torch.equal(nvg.content.code_head.weight, before)
    assert not (nvg.content.canvas_scales == 1).all()  # those are still measured
    prepare(nvg, source, dataclasses.replace(made.generator, initialisation="normal"))
    assert not torch.equal(nvg.content.code_head.weight, before)


# All of it, offline


def torch_hub_file(path: Path, depth: int, patch: int, side: int, second: bool) -> Path:
    """A random transformer of width 64 as torch.hub has DINO's (or, `second`, DINOv2's) weights."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=random)

    state = {"cls_token": normal(1, 1, 64), "pos_embed": normal(1, (side // patch) ** 2 + 1, 64)}
    layers = {"patch_embed.proj": (64, 3, patch, patch)}
    norms = ["norm"]
    for block in (f"blocks.{number}" for number in range(depth)):
        layers |= {f"{block}.attn.qkv": (192, 64), f"{block}.attn.proj": (64, 64)}
        layers |= {f"{block}.mlp.fc1": (256, 64), f"{block}.mlp.fc2": (64, 256)}
        norms += [f"{block}.norm1", f"{block}.norm2"]
        state |= {f"{block}.ls{one}.gamma": torch.ones(64) for one in (1, 2) if second}
    for name, shape in layers.items():
        state |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    for name in norms:
        state |= {f"{name}.weight": torch.ones(64), f"{name}.bias": normal(64)}
    torch.save(state, path)
    return path


@pytest.mark.slow
def test_the_papers_trainings_run_from_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each with every loss, from files as they are published; the network is cut off."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("went to the network"))
    perceptual = LPIPS()
    torch.save(
        {name: value for name, value in perceptual.state_dict().items() if "features" in name}, tmp_path / "vgg.pth"
    )
    heads = {f"lin{index}.model.1.weight": one.view(1, -1, 1, 1) for index, one in enumerate(perceptual.calibration)}
    torch.save(heads, tmp_path / "lpips.pth")
    made = paper_on()
    small = {"steps": 2, "batch": 3, "workers": 0, "log_every": 1, "save_every": 2, "sample_every": 0}
    tokenizer = dataclasses.replace(
        TOKENIZER,
        **small,  # type: ignore[arg-type]
        lpips_backbone=str(tmp_path / "vgg.pth"),
        lpips_calibration=str(tmp_path / "lpips.pth"),
        discriminator_encoder=str(torch_hub_file(tmp_path / "dino.pth", 12, 16, 224, second=False)),
    )
    generator = dataclasses.replace(
        made.generator,
        **small,  # type: ignore[arg-type]
        repa_weight=0.5,
        repa_layer=2,
        repa_encoder=str(torch_hub_file(tmp_path / "dinov2.pth", 2, 14, 518, second=True)),
    )
    made = dataclasses.replace(made, tokenizer=tokenizer, generator=generator)
    train_tokenizer(made, data, tmp_path / "run")
    train_generator(made, data, tmp_path / "run")

    def logged(part: str) -> dict[str, float]:
        lines = (tmp_path / "run" / part / "log.jsonl").read_text().splitlines()
        return {name: value for line in lines for name, value in json.loads(line).items()}

    expected = {"l1", "lpips", "adversarial", "quantizer", "discriminator"}
    assert expected <= logged("tokenizer").keys() and "gradient_loss" not in logged("tokenizer")
    assert {"content_mse", "entropy_4", "structure_mse", "repa"} <= logged("generator").keys()
    assert all(math.isfinite(logged(part)[name]) for part, name in (("tokenizer", "lpips"), ("generator", "repa")))
