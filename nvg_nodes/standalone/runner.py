"""Executes workflows without ComfyUI: checks every input, runs what the outputs need, keeps results between runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nvg_model import NVGError
from nvg_model.errors import shortened
from nvg_nodes.extension import NODES
from nvg_nodes.standalone.core_nodes import CORE, CoreNode, Files, PreviewImage
from nvg_nodes.standalone.graph import Catalogue, Workflow, WorkflowError, inputs_of, is_link, is_widget, unknown_node
from nvg_nodes.standalone.schema import HiddenHolder

KINDS: dict[str, type[Any]] = {node.GET_SCHEMA().node_id: node for node in (*NODES, *CORE)}
"""Every node that can be run, by class_type."""
_CONVERTED: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def catalogue() -> Catalogue:
    """Descriptions of all nodes that can be run."""
    return {name: node.GET_NODE_INFO_V1() for name, node in KINDS.items()}


class Runner:
    """Runs workflows; what has been computed from the same inputs is not computed again."""

    def __init__(self, files: Files, report: Callable[[str], None] = lambda line: None) -> None:
        """`report` is called with one line for every node that runs."""
        self.files = files
        self.executed: list[str] = []
        """Ids of the nodes that the last run executed, in order."""
        self.refused: list[WorkflowError] = []
        """Why outputs of the last run were left out, while others ran."""
        self.shown: dict[str, Tensor] = {}
        """IMAGE that every output node put on display when it was last executed, by id."""
        self._report = report
        self._results: dict[str, tuple[Any, ...]] = {}

    def run(self, workflow: Workflow) -> None:
        """Runs all output nodes and what they need.

        As in the host, an output with something wrong before it is left out, and `refused` says why.

        Raises:
            WorkflowError: no output can run, or a node fails.
        """
        info = catalogue()
        workflow = workflow.filled()
        self.refused = []
        order = check(workflow, info, self.refused)
        self.executed = []
        signatures: dict[str, str] = {}
        for id in order:
            signatures[id] = self._signature(workflow, id, signatures)
            if signatures[id] in self._results:
                continue
            self._report(workflow.title(id))
            self._results[signatures[id]] = self._execute(workflow, id, signatures, info)
            self.executed.append(id)
        self._results = {key: self._results[key] for key in signatures.values()}

    def _signature(self, workflow: Workflow, id: str, signatures: Mapping[str, str]) -> str:
        """What a node's result depends on."""
        node = workflow.prompt[id]
        inputs = {
            name: [signatures[value[0]], value[1]] if is_link(value) else value
            for name, value in sorted(node["inputs"].items())
        }
        kind = KINDS[node["class_type"]]
        stamp = None
        if "fingerprint_inputs" in vars(kind):
            values = {name: None if is_link(value) else value for name, value in node["inputs"].items()}
            stamp = kind.fingerprint_inputs(**values)
        if kind.GET_SCHEMA().is_output_node:
            stamp = id  # two of them with the same inputs are still two
        whole = json.dumps([node["class_type"], inputs, stamp])
        return hashlib.sha256(whole.encode()).hexdigest()  # or they would grow along a chain

    def _execute(self, workflow: Workflow, id: str, signatures: Mapping[str, str], info: Catalogue) -> tuple[Any, ...]:
        node = workflow.prompt[id]
        kind = KINDS[node["class_type"]]
        extra = {"workflow": workflow.ui} if workflow.ui is not None else None
        given: dict[str, Any] = {"hidden": HiddenHolder(id, workflow.prompt, extra)}
        if issubclass(kind, CoreNode):
            given["files"] = self.files
        # Nodes have no state: the host, too, runs a copy of the class that holds what is this run's.
        node_class: Any = type(kind.__name__, (kind,), given)
        inputs = {
            name: self._results[signatures[value[0]]][value[1]] if is_link(value) else value
            for name, value in node["inputs"].items()
        }
        try:
            with torch.inference_mode():
                output = node_class.execute(**inputs)
        except NVGError as error:
            raise WorkflowError(f"{workflow.title(id)}: {error}") from error
        if output.ui is not None and not isinstance(output.ui, dict):  # else it is for our front end only
            self.shown[id] = output.ui.image
            if not issubclass(kind, CoreNode):  # shows pictures just as Preview Image does
                preview: Any = type("Preview", (PreviewImage,), given | {"files": self.files})
                preview.execute(output.ui.image)
        return output.args


