"""The dataset of the embedded checkpoint emoji64: emoji in up to six drawings as 64x64 RGBA pictures; emoji128, the
same emoji in up to three drawings at 128x128, most from vectors; and emoji64-flat, in up to two without shading.

The pictures come from six npm packages with pinned contents, two of which are older drawings of the first. The
classes are made from the subcategories of Unicode's emoji list, without what does not look like the rest of its
class: a small model learns what the pictures of a class have in common, so every class has one look.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nvg_model import render
from training.data import icons
from training.data.emoji_classes import CLASSES, Record
from training.data.emoji_packages import FLAT_PACKAGES, LARGE_PACKAGES, PACKAGES, Package
from training.errors import TrainingError

SIZE = 64


COVER = render.COVERED
"""Share of a picture that its emoji covers: so the first split of the canvas in half is about the emoji's outline."""


LONGEST = round(render.LONGEST * SIZE)
"""Largest height and width of an emoji in pixels. The margin leaves room to move it without cutting it."""


HELD_OUT = 0.05


SPLITS = ("train", "held-out")


DESCRIPTION = "dataset.json"


ATTRIBUTION = Path(__file__).parents[2] / "docs" / "emoji64-attribution.md"


GENDERED = {"1f468", "1f469", "1f9d1", "2640", "2642", "200d", "fe0f"}  # man, woman, adult, signs, joiners


SIZES = {"emoji64": SIZE, "emoji128": 2 * SIZE, "emoji64-flat": SIZE}
"""The data sets: pixels along each side of their pictures."""


CATALOGUE = "package/emoji.json"  # in the first package; the second has the same


@dataclass(frozen=True)
class Picture:
    """One vendor's picture of one emoji."""

    vendor: str
    code: str
    class_name: str
    image: Image.Image


def class_of(record: Record, vendor: str) -> str | None:
    """The class of a vendor's picture of an emoji, or None if no class wants it; TrainingError if two do."""
    wanted_by = [name for name, one in CLASSES.items() if one.takes(record, vendor)]
    if len(wanted_by) > 1:
        raise TrainingError(f"The emoji {record['short_name']} is in two classes, {wanted_by}: take it out of one.")
    return wanted_by[0] if wanted_by else None


def unknown_names(records: Iterable[Record]) -> list[str]:
    """Subcategories and emoji that `CLASSES` names and the catalogue lacks: they would have no effect."""
    known = {record[key] for record in records for key in ("short_name", "subcategory")}
    known |= {f"{package.vendor}/{name}" for package in PACKAGES for name in known}
    named = {n for one in CLASSES.values() for n in (*one.groups, *f"{one.without} {one.also}".split())}
    return sorted(named - known)


def code_of(record: Record) -> str:
    """The code points of an emoji as file names have them: lower case hex, joined by dashes."""
    return record["unified"].lower()


def family_of(code: str) -> str:
    """The code points without man, woman, adult and joiners: the same for all of one profession or hair."""
    return "-".join(point for point in code.split("-") if point not in GENDERED) or code


def held_out(codes_by_class: Mapping[str, Iterable[str]]) -> set[str]:
    """The emoji that training never sees: of every class, the 5% (at least one) with the smallest hashes.

    Chosen by code point, so that all vendors' pictures of an emoji are on the same side, and by family,
    because the man, the woman and the adult of a profession are almost the same picture.
    """
    chosen: set[str] = set()
    for codes in codes_by_class.values():
        families: dict[str, list[str]] = {}
        for code in codes:
            families.setdefault(family_of(code), []).append(code)
        by_hash = sorted(families, key=lambda family: hashlib.sha256(family.encode()).digest())
        for family in by_hash[: max(1, round(HELD_OUT * len(by_hash)))]:
            chosen.update(families[family])
    return chosen


