"""The part of ComfyUI's V3 node API that our nodes use, for tests and `nvg-run` without ComfyUI.

It stands in for both `comfy_api.latest.io` and `comfy_api.latest.ui`, and describes a node (`GET_NODE_INFO_V1`) just
as the host does. Every input type names its keywords, so that mypy checks the schemas of all nodes here; a keyword that
the host would refuse is refused here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Any, ClassVar, cast

_INFO_NAMES = {"dynamic_prompts": "dynamicPrompts", "force_input": "forceInput"}
"""Keywords that the node catalogue spells differently."""
_NOT_SHOWN = ("id", "optional")


@dataclass(eq=False)
class InputBase:
    """An input of a node. A subclass has the keywords of its type, in the host's order; None means not given."""

    io_type: ClassVar[str] = ""
    id: str
    _: KW_ONLY
    optional: bool = False
    display_name: str | None = None
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict[str, Any] = field(default_factory=dict, init=False)
    """Entries of the catalogue that no keyword stands for."""

    def as_dict(self) -> dict[str, Any]:
        """The catalogue's entry: the keywords that were given, or that the host writes even where they were not."""
        entry: dict[str, Any] = {}
        for one in dataclasses.fields(self):  # in the host's order, in which `extra_dict` has its place
            value = getattr(self, one.name)
            entry |= value if one.name == "extra_dict" else {_INFO_NAMES.get(one.name, one.name): value}
        return {name: value for name, value in entry.items() if value is not None and name not in _NOT_SHOWN}


@dataclass(eq=False)
class WidgetInput(InputBase):
    """An input with a value of its own."""

    default: Any = None
    socketless: bool | None = None
    force_input: bool | None = None


@dataclass(eq=False)
class OutputBase:
    """An output of a node."""

    io_type: ClassVar[str] = ""
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False

    def __post_init__(self) -> None:
        self.display_name = self.display_name or self.id


def _socket(io_type: str) -> Any:
    """Decorates a class with `Input` and `Output`: all three get the name of the type."""

    def named(kind: Any) -> Any:
        for one in (kind, kind.Input, kind.Output):
            one.io_type = io_type
        return kind

    return named


@_socket("INT")
class Int:
    """Whole numbers."""

    @dataclass(eq=False)
    class Input(WidgetInput):
        """A number field."""

        default: int | None = None
        min: int | None = None
        max: int | None = None
        step: int | None = None
        control_after_generate: bool | None = None

    class Output(OutputBase):
        """A whole number."""


@_socket("FLOAT")
class Float:
    """Numbers."""

    @dataclass(eq=False)
    class Input(WidgetInput):
        """A number field."""

        default: float | None = None
        min: float | None = None
        max: float | None = None
        step: float | None = None
        round: float | None = None

    class Output(OutputBase):
        """A number."""


@_socket("STRING")
class String:
    """Text."""

    @dataclass(eq=False)
    class Input(WidgetInput):
        """A text field."""

        default: str | None = None
        multiline: bool = False
        placeholder: str | None = None
        dynamic_prompts: bool | None = None

    class Output(OutputBase):
        """A text."""


@_socket("BOOLEAN")
class Boolean:
    """On or off."""

    @dataclass(eq=False)
    class Input(WidgetInput):
        """A switch."""

        default: bool | None = None
        label_on: str | None = None
        label_off: str | None = None

    class Output(OutputBase):
        """On or off."""


@_socket("COMBO")
class Combo:
    """One of a list of choices."""

    @dataclass(eq=False)
    class Input(WidgetInput):
        """A list to choose from."""

        default: str | None = None
        multiselect: bool = False
        options: Sequence[str] | None = None
        control_after_generate: bool | None = None

    class Output(OutputBase):
        """The choice."""


class Plain:
    """A socket type without a widget: its value comes over a link."""

    io_type: ClassVar[str] = ""
    Input: ClassVar[type[InputBase]] = InputBase
    Output: ClassVar[type[OutputBase]] = OutputBase


def Custom(io_type: str) -> type[Plain]:
    """A custom socket type."""
    ends = {"Input": type("Input", (InputBase,), {}), "Output": type("Output", (OutputBase,), {})}
    return cast(type[Plain], _socket(io_type)(type(io_type.title(), (Plain,), ends)))


Image = Custom("IMAGE")
Mask = Custom("MASK")
Input = InputBase
Output = OutputBase
"""The bases, by the names that they have in the host."""


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
    inputs: Sequence[InputBase] = field(default_factory=list)
    outputs: Sequence[OutputBase] = field(default_factory=list)
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
        """The schema, made again each time: lists of files may have changed."""
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
