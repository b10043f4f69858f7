"""Data as people have it: links, labels that are missing, captions, keys with dots, files of other kinds."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from shared_archives import pack

from training.data.dataset import open_dataset
from training.data.sources import list_pictures
from training.errors import TrainingError

SIZE = (4, 4)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def picture(shade: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def samples(count: int) -> dict[str, bytes]:
    """Members of a shard: so many pictures of the classes a and b in turn."""
    pairs = ({f"{row:04}.png": picture(), f"{row:04}.cls": b"ab"[row % 2 :][:1]} for row in range(count))
    return {name: data for pair in pairs for name, data in pair.items()}


def flat(folder: Path, count: int) -> dict[str, str]:
    """A folder of pictures; returns labels for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in range(count):
        (folder / f"{row:04}.png").write_bytes(picture())
    return {f"{row:04}.png": "ab"[row % 2] for row in range(count)}


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "cat", elsewhere / "more", elsewhere / "dogs"):
        folder.mkdir(parents=True)
        (folder / "one.png").write_bytes(picture())
    (data / "cat" / "linked").symlink_to(elsewhere / "more")
    (data / "dog").symlink_to(elsewhere / "dogs")
    (data / "cat" / "round").symlink_to(data)  # would never end
    found = list_pictures(data, split="all")
    assert found.names == ("cat/one.png", "cat/linked/one.png", "dog/one.png") and found.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("place", ["dog", "cat/more"])
def test_a_link_to_nothing_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "one.png").write_bytes(picture())
    (tmp_path / place).symlink_to(tmp_path / "unplugged")
    with pytest.raises(
        TrainingError, match=rf"{place} is a link to .*unplugged, which is not there; correct or remove it"
    ):
        list_pictures(tmp_path, split="all")


@pytest.mark.parametrize("what", ["no picture", "no label", "no entry"])
def test_a_hundredth_of_a_label_file_may_be_incomplete(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels: dict[str, str | None] = {**flat(tmp_path, 120)}
    if what == "no picture":
        (tmp_path / "0007.png").unlink()
    elif what == "no label":
        labels["0007.png"] = None
    else:
        del labels["0007.png"]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    found = open_dataset(tmp_path, SIZE, split="all")
    said = capsys.readouterr().err
    assert len(found) == 119 and "0007.png" not in found.names
    assert said.startswith("left out: ") and "0007.png" in said and said.count("\n") == 1
    with pytest.raises(TrainingError, match=r"0007\.png"):
        open_dataset(tmp_path, SIZE, split="all", tolerance=0.005)
    if what == "no picture":
        (tmp_path / "0008.png").unlink()
        with pytest.raises(TrainingError, match=r"there is no picture 0007\.png in .*; correct the name"):
            open_dataset(tmp_path, SIZE, split="all")


def test_a_hundredth_of_a_shard_may_have_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = samples(120)
    del members["0007.cls"]
    assert len(open_dataset(pack(tmp_path / "a.tar", members), SIZE, split="all")) == 119
    assert "left out: " in (said := capsys.readouterr().err) and "0007 has no label" in said
    open_dataset(tmp_path / "a.tar", SIZE)
    open_dataset(tmp_path / "a.tar", SIZE, split="held-out")
    assert capsys.readouterr().err.count("0007 has no label") == 1  # once a run
    del members["0008.cls"]
    with pytest.raises(TrainingError, match=r"a\.tar: 0007 has no label; put 0007\.cls"):
        open_dataset(pack(tmp_path / "a.tar", members), SIZE)


def test_a_hundredth_of_a_parquet_file_may_be_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": picture(row), "path": None} for row in range(240)], "label": ["a", "b"] * 120}
    rows["label"][7], rows["image"][8] = None, None
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(tmp_path / "all.parquet"))
    found = open_dataset(tmp_path / "all.parquet", SIZE, split="all")
    assert len(found) == 238 and not {"row 7", "row 8"} & set(found.names)
    assert found.fetch(found.names.index("row 9"))[0, 0, 0] == 9  # labels and pictures stay together
    said = capsys.readouterr().err
    assert (
        "row 7 has no label" in said and "row 8 cannot be read as a picture (there is no picture in this row)" in said
    )


