"""Writing a `Seq2Seq` as an ONNX file: encoder and greedy search in one graph."""

from __future__ import annotations

import dataclasses
import json
import os
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from fast_s2s import extras
from fast_s2s.attention import Attention
from fast_s2s.checks import check_path
from fast_s2s.configuration import GenerationConfig
from fast_s2s.generation.arguments import resolve
from fast_s2s.lstm import LSTM
from fast_s2s.onnx.graph import IR_VERSION, OPSET, Graph
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.serialization import atomic_write_bytes

MODEL_FILE = "model.onnx"
# of `generate`, what the graph has too, and what does not change which tokens are chosen
_SERVED = (
    "max_new_tokens",
    "suppress_tokens",
    "length_penalty",
    "early_stopping",
    "renormalize_logits",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# protobuf's limit, less what is not weights
_LARGEST = 2**31 - 2**20


class _Memory(NamedTuple):
    """values and keys (B, heads, S, ·), of additive attention keys (B, S, heads, ·); past (B, 1, 1,
    S), whether a step is beyond its row's length.
    """

    values: str
    keys: str
    past: str


class _Context(NamedTuple):
    """What the decoder starts from: h and c (B, H) of each layer, and what attention reads."""

    h: list[str]
    c: list[str]
    memory: _Memory | None


def export(model: Seq2Seq, path: str | os.PathLike[str]) -> None:
    """Write the model as one ONNX file: float32, operators of opset 17, no custom ones.

    Inputs:  src (batch, steps) int64, tokens ended by eos as in training, any token past a row's
             length; src_lengths (batch,) int64, in 0..steps; max_new_tokens, int64 scalar. Batch,
             steps and max_new_tokens are at least 1
    Outputs: sequences (batch, 1 + n) int64 as of `Seq2Seq.generate`: bos, the tokens of a greedy
             search, pad; lengths (batch,) int64, tokens generated, eos included; scores (batch,)
             float32, the sum of their log-probabilities among the tokens that can be chosen

    Of the model's own generation config `suppress_tokens` and what ends a row are in the graph; the
    file's properties tell special tokens and the config's `max_new_tokens`, as JSON. The numbers
    are those of the parameters, whatever `compile_decoder` made of them.

    Raises TypeError or ValueError for an argument that does not fit, a model with layer norm or
    zoneout, for which ONNX's LSTM has no place, with numbers that are not finite, or with options
    of search that are not in the graph, ModuleNotFoundError without the package onnx, OSError.
    """
    path = check_path("path", path)
    atomic_write_bytes(path, serialize(model))


def serialize(model: Seq2Seq) -> bytes:
    """What `export` writes."""
    if not isinstance(model, Seq2Seq):
        raise TypeError(f"model: expected a Seq2Seq, got {type(model).__name__}")
    config = model.generation_config
    _check_exportable(model)
    _check_search(config, model.config.tgt_vocab_size)
    onnx = extras.require("onnx", "onnx")
    data: bytes = _Exporter(onnx, model, config).model().SerializeToString()
    return data


def _check_exportable(model: Seq2Seq) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"model: expected one with numbers, got {name} on the meta device")
        if not parameter.isfinite().all():
            raise ValueError(f"model: expected finite parameters, got {name} with others")
    for part in (model.encoder, model.decoder):
        if not part.is_plain:
            options = part.options()
            raise ValueError(
                f"model: expected one without layer norm and zoneout, which ONNX's LSTM lacks, "
                f"got {options}"
            )
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    if size > _LARGEST:
        raise ValueError(f"model: expected at most {_LARGEST} bytes of weights, got {size}")


def _check_search(config: GenerationConfig, vocab_size: int) -> None:
    plain = GenerationConfig()
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(plain, field.name)
        # no tokens are none
        if field.name not in _SERVED and value not in (usual, ()):
            raise ValueError(
                f"{field.name}: expected {usual!r} in the model's generation config, as the graph "
                f"searches greedily, got {value!r}"
            )
    resolve(config, {}, vocab_size)
    if len({*never_chosen(config)} & {*range(vocab_size)}) == vocab_size:
        raise ValueError("suppress_tokens: expected some token that can be chosen, got none")


