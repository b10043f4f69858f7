"""torch.compile for the generators: one graph a network and use of its memory, for any number of rows.

Everything in the transformers has the same shape at all stages but the rows (pictures, times two with guidance, more
with regions), so these are marked as dynamic. torch makes a graph of its own for a single row, whatever it is told.

Shapes: B rows, T tokens, D width, H heads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from nvg_model.transformer import Memory, Transformer


def _plain(network: Transformer, x: Tensor, modulations: list[Tensor], rope: Tensor, last: int) -> tuple[Tensor, None]:
    return network.layers(x, modulations, rope, last), None


def _first(
    network: Transformer, x: Tensor, modulations: list[Tensor], rope: Tensor, last: int
) -> tuple[Tensor, Memory]:
    memory = network.memory()
    return network.layers(x, modulations, rope, last, memory), memory


def _later(
    network: Transformer, x: Tensor, modulations: list[Tensor], rope: Tensor, last: int, memory: Memory
) -> tuple[Tensor, None]:
    return network.layers(x, modulations, rope, last, memory), None


class Compiled:
    """What `Transformer.forward` calls instead of its layers; made at the first use, on the device that it meets.

    Args:
        mode: of torch.compile. None: with CUDA graphs ("reduce-overhead") on a GPU, torch's default elsewhere.
        options: other arguments of torch.compile.
    """

    def __init__(self, mode: str | None = None, **options: Any) -> None:
        self.mode, self.options = mode, options
        self.made: dict[tuple[Callable[..., Any], str | None], Callable[..., Any]] = {}

    def __call__(
        self,
        network: Transformer,
        x: Tensor,
        modulations: list[Tensor],
        rope: Tensor,
        last: int,
        memory: Memory | None = None,
    ) -> Tensor:
        """As `Transformer.forward`."""
        kind = _plain if memory is None else _later if memory[0] else _first
        mode = self.mode or _usual_mode(x.device)
        if (kind, mode) not in self.made:
            self.made[kind, mode] = torch.compile(_own(kind), mode=mode, **self.options)
        known = (memory,) if memory and memory[0] else ()
        if len(x) > 1:
            _mark_rows(x, modulations, rope, known)
        if mode == "reduce-overhead":  # what the graph gave before is done with: it was copied
            torch.compiler.cudagraph_mark_step_begin()
        result, noted = self.made[kind, mode](network, x, modulations, rope, last, *known)
        if noted is not None:
            assert memory is not None
            memory[:] = [list(kept) for kept in noted]
        return result.clone() if mode == "reduce-overhead" else result


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with code of its own: torch counts recompiles by code, and those of another model do not count."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _usual_mode(device: torch.device) -> str | None:
    """CUDA graphs where they work: in the main thread (torch keeps them for each thread, and forgot those that others
    make until version 2.13: pytorch/pytorch#123177). ComfyUI draws in another one."""
    if device.type == "cuda" and threading.current_thread() is threading.main_thread():
        return "reduce-overhead"
    return None


def _mark_rows(x: Tensor, modulations: list[Tensor], rope: Tensor, known: tuple[Memory, ...]) -> None:
    """Says which axis counts the rows."""
    for one in (x, *modulations, *(values for memory in known for kept in memory for values in kept)):
        torch._dynamo.mark_dynamic(one, 0)
    torch._dynamo.mark_dynamic(rope, 1)


def check_compiler(device: torch.device) -> None:
    """Compiles one line. Raises NVGError where torch finds no compiler for the device."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            torch.compile(_one_line)(torch.ones(4, device=device))
    except Exception as error:  # whatever is missing: torch and triton have many exceptions for it
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "triton and a C compiler" if device.type == "cuda" else "a C++ compiler (g++, clang or cl)"
        raise NVGError(
            f"nothing can be compiled for {device} here ({reason}); install {needed}, or leave compile out"
        ) from error


def _one_line(x: Tensor) -> Tensor:
    return x.sin() + 1
