"""What the pages lead to is there: files, pictures and headings that README.md and docs/ link to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_pictures_of_the_pages_are_small() -> None:
    assert (ROOT / "docs" / "growing.webp").stat().st_size < 300_000
    for picture in (ROOT / "docs" / "emoji64-outlines.webp", *(ROOT / "docs" / "editing").iterdir()):
        assert picture.stat().st_size < 60_000, picture.name


def test_every_module_has_its_place_in_the_diagram() -> None:
    drawn = set(re.findall(r">(\w+)</text>", (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")))
    modules = {path.stem for path in (ROOT / "nvg_model").iterdir() if path.suffix == ".py"} - {"__init__"}
    assert drawn == modules | {"cli", "nvg_nodes", "training"}, "draw it again: python docs/diagram.py"
