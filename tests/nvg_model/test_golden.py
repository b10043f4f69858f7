"""Golden tensors of the authors' implementation, through the public names. Skipped where the folder is absent.

The tensors may be of another set (NVG_GOLDEN): sizes, stages and classes come from the tensors and their names.
"""

import re

import pytest
import torch
from safetensors.torch import load_file

import nvg_model
from nvg_model.hierarchy import split
from nvg_model.networks import known_channels, time_sinusoid
from nvg_model.sampling import filter_logits, guidance_schedule, time_grid, top_p_schedule
from nvg_model.solvers import euler


@pytest.fixture(scope="module")
def tensors(golden):
    """Every tensor that is not a weight, by name."""
    names = ("inputs", "ae_outputs", "generator_outputs", "generation", "schedules_units")
    return {key: value for name in names for key, value in load_file(golden / f"{name}.safetensors").items()}


@pytest.fixture(scope="module")
def nvg(golden):
    return nvg_model.load_released(golden / "ae_weights.safetensors", golden / "gen_weights.safetensors")


@pytest.fixture(scope="module")
def sequence(nvg, tensors):
    return nvg.tokenize(tensors["image"])


@pytest.fixture(scope="module")
def steps(tensors):
    """Numbers of flow steps for which the set has times: the fewest are those of the whole generation."""
    return sorted(int(name.rpartition("_")[2]) for name in tensors if name.startswith("schedule.t_"))


def ends(values):
    """First and last value of a schedule."""
    return values[0].item(), values[-1].item()


def named(tensors, pattern):
    """(stage, tensor) of the one tensor with such a name; its group is the stage."""
    ((stage, value),) = ((int(found[1]), value) for key, value in tensors.items() if (found := re.match(pattern, key)))
    return stage, value


@pytest.fixture(scope="module")
def generated(nvg, tensors, steps):
    """The whole greedy run, with its noise."""
    settings = nvg_model.SamplingSettings(
        content_guidance=ends(tensors["schedule.content_cfg"]),
        structure_guidance=ends(tensors["schedule.structure_cfg"]),
        top_k=1,
        structure_steps=steps[0],
    )
    return nvg.generate(tensors["class_label"], settings=settings, structure_noise=tensors["gen_noise"])


def assert_within(actual, expected, absolute=0.0, relative=0.0):
    """Largest difference at most `absolute` plus `relative` times the largest magnitude expected."""
    assert actual.shape == expected.shape
    limit = absolute + relative * expected.abs().max().item()
    assert (actual - expected).abs().max().item() <= limit


def test_sizes_are_inferred(nvg, golden):
    autoencoder, generator = (load_file(golden / f"{name}_weights.safetensors") for name in ("ae", "gen"))
    prefix = "ema_model.nvgformer."
    assert nvg.config.autoencoder.codebook_size == len(autoencoder["quantize.embedding.weight"])
    assert nvg.config.generator.num_classes == len(generator[prefix + "content_class_embed.weight"]) - 1
    assert nvg.config.generator.structure_width == generator[prefix + "structure_embed.weight"].shape[0]
    ours = sum(value.numel() for value in nvg.state_dict().values())
    unused = ("total_visited_codes", prefix + "rope_ids")
    theirs = {**autoencoder, **generator}
    assert ours == sum(value.numel() for key, value in theirs.items() if key not in unused)


def test_encoder(nvg, tensors):
    assert_within(nvg.tokenizer.encode(tensors["image"]), tensors["ae.latent"].flatten(2).mT, absolute=2e-4)


def test_clustering(sequence, tensors):
    assert torch.equal(sequence.structure, tensors["ae.labels"].long())


def test_clustering_of_their_latent(tensors):
    latent = tensors["ae.latent"].flatten(2).mT
    assert torch.equal(nvg_model.cluster(latent), tensors["ae.labels"].long())


