"""The three networks: shapes for every K, gradients, parameter counts, precision, and parts against the whole."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from shared_sequences import generator_of
from torch.utils.flop_counter import FlopCounterMode

import nvg_model
from nvg_model.hierarchy import all_stages, members
from nvg_model.quantizer import quantizer_loss, straight_through
from nvg_model.transformer import position_ids

TINY = nvg_model.preset("tiny")


def sized(height, width, multipliers=(1, 2, 2)):
    """The tiny configuration for another image size."""
    autoencoder = dataclasses.replace(TINY.autoencoder, channel_multipliers=multipliers)
    return nvg_model.NVGConfig((height, width), autoencoder, TINY.generator)


# Name: configuration and its K. Odd K has a grid twice as high as wide, or as wide as high.
SIZES = {
    "K=1": (sized(8, 4), 1),
    "K=2": (sized(8, 8), 2),
    "K=4": (TINY, 4),
    "K=5": (sized(32, 16), 5),
    "K=6": (sized(32, 32), 6),
    "K=7": (sized(32, 64), 7),
    "K=8": (sized(64, 64), 8),
    "K=10": (sized(64, 64, (1, 2)), 10),
}


def randomised(config, seed=0, scale=6.0):
    """A model with weights so large that every part matters; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nvg_model.NVG(config)
        for generator in (model.content, model.structure):
            generator.initialize()
            for part in generator.modules():
                if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
                    part.weight.data *= scale
                if isinstance(part, torch.nn.Linear):
                    torch.nn.init.normal_(part.bias, std=0.1)
        model.content.canvas_scales.copy_(torch.linspace(1, 2, config.num_stages + 1))
        model.tokenizer.quantizer.spread()
    return model.eval()


def random_images(config, batch, seed=0):
    return torch.rand(batch, 3, *config.image_size, generator=generator_of(seed)) * 2 - 1


def random_structure(batch, positions, seed=0):
    return all_stages(torch.stack([torch.randperm(positions, generator=generator_of(seed + i)) for i in range(batch)]))


# Shapes.


