"""The dataset of the embedded checkpoint emoji64: emoji in up to six drawings as 64x64 RGBA pictures; and emoji128, the
same emoji in up to three drawings at 128x128, most from vectors.

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
from typing import Any

import numpy as np
from PIL import Image

from training.data import icons
from training.errors import TrainingError

SIZE = 64
COVER = 0.45
"""Share of a picture that its emoji covers: so the first split of the canvas in half is about the emoji's outline."""
LONGEST = 60
"""Height and width in pixels that an emoji has at most, whatever it covers: room to be moved without being cut."""
HELD_OUT = 0.05
SPLITS = ("train", "held-out")
DESCRIPTION = "dataset.json"
ATTRIBUTION = Path(__file__).parents[2] / "docs" / "emoji64-attribution.md"
GENDERED = {"1f468", "1f469", "1f9d1", "2640", "2642", "200d", "fe0f"}  # man, woman, adult, signs, joiners
Record = Mapping[str, Any]  # one emoji of the catalogue: unified, short_name, subcategory, sort_order, ...


@dataclass(frozen=True)
class Package:
    """One npm package that holds the pictures of one vendor."""

    vendor: str
    """The vendor, or a name for one of its older drawings; without dashes."""
    name: str
    version: str
    integrity: str
    """The sha512 of the archive, written as npm writes it."""
    licence: str
    picture: str
    """Path of an emoji's picture in the archive, with {code} for its code points."""
    skipped: tuple[str, ...] = ()
    """Classes that are not taken from this package."""
    vector: bool = False
    """It is a package of the Iconify project: vector drawings of all emoji in one file."""

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "google",
        "emoji-datasource-google",
        "16.0.0",
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        "Apache-2.0 (Noto Emoji); MIT (emoji-data)",
        "package/img/google/64/{code}.png",
    ),
    Package(
        "twitter",
        "emoji-datasource-twitter",
        "16.0.0",
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        "CC-BY-4.0 (Twemoji); MIT (emoji-data)",
        "package/img/twitter/64/{code}.png",
        skipped=("person",),  # faces twice as large, often without shoulders
    ),
    Package(
        "fluent",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        "MIT (Fluent Emoji)",
        "package/assets/{code}.webp",
        # Its faces are shaded in other colours and have other eyes than all others'. Microsoft draws no
        # countries' flags: those in the package are Noto's waving ones once more.
        skipped=("smiley", "cat face", "animal face", "person", "flag"),
    ),
    # Of the older drawings, the classes that look like today's, and of which there are few pictures without them.
    Package(
        "oreo",  # Noto Emoji of Android 8
        "emoji-datasource-google",
        "4.1.0",
        "sha512-QjpXzWdaqbDAOc4fUYmekhFgs7W4ZxbPW5863lRl26O1U5Twmy40Es2Dcyuz6Ni6Mo7gRXjFv/K0xhTGRU5Gow==",
        "Apache-2.0 (Noto Emoji); MIT (emoji-data)",
        "package/img/google/64/{code}.png",
        skipped=("person", "flag"),
    ),
    Package(
        "nougat",  # Noto Emoji of Android 7, where smileys are no circles
        "emoji-datasource-google",
        "3.0.0",
        "sha512-Ms+IO6V40EKcfBjxs76iLYQexo6Tgl8MbTxM7Z4Qm5n/Hwkr/DNNYui40aU3YaVd8oRNLaMXN1/rS++/VHViPQ==",
        "Apache-2.0 (Noto Emoji); MIT (emoji-data)",
        "package/img/google/64/{code}.png",
        skipped=("smiley", "cat face", "person", "flag"),
    ),
    Package(
        "emojione",  # version 2.2.7, the last one under a free licence: grey cats, and clocks with dark dials
        "emoji-datasource-emojione",
        "3.0.0",
        "sha512-IizQzEpqD2X+fJRX1nEoN0ZCAwxyxlrz0sCV+HQAzi9m/jTA7FjPPaVX+P8esTCqCYK6agUHTr9nnjmTTSxYDA==",
        "CC-BY-4.0 (EmojiOne 2.2.7); MIT (emoji-data)",
        "package/img/emojione/64/{code}.png",
        skipped=("smiley", "cat face", "person", "clock", "flag"),
    ),
)
LARGE_PACKAGES = (
    # Today's drawings, as vectors where there are any; Noto's flags are not among them. Fluent's pictures are large.
    Package(
        "google",
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0 (Noto Emoji)",
        "",
        vector=True,
    ),
    Package(
        "twitter",
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0 (Twemoji)",
        "",
        skipped=("person",),
        vector=True,
    ),
    PACKAGES[2],
)
SIZES = {"emoji64": SIZE, "emoji128": 2 * SIZE}
"""The data sets: pixels along each side of their pictures."""
CATALOGUE = "package/emoji.json"  # in the first package; the second has the same