def test_tokens(sequence, tensors):
    assert torch.equal(sequence.tokens, tensors["ae.tokens"].long())


def test_canvases(sequence, tensors):
    before = tensors["ae.canvas_before_stage_img0"]
    assert_within(sequence.canvases[0, :-1], before[1:], absolute=1e-4)
    assert_within(sequence.canvases[:, -1], tensors["ae.f_hat_final"], absolute=1e-4)


def test_decoder(nvg, sequence, tensors):
    assert_within(nvg.decode(sequence), tensors["ae.reconstruction"], absolute=2e-4)


def test_content(nvg, sequence, tensors):
    for stage in range(nvg.config.num_stages):
        canvas = sequence.canvases[:, stage - 1] if stage else None
        final, logits = nvg.content.predict(canvas, sequence.structure, tensors["class_label"], stage)
        assert_within(final, tensors["content.x0_hat"][:, stage], relative=1e-3)
        assert_within(logits, tensors[f"content.logits_stage{stage}"], relative=1e-3)


@pytest.mark.parametrize("name", ["cond", "uncond"])
def test_structure_velocity(nvg, sequence, tensors, name):
    classes = tensors["class_label"] if name == "cond" else None
    stage, z = named(tensors, r"structure\.stage(\d+)_z$")
    t, expected = tensors[f"structure.stage{stage}_t"], tensors[f"structure.stage{stage}_v_{name}"]
    v = nvg.structure.velocity(z, t, sequence.canvases[:, stage], sequence.structure, classes, stage)
    assert_within(v, expected, relative=1e-3)


GUIDANCE = 1.5  # of the runs at one stage, which take the most steps (README of the set)


def test_structure_state_after_integration(nvg, sequence, tensors, steps):
    """Euler over the public velocity, the known channels reset after each step."""
    stage, expected = named(tensors, r"structure\.stage(\d+)_z_final_bit$")
    labels, canvas, classes = sequence.structure[:, stage], sequence.canvases[:, stage], tensors["class_label"]
    known = known_channels(labels, stage, nvg.config.splits)[..., :stage]
    times = tensors[f"schedule.t_{steps[-1]}"].tolist()

    def velocity(z, t):
        with torch.no_grad():
            own, null = (nvg.structure.velocity(z, t, canvas, labels, c, stage) for c in (classes, None))
        return null + GUIDANCE * (own - null)

    def project(z):
        return torch.cat([known, z[..., stage:]], -1)

    end = euler(velocity, project(tensors["structure_epsilon"]), times, project)[..., stage]
    assert_within(end, expected, relative=1e-3)


def test_structure_sampled_at_one_stage(nvg, sequence, tensors, steps):
    stage, expected = named(tensors, r"structure\.stage(\d+)_labels_next$")
    states = nvg.stages(
        tensors["class_label"],
        settings=nvg_model.SamplingSettings(structure_guidance=(GUIDANCE, GUIDANCE), structure_steps=steps[-1]),
        sequence=sequence,
        keep_structure=stage + 1,
        keep_content=stage + 1,
        structure_noise=tensors["structure_epsilon"],
    )
    for _ in range(stage + 2):
        state = next(states)
    assert torch.equal(state.structure[:, stage + 1], expected.long())


def test_whole_generation(nvg, generated, tensors):
    assert torch.equal(generated.structure, tensors["gen.structure"].long())
    assert torch.equal(generated.tokens, tensors["gen.tokens"].long())
    assert_within(generated.canvases[:, -1], tensors["gen.canvas_final"], absolute=1e-4)
    assert_within(nvg.decode(generated), tensors["gen.image"], absolute=2e-4)


def test_last_prediction_of_generation(nvg, generated, tensors):
    last = nvg.config.splits
    final, _ = nvg.content.predict(generated.canvases[:, last - 1], generated.structure, tensors["class_label"], last)
    assert_within(final, tensors["gen.x0_hat_last"], relative=1e-3)


