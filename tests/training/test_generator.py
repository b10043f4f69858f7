"""The generators' loss, its switches, and fine-tuning."""

import dataclasses
import shutil
from pathlib import Path
from typing import Literal

import pytest
import torch
from shared_models import fresh

import nvg_model
from nvg_model import hierarchy
from nvg_model.config import PRESETS
from nvg_model.model import NVG
from nvg_model.tokenizer import VisualGranularitySequence
from training import distributed
from training.data.augmentation import stream
from training.data.generator_batch import Source, assemble, draw_stages
from training.distributed import Shard, World
from training.errors import TrainingError
from training.export import export
from training.generator import make_cache, train_generator
from training.losses.generators import GeneratorObjective, content_loss, structure_loss
from training.losses.own_tokens import OwnTokens, with_mistakes
from training.optim import optimizers
from training.recipes import recipe
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe
from training.run_folder import Identity, generator_folder
from training.tokenizer import train_tokenizer
from training.warm_start import starting_point


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_of_every_preset_gets_a_gradient(name: str) -> None:
    """On the meta device, where the largest costs nothing: whether the graph reaches every parameter."""
    config = PRESETS[name]
    with torch.device("meta"):
        nvg = NVG(config)
        L, K, C = config.positions, config.splits, config.autoencoder.latent_channels
        labels, one, canvas = (
            torch.zeros(2, L, dtype=torch.long),
            torch.zeros(2, dtype=torch.long),
            torch.zeros(2, L, C),
        )
        nvg.content.logits(nvg.content(canvas, labels, one, one)).sum().backward()
        nvg.structure(torch.zeros(2, L, K), torch.zeros(2), canvas, labels, one, one).sum().backward()
    for network in (nvg.content, nvg.structure):
        assert [key for key, value in network.named_parameters() if value.grad is None] == []


