"""The workflows that come with the pack, by name: `nvg-run Generate` works from any folder."""

from __future__ import annotations

from pathlib import Path

from nvg_model.errors import NVGError

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where they are: inside the installed package, or at the root of the repository, where ComfyUI looks for them."""
    inside = _PACKAGE / "workflows"
    return inside if inside.is_dir() else _PACKAGE.parent / "workflows"


def names() -> list[str]:
    """Their names without numbers, in the order of learning."""
    return [_plain(path) for path in sorted(folder().glob("*.json"))]


def find(name: str) -> Path:
    """The file that a command line means: a path, or a shipped workflow with or without number and ending.

    Raises NVGError where a bare name is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    wanted = _plain(path).casefold()
    places = [path.parent] if path.name != name else [Path(), folder()]
    found = [one for place in places for one in sorted(place.glob("*.json")) if _plain(one).casefold() == wanted]
    if found:
        return found[0]
    if path.name == name and path.suffix.lower() not in (".json", ".png", ".webp"):
        raise NVGError(f"there is no file and no workflow {name!r}; those that come with NVG are {', '.join(names())}")
    return path


def _plain(path: Path) -> str:
    """The name without number and ending."""
    name = path.name[: -len(".json")] if path.name.lower().endswith(".json") else path.name
    return name[3:] if name[:2].isdigit() and name[2:3] == " " else name