@pytest.mark.parametrize("form", ["labels.csv", "txt"])
def test_captions_are_no_classes(form: str, tmp_path: Path) -> None:
    texts = {name: f"a photo of thing {name}" for name in flat(tmp_path / "flat", 30)}
    if form == "txt":
        members = {name: data for file, text in texts.items()
                   for name, data in ((file, picture()), (file.replace("png", "txt"), text.encode()))}  # fmt: skip
        place = pack(tmp_path / "c.tar", members)
    else:
        place = tmp_path / "flat"
        (place / form).write_text("file,label\n" + "".join(f"{file},{text}\n" for file, text in texts.items()))
    said = (
        r"has 30 different labels for 30 pictures \(a photo of thing 0000\.png and 29 more\): these are captions, not "
    )
    with pytest.raises(TrainingError, match=said):
        list_pictures(place)


def test_many_classes_of_several_pictures_are_classes(tmp_path: Path) -> None:
    members = samples(0)
    for row in range(60):
        members |= {f"{row}.png": picture(), f"{row}.txt": f"class {row // 2}".encode()}
    assert len(list_pictures(pack(tmp_path / "a.tar", members)).classes) == 30


@pytest.mark.parametrize("place", ["classnames.txt", "train/classes.txt"])
def test_shards_have_names_for_their_numbers(place: str, tmp_path: Path) -> None:
    pack(tmp_path / "train" / "a.tar", {"x.png": picture(1), "x.cls": b"1", "y.png": picture(2), "y.cls": b"0"})
    (tmp_path / place).write_bytes(b"\xef\xbb\xbfgreat grey owl\r\ntabby\r\n")
    found = list_pictures(tmp_path, split="train", held_out=0)
    assert found.classes == ("great grey owl", "tabby") and found.labels.tolist() == [1, 0]
    (tmp_path / place).write_text("tabby\n")
    with pytest.raises(
        TrainingError, match=r"has 1 names, but there is a label 1; write one name a line, the first for"
    ):
        list_pictures(tmp_path)
    (tmp_path / place).write_text("crane\ncrane\n")
    with pytest.raises(TrainingError, match="names a class twice"):
        list_pictures(tmp_path)


def test_a_key_may_have_dots(tmp_path: Path) -> None:
    """As in shared/cases/21-dotted-basename/t2 (webdataset/webdataset#237)."""
    members = {"1 Track 2.0.png": picture(1), "1 Track 2.0.cls": b"0", "b.png": picture(2), "b.cls": b"1",
               "b.mask.png": picture(4), "c.png": picture(3), "c.cls": b"0"}  # fmt: skip
    found = open_dataset(pack(tmp_path / "s-000.tar", members), SIZE, split="all")
    assert found.names == ("s-000.tar/1 Track 2.0.png", "s-000.tar/b.png", "s-000.tar/c.png")
    assert found.labels.tolist() == [0, 1, 0] and [int(found.fetch(row)[0, 0, 0]) for row in range(3)] == [1, 2, 3]
    del members["1 Track 2.0.cls"]
    with pytest.raises(
        TrainingError, match=r"1 Track 2\.0 has no label, and a key ends at its first dot; name it without"
    ):
        open_dataset(pack(tmp_path / "s-000.tar", members), SIZE, split="all")


def test_a_byte_order_mark_makes_no_other_class(tmp_path: Path) -> None:
    """As in shared/cases/21-dotted-basename/t11."""
    members = {"a.png": picture(), "a.cls": b"\xef\xbb\xbfcat\r\n", "b.png": picture(), "b.cls": b"cat"}
    assert list_pictures(pack(tmp_path / "s.tar", members), split="all").classes == ("cat",)


@pytest.mark.parametrize("label", ['{"label": null}', "null", '{"label": true}', '{"label": ["a"]}', '{"label": 1.5}'])
def test_what_is_no_label_is_no_class(label: str, tmp_path: Path) -> None:
    members = {"a.png": picture(), "a.json": label.encode(), "b.png": picture(), "b.json": b'{"label": "cat"}'}
    with pytest.raises(TrainingError, match="a has no label"):
        list_pictures(pack(tmp_path / "s.tar", members))
    flat(tmp_path, 1)
    (tmp_path / "labels.json").write_text(json.dumps({"0000.png": json.loads(label)}))
    with pytest.raises(TrainingError, match=r"0000\.png has no label"):
        list_pictures(tmp_path / "labels.json")


def test_heic_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "IMG_0001.HEIC").write_bytes(HEIC)
    (tmp_path / "cat" / "IMG_0002.jpg").write_bytes(HEIC)
    said = (
        r"2 are broken, .*IMG_0001\.HEIC cannot be read as a picture \(it is HEIC, as iPhones save photos; save it as "
    )
    with pytest.raises(TrainingError, match=said):
        open_dataset(tmp_path, SIZE, split="all")