def test_one_step_moves_every_parameter(source: Source) -> None:
    nvg = fresh()
    settings = dataclasses.replace(source.settings, content_stages=5, structure_stages=3, learning_rate=1e-2)
    whole = dataclasses.replace(source, settings=dataclasses.replace(settings, batch=24))
    objective = GeneratorObjective(nvg, settings)
    optimisers = optimizers(objective, settings)
    before = {name: value.clone() for name, value in objective.named_parameters()}
    for step in range(3):  # a weight behind a closed gate moves once the gate has opened
        loss, values = objective(whole.draw(step, Shard()), step)
        for optimizer in optimisers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimisers:
            optimizer.step()
    assert {"content_mse", "entropy_0", "entropy_4", "structure_mse"} <= values.keys()
    still = [name for name, value in objective.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_shares_of_a_batch_are_the_batch(source: Source) -> None:
    whole = source.draw(3, Shard())
    parts = [source.draw(3, Shard(part, 3)) for part in range(3)]
    for name in ("classes", "content_stages", "structure_stages", "noise", "times", "images"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    assert sum((part.names for part in parts), ()) == whole.names


def test_checkpointed_blocks_have_the_same_gradient(source: Source) -> None:
    gradients = []
    for checkpoint in (False, True):
        nvg = fresh()
        objective = GeneratorObjective(nvg, dataclasses.replace(source.settings, checkpoint_blocks=checkpoint)).train()
        objective(source.draw(0, Shard()), 0)[0].backward()
        gradients.append([one.grad for one in objective.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("networks", ["content", "structure"])
def test_one_network_alone(source: Source, networks: str) -> None:
    objective = GeneratorObjective(fresh(), dataclasses.replace(source.settings, networks=networks))  # type: ignore[arg-type]
    objective(source.draw(0, Shard()), 0)[0].backward()
    trained = {name.partition(".")[0] for name, value in objective.named_parameters() if value.grad is not None}
    assert trained == {networks}


def test_stage_odds_and_weights(source: Source) -> None:
    drawn = draw_stages(4000, 4, 1, stream(0), (6, 2, 1, 1)).flatten()
    assert torch.bincount(drawn, minlength=4).float().div(4000).tolist() == pytest.approx(
        [0.6, 0.2, 0.1, 0.1], abs=0.03
    )
    with pytest.raises(TrainingError, match=r"2 stage odds .* for 4 stages"):
        draw_stages(2, 4, 1, stream(0), (1, 2))
    nvg, batch = fresh(), source.draw(0, Shard())
    batch = dataclasses.replace(batch, content_stages=torch.full_like(batch.content_stages[:, :1], 2))
    stages = assemble(batch, nvg.tokenizer)
    plain = content_loss(nvg.content, batch, stages, source.settings)[0]
    weighted = dataclasses.replace(source.settings, content_stage_weights=(1, 1, 4, 1, 1))
    assert float(content_loss(nvg.content, batch, stages, weighted)[0].detach() / plain.detach()) == pytest.approx(
        4 / (8 / 5), rel=1e-5
    )


def test_the_times_of_the_flow(source: Source) -> None:
    """Logit-normal; the paper's are as they always were, whatever else is drawn."""
    whole = dataclasses.replace(source, settings=dataclasses.replace(source.settings, batch=240))
    later = dataclasses.replace(whole, settings=dataclasses.replace(whole.settings, time_logit=(0.5, 1.2)))
    logits, shifted = whole.draw(2, Shard()).times.logit(), later.draw(2, Shard()).times.logit()
    assert float(logits.mean()) == pytest.approx(0, abs=0.15) and float(logits.std()) == pytest.approx(1, abs=0.15)
    assert torch.allclose(shifted, 0.5 + 1.2 * logits, atol=1e-4)
    assert torch.equal(whole.draw(2, Shard()).noise, later.draw(2, Shard()).noise)


def test_the_split_weight_looks_at_the_channel_that_is_used(source: Source) -> None:
    nvg, batch = fresh(), source.draw(0, Shard())
    stages = assemble(batch, nvg.tokenizer)
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        settings = dataclasses.replace(source.settings, split_weight=weight)
        loss, values = structure_loss(nvg.structure, batch, stages, settings)
        losses[weight] = float(loss.detach())
    assert losses[0.0] == pytest.approx(float(values["structure_mse"]), rel=1e-5)
    assert losses[1.0] == pytest.approx(float(values["structure_split_mse"]), rel=1e-5)
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-5)
    assert losses[0.0] != pytest.approx(losses[1.0], rel=1e-3)


def test_wrong_tokens_stay_and_those_after_them_make_up_for_it(source: Source) -> None:
    settings = dataclasses.replace(source.settings, batch=24, token_noise=0.4)
    noisy = dataclasses.replace(source, settings=settings)
    plain = dataclasses.replace(source, settings=dataclasses.replace(settings, token_noise=0.0)).draw(0, Shard())
    batch, nvg = noisy.draw(0, Shard()), fresh()
    assert plain.wrong is None and batch.wrong is not None and batch.wrong.shape == (24, 2**5 - 1)
    shares = batch.wrong.float().mean(1)
    assert 0.1 < float(shares.mean()) < 0.3 and float(shares.std()) > 0.08, "each image has its own share"
    stages, quantizer = assemble(batch, nvg.tokenizer), nvg.tokenizer.quantizer
    same = with_mistakes(stages, nvg.tokenizer, torch.zeros_like(batch.wrong))
    assert all(torch.equal(a, b) for a, b in zip(stages.codes, same.codes, strict=True))
    assert torch.allclose(stages.canvases, same.canvases, atol=1e-5)

    only = torch.zeros_like(batch.wrong)
    only[:, 1] = True  # the first cluster of stage 1
    wrong = with_mistakes(stages, nvg.tokenizer, only)
    elsewhere = stages.codes[1][:, 0].roll(1, 0)
    expected = quantizer.add_stage(
        stages.canvases[:, 0], torch.stack([elsewhere, stages.codes[1][:, 1]], 1), stages.structure[:, 1], 1
    )
    assert torch.allclose(wrong.canvases[:, 1], expected, atol=1e-5)
    assert torch.equal(wrong.codes[1], stages.codes[1]), "what was right there is still wanted"
    assert torch.equal(wrong.canvases[:, -1], stages.canvases[:, -1]), "and so is the final canvas"
    other = elsewhere != stages.codes[1][:, 0]
    assert other.any()
    assert not torch.equal(wrong.codes[2][other], stages.codes[2][other])
    untouched = stages.structure[:, 2] >= 2
    assert torch.equal(
        hierarchy.place(wrong.codes[2], stages.structure[:, 2])[untouched],
        hierarchy.place(stages.codes[2], stages.structure[:, 2])[untouched],
    )
    # The new tokens of the next stage come nearer to the picture than the old ones would.
    after = [
        quantizer.add_stage(wrong.canvases[:, 1], one.codes[2], stages.structure[:, 2], 2) for one in (wrong, stages)
    ]
    mended, kept = (float((one - stages.canvases[:, -1])[other].square().mean()) for one in after)
    assert mended < kept

    loss, values = GeneratorObjective(nvg, settings)(batch, 0)
    assert torch.isfinite(loss) and float(values["content_mse"]) > 0


def test_own_tokens_are_those_of_sampling_and_the_next_ones_make_up_for_them(source: Source) -> None:
    settings = dataclasses.replace(source.settings, batch=24, own_tokens=0.5, label_dropout=0.0)
    batch, nvg = dataclasses.replace(source, settings=settings).draw(0, Shard()), fresh()
    splits = nvg.config.splits
    assert batch.start is not None and batch.chance is not None
    drawing = batch.start < splits
    assert 6 <= int(drawing.sum()) <= 18 and int(batch.start.min()) >= splits // 2

    stages, quantizer = assemble(batch, nvg.tokenizer), nvg.tokenizer.quantizer
    greedy = OwnTokens(nvg.content, batch, (1e-6, 1e-6), bfloat16=False)
    seen = with_mistakes(stages, nvg.tokenizer, own=greedy)
    assert torch.allclose(seen.canvases[~drawing], stages.canvases[~drawing], atol=1e-5)
    assert all(torch.equal(a[~drawing], b[~drawing]) for a, b in zip(seen.codes, stages.codes, strict=True))
    sampling = dataclasses.replace(nvg.settings, top_k=1, content_guidance=(1.0, 1.0))
    tokens = torch.stack([hierarchy.place(code, stages.structure[:, i]) for i, code in enumerate(stages.codes)], 1)
    for start in batch.start[drawing].unique().tolist():
        those = batch.start == start
        sequence = VisualGranularitySequence(
            stages.structure[those], tokens[those], stages.canvases[those], nvg.config.grid
        )
        drawn = nvg.generate(
            batch.classes[those], 0, sampling, sequence=sequence, keep_structure=splits + 1, keep_content=start
        )
        assert torch.allclose(seen.canvases[those, :-1], drawn.canvases[:, :-1], atol=1e-4)
    assert torch.equal(seen.canvases[:, -1], stages.canvases[:, -1]), "the final canvas stays what is wanted"
    last = quantizer.add_stage(seen.canvases[:, -2], seen.codes[-1], seen.structure[:, -1], splits)
    before, after = ((c - stages.canvases[:, -1])[drawing].square().mean() for c in (seen.canvases[:, -2], last))
    assert float(after) < float(before), "the last tokens bring it nearer to the picture"

    objective = GeneratorObjective(nvg, settings)
    own, plain = objective(batch, 0)[1], objective(dataclasses.replace(batch, start=None), 0)[1]
    assert own["content_mse"] != plain["content_mse"]


def test_own_tokens_are_drawn_in_proportion(source: Source) -> None:
    settings = dataclasses.replace(source.settings, batch=2, own_tokens=1.0)
    batch, nvg = dataclasses.replace(source, settings=settings).draw(0, Shard()), fresh()
    assert batch.chance is not None
    stages, draws, stage = assemble(batch, nvg.tokenizer), 4000, nvg.config.splits - 1
    canvas, labels = stages.canvases[:1, stage - 1], stages.structure[:1, stage]
    many = dataclasses.replace(
        batch,
        classes=batch.classes[:1].expand(draws),
        chance=torch.rand(draws, batch.chance.shape[1], generator=torch.Generator().manual_seed(0)),
        start=torch.zeros(draws, dtype=torch.long),
    )
    own = OwnTokens(nvg.content, many, (1.0, 1.0), bfloat16=False)
    codes = own.draw(torch.arange(draws), canvas.expand(draws, -1, -1), labels.expand(draws, -1), stage)
    with torch.no_grad():
        expected = nvg.content.predict(canvas, labels, batch.classes[:1], stage)[1][0, 0].softmax(-1)
    found = codes[:, 0].bincount(minlength=len(expected)) / draws
    assert float((found - expected).abs().sum()) < 0.15


def test_networks_trained_alone_join_those_trained_together(data: Path, tmp_path: Path) -> None:
    base = recipe("smoke")
    short = dataclasses.replace(base.generator, steps=2, batch=6, cached_views=12, sample_every=0)
    (tmp_path / "tokenizer").mkdir()
    torch.save(fresh().tokenizer.state_dict(), tmp_path / "tokenizer" / "tokenizer.pt")

    def trained(networks: Literal["both", "content", "structure"], steps: int) -> dict[str, torch.Tensor]:
        settings = dataclasses.replace(short, networks=networks, steps=steps)
        path = train_generator(dataclasses.replace(base, generator=settings), data, tmp_path)
        return torch.load(path, weights_only=True)

    trained("content", 2)
    with pytest.raises(TrainingError, match="the structure network was never trained in"):
        export(base, tmp_path, tmp_path / "out.safetensors")
    shutil.rmtree(generator_folder(tmp_path, "content"))
    both = trained("both", 2)
    alone = {"content": trained("content", 1), "structure": trained("structure", 3)}
    assert list(tmp_path.rglob("cache.safetensors")) == [tmp_path / "generator" / "cache.safetensors"]
    for network, other in (("content", "structure"), ("structure", "content")):
        frozen = {name: value for name, value in alone[network].items() if name.startswith(other)}
        assert all(torch.equal(value, both[name]) for name, value in frozen.items()), "it started from both"

    model = nvg_model.load(export(base, tmp_path, tmp_path / "out.safetensors"))
    for name, value in model.state_dict().items():
        if not name.startswith("tokenizer."):
            mine = alone[name.partition(".")[0]][name]
            assert torch.allclose(value, mine, atol=1e-3), name
    assert any(not torch.equal(alone["content"][name], both[name]) for name in both if name.startswith("content."))
    assert model.provenance["structure"]["generator_steps_done"] == 3
    ran = ((2, ""), (1, " --networks content"), (3, " --networks structure"))
    assert model.provenance["commands"][:-1] == [
        f"python -m training generator smoke --steps {steps} --sample-every 0{how} --cached-views 12"
        for steps, how in ran
    ]


def test_a_cache_is_made_on_the_device_of_the_process(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tokenizer(dataclasses.replace(recipe("smoke"), tokenizer=TokenizerRecipe(steps=1, batch=3)), data, tmp_path)
    seen: list[torch.device] = []
    monkeypatch.setattr(distributed, "start", lambda *_: World(device=torch.device("meta")))
    monkeypatch.setattr(
        "training.data.generator_batch.load_or_make",
        lambda path, tokenizer, *_, **__: seen.extend(one.device for one in tokenizer.parameters()),
    )
    make_cache(recipe("smoke"), data, tmp_path)
    assert {device.type for device in seen} == {"meta"}


def test_repa_and_a_cache_exclude_each_other(data: Path, tmp_path: Path) -> None:
    base = recipe("smoke")
    chosen: Recipe = dataclasses.replace(base, generator=dataclasses.replace(base.generator, repa_weight=0.5))
    dataset = chosen.dataset(data, "train")
    with pytest.raises(TrainingError, match="train with --cached-views 0"):
        Source.make(chosen, fresh(), dataset, tmp_path, World(), Identity.of(dataset, data, "", {}))


def test_own_tokens_and_fsdp_exclude_each_other() -> None:
    with pytest.raises(TrainingError, match="use --parallel ddp"):
        GeneratorObjective(fresh(), GeneratorRecipe(steps=1, parallel="fsdp", own_tokens=0.5))


def test_muon_and_fsdp_exclude_each_other() -> None:
    settings = GeneratorRecipe(steps=1, parallel="fsdp")
    with pytest.raises(TrainingError, match="use --optimizer adamw"):
        optimizers(GeneratorObjective(fresh(), settings), settings)


def test_the_start_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no trained tokenizer"):
        starting_point(recipe("smoke"), tmp_path, ("a", "b", "c"))


@pytest.mark.parametrize(
    "switch",
    [
        {"content_input": "noised"},
        {"content_input": "interpolated"},
        {"structure_input": "noise"},
        {"structure_rope": False},
    ],
)
def test_the_ablations_of_table_2_train_and_draw(source: Source, tmp_path: Path, switch: dict[str, object]) -> None:
    """Appendix B.2: what the networks see, and structure-aware RoPE."""
    tiny = PRESETS["tiny"]
    assert tiny.generator is not None
    config = dataclasses.replace(tiny, generator=dataclasses.replace(tiny.generator, **switch))  # type: ignore[arg-type]
    torch.manual_seed(0)
    nvg = NVG(config, ("disc", "ring", "square"))
    nvg.load_state_dict(fresh().state_dict())
    for parameter in nvg.parameters():  # so large that what a network sees decides what it draws
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    batch = dataclasses.replace(source, config=config).draw(0, Shard())
    loss, _ = GeneratorObjective(nvg, source.settings)(batch, 0)
    loss.backward()
    plain = NVG(tiny, nvg.classes)
    plain.load_state_dict(nvg.state_dict())
    other, _ = GeneratorObjective(plain, source.settings)(batch, 0)
    assert torch.isfinite(loss) and not torch.equal(loss, other)
    settings = nvg_model.SamplingSettings(structure_steps=2)
    nvg.eval()
    result = nvg.generate("ring", seed=2, settings=settings)
    both = nvg.generate(["disc", "ring"], seed=2, settings=settings, first_item=0)
    again = nvg.generate("ring", seed=2, settings=settings, first_item=1)
    assert torch.equal(both.tokens[1], again.tokens[0])  # noise of its own for every item
    loaded = nvg_model.load(nvg_model.save(nvg, tmp_path / "one.safetensors", dtype=torch.float32))
    assert loaded.config == config
    assert torch.equal(loaded.generate("ring", seed=2, settings=settings).tokens, result.tokens)


def test_a_noised_canvas_needs_noise() -> None:
    tiny = PRESETS["tiny"]
    assert tiny.generator is not None
    config = dataclasses.replace(tiny, generator=dataclasses.replace(tiny.generator, content_input="noised"))
    with pytest.raises(nvg_model.NVGError, match="sees a noised canvas; give it noise"):
        NVG(config).content.predict(None, torch.zeros(1, 16, dtype=torch.long), None, 0)
    with pytest.raises(nvg_model.NVGError, match="content_input is 'fog'; this nvg knows canvas and noised"):
        dataclasses.replace(tiny, generator=dataclasses.replace(tiny.generator, content_input="fog"))  # type: ignore[arg-type]