def never_chosen(config: GenerationConfig) -> tuple[int, ...]:
    """Tokens that are not generated."""
    return (config.pad_token_id, config.bos_token_id, *(config.suppress_tokens or ()))


class _Exporter:
    """One export: the graph as it grows, and the model in float32 on the CPU."""

    def __init__(self, onnx: ModuleType, model: Seq2Seq, config: GenerationConfig) -> None:
        self.onnx, self.config = onnx, config
        self.sizes = model.config
        self.source = model
        self.graph = Graph(onnx)

    def model(self) -> Any:
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        outputs = {
            "sequences": (kinds.INT64, ["batch", "tokens"]),
            "lengths": (kinds.INT64, ["batch"]),
            "scores": (kinds.FLOAT, ["batch"]),
        }
        inputs = {
            "src": (kinds.INT64, ["batch", "steps"]),
            "src_lengths": (kinds.INT64, ["batch"]),
            "max_new_tokens": (kinds.INT64, []),
        }
        self._search(self._encode())
        graph = helper.make_graph(
            self.graph.nodes,
            "seq2seq",
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
            self.graph.constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="fast_s2s",
        )
        told = ("pad_token_id", "bos_token_id", "eos_token_id", "max_new_tokens")
        properties = {name: json.dumps(getattr(self.config, name)) for name in told}
        helper.set_model_props(model, properties)
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _encode(self) -> _Context:
        graph, source = self.graph, self.source
        embedding = graph.constant(_single(source.src_embedding.weight), "src_embedding")
        x = graph.op("Transpose", graph.op("Gather", embedding, "src"), perm=[1, 0, 2])
        lengths = graph.op("Cast", "src_lengths", to=self.onnx.TensorProto.INT32)
        h: list[str] = []
        c: list[str] = []
        for layer in range(self.sizes.num_encoder_layers):
            weights = _layer(source.encoder, layer)
            x, h_n, c_n = graph.lstm(x, weights, self.sizes.hidden_size, lengths)
            for states, last in ((h, h_n), (c, c_n)):
                by_row = graph.op("Transpose", last, perm=[1, 0, 2])
                states.append(graph.op("Reshape", by_row, graph.constant([0, -1])))
        h, c = ([states[pair] for pair in source._pairs] for states in (h, c))
        if source.bridge is not None:
            h = [graph.op("Tanh", state) for state in self._bridged(h, source.bridge.weights("h"))]
            c = self._bridged(c, source.bridge.weights("c"))
        memory = None
        if source.attention is not None:
            memory = self._memory(source.attention, graph.op("Transpose", x, perm=[1, 0, 2]))
        return _Context(h, c, memory)

    def _bridged(self, states: list[str], weights: list[torch.Tensor]) -> list[str]:
        pairs = zip(states, weights, strict=True)
        return [self.graph.linear(state, _single(weight)) for state, weight in pairs]

    def _memory(self, attention: Attention, outputs: str) -> _Memory:
        """outputs (B, S, M) of the encoder."""
        graph, keys = self.graph, outputs
        if attention.key is not None:
            bias = attention.key.bias
            keys = graph.linear(
                outputs, _single(attention.key.weight), None if bias is None else _single(bias)
            )
        parts = graph.constant([0, 0, attention.heads, -1])
        values, keys = (graph.op("Reshape", part, parts) for part in (outputs, keys))
        values = graph.op("Transpose", values, perm=[0, 2, 1, 3])
        if attention.score is None:
            keys = graph.op("Transpose", keys, perm=[0, 2, 3, 1])
        steps = graph.op("Shape", "src", start=1, end=2)
        zero, one = graph.constant(np.asarray(0)), graph.constant(np.asarray(1))
        columns = graph.op("Range", zero, graph.op("Squeeze", steps, graph.constant([0])), one)
        lengths = graph.op("Unsqueeze", "src_lengths", graph.constant([1]))
        past = graph.op("GreaterOrEqual", columns, lengths)
        return _Memory(values, keys, graph.op("Unsqueeze", past, graph.constant([1, 2])))

    def _search(self, context: _Context) -> None:
        """The loop, and the outputs of the graph."""
        graph, config = self.graph, self.config
        rows = graph.op("Shape", "src", start=0, end=1)

        def filled(value: Any) -> str:
            return graph.op("Expand", graph.constant(np.asarray(value)), rows)

        begin = {
            "token": filled(config.bos_token_id),
            "finished": filled(False),
            "length": filled(0),
            "score": filled(np.float32(0)),
        }
        begin |= {f"h{index}": value for index, value in enumerate(context.h)}
        begin |= {f"c{index}": value for index, value in enumerate(context.c)}
        if self.sizes.input_feeding:
            begin["fed"] = graph.op("Mul", context.h[0], graph.constant(0.0))
        names = list(begin)
        body = self._body(names, context.memory)
        found = graph.op_of(
            "Loop",
            len(names) + 1,
            "max_new_tokens",
            graph.constant(np.asarray(True)),
            *begin.values(),
            body=body,
        )
        last = dict(zip(names, found, strict=False))
        first = graph.op("Unsqueeze", begin["token"], graph.constant([1]))
        tokens = graph.op("Transpose", found[-1], perm=[1, 0])
        graph.add("Concat", [first, tokens], ["sequences"], axis=1)
        graph.add("Identity", [last["length"]], ["lengths"])
        graph.add("Identity", [last["score"]], ["scores"])

    def _body(self, names: list[str], memory: _Memory | None) -> Any:
        """One step for all rows."""
        body = Graph(self.onnx, self.graph)
        begin = {name: body.name(name) for name in names}
        logits, after = self._step(body, begin, memory)
        token = self._choose(body, logits, begin, after)
        kinds = self.onnx.TensorProto
        running = body.op("Cast", body.op("Not", after["finished"]), to=kinds.INT32)
        any_left = body.op("ReduceMax", running, keepdims=0)
        goes_on = body.op("Cast", any_left, to=kinds.BOOL)
        info = self.onnx.helper.make_tensor_value_info
        types = {"token": kinds.INT64, "finished": kinds.BOOL, "length": kinds.INT64}
        of = {name: types.get(name, kinds.FLOAT) for name in names}
        inputs = [(body.name("step"), kinds.INT64), (body.name("goes_on"), kinds.BOOL)]
        inputs += [(begin[name], of[name]) for name in names]
        outputs = [(goes_on, kinds.BOOL), *((after[name], of[name]) for name in names)]
        outputs.append((token, kinds.INT64))
        return self.onnx.helper.make_graph(
            body.nodes,
            "step",
            [info(*each, [] if index < 2 else None) for index, each in enumerate(inputs)],
            [info(*each, None) for each in outputs],
        )

    def _choose(
        self, body: Graph, logits: str, begin: dict[str, str], after: dict[str, str]
    ) -> str:
        """The token of each row, pad after its end; what follows from it is put into `after`."""
        config, finished = self.config, begin["finished"]
        choice = body.op("ArgMax", logits, axis=1, keepdims=1)
        scores = body.op("LogSoftmax", logits, axis=1)
        one = body.constant([1])
        chosen = body.op("Squeeze", body.op("GatherElements", scores, choice, axis=1), one)
        pad = body.constant(np.asarray(config.pad_token_id))
        token = body.op("Where", finished, pad, body.op("Squeeze", choice, one))
        zero, single = body.constant(np.asarray(0)), body.constant(np.asarray(1))
        ended = finished
        ends = config.eos_token_id
        for eos in (ends,) if isinstance(ends, int) else ends:
            ended = body.op("Or", ended, body.op("Equal", token, body.constant(np.asarray(eos))))
        gained = body.op("Where", finished, body.constant(0.0), chosen)
        longer = body.op("Where", finished, zero, single)
        after |= {
            # what a row reads after its end counts for nothing, but has to be a token
            "token": body.op("Where", ended, body.constant(np.asarray(config.bos_token_id)), token),
            "finished": ended,
            "length": body.op("Add", begin["length"], longer),
            "score": body.op("Add", begin["score"], gained),
        }
        return token

    def _step(
        self, body: Graph, begin: dict[str, str], memory: _Memory | None
    ) -> tuple[str, dict[str, str]]:
        """Logits (B, V) that choices are made by, and h, c and fed after the step."""
        source, zero = self.source, body.constant([0])
        embedding = body.constant(_single(source.tgt_embedding.weight), "tgt_embedding")
        x = body.op("Gather", embedding, begin["token"])
        if "fed" in begin:
            x = body.op("Concat", x, begin["fed"], axis=1)
        after = {}
        for layer in range(self.sizes.num_decoder_layers):
            h, c = (body.op("Unsqueeze", begin[f"{kind}{layer}"], zero) for kind in "hc")
            one_step = body.op("Unsqueeze", x, zero)
            weights = _layer(source.decoder, layer)
            _, h, c = body.lstm(one_step, weights, self.sizes.hidden_size, "", h, c)
            x = after[f"h{layer}"] = body.op("Squeeze", h, zero)
            after[f"c{layer}"] = body.op("Squeeze", c, zero)
        if source.attention is not None:
            assert memory is not None
            x = self._attend(body, source.attention, x, memory)
        if "fed" in begin:
            after["fed"] = x
        projection = source.output_projection
        bias = body.constant(_single(projection.bias), "bias")
        if projection.weight is source.tgt_embedding.weight:
            # in the file once
            logits = body.op("Gemm", x, embedding, bias, transB=1)
        else:
            product = body.linear(x, _single(projection.weight))
            logits = body.op("Add", product, bias)
        never = np.zeros(self.sizes.tgt_vocab_size, np.float32)
        never[list(never_chosen(self.config))] = -np.inf
        return body.op("Add", logits, body.constant(never)), after

    def _attend(self, body: Graph, attention: Attention, x: str, memory: _Memory) -> str:
        """As `fast_s2s.attention.Attention`, of one query a row: x (B, H) -> h~ (B, H)."""
        query = x if attention.query is None else body.linear(x, _single(attention.query.weight))
        if attention.score is None:
            query = body.op("Reshape", query, body.constant([0, attention.heads, 1, -1]))
            scores = body.op("MatMul", query, memory.keys)
        else:
            query = body.op("Reshape", query, body.constant([0, 1, attention.heads, -1]))
            compared = body.op("Tanh", body.op("Add", query, memory.keys))
            weight = body.constant(_single(attention.score).view(attention.heads, -1))
            products = body.op("Mul", compared, weight)
            scores = body.op("ReduceSum", products, body.constant([3]), keepdims=0)
            scores = body.op(
                "Unsqueeze", body.op("Transpose", scores, perm=[0, 2, 1]), body.constant([2])
            )
        lowest = body.constant(float(torch.finfo(torch.float32).min))
        scores = body.op("Where", memory.past, lowest, scores)
        weights = body.op("Softmax", scores, axis=3)
        weights = body.op("Where", memory.past, body.constant(0.0), weights)
        context = body.op("MatMul", weights, memory.values)
        context = body.op("Reshape", context, body.constant([0, -1]))
        joined = body.op("Concat", context, x, axis=1)
        return body.op("Tanh", body.linear(joined, _single(attention.output.weight)))


def _single(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32)


def _layer(lstm: LSTM, layer: int) -> list[list[torch.Tensor]]:
    """Weights of each direction of a layer."""
    directions = 2 if lstm.bidirectional else 1
    names = lstm._all_weights[layer * directions : (layer + 1) * directions]
    return [[_single(getattr(lstm, name)) for name in each] for each in names]
