"""The part of ComfyUI's V3 node API that our nodes use, for tests and `nvg-run` without ComfyUI.

It stands in for both `comfy_api.latest.io` and `comfy_api.latest.ui`, and describes a node (`GET_NODE_INFO_V1`) just
as the host does; a keyword that the host would refuse is refused here too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

_INFO_NAMES = {"dynamic_prompts": "dynamicPrompts", "force_input": "forceInput"}
"""Keywords that the node catalogue spells differently."""
_COMMON = ("display_name", "tooltip", "lazy")
_WIDGET = ("default", "socketless", "force_input")


class Input:
    """An input of a node; the subclasses made by `_type` say which keywords their type knows, in the host's order."""

    io_type: ClassVar[str]
    keywords: ClassVar[tuple[str, ...]]
    always: ClassVar[dict[str, Any]]
    """Entries of the catalogue that the host writes even where nothing was given."""

    def __init__(self, id: str, *, optional: bool = False, **options: Any) -> None:
        unknown = [name for name in options if name not in (*_COMMON, *self.keywords)]
        if unknown:
            raise TypeError(f"an input of type {self.io_type} has no keyword {unknown[0]!r}")
        self.id = id
        self.optional = optional
        self.options = options
        self.extra_dict: dict[str, Any] = {}

    def as_dict(self) -> dict[str, Any]:
        """The catalogue's entry, without what was not given."""
        given = self.always | self.options
        entry = {name: given.get(name) for name in _COMMON} | self.extra_dict
        entry |= {_INFO_NAMES.get(name, name): given.get(name) for name in self.keywords}
        return {name: value for name, value in entry.items() if value is not None}


class Output:
    """An output of a node."""

    io_type: ClassVar[str]

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list


def _type(io_type: str, keywords: tuple[str, ...] = (), **always: Any) -> Any:
    """A socket type: a class with `io_type`, `Input` and `Output`."""
    members = {"io_type": io_type}
    given = type("Input", (Input,), members | {"keywords": keywords, "always": always})
    return type(io_type.title(), (), members | {"Input": given, "Output": type("Output", (Output,), dict(members))})


Int = _type("INT", (*_WIDGET, "min", "max", "step", "control_after_generate"))
Float = _type("FLOAT", (*_WIDGET, "min", "max", "step", "round"))
String = _type("STRING", (*_WIDGET, "multiline", "placeholder", "dynamic_prompts"), multiline=False)
Boolean = _type("BOOLEAN", (*_WIDGET, "label_on", "label_off"))
Combo = _type("COMBO", (*_WIDGET, "multiselect", "options", "control_after_generate"), multiselect=False)
Image = _type("IMAGE")
Mask = _type("MASK")


def Custom(io_type: str) -> Any:
    """A socket type of one's own."""
    return _type(io_type)


class Hidden(str, Enum):
    """What a node may ask of the host besides its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass(frozen=True)
class HiddenHolder:
    """The values of what was asked for."""

    unique_id: str | None = None
    prompt: dict[str, Any] | None = None
    extra_pnginfo: dict[str, Any] | None = None


@dataclass
class Schema:
    """What a node is: names, inputs, outputs."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    not_idempotent: bool = False

    def __post_init__(self) -> None:
        if self.is_output_node:  # the host hands these to every output node
            for hidden in (Hidden.prompt, Hidden.extra_pnginfo):
                if hidden not in self.hidden:
                    self.hidden.append(hidden)
        for kind, ids in (("input", [one.id for one in self.inputs]), ("output", [one.id for one in self.outputs])):
            given = [id for id in ids if id is not None]
            if len(set(given)) != len(given):
                raise ValueError(f"{self.node_id} has an {kind} id twice")

    def info(self) -> dict[str, Any]:
        """The node's entry in the catalogue (`/object_info`)."""
        inputs: dict[str, dict[str, Any]] = {"required": {}}
        for one in self.inputs:
            inputs.setdefault("optional" if one.optional else "required", {})[one.id] = (one.io_type, one.as_dict())
        if self.hidden:
            inputs["hidden"] = {hidden.name: (hidden.value,) for hidden in self.hidden}
        return {
            "input": inputs,
            "input_order": {kind: list(entries) for kind, entries in inputs.items()},
            "output": [one.io_type for one in self.outputs],
            "output_is_list": [one.is_output_list for one in self.outputs],
            "output_name": [one.display_name or one.io_type for one in self.outputs],
            "output_tooltips": [one.tooltip or None for one in self.outputs],
            "output_matchtypes": None,
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "search_aliases": self.search_aliases,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": False,
        }


class ComfyNode:
    """Base of all nodes: `define_schema` and `execute` are class methods, and a node has no state."""

    RELATIVE_PYTHON_MODULE: ClassVar[str] = "custom_nodes.nvg"
    hidden: ClassVar[HiddenHolder] = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        """The node's schema."""
        raise NotImplementedError

    @classmethod
    def execute(cls, *args: Any, **inputs: Any) -> NodeOutput:
        """Does the node's work; every node has arguments of its own."""
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The schema, made anew: lists of files may have changed."""
        return cls.define_schema()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node's entry in the catalogue."""
        return cls.GET_SCHEMA().info() | {"python_module": cls.RELATIVE_PYTHON_MODULE}


class NodeOutput:
    """What a node returns: its outputs, and what the front end shows on it."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The outputs; None where there are none."""
        return self.args or None


@dataclasses.dataclass(frozen=True, eq=False)
class PreviewImage:
    """Images to show on a node; here they are only kept."""

    image: Any
    cls: type[ComfyNode] | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the front end would receive."""
        return {"images": []}


class ComfyExtension:
    """What the entry point returns."""

    async def get_node_list(self) -> list[type[ComfyNode]]:
        """All nodes."""
        raise NotImplementedError
