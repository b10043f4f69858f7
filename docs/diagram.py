"""Draws docs/architecture.svg from the code: who imports whom. `make pictures` runs it.

Rows are the layers of the contract in pyproject.toml. Two kinds of arrow are left out: those that follow from others
(a -> b -> c), and those to what every file may use.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import grimp
from importlinter.application.use_cases import read_user_options
from importlinter.application.user_options import UserOptions
from importlinter.configuration import configure

ROOT = Path(__file__).parents[1]
WIDTH, ROW, BOX, GAP = 980, 62, 30, 14
TOP = ("nvg_nodes", "training")
EVERYBODYS = {"errors", "config", "console", "files", "foreign", "pictures"}
COLOURS = {"nvg_nodes": "#e8dcf7", "training": "#fbe3c8", "nvg_model": "#d9ebf7"}


def layers() -> list[list[str]]:
    """The layers of nvg_model in the contract, from above."""
    configure()
    options: UserOptions = read_user_options(str(ROOT / "pyproject.toml"))
    for contract in options.contracts_options:
        if contract.get("containers") == ["nvg_model"]:
            return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    raise SystemExit("pyproject.toml has no contract of layers for nvg_model")


def edges(names: set[str]) -> set[tuple[str, str]]:
    """(importer, imported) between the boxes, without those that follow from others."""
    graph = grimp.build_graph("nvg_model", *TOP, exclude_type_checking_imports=True, cache_dir=None)
    found: set[tuple[str, str]] = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = _box(importer), _box(imported)
            if pair[0] != pair[1] and {*pair} <= names and pair[1] not in EVERYBODYS:
                found.add((pair[0], pair[1]))
    return {pair for pair in found if not _follows(pair, found)}


def _box(module: str) -> str:
    """A room above nvg_model is one box; inside it every module or folder is."""
    parts = module.split(".")
    return parts[0] if parts[0] != "nvg_model" else ".".join(parts[1:2])


def _follows(pair: tuple[str, str], all_pairs: set[tuple[str, str]]) -> bool:
    """Whether another path leads the same way."""
    seen, todo = set(), [end for start, end in all_pairs if start == pair[0] and end != pair[1]]
    while todo:
        here = todo.pop()
        if here == pair[1]:
            return True
        if here not in seen:
            seen.add(here)
            todo += [end for start, end in all_pairs if start == here]
    return False


def draw(rows: list[list[str]], pairs: set[tuple[str, str]]) -> str:
    """The SVG."""
    places, boxes = {}, []
    for number, row in enumerate(rows):
        widths = [28 + 8 * len(name) for name in row]
        left = (WIDTH - sum(widths) - 60 * (len(row) - 1)) / 2
        for name, width in zip(row, widths, strict=True):
            top = 20 + number * ROW
            places[name] = (left + width / 2, top)
            colour = COLOURS.get(name, COLOURS["nvg_model"])
            boxes.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width}" height="{BOX}" rx="6" fill="{colour}" stroke="#667"/>'
                f'<text x="{left + width / 2:.0f}" y="{top + 20}">{escape(name)}</text>'
            )
            left += width + 60
    lines = []
    for start, end in sorted(pairs):
        (x, y), (to_x, to_y) = places[start], places[end]
        y += BOX
        lines.append(f'<path d="M{x:.0f} {y} C{x:.0f} {y + 24},{to_x:.0f} {to_y - 30},{to_x:.0f} {to_y - 3}"/>')
    height = 20 + len(rows) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="14" text-anchor="middle">\n'
        '<defs><marker id="a" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#889"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        f'<g fill="none" stroke="#889" marker-end="url(#a)">{"".join(lines)}</g>\n{"".join(boxes)}\n</svg>\n'
    )


def main() -> int:
    """Writes docs/architecture.svg."""
    sys.path.insert(0, str(ROOT))
    rows = [list(TOP), *layers()]
    pairs = edges({name for row in rows for name in row})
    order = {name: number for number, row in enumerate(rows) for name in row}
    assert all(order[start] < order[end] for start, end in pairs), "an arrow upwards: run lint-imports"
    (ROOT / "docs" / "architecture.svg").write_text(draw(rows, pairs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
