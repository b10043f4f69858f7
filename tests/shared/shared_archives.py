"""Archives of a few files, for the tests of the data."""

import io
import tarfile
from pathlib import Path
from typing import Any


def pack(path: Path, members: dict[str, bytes], mode: Any = "w", **options: Any) -> Path:
    """A tar file with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
