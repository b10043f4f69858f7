"""Data sets of the hub, and parquet files as they come from there, through the package `datasets`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.sources.found import CLASS_KEYS, HELD_OUT, Found, Split, label_text
from training.errors import TrainingError
from training.extras import missing


@dataclass(frozen=True)
class _Column:
    """Reads the image column of a data set of the package `datasets`."""

    data: Any
    name: str

    def __call__(self, row: int) -> bytes:
        cell = self.data[row][self.name]
        if cell is None:
            raise OSError("there is no picture in this row")
        return cell["bytes"] or Path(cell["path"]).read_bytes()


def hub(where: str, source: str | Path, split: Split) -> Found:
    try:
        import datasets
    except ImportError as error:
        raise missing(f"{where} needs", "datasets", "hub") from error
    try:
        parts = _load_parts(datasets, source)
    except Exception as error:  # of the hub's client, its transport, and every file format
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{where} cannot be had ({reason}); check the name, the network and your access to it"
        ) from error
    return _found(datasets, parts, where, split)


def _found(datasets: Any, parts: dict[str, Any], where: str, split: Split) -> Found:
    """The rows of the wanted part that have a label. Raises TrainingError where there are no images or labels."""
    apart = next((name for name in HELD_OUT if name in parts), None) if "train" in parts else None
    if apart and split != "all":
        data = parts[apart if split == "held-out" else "train"]
    else:
        data = datasets.concatenate_datasets(list(parts.values()))
    images = [name for name, kind in data.features.items() if isinstance(kind, datasets.Image)]
    names = [name for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)]
    names += [name for name in CLASS_KEYS if name in data.features and name not in names]
    if not images or not names:
        raise TrainingError(
            f"{where} has the columns {', '.join(data.features)}; it needs one of images and one of labels"
        )
    kind = data.features[names[0]]
    labels = [label_text(value) for value in data[names[0]]]
    left_out = [row for row, label in enumerate(labels) if label in ("-1", "None", "")]
    complaint = (
        f"{where}: row {left_out[0]} has no label ({len(left_out)} in all); choose another split" if left_out else ""
    )
    keep = sorted(set(range(len(labels))) - set(left_out))
    column = data.select(keep).select_columns(images[:1]).cast_column(images[0], datasets.Image(decode=False))
    classes = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    labels = [classes[int(labels[row])] if classes else labels[row] for row in keep]
    return Found(
        where,
        [f"row {row}" for row in keep],
        labels,
        _Column(column, images[0]),
        classes,
        split=apart is not None,
        left_out=tuple(f"{where}: row {row} has no label" for row in left_out),
        complaint=complaint,
    )


def _load_parts(datasets: Any, source: str | Path) -> dict[str, Any]:
    if isinstance(source, Path) and source.is_file():
        return datasets.load_dataset("parquet", data_files=str(source))
    if isinstance(source, Path):
        return datasets.load_dataset(str(source.resolve()))
    address = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", source)
    if not address:
        raise ValueError("it should read hf://OWNER/NAME")
    name, revision, configuration = address.groups()
    return datasets.load_dataset(name, configuration, revision=revision)
