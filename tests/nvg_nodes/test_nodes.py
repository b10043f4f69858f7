"""Every node at work: loading, tokenizing, decoding, generating in one go and stage by stage."""

import asyncio
import dataclasses

import numpy as np
import pytest
import torch

import nvg_model
from nvg_model import NVGError, render
from nvg_nodes import extension, host, images, nodes_generate
from nvg_nodes.types import Model, Settings


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("structure", "tokens", "canvases"))


def chain(run, model, state, stages=5, **changes):
    """Runs a chain to stage `stages`; `changes` are inputs of a node by its kind and stage, such as content2={...}."""
    for stage in range(stages):
        given = changes.get(f"structure{stage}", {})
        state, structure, _ = run("NVGGenerateStructure", model=model, state=state, **given)
        state, image, sequence = run(
            "NVGGenerateContentStage", model=model, state=state, **changes.get(f"content{stage}", {})
        )
        assert structure.stages == stage + 1
    return state, image, sequence


# ----------------------------------------------------------------------------------------- tokenizing, decoding


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_size_and_channels_are_fitted(run, model, picture, fit, channels):
    picture = picture.repeat(1, 1, 1, 2)[..., :channels]
    sequence, seen = run("NVGTokenize", model=model, image=picture, fit=fit)
    assert len(sequence) == 2 and sequence.is_whole
    assert seen.shape == (2, 16, 16, 3) and 0 <= float(seen.min()) <= float(seen.max()) <= 1
    structure, preview = run("NVGExtractStructure", model=model, image=picture, fit=fit)
    assert torch.equal(structure.labels, sequence.structure)
    assert preview.shape[0] == 2 and preview.shape[-1] == 3


def test_tokenizing_is_that_of_the_model(run, model, tiny_model, picture):
    fitted = torch.cat([render.from_pil(one, (16, 16), "crop") for one in render.to_pil(_to_nvg(picture))])
    sequence, seen = run("NVGTokenize", model=model, image=picture)
    assert same(sequence, tiny_model.tokenize(fitted))
    assert torch.equal(seen, images.from_model(fitted))


def _to_nvg(image):
    return image.permute(0, 3, 1, 2) * 2 - 1


def test_the_subject_of_a_photo_is_cut_out_and_framed(run, model):
    photo = torch.rand(2, 40, 60, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    mask = torch.zeros(1, 40, 60)
    mask[:, 5:15, 40:50] = 1
    _, seen = run("NVGTokenize", model=model, image=photo, fit="subject", subject=mask)
    drawn = (seen < 0.99).all(-1).double()
    assert drawn[:, 8, 8].all() and not drawn[:, 0].any() and not drawn[:, :, -1].any()
    assert drawn.mean() == pytest.approx(render.COVERED, abs=0.1)
    structure, _ = run("NVGExtractStructure", model=model, image=photo, fit="subject", subject=mask)
    sequence, _ = run("NVGTokenize", model=model, image=seen)
    assert torch.equal(structure.labels, sequence.structure)
    _, whole = run("NVGTokenize", model=model, image=photo, fit="stretch", subject=mask)
    assert (whole[:, -1] == 1).all(), "the ground is white whatever the fit"


def test_a_picture_without_a_subject_says_so(run, model, picture):
    with pytest.raises(NVGError, match="no transparent part"):
        run("NVGTokenize", model=model, image=picture[..., :3], fit="subject")
    with pytest.raises(NVGError, match="transparent everywhere"):
        run("NVGTokenize", model=model, image=picture, fit="subject", subject=torch.zeros(8, 8))
    with pytest.raises(NVGError, match="3 masks for 2 pictures"):
        run("NVGTokenize", model=model, image=picture, subject=torch.ones(3, 8, 8))


def test_many_pictures_are_taken_a_few_at_a_time(run, model, picture):
    many = picture.repeat(6, 1, 1, 1)
    sequence, _ = run("NVGTokenize", model=model, image=many)
    single, _ = run("NVGTokenize", model=model, image=picture)
    assert len(sequence) == 12
    assert torch.equal(sequence.tokens[10:], single.tokens)


def test_a_picture_of_the_right_size_keeps_its_values(model):
    exact = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images.to_model(exact, (16, 16), "crop"), _to_nvg(exact))


