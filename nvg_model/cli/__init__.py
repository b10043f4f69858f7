"""The console script `nvg`: generate, tokenize, transfer, info, convert, bench.

Results and their paths go to stdout, progress and complaints to stderr. A wrong use is one sentence and status 2.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from nvg_model import console
from nvg_model.cli.parser import make_parser
from nvg_model.errors import NVGError
from nvg_model.precision import tf32


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `nvg` with the given arguments (those of the process by default).

    Returns:
        0; 2 after a wrong use, with one sentence on stderr; 130 when interrupted.
    """
    console.write_anything()
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        args = make_parser(with_bench=given[:1] == ["bench"]).parse_args(given)
        with tf32() if getattr(args, "device", "cpu").startswith("cuda") else nullcontext():
            status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `nvg info ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return 141  # as for any program that SIGPIPE ends
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except NVGError as error:
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except Exception as error:
        if _is_out_of_memory(error):
            return _complain("there is not enough memory for this; ask for fewer or smaller pictures at once", 2)
        return _complain(console.unforeseen(error), 2)


def _complain(sentence: str, status: int) -> int:
    print("nvg:", " ".join(sentence.split()), file=sys.stderr)
    return status


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch says so with a RuntimeError of its own on every device."""
    return isinstance(error, MemoryError) or bool(re.search(r"out of memory|allocate memory", str(error)))