@dataclass(frozen=True)
class Picture:
    """One vendor's picture of one emoji."""

    vendor: str
    code: str
    class_name: str
    image: Image.Image


@dataclass(frozen=True)
class Look:
    """What belongs to a class: whole subcategories and emoji of others, without some of both.

    Emoji are short names, parted by spaces; `vendor/name` means only that vendor's picture.
    """

    groups: tuple[str, ...] = ()
    without: str = ""
    also: str = ""

    def takes(self, record: Record, vendor: str) -> bool:
        """Whether the vendor's picture of this emoji belongs to the class."""
        names = {record["short_name"], f"{vendor}/{record['short_name']}"}
        wanted = record["subcategory"] in self.groups or names & set(self.also.split())
        return bool(wanted) and not names & set(self.without.split())


CLASSES: dict[str, Look] = {
    # Round and yellow, with two eyes and a mouth. Left out: other colours, tears, hands, hearts, stars, glasses, hats,
    # what covers the face, and faces that are tilted or stand on their head.
    "smiley": Look(
        groups=(
            "face-smiling",
            "face-affection",
            "face-tongue",
            "face-neutral-skeptical",
            "face-sleepy",
            "face-concerned",
            "face-unwell",
            "face-negative",
        ),
        without="melting_face face_in_clouds dotted_line_face shaking_face "
        "head_shaking_horizontally head_shaking_vertically nauseated_face face_vomiting exploding_head "
        "hot_face cold_face imp smiling_imp skull skull_and_crossbones rage face_with_symbols_on_mouth "
        "joy sweat_smile innocent yum heart_eyes sweat kissing_heart cry triumph disappointed_relieved "
        "fearful sleepy sob face_exhaling cold_sweat scream sleeping dizzy_face face_with_spiral_eyes mask "
        "upside_down_face zipper_mouth_face face_with_thermometer face_with_head_bandage "
        "rolling_on_the_floor_laughing drooling_face lying_face sneezing_face star-struck zany_face "
        "smiling_face_with_3_hearts yawning_face smiling_face_with_tear face_holding_back_tears money_mouth_face "
        "oreo/angry oreo/tired_face",
    ),
    # Left out: tears, and hearts for eyes.
    "cat face": Look(
        groups=("cat-face",), also="google/cat twitter/cat", without="joy_cat crying_cat_face heart_eyes_cat"
    ),
    # One whole heart of one colour. Left out: several hearts, hearts on a letter or a sign, over a dot, in flames,
    # broken, bandaged, with a bow, an arrow or sparks.
    "heart": Look(
        groups=("heart",),
        without="love_letter two_hearts revolving_hearts heart_decoration heart_on_fire "
        "heavy_heart_exclamation_mark_ornament broken_heart mending_heart gift_heart cupid sparkling_heart "
        "heartbeat heartpulse",
    ),
    # Round faces with round ears, from the front; whole animals have thin legs and as many postures as there are
    # animals. Left out: long ears, long faces, antlers, and what is white on white or sits on a branch.
    "animal face": Look(
        also="monkey_face dog raccoon lion_face tiger cow pig mouse hamster bear twitter/polar_bear koala panda_face",
        without="nougat/koala",
    ),
    # Whole birds from the side, looking to the left. Left out: other views, thin or fanned ones, white on white.
    "bird": Look(
        groups=("animal-bird",),
        without="feather wing hatching_chick hatched_chick chicken eagle peacock phoenix penguin owl dove_of_peace "
        "swan flamingo parrot turkey emojione/duck",
    ),
    # Fish from the side, and the dolphin: nothing with arms, claws or a shell. Whales are a shape of their own.
    "fish": Look(
        groups=("animal-marine",),
        without="shell coral oyster octopus jellyfish crab lobster shrimp squid seal whale whale2 emojione/dolphin",
    ),
    # An open blossom or a single stem. white_flower is a stamp for good homework.
    "flower": Look(groups=("plant-flower",), without="white_flower bouquet wilted_flower"),
    # Green and growing: no thin or dead leaves, bare branches, nests, toadstools or ripe ears.
    "plant": Look(
        groups=("plant-other",),
        without="seedling herb ear_of_rice maple_leaf fallen_leaf leaves leafless_tree mushroom empty_nest "
        "nest_with_eggs",
        also="christmas_tree",
    ),
    # Whole and round: nothing sliced or curved.
    "fruit": Look(
        groups=("food-fruit",), without="olive melon watermelon banana pineapple blueberries kiwifruit coconut"
    ),
    # One glass, upright; milk is white on white.
    "drink": Look(
        groups=("drink",),
        without="baby_bottle teapot sake champagne beers clinking_glasses pouring_liquid ice_cube coffee tea "
        "beverage_box mate_drink glass_of_milk",
    ),
    # Cars, buses and lorries from the side: no front views, cycles, trains, tractors or racing cars.
    "vehicle": Look(
        also="car blue_car taxi police_car pickup_truck bus trolleybus minibus ambulance fire_engine truck "
        "articulated_lorry",
    ),
    "boat": Look(groups=("transport-water",), without="ring_buoy anchor canoe speedboat"),
    # The disc in its phases. Crescents alone are thin.
    "moon": Look(
        also="new_moon waxing_crescent_moon first_quarter_moon moon full_moon waning_gibbous_moon "
        "last_quarter_moon waning_crescent_moon new_moon_with_face full_moon_with_face",
    ),
    # Sun and clouds.
    "weather": Look(
        also="sunny sun_with_face cloud partly_sunny thunder_cloud_and_rain mostly_sunny barely_sunny "
        "partly_sunny_rain rain_cloud snow_cloud lightning",
    ),
    # A dial at the full hour, so that the long hand points upwards.
    "clock": Look(also="clock1 clock2 clock3 clock4 clock5 clock6 clock7 clock8 clock9 clock10 clock11 clock12"),
    # One flag for each design: those left out are twins of others. Nepal's is no rectangle.
    "flag": Look(
        groups=("country-flag", "subdivision-flag"),
        without="flag-cp flag-mf flag-ea flag-dg flag-bv flag-sj flag-hm flag-um flag-sark flag-mc flag-td flag-np",
        also="rainbow-flag transgender_flag pirate_flag",
    ),
    # Head and shoulders from the front, by one hand. Left out: whole figures, profiles, heads alone, hidden faces,
    # large tools, monsters.
    "person": Look(
        groups=("person", "person-role"),
        without="teacher male-teacher female-teacher technologist male-technologist female-technologist "
        "astronaut male-astronaut female-astronaut factory_worker male-factory-worker female-factory-worker "
        "farmer male-farmer female-farmer singer male-singer female-singer scientist male-scientist female-scientist "
        "sleuth_or_spy male-detective female-detective ninja "
        "baby child boy adult older_man older_woman older_adult prince princess person_with_crown "
        "pregnant_woman pregnant_man pregnant_person "
        "breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby",
        also="elf female_elf male_elf vampire female_vampire male_vampire",
    ),
}


def class_of(record: Record, vendor: str) -> str | None:
    """The class of a vendor's picture of an emoji, or None if no class wants it; TrainingError if two do."""
    wanted_by = [name for name, look in CLASSES.items() if look.takes(record, vendor)]
    if len(wanted_by) > 1:
        raise TrainingError(f"The emoji {record['short_name']} is in two classes, {wanted_by}: take it out of one.")
    return wanted_by[0] if wanted_by else None


def unknown_names(records: Iterable[Record]) -> list[str]:
    """Subcategories and emoji that `CLASSES` names and the catalogue lacks: they would have no effect."""
    known = {record[key] for record in records for key in ("short_name", "subcategory")}
    known |= {f"{package.vendor}/{name}" for package in PACKAGES for name in known}
    named = {n for look in CLASSES.values() for n in (*look.groups, *f"{look.without} {look.also}".split())}
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
    """Those of the wanted files that the archive holds, read in one pass and never unpacked to disk."""
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
    packages = PACKAGES if name == "emoji64" else LARGE_PACKAGES
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
