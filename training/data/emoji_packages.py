"""The npm packages that emoji64, emoji128 and emoji64-flat are made from, each pinned by its hash."""

from __future__ import annotations

from dataclasses import dataclass


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


FLAT_PACKAGES = (
    # Areas of one colour, without shading or gradients: Twemoji, and Fluent once more.
    LARGE_PACKAGES[1],
    Package(
        "flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT (Fluent Emoji)",
        "",
        skipped=("flag",),  # three that wave
        vector=True,
    ),
)
