"""Every kind of picture file, converted rightly: small files with known pixels."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from training.data.decode import UnreadablePictureError, decode

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette(transparency: bytes | int) -> bytes:
    """2x1, red then blue."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=transparency)


def halves(width: int = 32, height: int = 16) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(halves(), "JPEG", quality=100, subsampling=0, exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    return encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )


def corners(data: bytes, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """RGBA of the first and the last pixel."""
    pixels = decode(data, size)
    assert pixels.shape == (4, *size) and pixels.dtype == np.uint8
    return [tuple(int(value) for value in pixels[:, 0, 0]), tuple(int(value) for value in pixels[:, -1, -1])]


GREY16 = np.array([[0, 7 * 257, 0x8000, 65535]], np.uint16)


@pytest.mark.parametrize(
    ("make", "size", "first", "last"),
    [
        (lambda: encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 128))), (2, 2), (10, 20, 30, 128), (10, 20, 30, 128)),
        (lambda: encoded(halves(2, 1)), (1, 2), (*RED, 255), (*BLUE, 255)),
        (lambda: encoded(Image.new("L", (1, 1), 77)), (1, 1), (77, 77, 77, 255), (77, 77, 77, 255)),
        (lambda: encoded(Image.new("LA", (1, 1), (77, 5))), (1, 1), (77, 77, 77, 5), (77, 77, 77, 5)),
        (lambda: encoded(Image.new("1", (1, 1), 1)), (1, 1), (255,) * 4, (255,) * 4),
        (lambda: palette(0), (1, 2), (*RED, 0), (*BLUE, 255)),
        (lambda: palette(b"\x80\x20"), (1, 2), (*RED, 128), (*BLUE, 32)),
        (lambda: encoded(Image.fromarray(GREY16)), (1, 4), (0, 0, 0, 255), (255, 255, 255, 255)),
        (
            lambda: png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0x1234, 0, 0xFF00, 0, 0xABCD, 0)),
            (1, 2),
            (0x12, 0, 0xFF, 255),
            (0, 0xAB, 0, 255),
        ),
        (lambda: turned(1), (16, 32), (*RED, 255), (*BLUE, 255)),
        (lambda: turned(2), (16, 32), (*BLUE, 255), (*RED, 255)),  # mirrored
        (lambda: turned(3), (16, 32), (*BLUE, 255), (*RED, 255)),  # upside down
        (lambda: turned(6), (32, 16), (*RED, 255), (*BLUE, 255)),  # a quarter to the right: the left is on top
        (lambda: turned(8), (32, 16), (*BLUE, 255), (*RED, 255)),
        (lambda: animated("GIF"), (4, 4), (*RED, 255), (*RED, 255)),
        (lambda: animated("WEBP"), (4, 4), (*RED, 255), (*RED, 255)),
        (lambda: animated("PNG"), (4, 4), (*RED, 255), (*RED, 255)),
        (lambda: encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (8, 8), (*RED, 255), (*RED, 255)),
        (lambda: encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 155)), "TIFF"), (1, 1), (100,) * 3, (100,) * 3),
    ],
)  # fmt: skip
def test_every_mode(
    make: Callable[[], bytes], size: tuple[int, int], first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    for found, wanted in zip(corners(make(), size), (first, last), strict=True):
        wanted = (*wanted, 255)[:4]
        assert np.abs(np.subtract(found, wanted)).max() <= 2  # JPEG rounds


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    assert decode(encoded(Image.fromarray(GREY16)), (1, 4))[0].tolist() == [[0, 7, 128, 255]]


def test_hidden_colours_do_not_bleed() -> None:
    """Half-size of red beside transparent green: the mixed pixels stay pure red."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (3, 0, 8, 8))
    pixels = decode(encoded(image), (4, 4))
    mixed = (pixels[3] > 8) & (pixels[3] < 248)
    assert mixed.any() and (pixels[1][mixed] == 0).all() and (pixels[0][mixed] > 240).all()


def test_a_margin_keeps_the_aspect() -> None:
    wide = decode(encoded(halves(100, 50)), (16, 16), 1.125)
    assert wide.shape == (4, 18, 36)
    assert decode(encoded(halves(50, 100)), (16, 16), 1.125).shape == (4, 36, 18)
    assert decode(encoded(halves(8, 8)), (16, 16), 1.125).shape == (4, 18, 18)  # small ones are enlarged
    assert decode(encoded(halves(100, 100)), (16, 32), 1.0).shape == (4, 32, 32)
    assert tuple(wide[:3, 0, 0]) == RED and tuple(wide[:3, -1, -1]) == BLUE


def test_a_large_jpeg_decoded_small_is_the_same_picture() -> None:
    image = halves(1024, 1024)
    exact = decode(encoded(image, "PNG"), (32, 32))
    quick = decode(encoded(image, "JPEG", quality=95), (32, 32))
    assert np.abs(exact.astype(int) - quick).mean() < 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"", "it is empty"),
        (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, as iPhones save photos; save it as JPEG or PNG"),
        (lambda: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "it is HEIC"),
        (lambda: b"\0\0\0\x0cJXL \r\n\x87\n", "it is JPEG XL"),
        (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "it is a Git LFS pointer"),
        (lambda: b"\n<!DOCTYPE html><html></html>", "it is a web page"),
        (lambda: b"no picture at all", "no picture format"),
        (lambda: encoded(halves(64, 64), "PNG")[:-40], "(?i)truncated"),
        (lambda: encoded(halves(64, 64), "JPEG")[:400], "(?i)truncated"),
        (lambda: png(60_000, 60_000, 8, 2, b""), "exceeds limit"),
        (lambda: encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "floating-point"),
        (lambda: encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "more than 16 bits"),
    ],
)
def test_what_cannot_be_used_says_why(make: Callable[[], bytes], said: str) -> None:
    with pytest.raises(UnreadablePictureError, match=said) as caught:
        decode(make(), (8, 8))
    assert "\n" not in str(caught.value)


def test_a_very_long_picture_is_no_photo() -> None:
    with pytest.raises(UnreadablePictureError, match="2000 x 10 is too long"):
        decode(encoded(halves(2000, 10)), (8, 8), 1.125)
    assert decode(encoded(halves(2000, 10)), (8, 8)).shape == (4, 8, 8)
