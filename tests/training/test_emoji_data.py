"""The emoji64 dataset: classes, held-out split, archives and the folder that comes out. No network."""

import hashlib
import io
import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from shared_archives import pack

from training.data import emoji
from training.data.emoji_classes import EmojiClass
from training.errors import TrainingError

VENDORS = [package.vendor for package in emoji.PACKAGES]


def record(name, subcategory, code):
    return {
        "short_name": name,
        "subcategory": subcategory,
        "unified": code.upper(),
        "sort_order": int(code, 16),
    }


def catalogue():
    """Two new emoji of every subcategory that a class names, and every emoji that one names."""
    subcategories = {}
    for look in emoji.CLASSES.values():
        for group in look.groups:
            subcategories.update({f"new-{group}-{i}": group for i in range(2)})
        if look.groups:
            subcategories.update({name.split("/")[-1]: look.groups[0] for name in look.without.split()})
    for look in emoji.CLASSES.values():
        for name in look.also.split():
            subcategories.setdefault(name.split("/")[-1], "elsewhere")
    return [record(name, group, f"{0x1F000 + i:x}") for i, (name, group) in enumerate(subcategories.items())]


def encoded(image, format):
    buffer = io.BytesIO()
    image.save(buffer, format, lossless=True)
    return buffer.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small archives of all packages in `downloads`, with their true hashes."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    records = catalogue()
    fakes = []
    colours = ("red", "green", "blue", "yellow", "cyan", "magenta")
    for package, colour in zip(emoji.PACKAGES, colours, strict=True):
        is_fluent = package.vendor == "fluent"
        picture = encoded(
            Image.new("RGBA", (128, 128) if is_fluent else (64, 64), colour), "webp" if is_fluent else "png"
        )
        files = {package.picture.format(code=emoji.code_of(r)): picture for r in records}
        files[emoji.CATALOGUE] = json.dumps(records).encode()
        archive = pack(downloads / package.archive, files, "w:gz", compresslevel=1)
        fakes.append(replace(package, integrity=emoji.integrity(archive)))
    monkeypatch.setattr(emoji, "PACKAGES", tuple(fakes))
    return downloads


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_sentence(error):
    message = str(error.value)
    return "\n" not in message and message.endswith(".")


def test_every_class_gets_emoji_and_no_emoji_gets_two():
    classes_of = {r["short_name"]: {emoji.class_of(r, vendor) for vendor in VENDORS} - {None} for r in catalogue()}
    assert max(map(len, classes_of.values())) == 1
    assert set().union(*classes_of.values()) == set(emoji.CLASSES)
    assert len(emoji.CLASSES) == 17


def test_every_subcategory_belongs_to_one_class():
    groups = [group for look in emoji.CLASSES.values() for group in look.groups]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize(
    ("name", "subcategory", "vendor", "expected"),
    [
        ("grinning", "face-smiling", "google", "smiley"),
        ("skull", "face-negative", "google", None),
        ("moon_cake", "food-asian", "fluent", None),
        ("moon", "sky & weather", "fluent", "moon"),
        ("fuelpump", "transport-ground", "twitter", None),
        ("koala", "animal-mammal", "twitter", "animal face"),
        ("koala", "animal-mammal", "nougat", None),
        ("polar_bear", "animal-mammal", "twitter", "animal face"),
        ("polar_bear", "animal-mammal", "google", None),
        ("clock3", "time", "oreo", "clock"),
        ("clock330", "time", "oreo", None),
        ("female_superhero", "person-fantasy", "google", None),
        ("female_elf", "person-fantasy", "google", "person"),
    ],
)
def test_class_of_an_emoji(name, subcategory, vendor, expected):
    assert emoji.class_of(record(name, subcategory, "1f000"), vendor) == expected


def test_an_emoji_wanted_twice_is_an_error(monkeypatch):
    monkeypatch.setitem(emoji.CLASSES, "bird", EmojiClass(also="crab"))
    monkeypatch.setitem(emoji.CLASSES, "fish", EmojiClass(also="google/crab"))
    with pytest.raises(TrainingError, match="crab") as error:
        emoji.class_of(record("crab", "elsewhere", "1f980"), "google")
    assert one_sentence(error)


def test_misspelt_names_are_found(monkeypatch):
    records = catalogue()
    assert emoji.unknown_names(records) == []
    monkeypatch.setitem(emoji.CLASSES, "bird", EmojiClass(groups=("animal-brid",), without="google/howl"))
    assert emoji.unknown_names(records) == ["animal-brid", "google/howl"]


def test_held_out_is_a_stable_share_of_every_class():
    codes = {"small": ["a1", "a2"], "large": [f"{i:x}" for i in range(0x1F600, 0x1F600 + 200)]}
    chosen = emoji.held_out(codes)
    assert len(chosen & set(codes["small"])) == 1
    assert len(chosen & set(codes["large"])) == 10
    assert chosen == emoji.held_out({name: reversed(list(c) + list(c)) for name, c in codes.items()})


