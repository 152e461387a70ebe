"""Engines that take an ONNX model: ONNX Runtime and OpenVINO. Inference in float32 only."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.workloads import Problem

# ONNX Runtime's threads spin so long after a call before they sleep: 35 ms here
SPINNING_S = 0.05


def onnx_runtime(problem: Problem) -> Side:
    run = session(_model(problem)).run
    feeds, layers = _feeds(problem), problem.workload.layers
    return Side(
        "ONNX Runtime",
        lambda: run(None, feeds),
        lambda raw: _named(raw, layers),
        rest_s=SPINNING_S,
    )


def openvino(problem: Problem) -> Side:
    engine = _optional("openvino")
    core = engine.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(_model(problem), b""), "CPU", settings)
    request, feeds = compiled.create_infer_request(), _feeds(problem)
    layers = problem.workload.layers

    def results(raw: Any) -> dict[str, Tensor]:
        return _named([raw[index] for index in range(len(compiled.outputs))], layers)

    return Side("OpenVINO", lambda: request.infer(feeds), results)


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} does not import ({error})") from error


def _feeds(problem: Problem) -> dict[str, np.ndarray]:
    h_0, c_0 = problem.hx()
    feeds = {"x": problem.x().numpy()}
    for layer in range(problem.workload.layers):
        feeds[f"h0_{layer}"] = h_0[layer : layer + 1].numpy()
        feeds[f"c0_{layer}"] = c_0[layer : layer + 1].numpy()
    return feeds


def _named(raw: list[np.ndarray], layers: int) -> dict[str, Tensor]:
    y, *states = (torch.from_numpy(np.array(array)) for array in raw)
    return {"y": y, "h_n": torch.cat(states[:layers]), "c_n": torch.cat(states[layers:])}


def _model(problem: Problem) -> bytes:
    """The workload as an ONNX model: inputs x, h0_<layer>, c0_<layer>; outputs y, h_*, c_*."""
    workload = problem.workload
    if not workload.plain or workload.training or workload.ragged or workload.dtype != "float32":
        raise Unavailable("only inference in float32, one direction, rows of one length")
    onnx = _optional("onnx")
    shape = (workload.steps, workload.batch, workload.hidden)
    module, nodes, constants = problem.module(), [], []
    source = "x"
    for layer in range(workload.layers):
        target = "y" if layer == workload.layers - 1 else f"y_{layer}"
        nodes += _layer_nodes(onnx, layer, source, target, workload.hidden)
        constants += _layer_constants(onnx, module, layer)
        source = target
    constants.append(onnx.numpy_helper.from_array(np.array([1]), "directions"))
    states = [f"{kind}{{}}_{layer}" for kind in "hc" for layer in range(workload.layers)]
    inputs = {"x": shape} | {name.format(0): (1, *shape[1:]) for name in states}
    outputs = {"y": shape} | {name.format(""): (1, *shape[1:]) for name in states}
    return step_model("lstm", nodes, _infos(onnx, inputs), _infos(onnx, outputs), constants)


def _infos(onnx: ModuleType, shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
    make, single = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    return [make(name, single, shape) for name, shape in shapes.items()]


def _layer_nodes(onnx: ModuleType, layer: int, source: str, target: str, hidden: int) -> list[Any]:
    arguments = [source, *(f"{name}_{layer}" for name in ("W", "R", "B"))]
    lstm = onnx.helper.make_node(
        "LSTM",
        [*arguments, "", f"h0_{layer}", f"c0_{layer}"],
        [f"all_{layer}", f"h_{layer}", f"c_{layer}"],
        hidden_size=hidden,
    )
    # ONNX gives (T, directions, B, H)
    return [lstm, onnx.helper.make_node("Squeeze", [f"all_{layer}", "directions"], [target])]


def _layer_constants(onnx: ModuleType, module: nn.LSTM, layer: int) -> list[Any]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, r, b_w, b_r = (_iofc(getattr(module, f"{kind}_l{layer}")) for kind in kinds)
    arrays = {"W": w, "R": r, "B": np.concatenate([b_w, b_r])}
    return [
        onnx.numpy_helper.from_array(array[None], f"{name}_{layer}")
        for name, array in arrays.items()
    ]


def _iofc(weight: Tensor) -> np.ndarray:
    """From torch's order of gates (i f g o) to that of ONNX (i o f g)."""
    i, f, g, o = weight.detach().chunk(4)
    return torch.cat([i, o, f, g]).numpy()


def step_model(
    name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]
) -> bytes:
    """A graph of these as a model."""
    onnx = _optional("onnx")
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found


def session(model: bytes) -> Any:
    """ONNX Runtime's, with as many threads as torch has."""
    runtime = _optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def state_names(layers: int, suffix: str = "") -> list[str]:
    """Of a step's states: h of each layer, then c."""
    return [f"{kind}{suffix}_{layer}" for kind in "hc" for layer in range(layers)]


def step_nodes(embedding: nn.Embedding, lstm: nn.LSTM) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of one step: token (1, B) and states (1, B, H), as `state_names` has
    them, to the states with suffix "_next", and x_<layers> (1, B, H).
    """
    onnx = _optional("onnx")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    constants = [
        array(embedding.weight.detach().numpy(), "embedding"),
        array(torch.tensor([1]).numpy(), "directions"),
    ]
    nodes = [helper.make_node("Gather", ["embedding", "token"], ["x_0"])]
    for layer in range(lstm.num_layers):
        constants += _layer_constants(onnx, lstm, layer)
        inputs = [f"x_{layer}", *(f"{name}_{layer}" for name in ("W", "R", "B")), ""]
        nodes.append(
            helper.make_node(
                "LSTM",
                [*inputs, f"h_{layer}", f"c_{layer}"],
                [f"y_{layer}", f"h_next_{layer}", f"c_next_{layer}"],
                hidden_size=lstm.hidden_size,
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"y_{layer}", "directions"], [f"x_{layer + 1}"]))
    return nodes, constants
