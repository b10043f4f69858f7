"""Compiled generators: the same tokens, and a handful of graphs for everything that one can ask for."""

import copy
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from shared_sequences import FAST
from torch._dynamo.utils import counters

import nvg_model
from nvg_model import NVGError, Region
from nvg_model.compiling import check_compiler

REUSE = dataclasses.replace(FAST, reuse=True, structure_steps=3)
MOST_GRAPHS = 12
"""Four functions: content; structure plain, in the first step of a memory, and in later ones. Each of them has a graph
for a single row, one for several, and perhaps another of these under torch.inference_mode."""


@pytest.fixture(scope="module")
def shallow(tiny_model):
    """The tiny model with one block in each network: as many graphs, smaller ones."""
    generator = dataclasses.replace(tiny_model.config.generator, content_depth=1, structure_depth=1)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), tiny_model.classes)
    weights = tiny_model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval().requires_grad_(False)


@pytest.fixture
def graphs():
    """What torch has compiled since the test began."""
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def traced(shallow):
    """Traced as for any compiler, but run as it is: to count without one."""
    torch._dynamo.reset()
    model = copy.deepcopy(shallow)
    model.compile(backend="eager")
    yield model
    torch._dynamo.reset()


def everything(model):
    """Sequences of all stages: one picture and several, seeds, regions, kept pixels, reuse, guidance, previews."""
    half = torch.zeros(model.config.image_size)
    half[:, : half.shape[1] // 2] = 1
    drawn = [model.generate(["heart"] * count, seed=count, settings=FAST) for count in (1, 2, 5)]
    drawn += [model.generate(["heart"] * count, settings=REUSE) for count in (1, 3)]
    drawn.append(model.generate("boat", settings=FAST, regions=[Region(half, "bird")]))
    drawn.append(model.generate("boat", settings=FAST, sequence=drawn[0], keep=half))
    drawn.append(model.generate("boat", settings=FAST, seamless=True, area=half))
    unguided = dataclasses.replace(FAST, content_guidance=(1.0, 1.0), structure_guidance=(1.0, 1.0))
    drawn.append(model.generate(["boat", "bird"], settings=unguided))
    for state in model.stages(["bird"], settings=FAST):
        model.preview(state)
    with torch.inference_mode():  # as ComfyUI has it
        drawn.append(model.generate(["boat", "bird"], settings=REUSE))
    return drawn


def test_a_handful_of_graphs_serves_everything(graphs, traced, shallow):
    """And torch's recompile limit, of 8 for each function, is far away."""
    found = everything(traced)
    made = graphs()
    assert 8 <= made <= MOST_GRAPHS, counters
    assert not counters["graph_break"] and not counters["frames"].get("exceeded", 0)
    for one, wanted in zip(found, everything(shallow), strict=True):
        assert torch.equal(one.structure, wanted.structure) and torch.equal(one.tokens, wanted.tokens)
        torch.testing.assert_close(one.canvases, wanted.canvases, rtol=0, atol=1e-5)
    everything(traced)
    assert graphs() == made, "what was seen before is not compiled again"


def test_other_models_do_not_use_up_the_limit(graphs, traced, shallow):
    """Torch counts by code, and each network has its own."""
    traced.generate(["heart"], settings=FAST)
    other, before = copy.deepcopy(shallow), graphs()
    other.compile(backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        other.generate(["heart"], settings=FAST)
    assert graphs() == before + 4  # of both networks: a row at the first stage, two with guidance later


def test_compiled_code_draws_the_same(shallow, tmp_path):
    """A single picture, and several with what is kept after a stage's first step."""
    try:
        check_compiler(torch.device("cpu"))
    except NVGError as error:
        pytest.skip(str(error))
    path = nvg_model.save(shallow, tmp_path / "shallow.safetensors")
    plain, compiled = nvg_model.load(path), nvg_model.load(path, compile=True)
    for classes, settings in ((["heart"], FAST), (["heart", "boat"], REUSE)):
        wanted, found = (model.generate(classes, 3, settings) for model in (plain, compiled))
        assert torch.equal(wanted.tokens, found.tokens) and torch.equal(wanted.structure, found.structure)
        torch.testing.assert_close(found.canvases, wanted.canvases, rtol=0, atol=1e-4)


def test_no_compiler_is_one_sentence(tiny, tmp_path):
    command = [sys.executable, "-m", "nvg_model.cli", "generate", "--class", "heart", "--model", str(tiny), "--compile"]
    changed = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | changed, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and not list(tmp_path.glob("*.png"))
    assert done.stderr.startswith("nvg: nothing can be compiled for cpu here (") and "leave compile out" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_nothing_to_compile_is_one_sentence(refuses):
    tokenizer = nvg_model.NVG(dataclasses.replace(nvg_model.preset("tiny"), generator=None))
    with refuses("no generator to compile"):
        tokenizer.compile()