def test_a_family_is_held_out_together():
    professions = [f"{0x1F300 + i:x}" for i in range(40)]
    codes = [f"{who}-200d-{what}" for what in professions for who in ("1f468", "1f469", "1f9d1")]
    chosen = emoji.held_out({"person": codes})
    assert len(chosen) == 6
    assert len({emoji.family_of(code) for code in chosen}) == 2
    assert emoji.family_of("1f46e-200d-2640-fe0f") == emoji.family_of("1f46e")
    assert emoji.family_of("1f468") != emoji.family_of("1f469")


def test_hidden_colours_do_not_bleed_when_resizing():
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[:, :63] = (255, 0, 0, 255)
    pixels[:, 63:] = (0, 255, 0, 0)
    small = np.asarray(emoji.composed(Image.fromarray(pixels)))
    assert small.shape == (64, 64, 4)
    assert small[..., 1].max() == 0
    assert (small[small[..., 3] == 0] == 0).all()


@pytest.mark.parametrize("box", [(0, 0, 128, 128), (10, 50, 100, 110), (60, 0, 70, 128), (3, 5, 9, 9)])
def test_an_emoji_covers_its_share_of_the_picture_and_stands_in_the_middle(box):
    picture = Image.new("RGBA", (128, 128))
    picture.paste((255, 0, 0, 255), box)
    opacity = np.asarray(emoji.composed(picture))[..., 3] / 255
    columns, rows = opacity.any(0).nonzero()[0], opacity.any(1).nonzero()[0]
    for places in (columns, rows):
        assert places[0] + places[-1] in (62, 63, 64)
        assert places[-1] - places[0] < emoji.LONGEST
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    assert opacity.mean() == pytest.approx(emoji.COVER, abs=0.03) or longest == emoji.LONGEST


def test_an_empty_picture_is_an_error():
    with pytest.raises(TrainingError, match="empty") as error:
        emoji.composed(Image.new("RGBA", (64, 64)))
    assert one_sentence(error)


def test_the_dataset_is_complete_and_the_same_every_time(packages, tmp_path):
    emoji.make(tmp_path / "a", packages)
    emoji.make(tmp_path / "b", packages)
    files = files_in(tmp_path / "a")
    assert files == files_in(tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"downloads", "a", "b"}
    assert files["ATTRIBUTION.md"] == emoji.ATTRIBUTION.read_bytes()

    facts = json.loads(files["dataset.json"])
    assert facts["classes"] == list(emoji.CLASSES)
    for split, counts in facts["counts"].items():
        for name, count in counts.items():
            assert count == len(list((tmp_path / "a" / split / name).glob("*.png"))) > 0
    codes = {
        split: {path.stem.rsplit("-", 1)[0] for path in (tmp_path / "a" / split).glob("*/*.png")}
        for split in emoji.SPLITS
    }
    assert codes["held-out"] == set(facts["held_out"])
    assert not codes["held-out"] & codes["train"]
    for package in emoji.PACKAGES:
        for name in package.skipped:
            assert not list((tmp_path / "a").glob(f"*/{name}/*-{package.vendor}.png"))
    for path in (tmp_path / "a" / "train" / "bird").glob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((64, 64), "RGBA")


def test_older_packages_name_some_files_without_the_variation_selector(tmp_path):
    archive, package = tmp_path / "old.tgz", emoji.PACKAGES[4]
    picture = encoded(Image.new("RGBA", (64, 64), "red"), "png")
    pack(archive, {package.picture.format(code=code): picture for code in ("2764", "2708-fe0f")}, "w:gz")
    records = [record("heart", "heart", "2764") | {"unified": "2764-FE0F"},
               record("blue_heart", "heart", "2708") | {"unified": "2708-FE0F"}]  # fmt: skip
    assert [one.code for one in emoji.read_pictures(package, archive, records)] == ["2764-fe0f", "2708-fe0f"]


def drawn(archive, icons, characters):
    """An archive as the Iconify project's packages are."""
    contents = {"package/icons.json": icons, "package/chars.json": characters}
    pack(archive, {path: json.dumps(content).encode() for path, content in contents.items()}, "w:gz")


def test_vector_drawings_are_rendered_large_and_sharp(tmp_path):
    archive, package = tmp_path / "vectors.tgz", emoji.LARGE_PACKAGES[0]
    body = '<path fill="#f00" d="M2 2h12v12H2z"/>'
    wide = {"body": '<path fill="#00f" d="M4 0h8v8H4z"/>', "width": 16, "height": 8}
    icons = {"icons": {"red-heart": {"body": body}, "blue-heart": wide}, "width": 16, "height": 16}
    drawn(archive, icons, {"2764": "red-heart", "1f499": "blue-heart", "1f9e1": "absent"})
    records = [record("heart", "heart", "2764") | {"unified": "2764-FE0F"}, record("blue_heart", "heart", "1f499")]
    red, blue = emoji.read_pictures(package, archive, records, 128)
    assert (red.code, blue.code, red.class_name) == ("2764-fe0f", "1f499", "heart")
    for picture, colour in ((red, (255, 0, 0)), (blue, (0, 0, 255))):
        pixels = np.asarray(picture.image)
        assert pixels.shape == (128, 128, 4)
        opaque = pixels[..., 3] > 0
        assert np.all(np.abs(pixels[opaque & (pixels[..., 3] > 128)][:, :3].astype(int) - colour) <= 2)
        assert pixels[..., 3].mean() / 255 == pytest.approx(emoji.COVER, abs=0.01)
        assert (opaque & (pixels[..., 3] < 255)).mean() < 0.06  # the edge is at most a pixel or two wide


