"""Workflows of both formats, ready to run: the front end's graph (UI), and the prompt that is executed (API)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvg_nodes.standalone import reading, words
from nvg_nodes.standalone.canvas import Canvas
from nvg_nodes.standalone.inputs import (
    WIDGETS,
    Catalogue,
    Prompt,
    WorkflowError,
    inputs_of,
    is_link,
    is_widget,
    unknown_node,
)

__all__ = [
    "WIDGETS",
    "Catalogue",
    "Prompt",
    "Workflow",
    "WorkflowError",
    "inputs_of",
    "is_link",
    "is_widget",
    "parse",
    "read",
    "unknown_node",
]
_DAMAGES = (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError, AssertionError)
"""What a graph that contradicts itself makes its reader raise."""


def title_of(node: Mapping[str, Any]) -> str | None:
    """The title in a prompt, which may say nothing."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return None if title is None else " ".join(str(title).split())


@dataclass(frozen=True)
class Workflow:
    """A workflow ready to run."""

    prompt: Prompt
    ui: dict[str, Any] | None
    """The front end's graph, where the file holds one; it is kept in the pictures."""
    named: tuple[words.Named, ...] = field(default=())
    """Every node of the graph by the names that words in file names may use."""

    def title(self, id: str) -> str:
        """How to speak of a node."""
        node = self.prompt[id]
        title = title_of(node)
        named = f"{title!r} " if title and title != node["class_type"] else ""
        return f"{named}{node['class_type']} (node {id})"

    def find(self, name: str) -> str:
        """Id of the node with that id, title or class_type. Raises WorkflowError unless it is exactly one."""
        if name in self.prompt:
            return name
        for key in (title_of, lambda node: node["class_type"]):
            found = [id for id, node in self.prompt.items() if key(node) == name]
            if len(found) == 1:
                return found[0]
            if found:
                raise WorkflowError(f"{len(found)} nodes are called {name!r}; name one by its id: {', '.join(found)}")
        raise WorkflowError(f"there is no node {name!r}; --list shows all")

    def with_value(self, node: str, input: str, value: Any, catalogue: Catalogue) -> Workflow:
        """The same workflow with another value of an input.

        Raises:
            WorkflowError: the input is connected, or the node has none of that name.
        """
        id = self.find(node)
        kind = self.prompt[id]["class_type"]
        if kind in catalogue and input not in (names := [name for name, *_ in inputs_of(catalogue[kind])]):
            raise WorkflowError(f"{self.title(id)} has no input {input!r}; it has {', '.join(names) or 'none'}")
        if is_link(self.prompt[id]["inputs"].get(input)):
            source = self.prompt[id]["inputs"][input][0]
            source = self.title(source) if source in self.prompt else f"node {source}"
            raise WorkflowError(f"{input} of {self.title(id)} is connected to {source}: set it there")
        prompt = copy.deepcopy(self.prompt)
        prompt[id]["inputs"][input] = value
        return Workflow(prompt, self._graph_with(id, input, value, prompt, catalogue), self.named)

    def _graph_with(self, id: str, input: str, value: Any, prompt: Prompt, catalogue: Catalogue) -> Any:
        """The front end's graph with another value; None where it has no place for it.

        That is so for one of several instances of a subgraph; a picture then carries the prompt alone.
        """
        if self.ui is None:
            return None
        ui = copy.deepcopy(self.ui)
        try:
            Canvas(ui, catalogue).write(id, input, value)
            return ui if Canvas(ui, catalogue).prompt() == prompt else None
        except (*_DAMAGES, WorkflowError):
            return None

    def filled(self) -> Workflow:
        """The same with `%date:...%` and `%Node.widget%` in the file names of nodes that save replaced."""
        nodes = [one._replace(values={**one.values, **self._literals(one.id)}) for one in self.named] or [
            words.Named(id, node["class_type"], title_of(node), self._literals(id)) for id, node in self.prompt.items()
        ]
        prompt = copy.deepcopy(self.prompt)
        for node in prompt.values():
            prefix = node["inputs"].get("filename_prefix")
            if isinstance(prefix, str):
                node["inputs"]["filename_prefix"] = words.filled(prefix, nodes)
        return Workflow(prompt, self.ui, self.named)

    def _literals(self, id: str) -> dict[str, Any]:
        inputs = self.prompt[id]["inputs"] if id in self.prompt else {}
        return {name: value for name, value in inputs.items() if not is_link(value)}


def read(path: Path, catalogue: Catalogue) -> Workflow:
    """A workflow file of either format, or a picture that carries its workflow. Raises WorkflowError."""
    return parse(reading.content(path), catalogue)


def parse(content: Any, catalogue: Catalogue) -> Workflow:
    """A workflow of either format. Raises WorkflowError for anything else."""
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        try:
            canvas = Canvas(content, catalogue)
            return Workflow(canvas.prompt(), content, tuple(canvas.named()))
        except WorkflowError:
            raise
        except _DAMAGES as error:
            raise WorkflowError(f"the workflow is damaged: its graph cannot be followed ({error!r})") from error
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):
        content = content["prompt"]
    if not isinstance(content, dict) or not content:
        raise WorkflowError("this is not a workflow: it has neither the front end's 'nodes' nor an API prompt")
    for id, node in content.items():
        if not isinstance(node, dict) or "class_type" not in node or not isinstance(node.get("inputs"), dict):
            raise WorkflowError(f"this is not a workflow: entry {id!r} has no class_type and inputs")
        if not isinstance(node["class_type"], str):
            raise unknown_node(node["class_type"], id, catalogue)
    return Workflow(content, None)