def check(workflow: Workflow, info: Catalogue, refused: list[WorkflowError] | None = None) -> list[str]:
    """Ids of the nodes to run, each after those that it needs; converts the values in the prompt to their types.

    Inputs that a node does not know are taken away, as the host ignores them.

    Args:
        refused: takes what is wrong with outputs that cannot run, while another one can.
    Raises:
        WorkflowError: an unknown node, no output that can run, or without `refused` the first thing that is wrong.
    """
    prompt = workflow.prompt
    for id, node in prompt.items():
        if node["class_type"] not in info:
            raise unknown_node(node["class_type"], id, info)
    outputs = [id for id, node in prompt.items() if info[node["class_type"]]["output_node"]]
    if not outputs:
        raise WorkflowError("the workflow has no output; add a Save Image or Preview Image")
    order: list[str] = []
    wrong: list[WorkflowError] = []
    for id in outputs:
        needed = list(order)
        try:
            _visit(workflow, id, info, needed, ())
            order = needed
        except RecursionError:
            wrong.append(WorkflowError(f"too many nodes stand one after another before {workflow.title(id)}"))
        except WorkflowError as error:
            wrong.append(error)
    if wrong and (refused is None or not order):
        raise wrong[0]
    if refused is not None:
        refused += wrong
    return order


def _visit(workflow: Workflow, id: str, info: Catalogue, order: list[str], path: tuple[str, ...]) -> None:
    if id in order:
        return
    if id in path:
        raise WorkflowError(f"the workflow runs in a circle through {workflow.title(id)}")
    node = workflow.prompt[id]
    described = list(inputs_of(info[node["class_type"]]))
    node["inputs"] = _known(workflow, id, [name for name, *_ in described])
    for name, kind, options, optional in described:
        where = f"{name} of {workflow.title(id)}"
        value = node["inputs"].get(name)
        if value is None:
            node["inputs"].pop(name, None)  # a null, which some programs write for "as it is by default"
            if not optional and "default" not in options:
                what = (
                    "give it a value" if is_widget(kind, options) else "connect it, or unmute what it was connected to"
                )
                raise WorkflowError(f"{where} is missing: {what}")
            if not optional:
                node["inputs"][name] = options["default"]
        elif is_link(value):
            _check_link(workflow, value, kind, where, info)
            _visit(workflow, value[0], info, order, (*path, id))
        else:
            node["inputs"][name] = _checked_value(value, kind, options, where, _own_checks(node["class_type"]), name)
    order.append(id)


def _known(workflow: Workflow, id: str, names: list[str]) -> dict[str, Any]:
    """The inputs that the node has. A value for any other is ignored; a connection to any other is an error."""
    inputs = workflow.prompt[id]["inputs"]
    for name, value in inputs.items():
        if name not in names and is_link(value):
            raise WorkflowError(
                f"{workflow.title(id)} has no input {name!r}, to which something is connected; it has "
                f"{', '.join(names) or 'none'} (a workflow of a newer version needs a newer nvg)"
            )
    return {name: value for name, value in inputs.items() if name in names}


def _check_link(workflow: Workflow, link: list[Any], kind: str, where: str, info: Catalogue) -> None:
    source, output = link
    if source not in workflow.prompt:
        raise WorkflowError(f"{where} is connected to node {source}, which is not in the workflow")
    outputs = info[workflow.prompt[source]["class_type"]]["output"]
    if not 0 <= output < len(outputs):
        raise WorkflowError(f"{where} is connected to output {output} of {workflow.title(source)}, which has no such")
    if outputs[output] != kind:
        raise WorkflowError(f"{where} needs {kind}, but {workflow.title(source)} gives {outputs[output]}")


def _own_checks(class_type: str) -> list[str]:
    """Inputs that the node checks itself, which takes the general check away from them."""
    kind = KINDS[class_type]
    return list(inspect.signature(kind.validate_inputs).parameters) if "validate_inputs" in vars(kind) else []


def _checked_value(
    value: Any, kind: str, options: Mapping[str, Any], where: str, own_checks: list[str], name: str
) -> Any:
    """The value in its type, within its range and list. Raises WorkflowError."""
    if not is_widget(kind, options):
        raise WorkflowError(f"{where} needs a connection of type {kind}, not a value")
    if isinstance(value, dict) and "__value__" in value:  # how the front end sends lists
        value = value["__value__"]
    try:
        if isinstance(value, dict | list | None) or (kind == "BOOLEAN" and not isinstance(value, bool | int)):
            raise ValueError("wrong type")
        value = _CONVERTED.get(kind, lambda same: same)(value)
        if kind == "FLOAT" and not math.isfinite(value):
            raise ValueError("not finite")
    except (ValueError, TypeError, OverflowError) as error:
        raise WorkflowError(f"{where} is {_short(value)}, which is no {kind}") from error
    if kind == "COMBO" and not isinstance(value, str | int | float):
        raise WorkflowError(f"{where} is {_short(value)}, which is no entry of a list")
    if name in own_checks:
        return str(value) if kind == "COMBO" else value
    for limit, beyond, word in (("min", operator.lt, "less"), ("max", operator.gt, "more")):
        if options.get(limit) is not None and beyond(value, options[limit]):
            raise WorkflowError(f"{where} is {value}; it must not be {word} than {options[limit]}")
    if kind == "COMBO" and value not in options["options"]:
        raise WorkflowError(f"{where} is {_short(value)}; choose one of {', '.join(map(str, options['options']))}")
    return value


def _short(value: Any) -> str:
    """A value to name in a complaint."""
    return shortened(repr(value))
