"""A folder of pictures with a label file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.sources.folders import Files, walk
from training.data.sources.found import CLASS_KEYS, Found, few, label_text
from training.errors import TrainingError

NAMES = (*(f"labels.{ending}" for ending in ("csv", "tsv", "json", "jsonl")), "metadata.csv", "metadata.jsonl")
FILE_KEYS = ("file", "filename", "file_name", "path", "image")

Row = tuple[str, Any, Any]  # place in the label file for messages, file, class


def label_file(path: Path) -> Found:
    folder = path.parent
    there, seen = set(walk(folder)), {}
    incomplete: dict[str, str] = {}  # file -> what to say of it
    for place, file, label in _rows(path):
        if not isinstance(file, str) or not file.strip():
            raise TrainingError(f"{place}: there is no file name; complete it or remove the entry")
        name = PurePosixPath(file.strip().replace("\\", "/")).as_posix()
        if name in seen:
            raise TrainingError(f"{place}: {name} is listed twice; remove one of the entries")
        seen[name] = label_text(label)
        if name not in there:
            incomplete[name] = f"{place}: there is no picture {name} in {folder}; correct the name or remove the entry"
        elif not seen[name]:
            incomplete[name] = f"{place}: {name} has no label; write its class there or remove the entry"
    complaint = next(iter(incomplete.values()), "")
    if missing := sorted(there - seen.keys()):
        complaint = complaint or f"{path} has no label for {few(missing)}; add them or move these files away"
        incomplete |= {name: f"{path} has no label for {name}" for name in missing}
    names = sorted(seen.keys() - incomplete.keys())
    left_out = tuple(incomplete.values())
    labels = [seen[name] for name in names]
    return Found(str(path), names, labels, Files(folder, names), left_out=left_out, complaint=complaint)


def _rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".csv", ".tsv"):
            yield from _csv_rows(path, text)
        elif path.suffix == ".jsonl":
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield _json_row(f"{path}, line {number}", _json(line, path, number))
        else:
            yield from _json_rows(path, _json(text, path, 1))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path} cannot be read ({error}); save it as UTF-8 text") from error


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    header = text.partition("\n")[0].rstrip("\r")
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    file, label = (next((columns[key] for key in keys if key in columns), None) for keys in (FILE_KEYS, CLASS_KEYS))
    if file is None or label is None:
        raise TrainingError(
            f"{path}, line 1: the header is {header!r}; it needs a column `file` and a column `class` (or "
            f"{', '.join(FILE_KEYS[1:])}; {', '.join(CLASS_KEYS[1:])})"
        )
    for row in reader:
        yield f"{path}, line {reader.line_num}", row[file], row[label]


def _json(text: str, path: Path, first: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        line = first - 1 + error.lineno
        raise TrainingError(f"{path}, line {line}: this is not JSON ({error.msg}); correct it") from error
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice} is listed twice; remove one of the entries")
    return entries


def _json_rows(path: Path, data: Any) -> Iterator[Row]:
    if isinstance(data, dict) and isinstance(data.get("labels"), list):
        data = data["labels"]
    if isinstance(data, dict):
        yield from ((f"{path}, entry {name!r}", name, label) for name, label in data.items())
    elif isinstance(data, list):
        yield from (_json_row(f"{path}, entry {number}", entry) for number, entry in enumerate(data, 1))
    else:
        raise TrainingError(f"{path} holds {type(data).__name__}; it should hold an object {{file: class}} or a list")


def _json_row(place: str, entry: Any) -> Row:
    if isinstance(entry, list) and len(entry) == 2:
        return place, *entry
    if isinstance(entry, dict):
        file, label = ([entry[key] for key in keys if key in entry] for keys in (FILE_KEYS, CLASS_KEYS))
        if file:
            return place, file[0], label[0] if label else None
    raise TrainingError(f'{place}: this is no entry; write {{"file": NAME, "class": CLASS}}')