def test_schedules(nvg, tensors, steps):
    for count in steps:
        assert_within(
            torch.tensor(time_grid(count, nvg.config.positions)), tensors[f"schedule.t_{count}"], absolute=1e-6
        )
    for of, name in (
        (top_p_schedule, "top_p"),
        (guidance_schedule, "content_cfg"),
        (guidance_schedule, "structure_cfg"),
    ):
        expected = tensors[f"schedule.{name}"]
        actual = torch.tensor(of(ends(expected), nvg.config.splits), dtype=torch.float64)
        assert_within(actual, expected, absolute=1e-12)


def test_time_embedding(tensors):
    prefix = "unit.time_embedding_t"
    times = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    assert times
    for time in times:  # hundreds of radians in float32 leave an error of 3e-5
        assert_within(time_sinusoid(torch.tensor(float(time)) * 1000), tensors[prefix + time], absolute=1e-4)


def test_filters(tensors):
    logits = tensors["unit.filter_logits"]
    name = next(name for name in tensors if name.startswith("unit.filter_keep_top_p_"))
    for top_p, keep in zip(name.split("_")[4:], tensors[name], strict=True):
        assert torch.equal(filter_logits(logits, top_p=float(top_p)) > -torch.inf, keep)
    top_k, keep = named(tensors, r"unit\.filter_keep_top_k_(\d+)$")
    assert torch.equal(filter_logits(logits, top_k=top_k) > -torch.inf, keep)


def halves(labels):
    """Sizes of the clusters after each of these has been split in two."""
    return [size // 2 for size in labels[0].bincount().tolist() for _ in range(2)]


def test_splits_with_ties(tensors):
    """Theirs depend on torch.topk among equal scores: where no score ties, ours are the same."""
    labels, scores = named(tensors, r"unit\.tie_structure_stage(\d+)$")[1].long(), tensors["unit.tie_logits"]
    ours, theirs = split(labels, scores), tensors["unit.tie_result"].long()
    clear = ~tensors["unit.tie_group_ambiguous"].gather(1, labels)
    assert clear.any() and torch.equal(ours[clear], theirs[clear])
    assert ours[0].bincount().tolist() == halves(labels)

    labels, scores = named(tensors, r"unit\.tie2_structure_stage(\d+)$")[1].long(), tensors["unit.tie2_logits"]
    ours = split(labels, scores)
    assert ours[0].bincount().tolist() == halves(labels)
    assert (scores[ours % 2 == 1] >= 1).all()  # more than half of each is saturated, and those come first


# Released files, made here from the golden weights.


def lightning(state):
    """What Lightning writes around a state dict."""
    return {
        "epoch": 199,
        "global_step": 250_000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 200}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0), "dirpath": "runs"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"depth": 16, "betas": (0.9, 0.95)},
    }


@pytest.fixture(scope="module")
def released_files(golden, tmp_path_factory):
    """(ae.ckpt, gen.ckpt): golden values are the plain autoencoder and the averaged generator, the others differ."""
    folder = tmp_path_factory.mktemp("released")
    autoencoder = load_file(golden / "ae_weights.safetensors")
    generator = load_file(golden / "gen_weights.safetensors")
    plain = "nvgformer."
    theirs = {key.removeprefix(f"ema_model.{plain}"): value for key, value in generator.items()}
    buffers = ("rope_ids", "scale_factors")
    noise = {"loss.discriminator.0.weight": torch.randn(4, 3), "loss.lpips.lin0.weight": torch.randn(2)}
    copies = {f"ema_model.{key}": 2 * value for key, value in autoencoder.items() if key != "total_visited_codes"} | {
        f"ema_model.{key}": value for key, value in noise.items()
    }
    torch.save(lightning({**autoencoder, **noise, **copies}), folder / "ae.ckpt")
    projector = {f"projector.{layer}.{part}": torch.randn(3) for layer in (0, 2, 4) for part in ("weight", "bias")}
    state = {plain + key: value if key in buffers else 2 * value for key, value in theirs.items()}
    state |= {plain + key: value for key, value in projector.items()}
    state |= generator | {f"ema_model.{plain}{key}": value for key, value in projector.items()}
    state |= {f"first_stage_model.{key}": 3 * value for key, value in autoencoder.items()}
    state |= {"repa_encoder.blocks.0.attn.qkv.weight": torch.randn(6, 2), "repa_encoder.cls_token": torch.randn(1)}
    torch.save(lightning(state), folder / "gen.ckpt")
    return folder / "ae.ckpt", folder / "gen.ckpt"


