"""A report of measured numbers: one JSON file, and the same as tables in Markdown."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.files import replacing


@dataclass(frozen=True)
class Measured:
    """A number, and how to read it."""

    value: float | int | None
    """None: not available; the note says why."""
    unit: str = ""
    """dB, s, MiB; "%" shows a share in per cent, the value itself stays between 0 and 1."""
    note: str = ""

    def text(self) -> str:
        """The number as people read it."""
        if self.value is None or not math.isfinite(self.value):
            return "not available"
        if self.unit == "%":
            return f"{self.value:.1%}"
        number = str(self.value) if isinstance(self.value, int) else f"{self.value:.4g}"
        return f"{number} {self.unit}".rstrip()


Section = dict[str, Measured]


@dataclass
class Report:
    """All that was measured of a checkpoint."""

    about: dict[str, Any]
    """Checkpoint, data, settings, versions."""
    sections: dict[str, Section] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """More than a number each: rows of named cells."""

    def to_json(self) -> str:
        """Everything; numbers that are not available are null."""
        sections = {
            title: {name: asdict(measured) for name, measured in section.items()}
            for title, section in self.sections.items()
        }
        return json.dumps({"about": self.about, "measured": sections, "tables": self.tables}, indent=1)

    def to_markdown(self) -> str:
        """A heading and a table for every section."""
        checkpoint = self.about.get("checkpoint", "")
        blocks = [f"# Evaluation of {checkpoint}".rstrip()]
        for title, section in self.sections.items():
            rows = [{title: name, "value": one.text(), "note": one.note} for name, one in section.items()]
            blocks.append(_table(rows))
        blocks += [f"{title}:\n\n{_table(rows)}" for title, rows in self.tables.items()]
        return "\n\n".join(blocks) + "\n"

    def write(self, folder: Path) -> None:
        """evaluation.json and evaluation.md. Raises TrainingError where they cannot be written."""
        for name, text in (("evaluation.json", self.to_json()), ("evaluation.md", self.to_markdown())):
            with replacing(folder / name) as partial:
                partial.write_text(text, encoding="utf-8")


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys, padded so that the text is a table as well."""
    texts = [list(rows[0]), *[[str(cell) for cell in row.values()] for row in rows]]
    widths = [max(len(line[column]) for line in texts) for column in range(len(texts[0]))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |" for line in texts]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
