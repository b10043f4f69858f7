"""The console script `nvg-run`: runs a workflow file without ComfyUI.

The pictures' paths go to stdout, progress and complaints to stderr. A wrong use is one sentence and status 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nvg_model import console

if TYPE_CHECKING:
    from nvg_nodes.standalone.graph import Workflow


class _Parser(argparse.ArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `nvg-run` with the given arguments (those of the process by default).

    Returns:
        0; 2 after a wrong use, with one sentence on stderr; 130 when interrupted.
    """
    console.write_anything()
    args = _parser().parse_args(argv)
    from nvg_model import NVGError

    try:
        return _run(args)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except (NVGError, OSError) as error:
        return _complain(str(error), 2)
    except Exception as error:
        return _complain(console.unforeseen(error), 2)


def _complain(sentence: str, status: int) -> int:
    print("nvg-run:", " ".join(sentence.split()), file=sys.stderr)
    return status


def _run(args: argparse.Namespace) -> int:
    from nvg_nodes.standalone import graph, runner, shipped, thumbnail
    from nvg_nodes.standalone.core_nodes import Files

    catalogue = runner.catalogue()
    path = shipped.find(args.workflow)
    workflow = graph.read(path, catalogue)
    for setting in args.set:
        node, input, value = _setting(setting)
        workflow = workflow.with_value(node, input, value, catalogue)
    if args.list:
        print("\n".join(_listed(workflow)))
        return 0
    inputs = [Path("input"), Path(), path.parent, path.parent / "input"]  # ComfyUI's own first, when started beside it
    files = Files(inputs, Path(args.out), args.previews)
    report = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    engine = runner.Runner(files, report)
    engine.run(workflow)
    if args.thumbnail:
        args.thumbnail.write_bytes(thumbnail.make(workflow, engine.shown))
        files.written.append(args.thumbnail)
    for written in files.written:
        print(written)
    for error in engine.refused:
        _complain(f"left out: {error}", 2)
    return 2 if engine.refused else 0


def _setting(text: str) -> tuple[str, str, Any]:
    """(node, input, value) of NODE.INPUT=VALUE; the value is JSON if it can be, else text."""
    from nvg_nodes.standalone.graph import WorkflowError

    key, equals, value = text.partition("=")
    node, dot, input = key.rpartition(".")
    if not (equals and dot and node and input):
        raise WorkflowError(f"--set {text!r} is not of the form NODE.INPUT=VALUE")
    try:
        return node, input, json.loads(value)
    except ValueError:
        return node, input, value


def _jpeg(text: str) -> Path:
    """The path of a JPEG file."""
    if Path(text).suffix.lower() not in (".jpg", ".jpeg"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .jpg")
    return Path(text)


def _listed(workflow: Workflow) -> list[str]:
    """Every node with its inputs."""
    from nvg_model.errors import shortened
    from nvg_nodes.standalone.graph import is_link, title_of

    lines = []
    for id, node in workflow.prompt.items():
        lines.append(f"{id}  {node['class_type']}  {title_of(node) or ''}".rstrip())
        for name, value in node["inputs"].items():
            shown = f"<- node {value[0]}, output {value[1]}" if is_link(value) else f"= {shortened(json.dumps(value))}"
            lines.append(f"    {name} {shown}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nvg-run", description="Runs a ComfyUI workflow of NVG nodes without ComfyUI.")
    add = parser.add_argument
    add(
        "workflow",
        metavar="WORKFLOW",
        help="a workflow as saved by ComfyUI, or exported in API format; a picture that carries one; or the name of a "
        "workflow that comes with NVG, such as Generate",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="another value of an input; the node by id, title or type; may be repeated",
    )
    add("--out", default="output", metavar="DIR", help="where pictures are written (output)")
    add("--list", action="store_true", help="show the nodes and their inputs, and run nothing")
    add("--previews", action="store_true", help="also write what the nodes that only show pictures would show")
    add(
        "--thumbnail",
        type=_jpeg,
        metavar="FILE.jpg",
        help="also put what was saved, and the last picture of every preview, on one small sheet",
    )
    add("--quiet", action="store_true", help="do not name the nodes that run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