def test_decode_shows_the_end_one_stage_or_all(run, model, picture):
    sequence, _ = run("NVGTokenize", model=model, image=picture)
    final, opaque = run("NVGDecode", model=model, sequence=sequence)
    second, _ = run("NVGDecode", model=model, sequence=sequence, show="one stage", stage=1)
    every, masks = run("NVGDecode", model=model, sequence=sequence, show="all stages")
    assert final.shape == (2, 16, 16, 3) and every.shape == (10, 16, 16, 3)
    assert torch.equal(every[4], final[0]) and torch.equal(every[6], second[1])
    assert torch.equal(opaque, torch.ones(2, 16, 16)) and masks.shape == (10, 16, 16)


def test_pixels_are_those_that_nvg_generate_saves(run, model, tiny_model):
    """ComfyUI cuts 255 * x off, nvg rounds: both must come to the same 8 bits."""
    image, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", seed=7)
    saved = (255.0 * image[0].numpy()).clip(0, 255).astype("uint8")
    (expected,) = render.to_pil(tiny_model.decode(tiny_model.generate("heart", seed=7)))
    assert (saved == np.array(expected)).all()


# ------------------------------------------------------------------------------------------------- generating


def test_generate_is_that_of_the_model(run, model, tiny_model):
    image, sequence, structure, preview, mask = run(
        "NVGGenerate", model=model, class_name="heart, bird", seed=5, batch_size=2
    )
    assert same(sequence, tiny_model.generate(["heart", "heart", "bird", "bird"], seed=5))
    assert torch.equal(image, images.from_model(tiny_model.decode(sequence)))
    assert torch.equal(structure.labels, sequence.structure) and len(preview) == 4
    assert torch.equal(mask, torch.ones(4, 16, 16)), "the tiny model draws no transparency"


def test_opacity_comes_as_a_mask(run, tiny_model):
    config = nvg_model.preset("tiny")
    config = dataclasses.replace(
        config, autoencoder=dataclasses.replace(config.autoencoder, output_channels=4, output_scale=2)
    )
    nvg = nvg_model.NVG(config, classes=("heart", "bird", "boat")).eval().requires_grad_(False)
    kept = {name: one for name, one in tiny_model.state_dict().items() if not name.startswith("tokenizer.decoder.")}
    nvg.load_state_dict(kept, strict=False)
    model = Model("stickers", host.current().networks(nvg))
    image, sequence, _, _, mask = run("NVGGenerate", model=model, class_name="bird", batch_size=2)
    rgba = nvg.decode_rgba(sequence)
    assert image.shape == (2, 32, 32, 3) and torch.equal(mask, (rgba[:, 3] + 1) / 2)
    assert 0 < float(mask.mean()) < 1 and torch.equal(image, images.from_model(nvg.decode(sequence)))
    again, second = run("NVGDecode", model=model, sequence=sequence)
    assert torch.equal(again, image) and torch.equal(second, mask)


def test_one_item_of_a_batch_alone(run, model):
    _, batch, *_ = run("NVGGenerate", model=model, class_name="boat", batch_size=3)
    _, alone, *_ = run("NVGGenerate", model=model, class_name="boat", first_item=2)
    third = batch.items([2])
    assert torch.equal(alone.structure, third.structure) and torch.equal(alone.tokens, third.tokens)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heart", [0]),
        (" Bird ,boat,", [1, 2]),
        ("heart\nbird\r\nheart", [0, 1, 0]),
        ("2", [2]),
        ("unconditional", [4]),
        ("red, white", [3]),
        ("heart, red, white", None),
        ("", None),
        (",,", None),
    ],
)
def test_classes_by_name_number_and_line(tiny_model, text, expected, refuses):
    config = nvg_model.preset("tiny")
    config = dataclasses.replace(config, generator=dataclasses.replace(config.generator, num_classes=4))
    nvg = nvg_model.NVG(config, ("heart", "bird", "boat", "red, white"))
    if expected is None:
        with refuses("no class"):
            nodes_generate.parse_classes(nvg, text)
    else:
        assert nodes_generate.parse_classes(nvg, text).tolist() == expected


def test_all_classes_from_the_loader(run, folder):
    model, classes = run("NVGLoadModel", checkpoint="tiny.safetensors")
    image, *_ = run("NVGGenerate", model=model, class_name=classes)
    assert len(image) == 3


def test_structure_is_followed_and_one_serves_all(run, model, picture):
    structure, _ = run("NVGExtractStructure", model=model, image=picture, stages=3)
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", structure=structure)
    assert torch.equal(sequence.structure[:, :3], structure.labels), "a class goes with every structure"
    one = structure.replace(structure.labels[:1])
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", structure=one, batch_size=3)
    assert torch.equal(sequence.structure[:, :3], one.labels.expand(3, -1, -1))


