"""The console script, called as a user would call it."""

import argparse
import errno
import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import tqdm
from PIL import Image
from safetensors.torch import load_file

import nvg_model
from nvg_model import checkpoint, render
from nvg_model.cli import bench, main


@pytest.fixture
def picture(tmp_path):
    """A picture file, larger than the model takes, with an even half and a busy one."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 32, 48, generator=generator)
    image[..., :16, :] = 0.9
    render.to_pil(image)[0].save(tmp_path / "source.png")
    return tmp_path / "source.png"


def pixels(path) -> torch.Tensor:
    with Image.open(path) as image:
        return render.from_pil(image, (image.height, image.width))


def recipe(path) -> dict:
    with Image.open(path) as image:
        return json.loads(image.info["nvg"])


def test_generate_equals_the_library(nvg, tiny_model, tmp_path):
    assert nvg("generate --class bird --seed 7 TINY") == (0, "bird-7.png\n", "")
    settings = nvg_model.SamplingSettings(structure_steps=2)
    wanted = tiny_model.decode(tiny_model.generate("bird", seed=7, settings=settings))
    assert render.to_pil(wanted)[0].tobytes() == Image.open(tmp_path / "bird-7.png").tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["bird-7.png"]


def test_a_picture_carries_its_recipe(nvg, tiny_model, tmp_path):
    options = "--seed 3 --solver heun --top-k 4 --temperature 0.7 --gumbel --top-p 0.9 0.4 --content-guidance 1 2"
    status, _, _ = nvg(f"generate --class heart --class 1 {options} --out two.png TINY")
    assert status == 0
    found = recipe("two.png")
    assert found["classes"] == ["heart", "bird"]
    settings = nvg_model.SamplingSettings(**found["settings"])
    assert settings == nvg_model.SamplingSettings(
        (1.0, 2.0), top_p=(0.9, 0.4), top_k=4, temperature=0.7, structure_steps=2, solver="heun", gumbel=True
    )
    images = tiny_model.decode(
        tiny_model.generate(found["classes"], seed=found["seed"], settings=settings, first_item=found["first_item"])
    )
    wanted = render.grid(render.to_pil(images), 2, ["heart · 0", "bird · 1"])
    assert wanted.tobytes() == Image.open("two.png").tobytes()


def test_a_schedule_by_stage(nvg):
    options = "--steps 2,1,3 --solver euler,heun,euler --guidance-every 2 --time-shift 0,none,-0.5"
    assert nvg(f"generate --class heart TINY {options} --out one.png") == (0, "one.png\n", "")
    settings = nvg_model.SamplingSettings(**recipe("one.png")["settings"])
    assert settings == nvg_model.SamplingSettings(
        structure_steps=(2, 1, 3), solver=("euler", "heun", "euler"), guidance_every=2, time_shift=(0.0, None, -0.5)
    )


def test_sheet_has_a_row_per_class_and_can_be_drawn_again(nvg):
    assert nvg("generate --class boat --class bird --count 3 --scale 2 --out sheet.png TINY")[0] == 0
    assert nvg("generate --class bird --first-item 4 --scale 2 --out fifth.png TINY")[0] == 0
    with Image.open("sheet.png") as sheet, Image.open("fifth.png") as one:
        assert sheet.width < 3 * 128
        assert one.size == (32, 32)
        found = [
            (left, top)
            for left in range(0, sheet.width - 32, 2)
            for top in range(0, sheet.height - 32, 2)
            if sheet.crop((left, top, left + 32, top + 32)).tobytes() == one.tobytes()
        ]
    assert len(found) == 1
    left, top = found[0]
    assert left > 32 and top > 32  # second row, second column


def test_filmstrip_has_a_block_per_image(nvg, tiny_model):
    assert nvg("generate --class bird --filmstrip --out one.png TINY")[0] == 0
    assert nvg("generate --class bird --count 2 --filmstrip --out two.png TINY")[0] == 0
    one, two = Image.open("one.png"), Image.open("two.png")
    assert one.width == two.width > 5 * 128
    assert one.height > 2 * 128 and abs(two.height - 2 * one.height) <= 2 * render.MARGIN
    assert recipe("two.png")["classes"] == ["bird"] * 2


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_generate_follows_the_structure_of_a_picture(nvg, tiny_model, picture, stages):
    assert nvg(f"generate --class bird --structure {picture} --keep-structure {stages} --out x.png TINY")[0] == 0
    image = render.from_pil(Image.open(picture), (16, 16))
    structure = tiny_model.tokenize(image).structure[:, :stages]
    settings = nvg_model.SamplingSettings(structure_steps=2)
    wanted = tiny_model.decode(tiny_model.generate("bird", settings=settings, structure=structure))
    assert render.to_pil(wanted)[0].tobytes() == Image.open("x.png").tobytes()
    assert recipe("x.png")["structure"] == {"picture": str(picture), "stages": stages, "fit": "crop"}


def test_transfer(nvg, picture):
    assert nvg(f"transfer {picture} --class heart TINY") == (0, "heart-source.png\n", "")
    assert nvg(f"generate --class heart --structure {picture} --keep-structure 3 --out same.png TINY")[0] == 0
    assert torch.equal(pixels("heart-source.png"), pixels("same.png"))
    assert recipe("heart-source.png") == recipe("same.png")
    assert nvg(f"transfer {picture} --class heart --class boat --stages 2 --compare --out c.png TINY")[0] == 0
    with Image.open("c.png") as compared:
        assert compared.width > 3 * 16 and compared.height > 2 * 16
    assert recipe("c.png")["structure"]["stages"] == 2


def test_the_subject_of_a_photo(nvg, tiny, picture, tmp_path):
    Image.new("L", (10, 10), 255).save(tmp_path / "all.png")
    assert nvg(f"transfer {picture} --class heart --out whole.png --subject {tmp_path}/all.png TINY")[0] == 0
    assert nvg(f"transfer {picture} --class heart --out plain.png TINY")[0] == 0
    assert torch.equal(pixels("whole.png"), pixels("plain.png")), "all of it is the subject"
    assert recipe("whole.png")["structure"]["subject"] == f"{tmp_path}/all.png"
    half = Image.new("L", (10, 10), 0)
    half.paste(255, (0, 0, 5, 10))
    half.save(tmp_path / "half.png")
    options = f"--fit subject --subject {tmp_path}/half.png --out half.safetensors"
    assert nvg(f"tokenize {picture} {options} --model {tiny}")[0] == 0
    status, _, err = nvg(f"tokenize {picture} --fit subject --model {tiny}")
    assert status != 0 and "no transparent part" in err
    status, _, err = nvg(f"generate --class heart --subject {tmp_path}/half.png TINY")
    assert status != 0 and "--structure" in err
    status, _, err = nvg(f"inpaint {picture} --mask {tmp_path}/half.png --fit subject --class heart TINY")
    assert status != 0 and "give crop, pad or stretch" in err


def test_tokenize(nvg, tiny, tiny_model, picture, tmp_path):
    status, out, err = nvg(f"tokenize {picture} --model {tiny} --fit stretch --filmstrip strip.png")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [str(tmp_path / "source.safetensors"), "strip.png"]
    image = render.from_pil(Image.open(picture), (16, 16), "stretch")
    sequence = tiny_model.tokenize(image)
    found = load_file(tmp_path / "source.safetensors")
    for name in ("structure", "tokens", "canvases"):
        assert torch.equal(found[name], getattr(sequence, name))
    error = (tiny_model.decode(sequence) - image).square().mean()
    assert lines[2] == f"PSNR {10 * torch.log10(4 / error):.2f} dB"
    assert Image.open("strip.png").tobytes() == render.filmstrip(tiny_model, sequence).tobytes()


def test_info(nvg, tiny):
    status, out, _ = nvg(f"info {tiny}")
    assert status == 0
    for fact in ("16 x 16", "K = 4", "heart, bird, boat", "licence", "structure_steps 25"):
        assert fact in out
    status, out, _ = nvg(f"info {tiny} --json")
    assert json.loads(out) == json.loads(json.dumps(checkpoint.info(tiny)))


def test_info_and_generate_of_a_tokenizer_alone(nvg, tiny_model, tmp_path):
    config = nvg_model.NVGConfig(tiny_model.config.image_size, tiny_model.config.autoencoder, None)
    model = nvg_model.NVG(config)
    model.load_state_dict({k: v for k, v in tiny_model.state_dict().items() if k.startswith("tokenizer.")})
    nvg_model.save(model, tmp_path / "t.safetensors")
    status, out, _ = nvg("info t.safetensors")
    assert status == 0 and "tokenizer only" in out and "classes" not in out
    status, _, err = nvg("generate --class bird --model t.safetensors")
    assert status == 2 and "no generator" in err


def test_convert(nvg, golden):
    weights = golden / "ae_weights.safetensors", golden / "gen_weights.safetensors"
    assert nvg("convert {} {} ours.safetensors --dtype bfloat16".format(*weights)) == (0, "ours.safetensors\n", "")
    wanted = nvg_model.load_released(*weights)
    found = nvg_model.load("ours.safetensors")
    assert found.config == wanted.config
    assert "S-Lab" in found.provenance["licence"]
    for name, value in wanted.state_dict().items():
        rounded = value if name == "content.canvas_scales" else value.bfloat16().float()
        assert torch.equal(found.state_dict()[name], rounded)


def test_bench_gets_its_own_options(nvg, monkeypatch):
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(bench, "run", lambda args: seen.append(args) or 0)
    assert nvg("bench --preset tiny --batch 2 --device cpu")[0] == 0
    assert (seen[0].preset, seen[0].batch, seen[0].dtype) == ("tiny", 2, "float32")


def test_bench_measures_a_checkpoint_with_its_own_settings(nvg, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "matrix_peak", lambda device, dtype: 1e9)  # the longest part, and no concern of this
    settings = nvg_model.SamplingSettings(structure_steps=(2, 1, 4), guidance_every=2)
    had, tiny_model.settings = tiny_model.settings, settings
    try:
        nvg_model.save(tiny_model, tmp_path / "own.safetensors")
    finally:
        tiny_model.settings = had
    status, out, _ = nvg("bench --model own.safetensors --levers --rounds 1 --json")
    report = json.loads(out)
    assert status == 0 and report["settings"]["structure_steps"] == [2, 1, 4]
    assert all(row["processor_seconds"] > 0 for row in report["rows"])
    found = {lever["name"]: lever["evaluations"] for lever in report["levers"]}
    assert found == {
        "as it is": 12, "half the steps": 9, "reuse": 12, "even times, multistep": 12, "all of these": 9
    }, "it is guided every second time already"  # fmt: skip
    status, out, _ = nvg("bench --model own.safetensors --levers --rounds 1 --steps 3")
    assert "structure_steps 3; solver euler" in out and "what a picture costs" in out and "CPU s" in out


@pytest.mark.parametrize("options", ["--solver heun", "--structure source.png --keep-structure 2", "--steps 1"])
def test_progress_reaches_its_end_on_a_terminal(nvg, picture, monkeypatch, options):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    line = f"generate --class bird TINY {options}"
    monkeypatch.setattr(sys, "stderr", Terminal())
    bars = []
    start = tqdm.tqdm.close
    monkeypatch.setattr(tqdm.tqdm, "close", lambda bar: (bars.append((bar.n, bar.total)), start(bar))[1])
    assert nvg(line)[0] == 0
    assert "evaluations" in sys.stderr.getvalue()
    assert bars[0][0] == bars[0][1] > 0
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert nvg(f"{line} --quiet")[0] == 0
    assert sys.stderr.getvalue() == ""


WRONG = {
    "": "required: COMMAND",
    "generat": "invalid choice: 'generat'",
    "generate TINY": "required: --class",
    "generate --class brid TINY": "did you mean bird",
    "generate --class 9 TINY": "classes 0 to 2",
    "generate --class bird --model nothing": "no checkpoint 'nothing'",
    "generate --class bird --model source.png": "it is a PNG picture",
    "generate --class bird TINY --seed -1": "'-1' is not a whole number of at least 0",
    "generate --class bird TINY --count 0": "whole number from 1 to 1000",
    "generate --class bird TINY --scale 1000": "whole number from 1 to 64",
    "generate --class bird TINY --steps 0": "structure_steps is 0",
    "generate --class bird TINY --steps two": "structure_steps is 'two'; give one value",
    "generate --class bird TINY --temperature nan": "temperature is nan",
    "generate --class bird TINY --top-p 0 1": "top_p is (0.0, 1.0)",
    "generate --class bird TINY --top-p 1": "expected 2 arguments",
    "generate --class bird TINY --top-k -1": "top_k is -1",
    "generate --class bird TINY --solver eulr": "solver is 'eulr'",
    "generate --class bird TINY --steps 4,2": "structure_steps has 2 values, 4 2; the structure flow",
    "generate --class bird TINY --time-shift late": "time_shift is 'late'; give one value, or one for each stage",
    "generate --class bird TINY --device nonsense": "device 'nonsense' cannot be used",
    "generate --class bird TINY --device meta": "device 'meta' cannot be used",
    "generate --class bird TINY --dtype int8": "invalid choice: 'int8'",
    "generate --class bird TINY --threads 0": "whole number of at least 1",
    "generate --class bird TINY --out nowhere/x.png": "there is no folder nowhere",
    "generate --class bird TINY --out folder.png": "folder.png is a folder",
    "generate --class bird TINY --out x.jpg": "does not end in .png",
    f"generate --class bird TINY --out {'x' * 300}.png": "name too long",
    "generate --class bird TINY --keep-structure 2": "name the picture as well",
    "generate --class bird TINY --structure source.png --keep-structure 6": "this model has 5",
    "generate --class bird TINY --structure missing.png": "there is no picture missing.png",
    "generate --class bird TINY --structure .": "there is no picture .",
    "generate --class bird TINY --structure text.png": "not a picture of a known format",
    "generate --class bird TINY --structure cut.png": "cut.png is damaged",
    "generate --class bird TINY --fit squeeze": "invalid choice: 'squeeze'",
    "transfer source.png TINY": "required: --class",
    "transfer source.png --class bird TINY --stages 9": "9 stages of structure are too many",
    "tokenize": "required: IMAGE",
    "tokenize missing.png": "there is no",
    "info nothing": "no checkpoint 'nothing'",
    "info source.png": "it is a PNG picture",
    "convert a.ckpt b.ckpt out.safetensors": "there is no file a.ckpt",
    "convert a.ckpt b.ckpt out.bin": "does not end in .safetensors",
    "bench --rounds 0": "--rounds is 0; it must be at least 1",
    "bench --model nowhere.safetensors": "there is no checkpoint 'nowhere.safetensors'",
    "bench --batch many": "invalid int value: 'many'",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_sentence(nvg, picture, tmp_path, line):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:2000])
    before = sorted(tmp_path.iterdir())
    status, out, err = nvg(line)
    assert (status, out) == (2, "")
    assert err.startswith("nvg: ") and err.count("\n") == 1 and WRONG[line] in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "x.png could not be written (No space left on device)"),
        (MemoryError(), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_nothing_is_left_of_a_picture_half_written(nvg, monkeypatch, tmp_path, raised, status, says):
    (tmp_path / "x.png").write_text("an older one")

    def save(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise raised

    monkeypatch.setattr(Image.Image, "save", save)
    result, out, err = nvg("generate --class bird --out x.png TINY")
    assert (result, out) == (status, "")
    assert err.count("\n") == 1 and says in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.png", "an older one")]


def test_memory_of_the_device(nvg, monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(nvg_model.NVG, "generate", refuse)
    status, _, err = nvg("generate --class bird TINY")
    assert status == 2 and "not enough memory" in err


def test_our_own_mistakes_are_not_hidden(nvg, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(nvg_model.NVG, "generate", fail)
    status, _, err = nvg("generate --class bird TINY")
    assert status == 2 and re.fullmatch(r"nvg: .*RuntimeError: a bug.*NVG_TRACEBACK=1 shows\n", err)
    monkeypatch.setenv("NVG_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        nvg("generate --class bird TINY")


@pytest.mark.parametrize("command", ["", "generate", "tokenize", "transfer", "info", "convert", "bench"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([*command.split(), "--help"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith("usage: nvg")


def test_a_reader_who_has_seen_enough_gets_no_complaint(tiny):
    """As in `nvg info FILE | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nvg_model.cli", "info", str(tiny)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
