"""Where pictures and labels are kept: every kind of source gives the same data, every mistake gets one sentence."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared_archives import pack

from training.data.dataset import open_dataset
from training.data.sources import list_pictures
from training.errors import TrainingError

SIZE = (4, 4)
PICTURES = {f"{name}{number}": (name, number) for name in ("cat", "dog") for number in range(4)}
"""Stem -> class and number."""


def picture(stem: str) -> bytes:
    """4x4 of a colour that tells the picture."""
    name, number = PICTURES[stem]
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200 if name == "cat" else 20, number, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folders(folder: Path) -> Path:
    for stem, (name, _) in PICTURES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{stem}.png").write_bytes(picture(stem))
    return folder


def write_flat(folder: Path, file: str = "", text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in PICTURES:
        (folder / f"{stem}.png").write_bytes(picture(stem))
    if file:
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def samples(ending: str, label: Callable[[str, int], str]) -> dict[str, bytes]:
    members = {}
    for stem, (name, _) in PICTURES.items():
        members |= {f"{stem}.png": picture(stem), f"{stem}.{ending}": label(name, ("cat", "dog").index(name)).encode()}
    return members


def listed(row: Callable[[str, str], str], head: str = "") -> str:
    return head + "\n".join(row(f"{stem}.png", name) for stem, (name, _) in PICTURES.items()) + "\n"


def two_shards(folder: Path, ending: str, label: Callable[[str, int], str]) -> Path:
    members = list(samples(ending, label).items())
    pack(folder / "a-000.tar", dict(members[:6]))
    pack(folder / "a-001.tar", dict(members[6:]))
    return folder


def parquet(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [picture(stem) for stem in PICTURES],
        "label": [["cat", "dog"].index(n) for n, _ in PICTURES.values()],
    }
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    data = datasets.Dataset.from_dict({**rows, "image": [{"bytes": b, "path": None} for b in rows["image"]]})
    (folder / "data").mkdir(parents=True)
    data.cast(datasets.Features(kinds)).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


OBJECT = json.dumps({f"{stem}.png": name for stem, (name, _) in PICTURES.items()})
OBJECTS = [{"file_name": f"{stem}.png", "label": name} for stem, (name, _) in PICTURES.items()]
PAIRS = [[f"{stem}.png", name] for stem, (name, _) in PICTURES.items()]
FORMS: dict[str, Callable[[Path], Path]] = {
    "folders": write_folders,
    "csv": lambda d: write_flat(d, "labels.csv", listed(lambda f, c: f"{f},{c}", "file,class\n")),
    "csv of a spreadsheet": lambda d: write_flat(
        d, "labels.csv", listed(lambda f, c: f'{c};x;".\\{f}"', "\ufeffLabel;note;Filename\n").replace("\n", "\r\n")
    ),
    "tsv": lambda d: write_flat(d, "labels.tsv", listed(lambda f, c: f"{f}\t{c}", "path\tcategory\n")),
    "json object": lambda d: write_flat(d, "labels.json", OBJECT),
    "json objects": lambda d: write_flat(d, "labels.json", json.dumps(OBJECTS)),
    "json pairs": lambda d: write_flat(d, "labels.json", json.dumps({"labels": PAIRS})),
    "json lines": lambda d: write_flat(d, "metadata.jsonl", "\n".join(map(json.dumps, OBJECTS))),
    "a label file": lambda d: write_flat(d, "mine.json", OBJECT) / "mine.json",
    "shards with cls": lambda d: two_shards(d, "cls", lambda name, number: name),
    "shards with json": lambda d: two_shards(d, "json", lambda name, number: json.dumps({"label": name})),
    "one shard with txt": lambda d: pack(d / "one.tar", samples("txt", lambda name, number: name)),
    "a pattern": lambda d: two_shards(d, "cls", lambda name, number: name) / "a-*.tar",
    "parquet": parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form: str, tmp_path: Path) -> None:
    pictures = open_dataset(FORMS[form](tmp_path / "data"), SIZE, split="all")
    assert pictures.classes == ("cat", "dog") and len(pictures) == len(set(pictures.names)) == 8
    colours = pictures.load(torch.arange(8))[:, :2, 0, 0].tolist()
    wanted = {(200 if name == "cat" else 20, number) for name, number in PICTURES.values()}
    assert {tuple(colour) for colour in colours} == wanted
    assert [colour[0] == 20 for colour in colours] == pictures.labels.bool().tolist()
    if form != "parquet":
        for file, colour in zip(pictures.names, colours, strict=True):
            assert PICTURES[Path(file).stem][1] == colour[1]


def test_numbers_are_places_in_the_classes(tmp_path: Path) -> None:
    shard = pack(tmp_path / "n.tar", samples("cls", lambda name, number: str(number)))
    assert open_dataset(shard, SIZE, split="all").classes == ("0", "1")
    named = open_dataset(shard, SIZE, ("cat", "dog"), split="all")
    assert named.classes == ("cat", "dog") and named.labels.bincount().tolist() == [4, 4]
    with pytest.raises(TrainingError, match=r"n\.tar/dog0\.png has label 1, but the 1 classes count from 0"):
        open_dataset(shard, SIZE, ("cat",), split="all")
    many = write_flat(
        tmp_path / "ten", "labels.csv", "file,class\n" + "".join(f"cat{i}.png,{i * 5}\n" for i in range(3))
    )
    for stem in ("cat3", *(f"dog{i}" for i in range(4))):
        (many / f"{stem}.png").unlink()
    assert open_dataset(many, SIZE, split="all").classes == ("0", "5", "10")


def test_classes_choose_and_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folders(tmp_path)
    assert open_dataset(folder, SIZE, ("dog", "cat"), split="all").labels.tolist() == [1] * 4 + [0] * 4
    only = open_dataset(folder, SIZE, ("dog",), split="all")
    assert len(only) == 4 and set(only.load(torch.arange(4))[:, 0, 0, 0].tolist()) == {20}
    assert "left out 4 pictures of other classes (cat)" in capsys.readouterr().err


def test_hidden_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    folder = write_folders(tmp_path)
    (folder / ".cache").mkdir()
    (folder / "cat" / "._cat0.png").write_bytes(b"x")
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "dog" / "deeper").mkdir()
    (folder / "dog" / "deeper" / "DOG9.PNG").write_bytes(picture("dog0"))
    listing = list_pictures(folder, None, "all")
    assert listing.classes == ("cat", "dog") and listing.names[-1] == "dog/deeper/DOG9.PNG" and len(listing) == 9


def test_a_split_of_the_source_is_taken_as_it_is(tmp_path: Path) -> None:
    write_folders(tmp_path / "train")
    (tmp_path / "val" / "dog").mkdir(parents=True)
    (tmp_path / "val" / "dog" / "x.png").write_bytes(picture("dog1"))
    assert len(open_dataset(tmp_path, SIZE)) == 8
    held_out = open_dataset(tmp_path, SIZE, split="held-out")
    assert held_out.names == ("dog/x.png",) and held_out.classes == ("cat", "dog") and held_out.labels.tolist() == [1]
    shards = tmp_path / "shards"
    pack(shards / "in-train-0.tar", samples("cls", lambda name, number: name))
    pack(shards / "in-validation-0.tar", dict(list(samples("cls", lambda name, number: name).items())[:2]))
    assert len(open_dataset(shards, SIZE)) == 8 and len(open_dataset(shards, SIZE, split="held-out")) == 1
    assert len(open_dataset(shards, SIZE, split="all")) == 9


def test_a_share_is_held_out_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for index in range(200):
        (folder / f"class{index % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"class{index % 3}" / f"{index}.png").write_bytes(picture("cat0"))
    (folder / "rare").mkdir()
    (folder / "rare" / "only.png").write_bytes(picture("cat0"))
    kept, out = (list_pictures(tmp_path, None, split, 0.2) for split in ("train", "held-out"))
    assert len(kept) + len(out) == 201 and not set(kept.names) & set(out.names) and 20 < len(out) < 60
    assert kept.classes == out.classes and "rare/only.png" in kept.names
    (folder / "class0" / "new.png").write_bytes(picture("cat0"))
    assert set(out.names) <= set(list_pictures(tmp_path, None, "held-out", 0.2).names)
    assert len(list_pictures(tmp_path, None, "held-out", 1e-9)) == 1  # at least one


def test_no_class_is_held_out_whole(tmp_path: Path) -> None:
    write_folders(tmp_path)
    assert set(list_pictures(tmp_path, None, "train", 0.9).labels.tolist()) == {0, 1}
    (tmp_path / "single" / "a").mkdir(parents=True)
    (tmp_path / "single" / "a" / "0.png").write_bytes(picture("cat0"))
    with pytest.raises(TrainingError, match="too few pictures to hold 5% out; put some into a folder held-out"):
        list_pictures(tmp_path / "single", None, "held-out")


CSV = "file,class\n" + "".join(f"{stem}.png,{name}\n" for stem, (name, _) in PICTURES.items())


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("labels.csv", "", "labels.csv, line 1: the header is ''; it needs a column `file` and a column `class`"),
        ("labels.csv", "cat0.png,cat\n", "line 1: the header is 'cat0.png,cat'; it needs"),
        ("labels.csv", CSV.replace("cat2.png,cat", "cat2.png,"), "labels.csv, line 4: cat2.png has no label"),
        ("labels.csv", CSV.replace("cat2.png,cat", "cat2.png"), "labels.csv, line 4: cat2.png has no label"),
        ("labels.csv", CSV.replace("cat2.png", ""), "labels.csv, line 4: there is no file name"),
        ("labels.csv", CSV.replace("cat2.png", "cow.png"), "labels.csv, line 4: there is no picture cow.png in"),
        ("labels.csv", CSV + "cat0.png,dog\n", "labels.csv, line 10: cat0.png is listed twice"),
        ("labels.csv", CSV[: CSV.index("dog0")], "labels.csv has no label for dog0.png, dog1.png, dog2.png and 1 more"),
        ("labels.json", '{"cat0.png": "cat",\n "dog0.png" "dog"}', "labels.json, line 2: this is not JSON"),
        ("labels.json", '{"cat0.png": "cat", "cat0.png": "dog"}', "labels.json: cat0.png is listed twice"),
        ("labels.json", '{"cat0.png": null}', "labels.json, entry 'cat0.png': cat0.png has no label"),
        ("labels.json", '[{"file": "cat0.png"}]', "labels.json, entry 1: cat0.png has no label"),
        ("labels.json", '[["cat0.png", "cat"], "dog"]', "labels.json, entry 2: this is no entry"),
        ("labels.json", '"cat"', "labels.json holds str; it should hold an object"),
        ("labels.jsonl", '{"file": "cat0.png", "class": "cat"}\n{"file": }', "labels.jsonl, line 2: this is not JSON"),
    ],
)
def test_wrong_label_files(file: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        open_dataset(write_flat(tmp_path, file, text), SIZE)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_file_in_another_encoding(tmp_path: Path) -> None:
    write_flat(tmp_path)
    (tmp_path / "labels.csv").write_bytes(CSV.replace("dog\n", "h\xfcnd\n").encode("latin-1"))
    with pytest.raises(TrainingError, match=r"labels\.csv cannot be read .* save it as UTF-8"):
        open_dataset(tmp_path, SIZE)


GOOD = samples("cls", lambda name, number: name)


def cut_short(folder: Path) -> Path:
    path = pack(folder / "cut.tar", GOOD)
    path.write_bytes(path.read_bytes()[:700])
    return path


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda d: d / "nowhere", "there is no folder .*nowhere; make the data first or pass --data"),
    "an empty folder": (lambda d: d, "there are no pictures in .*; it should hold class folders"),
    "pictures without labels": (write_flat, "have no labels; add labels.csv, or sort them into a folder per class"),
    "a file of another kind": (lambda d: write_flat(d, "x.txt", "x") / "x.txt", r"x\.txt is no data set; give"),
    "an empty class": (lambda d: (write_folders(d), (d / "eel").mkdir(), d)[-1], "class 'eel' has no pictures in"),
    "a compressed shard": (lambda d: pack(d / "z.tar", GOOD, "w:gz"), r"z\.tar cannot be read as an uncompressed tar"),
    "a shard cut short": (cut_short, r"cut\.tar cannot be read as an uncompressed tar"),
    "a sample without label": (
        lambda d: pack(d / "l.tar", {name: data for name, data in GOOD.items() if name != "dog1.cls"}),
        r"l\.tar: dog1 has no label; put dog1\.cls",
    ),
    "two pictures of a sample": (lambda d: pack(d / "t.tar", {**GOOD, "dog1.jpg": b""}), "two pictures of dog1"),
    "a sample's bad json": (
        lambda d: pack(d / "j.tar", {"a.png": picture("cat0"), "a.json": b"{"}),
        r"j\.tar: a\.json cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_sources_that_cannot_be_used(case: str, tmp_path: Path) -> None:
    make, said = BAD_SOURCES[case]
    source = make(tmp_path)
    with pytest.raises(TrainingError, match=said) as caught:
        open_dataset(source, SIZE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_class_that_was_asked_for_and_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"class 'eel' has no pictures in .*; add some or leave the class out"):
        open_dataset(write_folders(tmp_path), SIZE, ("cat", "eel"))


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Root reads everything, so become nobody for a moment."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
@pytest.mark.parametrize("closed", ["", "cat"])
def test_an_unreadable_folder(closed: str) -> None:
    top = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to others from the top
    try:
        top.chmod(0o755)
        folder = write_folders(top / "data")
        (folder / closed).chmod(0)
        with not_root(), pytest.raises(TrainingError, match=rf"{folder / closed} cannot be read \(Permission denied\)"):
            open_dataset(folder, SIZE)
    finally:
        (folder / closed).chmod(0o755)
        shutil.rmtree(top)


def test_the_hub_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python itself does to forbid an import
    with pytest.raises(
        TrainingError,
        match=r"hf://a/b needs the package datasets, which is not installed; run `pip install -e '\.\[hub\]'`",
    ):
        open_dataset("hf://a/b", SIZE)


def test_the_hub_offline(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(TrainingError, match=r"hf://nothing cannot be had \(it should read hf://OWNER/NAME\)"):
        open_dataset("hf://nothing", SIZE)
    code = "from training.data.dataset import open_dataset; open_dataset('hf://nobody/nothing', (4, 4))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert "TrainingError: hf://nobody/nothing cannot be had (" in last and "check the name, the network" in last


def test_parquet_splits_and_missing_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = parquet(tmp_path / "set")
    assert len(open_dataset(folder, SIZE)) + len(open_dataset(folder, SIZE, split="held-out")) == 8
    train = datasets.load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"))["train"]
    train.select([7]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    assert len(open_dataset(folder, SIZE)) == 8
    held_out = open_dataset(folder, SIZE, split="held-out")
    assert held_out.labels.tolist() == [1] and held_out.load(torch.zeros(1, dtype=torch.long))[0, 0, 0, 0] == 20
    train.remove_columns("label").to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(TrainingError, match="has the columns image; it needs one of images and one of labels"):
        open_dataset(tmp_path / "bare.parquet", SIZE)
    train.map(lambda row: {"label": -1}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(TrainingError, match=r"row 0 has no label \(8 in all\)"):
        open_dataset(tmp_path / "none.parquet", SIZE)


def test_names_labels_and_bytes_stay_together(tmp_path: Path) -> None:
    """After a choice of classes and a split, every name still reads its own file."""
    listing = list_pictures(write_folders(tmp_path), ("dog", "cat"), "train", 0.4)
    assert 0 < len(listing) < 8
    for index, name in enumerate(listing.names):
        stem = Path(name).stem
        assert listing.read(index) == picture(stem)
        assert listing.classes[int(listing.labels[index])] == PICTURES[stem][0]
    assert np.array_equal(listing.rows, np.sort(listing.rows))