@pytest.mark.parametrize("name", SIZES)
def test_shapes(name):
    config, splits = SIZES[name]
    model = randomised(config).requires_grad_(False)
    positions, channels = 2**splits, config.autoencoder.latent_channels
    assert config.splits == splits and config.positions == positions and math.prod(config.grid) == positions
    images = random_images(config, 2)
    sequence = model.tokenize(images)
    assert sequence.structure.shape == sequence.tokens.shape == (2, splits + 1, positions)
    assert sequence.canvases.shape == (2, splits + 1, positions, channels)
    assert model.decode(sequence).shape == images.shape
    classes = torch.tensor([0, 2])
    for stage in {0, 1, splits // 2, splits}:
        canvas = sequence.canvases[:, stage - 1] if stage else None
        final, logits = model.content.predict(canvas, sequence.structure, classes, stage)
        assert final.shape == (2, positions, channels) and final.dtype == torch.float32
        assert logits.shape == (2, 2**stage, 32) and logits.dtype == torch.float32
    z = torch.randn(2, positions, splits, generator=generator_of())
    for stage in range(min(2, splits - 1)):
        v = model.structure.velocity(z, 0.5, sequence.canvases[:, stage], sequence.structure, classes, stage)
        assert v.shape == z.shape and v.dtype == torch.float32


@pytest.mark.parametrize("name", SIZES)
def test_generation_end_to_end(name):
    config, splits = SIZES[name]
    model = randomised(config).requires_grad_(False)
    steps = 1 if splits > 8 else 2
    classes = [0, None] if splits <= 8 else [0]
    sequence = model.generate(classes, seed=1, settings=nvg_model.SamplingSettings(structure_steps=steps))
    assert sequence.is_whole and sequence.grid == config.grid
    for item in sequence.structure[:, -1]:
        assert item.sort().values.tolist() == list(range(config.positions))
    assert model.decode(sequence).shape == (len(classes), 3, *config.image_size)


def test_rows_and_columns_are_not_confused():
    """On a grid of 8 rows and 4 columns, position 5 lies in row 1, column 1."""
    config, splits = SIZES["K=5"]
    assert config.grid == (8, 4)
    ids = position_ids(torch.zeros(1, 32, dtype=torch.long), 0, splits, config.grid, 0)
    assert ids[0, 5, -2:].tolist() == [1, 1] and ids[0, 31, -2:].tolist() == [7, 3]
    model = randomised(config)
    canvas = torch.zeros(1, 32, 8)
    canvas[0, 0] = 1
    weight = model.tokenizer.decoder.stem.weight
    with torch.no_grad():
        image = model.tokenizer.decode(canvas)
        latent = torch.zeros(1, 8, 8, 4)
        latent[0, :, 0, 0] = 1
        assert torch.equal(image, model.tokenizer.decoder(latent.to(weight)).clamp(-1, 1))


@pytest.mark.parametrize("stage", [-1, 3, 4])
def test_velocity_of_a_stage_without_flow(tiny_model, stage, refuses):
    z = torch.zeros(1, 16, 4)
    labels = torch.zeros(1, 16, dtype=torch.long)
    with refuses(f"stage {stage} has no structure flow; the network splits stages 0 to 2"):
        tiny_model.structure.velocity(z, 0.5, torch.zeros(1, 16, 8), labels, None, stage)


# Batches of mixed stages, as training uses them.


@pytest.fixture(scope="module")
def lively():
    return randomised(TINY).requires_grad_(False)


@pytest.fixture(scope="module")
def mixed(lively):
    """A sequence of four images, their classes, and a stage for each."""
    sequence = lively.tokenize(random_images(TINY, 4))
    return sequence, torch.tensor([0, 1, 2, 3]), torch.tensor([2, 0, 1, 2])


def test_content_of_mixed_stages(lively, mixed):
    sequence, classes, stages = mixed
    items = torch.arange(4)
    canvas = sequence.canvases[items, (stages - 1).clamp(min=0)]
    together = lively.content(canvas, sequence.structure[items, stages], classes, stages)
    for item, stage in enumerate(stages.tolist()):
        before = sequence.canvases[item : item + 1, stage - 1] if stage else None
        alone, _ = lively.content.predict(before, sequence.structure[item : item + 1], classes[item : item + 1], stage)
        assert torch.allclose(together[item], alone[0], atol=1e-4)
    assert not torch.allclose(together[0], together[3], atol=1e-2)


def test_velocity_of_mixed_stages_and_times(lively, mixed):
    sequence, classes, stages = mixed
    items, times = torch.arange(4), torch.tensor([0.1, 0.9, 0.5, 0.3])
    z = torch.randn(4, 16, 4, generator=generator_of())
    together = lively.structure(
        z, times, sequence.canvases[items, stages], sequence.structure[items, stages], classes, stages
    )
    for item, stage in enumerate(stages.tolist()):
        one = slice(item, item + 1)
        alone = lively.structure.velocity(
            z[one], times[one], sequence.canvases[one, stage], sequence.structure[one], classes[one], stage
        )
        assert torch.allclose(together[one], alone, atol=1e-4)


def test_time_as_a_number_and_as_a_tensor(lively, mixed):
    sequence, classes, _ = mixed
    z = torch.randn(4, 16, 4, generator=generator_of())
    arguments = (sequence.canvases[:, 1], sequence.structure[:, 1], classes, 1)
    number = lively.structure.velocity(z, 0.25, *arguments)
    for t in (torch.tensor(0.25), torch.tensor([0.25]), torch.full((4,), 0.25)):
        assert torch.equal(lively.structure.velocity(z, t, *arguments), number)
    assert not torch.allclose(lively.structure.velocity(z, 0.75, *arguments), number, atol=1e-2)


def test_modulations_of_all_steps_at_once(lively, mixed):
    """What the sampler computes before its first step equals what each step would compute."""
    sequence, classes, _ = mixed
    flow, times = lively.structure, torch.tensor([1.0, 0.6, 0.2])
    context = flow.context(sequence.canvases[:, 1], sequence.structure[:, 1], classes, torch.full_like(classes, 1))
    at_once = flow.modulations(context, times[:, None])
    z = torch.randn(4, 16, 4, generator=generator_of())
    for index, t in enumerate(times):
        step = flow.step(z, context, [modulation[index] for modulation in at_once])
        assert torch.allclose(
            step, flow.velocity(z, t, sequence.canvases[:, 1], sequence.structure[:, 1], classes, 1), atol=1e-5
        )


def test_reused_keys_and_values(lively, mixed):
    """The first step is unchanged, and so is a second one at the same state and time; others are cheaper, and near."""
    sequence, classes, _ = mixed
    flow = lively.structure
    context = flow.context(sequence.canvases[:, 1], sequence.structure[:, 1], classes, torch.full_like(classes, 1))
    z, memory = torch.randn(4, 16, 4, generator=generator_of()), flow.transformer.memory()

    def step(z, t, memory=None):
        with FlopCounterMode(display=False) as counter:
            velocity = flow.step(z, context, flow.modulations(context, torch.tensor([t])), memory)
        return velocity, counter.get_total_flops()

    plain, flops = step(z, 1.0)
    assert torch.equal(step(z, 1.0, memory)[0], plain)
    again, fewer = step(z, 1.0, memory)
    assert torch.allclose(again, plain, atol=1e-5)
    assert fewer < 0.7 * flops
    later, exact = step(0.5 * z, 0.7, memory)[0], step(0.5 * z, 0.7)[0]
    assert 0 < (later - exact).square().mean() < 0.5 * (exact - plain).square().mean()


def test_no_class_is_the_null_class(lively, mixed):
    sequence, _, _ = mixed
    null = torch.full((4,), 3)
    canvas, labels, z = sequence.canvases[:, 1], sequence.structure[:, 2], torch.randn(4, 16, 4)
    for a, b in zip(
        lively.content.predict(canvas, labels, None, 2), lively.content.predict(canvas, labels, null, 2), strict=True
    ):
        assert torch.equal(a, b)
    assert torch.equal(
        lively.structure.velocity(z, 0.5, canvas, sequence.structure, None, 1),
        lively.structure.velocity(z, 0.5, canvas, sequence.structure[:, 1], null, 1),
    )


def test_stage_0_ignores_the_canvas(lively, mixed):
    sequence, classes, _ = mixed
    labels = sequence.structure[:, 0]
    start = lively.content.predict(None, labels, classes, 0)
    stages = torch.zeros(4, dtype=torch.long)
    assert torch.equal(lively.content(sequence.canvases[:, 2], labels, classes, stages), start[0])


def test_canvas_scales_are_used(lively, mixed):
    """Twice the input scale equals twice the canvas; the last one divides the prediction."""
    sequence, classes, _ = mixed
    canvas, labels = sequence.canvases[:, 0], sequence.structure[:, 1]
    stages = torch.ones(4, dtype=torch.long)
    before = lively.content(2 * canvas, labels, classes, stages)
    scaled = randomised(TINY)
    with torch.no_grad():
        scaled.content.canvas_scales[1] *= 2
        scaled.content.canvas_scales[-1] *= 4
        assert torch.allclose(scaled.content(canvas, labels, classes, stages), before / 4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(lively, mixed, dtype):
    sequence, classes, _ = mixed
    half = randomised(TINY).to(dtype).requires_grad_(False)
    z = torch.randn(4, 16, 4, generator=generator_of())
    for name, run in {
        "content": lambda m: m.content.predict(sequence.canvases[:, 1], sequence.structure, classes, 2)[0],
        "logits": lambda m: m.content.predict(sequence.canvases[:, 1], sequence.structure, classes, 2)[1],
        "structure": lambda m: m.structure.velocity(z, 0.5, sequence.canvases[:, 1], sequence.structure, classes, 1),
        "encoder": lambda m: m.tokenizer.encode(random_images(TINY, 2)),
        "decoder": lambda m: m.tokenizer.decode(sequence.canvases[:, -1]),
    }.items():
        full, low = run(lively), run(half)
        assert low.dtype == torch.float32
        assert (low - full).abs().mean() < 0.1 * full.abs().mean(), name


# Gradients.


def losses(model, soft_assignment):
    """One forward pass of all three networks, with every class and stage in the batch."""
    config = model.config
    images, batch = random_images(config, 6), 6
    latent = model.tokenizer.encode(images)
    structure = nvg_model.cluster(latent)
    quantized = model.tokenizer.quantizer(latent, structure, soft_assignment)
    decoded = model.tokenizer.decoder(straight_through(latent, quantized.canvases[:, -1]).mT.unflatten(2, config.grid))
    total = quantizer_loss(latent, quantized.canvases) + F.l1_loss(decoded, images)
    canvases = quantized.canvases.detach()
    classes = torch.arange(batch) % (config.generator.num_classes + 1)
    for stage in range(config.num_stages):
        before = canvases[:, stage - 1] if stage else None
        final, logits = model.content.predict(before, structure, classes, stage)
        codes = quantized.tokens[:, stage].gather(1, members(structure[:, stage], 2**stage)[..., 0])
        total = total + F.mse_loss(final, canvases[:, -1]) + F.cross_entropy(logits.mT, codes)
    z = torch.randn(batch, config.positions, config.splits, generator=generator_of())
    for stage in range(config.splits - 1):
        v = model.structure.velocity(
            z, torch.rand(batch, generator=generator_of(1)), canvases[:, stage], structure, classes, stage
        )
        total = total + v.square().mean()
    return total


@pytest.mark.parametrize("name", ["tiny", "emoji64"])
def test_no_dead_gradients(name):
    config = nvg_model.preset(name)
    # Every class embedding shall be seen by a batch of six; the blocks of a network are alike.
    generator = dataclasses.replace(config.generator, num_classes=3, content_depth=2, structure_depth=2)
    config = dataclasses.replace(config, generator=generator)
    model = randomised(config).train()
    losses(model, soft_assignment=True).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key
    # With the soft assignment every code receives gradient, which is what it is for.
    assert model.tokenizer.quantizer.codebook.grad.any(1).all()
    for embedding in (model.content.class_embedding, model.structure.class_embedding, model.content.stage_embedding):
        assert embedding.weight.grad.any(1).all()


def test_gradients_through_initialised_weights():
    """Trained from scratch as `initialize` leaves it, nothing is cut off either."""
    model = randomised(TINY, scale=1.0).train()
    losses(model, soft_assignment=False).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


# Parameter counts.


@pytest.fixture(scope="module")
def paper_models():
    with torch.device("meta"):
        return {depth: nvg_model.NVG(nvg_model.preset(f"d{depth}")) for depth in (12, 16, 20, 24)}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_released_d16(paper_models):
    """The counts of golden/state_dict_keys.txt, which leave the buffers out."""
    model = paper_models[16]
    assert count(model.content) + count(model.structure) == 319_553_576
    assert count(model.tokenizer) == 110_332_355


@pytest.mark.parametrize("depth", [12, 16, 20, 24])
def test_parameters_of_the_papers_family(paper_models, depth):
    model = paper_models[depth]
    assert count(model.content.transformer.blocks) == pytest.approx(61_440 * depth**3, rel=0.01)
    assert count(model.structure.transformer.blocks) == pytest.approx(61_440 * depth**3 / 4, rel=0.01)
    millions = {16: (255, 64), 20: (497, 125), 24: (856, 215)}
    if depth in millions:
        counted = tuple(count(part) / 1e6 for part in (model.content, model.structure))
        assert counted == pytest.approx(millions[depth], abs=1.0)


def test_names_and_shapes_of_the_released_d16(golden, paper_models):
    """Every name of golden/state_dict_keys.txt, with its shape, finds its place in our d16."""
    path = golden / "state_dict_keys.txt"
    listed, lines = {}, path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        if line.count("\t") == 2:
            key, shape, _ = line.split("\t")
            listed[key] = tuple(int(side) for side in shape.strip("[]").split(",") if side.strip())
    if not listed:
        pytest.skip("this set of golden tensors has no list of keys")
    from nvg_model import released

    theirs = {key: torch.empty(shape, device="meta") for key, shape in listed.items()}
    tokenizer = {k: v for k, v in theirs.items() if k.startswith(("encoder.", "decoder.", "quantize."))}
    if not tokenizer:
        pytest.skip("the list has no autoencoder")
    generator = {k: v for k, v in theirs.items() if k not in tokenizer and k not in ("rope_ids", "total_visited_codes")}
    ours = released._rename(tokenizer, released._autoencoder_names(tokenizer))
    ours |= released._rename(released._join_scales(generator), released._GENERATOR_NAMES)
    expected = paper_models[16].state_dict()
    assert ours.keys() == expected.keys()
    for key, value in ours.items():
        assert value.shape == expected[key].shape, key
