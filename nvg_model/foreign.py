"""Files that are not what they were taken for: what they are, in a few words.

People pass pointers instead of files, web pages that a download saved, and weights of other programs.
"""

from __future__ import annotations

from pathlib import Path

HEAD = 1024
"""Bytes of a file's beginning that `kind` wants."""
_LFS = b"version https://git-lfs.github.com/spec/"
_BEGINNINGS = (
    (b"GGUF", "a GGUF file of a language model"),
    (b"PK\x03\x04", "a zip archive (or a PyTorch checkpoint)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x80\x02", "a pickle (an older PyTorch checkpoint)"),
)


def kind(head: bytes) -> str | None:
    """What a file certainly is, by its beginning, and what to do; None where that says nothing."""
    if head.startswith(_LFS):
        return (
            "a Git LFS pointer, which stands for the file and is not it; fetch the file itself (`git lfs pull`, or the "
            "download link of its page)"
        )
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page; the download gave an error page, so open its address in a browser"
    return next((words for beginning, words in _BEGINNINGS if head.startswith(beginning)), None)


def kind_of(path: Path) -> str | None:
    """`kind` of a file; an empty one is that. None also where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    return kind(head) if head else "an empty file; download it again"
