"""Packages that training needs beyond the model's: which extra of pyproject.toml has them."""

from __future__ import annotations

from training.errors import TrainingError


def missing(what: str, package: str, extra: str, instead: str = "") -> TrainingError:
    """The sentence for a package that is not installed.

    Args:
        what: what needs it, with its verb: "REPA needs".
        instead: what works without it.
    """
    advice = f"run `pip install -e '.[{extra}]'` in the folder of nvg"
    return TrainingError(
        f"{what} the package {package}, which is not installed; {advice}{f', or {instead}' if instead else ''}"
    )