def test_stages_of_a_sequence_are_kept(run, model, tiny_model, picture):
    source, _ = run("NVGTokenize", model=model, image=picture)
    given = {"model": model, "class_name": "bird", "sequence": source, "keep_structure": 4, "keep_content": 2}
    _, sequence, *_ = run("NVGGenerate", **given)
    expected = tiny_model.generate(["bird"] * 2, sequence=source, keep_structure=4, keep_content=2)
    assert same(sequence, expected)
    _, ignored, *_ = run("NVGGenerate", model=model, class_name="bird", sequence=source)
    assert len(ignored) == 1, "nothing was to be kept"


def test_settings_change_only_what_they_say(run, model, tiny_model):
    (untouched,) = run("NVGSamplingSettings")
    assert untouched.over(tiny_model.settings) == tiny_model.settings
    (settings,) = run(
        "NVGSamplingSettings", content_guidance_last=2.0, top_k=1, solver="heun", gumbel="on", structure_steps=3
    )
    wanted = dataclasses.replace(
        tiny_model.settings,
        content_guidance=(tiny_model.settings.content_guidance[0], 2.0),
        top_k=1,
        solver="heun",
        gumbel=True,
        structure_steps=3,
    )
    assert settings.over(tiny_model.settings) == wanted
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", settings=settings)
    assert same(sequence, tiny_model.generate("heart", settings=wanted))


def test_a_schedule_by_stage(run, model, tiny_model, refuses):
    text = "structure_steps 2 1 1; guidance_every 2"
    (settings,) = run("NVGSamplingSettings", structure_steps=3, schedule=text)
    wanted = dataclasses.replace(tiny_model.settings, structure_steps=(2, 1, 1), guidance_every=2)
    assert settings.over(tiny_model.settings) == wanted
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="heart", settings=settings)
    assert same(sequence, tiny_model.generate("heart", settings=wanted))
    with refuses("the schedule sets 'steps'; it can set structure_steps"):
        run("NVGSamplingSettings", schedule="steps 4")


def test_progress_counts_every_evaluation_and_shows_every_stage(run, model, monkeypatch):
    seen, shown = [], []

    class Watching(host.Progress):
        def reach(self, done, total):
            super().reach(done, total)
            seen.append((done, total))

        def show(self, picture):
            shown.append(picture())

    monkeypatch.setattr(host.Host, "progress", lambda self, total: Watching(total))
    image, *_ = run("NVGGenerate", model=model, class_name="heart,bird")
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert len(shown) == 5
    result = images.from_pil([shown[-1]])
    assert result.shape[1] < result.shape[2], "the last preview is the two pictures side by side"


def test_cancel_ends_the_run_before_the_next_evaluation(run, model, monkeypatch):
    class Cancelled(BaseException):
        pass

    class Cancelling(host.Progress):
        def reach(self, done, total):
            super().reach(done, total)
            if done == 4:
                raise Cancelled

    monkeypatch.setattr(host.Host, "progress", lambda self, total: Cancelling(total))
    with pytest.raises(Cancelled):
        run("NVGGenerate", model=model, class_name="heart")
    monkeypatch.undo()
    run("NVGGenerate", model=model, class_name="heart")


# --------------------------------------------------------------------------------------------- stage by stage


def test_the_chain_is_generate(run, model):
    given = {"model": model, "class_name": "heart,bird", "seed": 11, "batch_size": 2, "first_item": 1}
    (state,) = run("NVGStart", **given)
    image, sequence, *_ = run("NVGGenerate", **given)
    state, last, chained = chain(run, model, state)
    assert same(chained, sequence) and torch.equal(last, image)
    assert state.stage == 5


def test_the_first_stage_needs_no_structure_node(run, model):
    (state,) = run("NVGStart", model=model, class_name="heart")
    _, _, with_node = chain(run, model, state, 1)
    _, _, without = run("NVGGenerateContentStage", model=model, state=state)
    assert same(with_node, without)


def test_the_chain_is_generate_with_settings_and_structure(run, model, picture):
    (settings,) = run("NVGSamplingSettings", gumbel="on", structure_steps=4, solver="multistep", temperature=1.5)
    structure, _ = run("NVGExtractStructure", model=model, image=picture, stages=3)
    given = {"model": model, "class_name": "boat", "seed": 2, "structure": structure, "settings": settings}
    (state,) = run("NVGStart", **given)
    _, sequence, *_ = run("NVGGenerate", **given)
    assert same(chain(run, model, state)[2], sequence)


