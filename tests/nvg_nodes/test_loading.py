"""Nodes that load checkpoints: files, embedded ones, the hub, the released format."""

import torch

import nvg_model
from nvg_nodes import host, nodes_load


def test_loads_a_file_and_tells_its_classes(run, folder):
    model, classes = run("NVGLoadModel", checkpoint="tiny.safetensors")
    assert model.config == nvg_model.preset("tiny")
    assert classes == "heart\nbird\nboat"
    assert next(model.nvg.parameters()).dtype == torch.float32
    model, _ = run("NVGLoadModel", checkpoint="tiny.safetensors", dtype="bfloat16")
    assert next(model.nvg.parameters()).dtype == torch.bfloat16


def test_loaded_weights_run_in_any_mode(run):
    model, _ = run("NVGLoadModel", checkpoint="tiny.safetensors")  # in inference mode, as the host does it
    image = torch.zeros(1, 3, 16, 16)
    assert model.nvg.tokenize(image).is_whole


def test_offers_what_is_there(folder, tiny):
    (folder / "models/nvg/more").mkdir()
    (folder / "models/nvg/more/other.safetensors").write_bytes(tiny.read_bytes())
    (folder / "models/nvg/ae.ckpt").write_bytes(b"")
    (folder / "models/nvg/linked.safetensors").symlink_to(tiny)
    names = ["linked.safetensors", "more/other.safetensors", "tiny.safetensors"]
    assert nodes_load.checkpoints() == [*nvg_model.embedded(), *names]
    assert all(host.current().path(name) for name in names)
    released = nodes_load.NVGLoadReleased.GET_NODE_INFO_V1()["input"]["required"]
    assert "ae.ckpt" in released["autoencoder"][1]["options"]
    assert nodes_load.classes_of("tiny.safetensors") == {"classes": ["heart", "bird", "boat"], "grid": [4, 4]}
    assert "there is no checkpoint" in nodes_load.classes_of("gone")["error"]


def test_offers_something_where_nothing_is(folder, monkeypatch):
    (folder / "models/nvg/tiny.safetensors").unlink()
    monkeypatch.setattr(nvg_model, "embedded", lambda: ())
    assert nodes_load.checkpoints() == [nodes_load.NO_FILE]


def test_fingerprint_follows_the_file(folder):
    node = nodes_load.NVGLoadModel
    before = node.fingerprint_inputs("tiny.safetensors", dtype="auto")
    assert before == node.fingerprint_inputs("tiny.safetensors", "", dtype="auto")
    path = folder / "models/nvg/tiny.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert node.fingerprint_inputs("tiny.safetensors") != before
    assert node.fingerprint_inputs("gone") == "gone"
    assert node.fingerprint_inputs("gone", hub_id="owner/name", dtype="auto") == "owner/name"


def test_a_hub_id_wins_and_is_downloaded_with_progress(run, tiny, monkeypatch):
    import huggingface_hub

    asked, reached = {}, []

    class Watching(host.Progress):
        def reach(self, done, total):
            reached.append((done, total))

    def download(repository, file, revision=None, tqdm_class=None):
        asked.update(repository=repository, file=file, revision=revision)
        with tqdm_class(total=10, disable=True) as bar:
            bar.update(4)
            bar.update(6)
        return str(tiny)

    monkeypatch.setattr(host.Host, "progress", lambda self, total: Watching(total))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model, _ = run("NVGLoadModel", checkpoint="gone", hub_id=" owner/name@main ")
    assert asked == {"repository": "owner/name", "file": "model.safetensors", "revision": "main"}
    assert model.name == "owner/name@main"
    assert reached == [(4, 10), (10, 10)]


def test_the_line_under_the_loader(run, folder, tiny_model, monkeypatch):
    said = []
    monkeypatch.setattr(host.Host, "say", lambda self, text, node_id: said.append(text))
    run("NVGLoadModel", checkpoint="tiny.safetensors")
    nvg_model.save(tiny_model, folder / "models/nvg/free.safetensors", {"licence": "CC0"})
    run("NVGLoadModel", checkpoint="free.safetensors")
    nvg_model.save(tiny_model, folder / "models/nvg/bare.safetensors", {"author": "me"})
    run("NVGLoadModel", checkpoint="bare.safetensors")
    long = "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International, and only for studies"
    nvg_model.save(tiny_model, folder / "models/nvg/long.safetensors", {"licence": long})
    run("NVGLoadModel", checkpoint="long.safetensors")
    sizes = "16 x 16 · 5 stages · 3 classes · float32"
    assert said == [
        f"tiny.safetensors · {sizes}",  # which says that it has none
        f"free.safetensors · {sizes} · licence CC0",
        f"bare.safetensors · {sizes}",
        f"long.safetensors · {sizes} · licence {long.partition(',')[0]} ...",
    ]


def test_released_files_load(run, folder, monkeypatch, tiny_model):
    asked = []
    monkeypatch.setattr(nvg_model, "load_released", lambda *given: asked.append(given) or tiny_model)
    for name in ("ae.ckpt", "d16.ckpt"):
        (folder / "models/nvg" / name).write_bytes(b"")
    run("NVGLoadReleased", autoencoder="ae.ckpt", generator="d16.ckpt", dtype="bfloat16")
    run("NVGLoadReleased", autoencoder="ae.ckpt", generator=nodes_load.NO_GENERATOR, ema=False)
    assert [path and path.name for path in asked[0][:2]] == ["ae.ckpt", "d16.ckpt"]
    assert asked[0][2:] == (True, False, torch.device("cpu"), torch.bfloat16)
    assert asked[1][1] is None and asked[1][2] is False