def values_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_lightning_file_equals_golden(nvg, released_files):
    loaded = nvg_model.load_released(*released_files)
    assert loaded.config == nvg.config
    for key, value in nvg.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert "S-Lab" in loaded.provenance["licence"]


def test_averaged_or_plain(nvg, released_files):
    ours = nvg.state_dict()
    plain = nvg_model.load_released(*released_files, ema=False).state_dict()
    averaged = nvg_model.load_released(*released_files, autoencoder_ema=True).state_dict()
    for key, value in ours.items():
        tokenizer, buffer = key.startswith("tokenizer."), key == "content.canvas_scales"
        assert torch.equal(plain[key], value if tokenizer or buffer else 2 * value), key
        assert torch.equal(averaged[key], 2 * value if tokenizer else value), key


def test_tokenizer_alone(released_files, tensors, refuses):
    tokenizer = nvg_model.load_released(released_files[0])
    assert tokenizer.config.generator is None and tokenizer.classes == ()
    assert torch.equal(tokenizer.tokenize(tensors["image"][:1]).tokens, tensors["ae.tokens"][:1].long())
    with refuses("no generator"):
        tokenizer.generate(0)


def test_files_in_the_wrong_order(released_files, refuses):
    with refuses(r"gen\.ckpt is not the expected released checkpoint", nvg_model.CheckpointError):
        nvg_model.load_released(*reversed(released_files))


def test_missing_weight_is_named(released_files, tmp_path, refuses):
    content = torch.load(released_files[1], weights_only=True)
    for prefix in ("nvgformer.", "ema_model.nvgformer."):
        del content["state_dict"][prefix + "structure_time_embed.in_layer.bias"]
        content["state_dict"][prefix + "novelty"] = torch.zeros(2)
    torch.save(content, tmp_path / "gen.ckpt")
    with refuses(r"misses 1 weight \(structure\.time_mlp\.0\.bias\).*unexpected 1 weight \(novelty\)"):
        nvg_model.load_released(released_files[0], tmp_path / "gen.ckpt")


def test_conversion_keeps_the_generation(released_files, tensors, tmp_path):
    settings = nvg_model.SamplingSettings(structure_steps=1)
    released = nvg_model.load_released(*released_files)
    ours = nvg_model.load(nvg_model.save(released, tmp_path / "converted.safetensors"))
    assert ours.config == released.config and ours.provenance["licence"] == released.provenance["licence"]
    classes = tensors["class_label"]
    a, b = (model.generate(classes, seed=5, settings=settings) for model in (released, ours))
    assert torch.equal(a.structure, b.structure) and torch.equal(a.tokens, b.tokens)
    assert torch.equal(released.decode(a), ours.decode(b))


def test_half_precision(released_files, tensors):
    model = nvg_model.load_released(*released_files, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    image = model.tokenizer.decode(tensors["ae.f_hat_final"])
    assert image.dtype == torch.float32
    assert (image - tensors["ae.reconstruction"]).abs().mean() < 0.03
    latent = model.tokenizer.encode(tensors["image"])
    assert (latent - tensors["ae.latent"].flatten(2).mT).abs().mean() < 0.03 * tensors["ae.latent"].std()