def test_damaged_drawings_are_one_sentence(tmp_path):
    archive, package = tmp_path / "vectors.tgz", emoji.LARGE_PACKAGES[0]
    records = [record("blue_heart", "heart", "1f499")]
    for icons in ({"icons": {"blue-heart": {"body": "<path"}}}, {"icons": {"blue-heart": {}}}, {}):
        drawn(archive, icons, {"1f499": "blue-heart"})
        with pytest.raises(TrainingError, match="delete") as error:
            emoji.read_pictures(package, archive, records, 128)
        assert one_sentence(error)


def test_the_attribution_names_every_licence():
    text = emoji.ATTRIBUTION.read_text(encoding="utf-8")
    for package in (*emoji.PACKAGES, *emoji.LARGE_PACKAGES, *emoji.FLAT_PACKAGES):
        assert f"{package.name} {package.version}" in text
    for needed in (
        "Apache License",
        "CC-BY 4.0",
        "MIT",
        "Google",
        "Twitter",
        "Ranks.com",
        "Microsoft",
        "Cal Henderson",
    ):
        assert needed in text


def test_a_changed_archive_is_refused_and_nothing_is_left(packages, tmp_path):
    archive = packages / emoji.PACKAGES[1].archive
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="delete it") as error:
        emoji.make(tmp_path / "out", packages)
    assert one_sentence(error) and str(archive) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_an_archive_with_the_right_hash_that_cannot_be_read(packages, tmp_path, monkeypatch):
    archive = packages / emoji.PACKAGES[2].archive
    archive.write_bytes(archive.read_bytes()[:500])
    broken = replace(emoji.PACKAGES[2], integrity=emoji.integrity(archive))
    monkeypatch.setattr(emoji, "PACKAGES", (*emoji.PACKAGES[:2], broken, *emoji.PACKAGES[3:]))
    with pytest.raises(TrainingError, match="cannot be read") as error:
        emoji.make(tmp_path / "out", packages)
    assert one_sentence(error)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_an_existing_folder_is_replaced_only_by_force_and_only_if_it_is_a_dataset(packages, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(TrainingError, match="choose another folder") as error:
            emoji.make(out, packages, force=force)
        assert one_sentence(error)
        assert files_in(out) == {"diary.txt": b"mine"}
    (out / "dataset.json").write_text("{}")
    with pytest.raises(TrainingError, match="--force"):
        emoji.make(out, packages)
    emoji.make(out, packages, force=True)
    assert "diary.txt" not in files_in(out)
    assert {path.name for path in tmp_path.iterdir()} == {"downloads", "out"}


def test_a_failure_while_writing_leaves_the_earlier_dataset(packages, tmp_path, monkeypatch):
    out = tmp_path / "out"
    emoji.make(out, packages)
    before = files_in(out)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(emoji.shutil, "copyfile", full)
    with pytest.raises(TrainingError, match="could not be written") as error:
        emoji.make(out, packages, force=True)
    assert one_sentence(error)
    assert files_in(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"downloads", "out"}


def test_npm_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    with pytest.raises(TrainingError, match=r"install Node\.js") as error:
        emoji.make(tmp_path / "out", tmp_path / "downloads")
    assert one_sentence(error)
    assert not list(tmp_path.iterdir())


def test_npm_has_no_network(tmp_path, monkeypatch):
    def fails(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "npm warn old\nnpm error code ENOTFOUND\nnpm error x\n")

    monkeypatch.setattr(emoji.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(emoji.subprocess, "run", fails)
    with pytest.raises(TrainingError, match=r"ENOTFOUND.*check the network") as error:
        emoji.make(tmp_path / "out", tmp_path / "downloads")
    assert one_sentence(error)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "downloads").iterdir())


def test_npm_packs_into_downloads(packages, monkeypatch, tmp_path):
    package = emoji.PACKAGES[0]
    content = (packages / package.archive).read_bytes()

    def packs(command, **options):
        assert command[:3] == ["npm", "pack", f"{package.name}@{package.version}"]
        (tmp_path / command[-1] / package.archive).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(emoji.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(emoji.subprocess, "run", packs)
    fetched = emoji.obtain(package, tmp_path / "fresh")
    assert fetched.read_bytes() == content
    assert list((tmp_path / "fresh").iterdir()) == [fetched]


def test_integrity_is_written_as_npm_writes_it(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"emoji")
    assert emoji.integrity(file).startswith("sha512-") and len(emoji.integrity(file)) == 7 + 88
    assert emoji.integrity(file) != "sha512-" + hashlib.sha512(b"emoji").hexdigest()