def composed(picture: Image.Image, side: int = SIZE) -> Image.Image:
    """The emoji as RGBA of `side` pixels, in the middle, covering `COVER` of it; black where it is transparent.

    Resized with premultiplied alpha, so that the hidden colour of transparent pixels does not bleed into the edges.
    TrainingError if nothing is to be seen.
    """
    rgba = picture.convert("RGBA")
    opacity = np.asarray(rgba)[..., 3] / 255
    rows, columns = (np.flatnonzero((opacity > 0.1).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        raise TrainingError("An emoji's picture is empty: delete its archive and try again.")
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(LONGEST / SIZE * side / max(width, height), float(np.sqrt(COVER * side**2 / opacity.sum())))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = rgba.crop(box).convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    pixels = np.array(canvas)
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)


def integrity(archive: Path) -> str:
    """The sha512 of a file, as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def obtain(package: Package, downloads: Path) -> Path:
    """The archive of a package, fetched with npm unless it is in `downloads`; TrainingError if it is another."""
    archive = downloads / package.archive
    try:
        if not archive.exists():
            _fetch(package, downloads)
        found = integrity(archive)
    except OSError as error:
        raise TrainingError(f"{archive} cannot be written or read ({error}): use another downloads folder.") from error
    if found != package.integrity:
        raise TrainingError(f"{archive} has the hash {found}, not {package.integrity}: delete it and try again.")
    return archive


def _fetch(package: Package, downloads: Path) -> None:
    by_hand = f"or put {package.archive} into {downloads} yourself"
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise TrainingError(f"npm, which fetches {wanted}, was not found: install Node.js, {by_hand}.")
    downloads.mkdir(parents=True, exist_ok=True)
    # npm writes into a folder of its own, so that a broken download is never taken for an archive.
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".npm-") as folder:
        command = [npm, "pack", wanted, "--pack-destination", folder]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        packed = Path(folder) / package.archive
        if result.returncode != 0 or not packed.exists():
            errors = [line.strip() for line in result.stderr.splitlines() if line.lower().startswith("npm err")]
            reason = errors[0] if errors else f"exit code {result.returncode}"
            raise TrainingError(f"npm could not fetch {wanted} ({reason}): check the network, {by_hand}.")
        packed.replace(downloads / package.archive)


def read_members(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """The wanted files that the archive holds. Read in one pass, never unpacked to disk."""
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as files:
            for member in files:
                if member.name in wanted and (file := files.extractfile(member)):
                    contents[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise TrainingError(f"{archive} cannot be read ({error}): delete it and try again.") from error
    return contents


def read_catalogue(archive: Path) -> list[Record]:
    """The emoji list in an archive of emoji-data, in Unicode's order."""
    try:
        records = json.loads(read_members(archive, {CATALOGUE})[CATALOGUE])
    except (KeyError, ValueError) as error:
        raise TrainingError(f"{archive} has no readable {CATALOGUE}: delete it and try again.") from error
    return sorted(records, key=lambda record: record["sort_order"])


def read_pictures(package: Package, archive: Path, records: Iterable[Record], side: int = SIZE) -> list[Picture]:
    """The vendor's pictures, of `side` pixels, of those emoji that a class wants and the vendor has."""
    wanted = {}
    for record in records:
        name = class_of(record, package.vendor)
        if name and name not in package.skipped:
            code = code_of(record)
            # Some packages name files without the variation selector.
            for file in (code.replace("-fe0f", ""), code):
                wanted[file] = (code, name)
    if package.vector:
        return _read_drawings(package, archive, wanted, side)
    contents = read_members(archive, {package.picture.format(code=file) for file in wanted})
    pictures = []
    for file, (code, name) in wanted.items():
        path = package.picture.format(code=file)
        if path in contents:
            try:
                image = composed(Image.open(io.BytesIO(contents[path])), side)
            except OSError as error:
                raise TrainingError(f"{path} in {archive} is no picture: delete the archive and try again.") from error
            pictures.append(Picture(package.vendor, code, name, image))
    return pictures


def _read_drawings(package: Package, archive: Path, wanted: Mapping[str, tuple[str, str]], side: int) -> list[Picture]:
    """Those of the wanted emoji, by the name of their file (code, class), that a package of vector drawings has."""
    found = icons.drawings(archive, read_members(archive, {icons.DRAWINGS, icons.CHARACTERS}))
    return [
        Picture(package.vendor, code, name, composed(icons.render(found[file]), side))
        for file, (code, name) in wanted.items()
        if file in found and (file == code or code not in found)
    ]


def write(folder: Path, pictures: Sequence[Picture], name: str, packages: Sequence[Package]) -> None:
    """Writes all files of the dataset into an existing empty folder; TrainingError if a class has no pictures."""
    codes: dict[str, list[str]] = {name: [] for name in CLASSES}
    for picture in pictures:
        codes[picture.class_name].append(picture.code)
    if empty := [name for name in CLASSES if not codes[name]]:
        raise TrainingError(f"There are no pictures of {', '.join(empty)}: the packages are not the expected ones.")
    kept_back = held_out(codes)
    counts = {split: dict.fromkeys(CLASSES, 0) for split in SPLITS}
    for picture in pictures:
        split = SPLITS[picture.code in kept_back]
        file = folder / split / picture.class_name / f"{picture.code}-{picture.vendor}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(file)
        counts[split][picture.class_name] += 1
    facts = ("vendor", "name", "version", "integrity", "licence")
    description = {
        "name": name,
        "size": SIZES[name],
        "classes": list(CLASSES),
        "counts": counts,
        "packages": [{fact: getattr(package, fact) for fact in facts} for package in packages],
        "held_out": sorted(kept_back),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(ATTRIBUTION, folder / "ATTRIBUTION.md")


def _check_target(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise TrainingError(f"{out} exists and is not empty: choose another folder, or replace it with --force.")
    if not (out / DESCRIPTION).is_file():
        raise TrainingError(f"{out} holds no {DESCRIPTION}, so --force does not replace it: choose another folder.")


def _put_in_place(new: Path, out: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def make(out: Path, downloads: Path, force: bool = False, name: str = "emoji64") -> None:
    """Makes the dataset `name` in the folder `out`, from archives in `downloads` or fetched into it.

    `out` appears complete or not at all. TrainingError if it is not empty (with `force`, an earlier dataset there
    is replaced), if an archive cannot be had or is not the pinned one, or if `out` cannot be written.
    """
    out, downloads = out.expanduser().resolve(), downloads.expanduser().resolve()
    _check_target(out, force)
    if not ATTRIBUTION.is_file():
        raise TrainingError(f"{ATTRIBUTION} is missing: run the command from a checkout of the repository.")
    packages = {"emoji64": PACKAGES, "emoji128": LARGE_PACKAGES, "emoji64-flat": FLAT_PACKAGES}[name]
    records = read_catalogue(obtain(PACKAGES[0], downloads))
    archives = [obtain(package, downloads) for package in packages]
    if unknown := unknown_names(records):
        raise TrainingError(f"The catalogue does not know {', '.join(unknown)}: correct the names in CLASSES.")
    pictures = [
        picture
        for package, archive in zip(packages, archives, strict=True)
        for picture in read_pictures(package, archive, records, SIZES[name])
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # In the folder of `out`, so that putting it in place is a rename.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
            new = Path(staging) / "new"
            new.mkdir()
            write(new, pictures, name, packages)
            _put_in_place(new, out, Path(staging) / "old")
    except OSError as error:
        raise TrainingError(
            f"{out} could not be written ({error}): make room there or choose another folder."
        ) from error
