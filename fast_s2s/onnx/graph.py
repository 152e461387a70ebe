"""ONNX graphs while they are written: nodes, constants, and the LSTM operator."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

# old enough for runtimes of 2022, and with all that is needed
OPSET, IR_VERSION = 17, 8
Array = np.ndarray[Any, Any]


class Graph:
    """Nodes, in the order in which they were added, and constants. Values go by their names.

    outer: the graph that this one is part of; it has the constants, and names are unique in both
    """

    def __init__(self, onnx: ModuleType, outer: Graph | None = None) -> None:
        self._onnx = onnx
        self._outer = outer
        self._count = 0
        self._known: dict[tuple[Any, ...] | None, str] = {}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def name(self, hint: str) -> str:
        """A new name."""
        if self._outer is not None:
            return self._outer.name(hint)
        self._count += 1
        return f"{hint}_{self._count}"

    def constant(self, value: Tensor | Array | Sequence[int] | float | bool, hint: str = "") -> str:
        """A constant; the same small one has one name."""
        if self._outer is not None:
            return self._outer.constant(value, hint)
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if isinstance(value, float):
            array = array.astype(np.float32)
        # weights are as many constants as are asked for
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size < 64 else None
        if key in self._known:
            return self._known[key]
        name = self.name(hint or "constant")
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        if key is not None:
            self._known[key] = name
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output. An input that is left out is an empty name."""
        return self.op_of(kind, 1, *inputs, **attributes)[0]

    def op_of(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node of so many outputs."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.add(kind, inputs, names, **attributes)
        return names

    def add(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node whose outputs have names already."""
        self.nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), list(outputs), **attributes)
        )

    def linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """x (..., I) times weight (O, I), plus bias (O,)."""
        found = self.op("MatMul", x, self.constant(weight.detach().t().contiguous(), "weight"))
        return found if bias is None else self.op("Add", found, self.constant(bias, "bias"))

    def lstm(
        self, x: str, directions: Sequence[Sequence[Tensor]], hidden: int, *more: str
    ) -> list[str]:
        """x (S, N, I) -> outputs (S, N, D·H), h_n and c_n (D, N, H).

        directions: w_ih, w_hh, b_ih, b_hh of each, as in `torch.nn.LSTM`
        more:       lengths (N,) int32, h_0 and c_0 (D, N, H), as far as there are any
        """
        stacked = [
            self.constant(np.stack([_iofc(part) for part in parts]), "lstm")
            for parts in zip(*((w, r) for w, r, _, _ in directions), strict=True)
        ]
        biases = [np.concatenate([_iofc(part) for part in each[2:]]) for each in directions]
        y, h_n, c_n = self.op_of(
            "LSTM",
            3,
            x,
            *stacked,
            self.constant(np.stack(biases), "lstm"),
            *more,
            hidden_size=hidden,
            direction="bidirectional" if len(directions) == 2 else "forward",
        )
        side_by_side = self.op("Transpose", y, perm=[0, 2, 1, 3])
        return [self.op("Reshape", side_by_side, self.constant([0, 0, -1])), h_n, c_n]


def _iofc(weight: Tensor) -> Array:
    """Gates in ONNX's order: torch's is i, f, g, o, and its g is called c."""
    i, f, g, o = weight.detach().cpu().numpy().reshape(4, -1, *weight.shape[1:])
    return np.concatenate([i, o, f, g])