@pytest.mark.parametrize("where", ["start", "stages"])
def test_the_chain_is_generate_with_regions(run, model, where):
    right = (torch.arange(16) >= 8).float().expand(1, 16, 16)
    (regions,) = run("NVGRegion", model=model, mask=right, class_name="bird", guidance=2.0)
    given = {"model": model, "class_name": "boat", "seed": 2, "batch_size": 2}
    _, sequence, *_ = run("NVGGenerate", **given, regions=regions)
    (state,) = run("NVGStart", **given, regions=regions if where == "start" else None)
    everywhere = {f"{part}{stage}": {"regions": regions} for part in ("structure", "content") for stage in range(5)}
    _, _, chained = chain(run, model, state, **(everywhere if where == "stages" else {}))
    assert same(chained, sequence)
    assert not same(chain(run, model, run("NVGStart", **given)[0])[2], sequence)


def test_a_stage_may_have_regions_of_its_own(run, model):
    """From the third stage on: what was before is as without."""
    (regions,) = run("NVGRegion", model=model, mask=torch.ones(1, 8, 8), class_name="bird")
    (state,) = run("NVGStart", model=model, class_name="boat", seed=2)
    _, _, plain = chain(run, model, state)
    _, _, other = chain(run, model, state, structure3={"regions": regions}, content4={"regions": regions})
    assert same(plain.first_stages(3), other.first_stages(3))
    assert not torch.equal(plain.tokens[:, 4], other.tokens[:, 4])


def test_content_kept_in_the_chain_is_generate_keeping_content(run, model, picture):
    source, _ = run("NVGTokenize", model=model, image=picture[:1])
    (state,) = run("NVGStart", model=model, class_name="boat", seed=2)
    kept = {"sequence": source}
    _, _, chained = chain(run, model, state, content0=kept, content1=kept, content2=kept)
    _, sequence, *_ = run("NVGGenerate", model=model, class_name="boat", seed=2, sequence=source, keep_content=3)
    assert same(chained, sequence)


def test_a_changed_stage_leaves_the_ones_before(run, model, picture):
    (state,) = run("NVGStart", model=model, class_name="boat", seed=2)
    _, _, plain = chain(run, model, state)
    _, _, other = chain(run, model, state, content3={"stage_seed": 99})
    assert same(plain.first_stages(3), other.first_stages(3))
    assert torch.equal(plain.structure[:, 3], other.structure[:, 3])
    assert not torch.equal(plain.tokens[:, 3], other.tokens[:, 3])
    _, _, again = chain(run, model, state, content3={"stage_seed": 2})
    assert same(plain, again), "the chain's own seed changes nothing"


def test_a_given_structure_is_followed_within_the_chains_regions(run, model, picture):
    structure, _ = run("NVGExtractStructure", model=model, image=picture[:1])
    (state,) = run("NVGStart", model=model, class_name="boat", seed=2)
    given = {"structure": structure}
    _, _, followed = chain(run, model, state, structure1=given, structure2=given)
    assert torch.equal(followed.structure[:, :3], structure.labels[:, :3]), "it continues the chain: exactly"
    _, _, other = chain(run, model, state, structure3=given)
    assert other.is_whole, "it does not: still a hierarchy"


def test_nodes_do_not_change_their_inputs(run, model):
    (start,) = run("NVGStart", model=model, class_name="boat")
    state, *_ = run("NVGGenerateContentStage", model=model, state=start)
    assert start.stage == 0 and start.sequence is None
    run("NVGGenerateStructure", model=model, state=state)
    assert state.labels is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.seed = 3


# ------------------------------------------------------------------------------------------------- the pack


def test_extension_lists_all_nodes_and_answers_the_front_end(monkeypatch):
    served = {}
    monkeypatch.setattr(host.Host, "serve", lambda self, address, answer: served.update({address: answer}))
    pack = asyncio.run(extension.comfy_entrypoint())
    assert asyncio.run(pack.get_node_list()) == extension.NODES
    assert served["/nvg/classes"]({"checkpoint": "tiny.safetensors"}) == {
        "classes": ["heart", "bird", "boat"],
        "grid": [4, 4],
    }
    assert served["/nvg/classes"]({})["classes"] == []


def test_settings_are_immutable_values():
    assert Settings({"top_k": 1}) == Settings({"top_k": 1})
