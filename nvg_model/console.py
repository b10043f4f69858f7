"""What the console scripts share: terminals of any encoding, and unexpected errors."""

from __future__ import annotations

import os
import sys

TRACEBACK = "NVG_TRACEBACK"
"""Environment variable. If it is set, an unexpected error is shown with its traceback."""


def write_anything() -> None:
    """Lets stdout and stderr write characters that their encoding does not have: as \\u escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def unforeseen(error: Exception) -> str:
    """The sentence about an error that is the program's own mistake; raises it again where NVG_TRACEBACK is set."""
    if os.environ.get(TRACEBACK):
        raise error
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return (
        f"this went wrong in a way that nobody foresaw ({type(error).__name__}: {reason}); please report it, with what "
        f"{TRACEBACK}=1 shows"
    )
