"""Texts of the nodes that a language lacks, and shows in English: `make publishable` wants none."""

import json
import sys
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[2] / "locales"


def texts(tree: dict, path: str = "") -> dict[str, str]:
    """The texts of nested dictionaries, by their paths."""
    found = {}
    for key, value in tree.items():
        found |= texts(value, f"{path}.{key}") if isinstance(value, dict) else {f"{path}.{key}": value}
    return found


def of(language: str, locales: Path = LOCALES) -> dict[str, str]:
    """The texts of a language, by their paths."""
    return texts(json.loads((locales / language / "nodeDefs.json").read_text(encoding="utf-8")))


def lacking(locales: Path = LOCALES) -> list[str]:
    """A line for every language that lacks some, with the first of them."""
    english, lines = of("en", locales), []
    for folder in sorted(locales.iterdir()):
        missing = [path for path in english if path not in of(folder.name, locales)]
        if missing:
            lines.append(f"{folder.name}/nodeDefs.json lacks {len(missing)} texts, such as {missing[0]}")
    return lines


if __name__ == "__main__":
    sys.exit("\n".join(lacking()) or 0)
