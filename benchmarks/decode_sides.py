"""What `bench_decode` times: whole generations by us and by whatever else a PyTorch user has.

Every side of a problem has the same random weights and starts from the same context. Its tokens and
scores are compared with those of a float64 reference: of the very weights it stores, so ours in
bfloat16 or int8 has one of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fast_s2s
from benchmarks import transformers_peer
from benchmarks.onnx_peers import _iofc, _optional
from fast_s2s.attention import Memory
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.decoding import (
    AttentionWeights,
    DecodeOptions,
    DecoderWeights,
    DecodeState,
    LayerWeights,
    PackedDecoder,
    decode,
    initial_state,
    pack_decoder,
)
from fast_s2s.decoding.weights import Stored

OURS = "fast_s2s"
WITHOUT = "fast_s2s without attention"
BOS = 1
# largest error over largest value: one other token is more than that
TOLERANCE = 3e-5


@dataclass(frozen=True)
class Generation:
    """`steps` tokens for `batch` rows, none of which ends early; embeddings of size `hidden`.

    sample: by chance, at temperature 1 among all tokens
    ragged: rows end after 1 to `steps` tokens, drawn uniformly; the first after `steps`
    attention, source: "dot", which "general" is too once its keys are there, or "additive", over so
            many outputs of an encoder as wide as the decoder; none if empty
    """

    layers: int
    hidden: int
    vocab: int
    batch: int
    beams: int = 1
    steps: int = 50
    sample: bool = False
    ragged: bool = False
    attention: str = ""
    source: int = 0

    def __str__(self) -> str:
        search = f"beam {self.beams}" if self.beams > 1 else "greedy"
        search = "sampled" if self.sample else search
        sizes = f"L={self.layers} H={self.hidden} V={self.vocab} B={self.batch}"
        attention = f" {self.attention} attention S={self.source}" if self.attention else ""
        return f"{search} {sizes}{attention} {self.steps} steps{' at most' * self.ragged}"

    @property
    def step_weights(self) -> int:
        """Numbers that a step must read: all matrices but the first layer's input weights, which a
        table of embeddings replaces.
        """
        return (2 * self.layers - 1) * 4 * self.hidden**2 + self.vocab * self.hidden


class DecodeProblem:
    """A generation's weights and context, drawn from a seed of its own."""

    def __init__(self, workload: Generation) -> None:
        self.workload = workload
        hidden, layers = workload.hidden, workload.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.lstm = nn.LSTM(hidden, hidden, layers)
            self.embedding = nn.Embedding(workload.vocab, hidden)
            self.output = nn.Linear(hidden, workload.vocab)
            # as far apart as those of a trained model: rounding decides no choice
            nn.init.normal_(self.output.weight, std=8 / hidden**0.5)
            self.h = torch.randn(layers, workload.batch, hidden).tanh()
            self.c = torch.randn(layers, workload.batch, hidden)
            self.limits = torch.full((workload.batch,), workload.steps)
            if workload.ragged:
                self.limits[1:] = torch.randint(1, workload.steps + 1, (workload.batch - 1,))
            self.attention = _attention(workload) if workload.attention else None
            self.memory = _memory(workload) if workload.attention else None

    @functools.cached_property
    def weights(self) -> DecoderWeights:
        parameters = {name: value.detach() for name, value in self.lstm.named_parameters()}
        layers = tuple(
            LayerWeights(
                *(
                    parameters[f"{kind}_l{layer}"]
                    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
            )
            for layer in range(self.workload.layers)
        )
        return DecoderWeights(
            self.embedding.weight.detach(),
            layers,
            self.output.weight.detach(),
            self.output.bias.detach(),
            self.attention,
        )

    @property
    def options(self) -> DecodeOptions:
        workload = self.workload
        return DecodeOptions(
            max_new_tokens=self.limits if workload.ragged else workload.steps,
            num_beams=workload.beams,
            do_sample=workload.sample,
            seed=torch.arange(workload.batch) if workload.sample else None,
        )

    def state(self, decoder: PackedDecoder) -> DecodeState:
        """Where generation begins."""
        memory = None if decoder.attention is None else self.memory
        return initial_state(decoder, self.h, self.c, BOS, self.options, memory=memory)

    def expected(self, decoder: PackedDecoder) -> dict[str, Tensor]:
        """By the reference in float64, from the numbers that `decoder` stores."""

        def exact(matrix: Stored) -> Stored:
            return Stored(matrix.dense(torch.float64), None)

        double = dataclasses.replace(
            decoder,
            dtype=torch.float64,
            embedding=decoder.embedding.double(),
            layers=tuple(tuple(exact(m) for m in layer if m) + (None,) for layer in decoder.layers),
            biases=tuple(bias.double() for bias in decoder.biases),
            output=exact(decoder.output),
            attending=decoder.attending
            and decoder.attending._replace(
                output=exact(decoder.attending.output),
                query=decoder.attending.query and exact(decoder.attending.query),
                score=None
                if self.attention is None or self.attention.score is None
                else self.attention.score.double(),
            ),
        )
        with fast_s2s.backend("reference"):
            result = decode(double, self.state(double), self.options)
        return {"tokens": result.tokens[:, 1:], "scores": result.scores}


def _attention(workload: Generation) -> AttentionWeights:
    hidden = workload.hidden
    output = 2 * torch.randn(hidden, 2 * hidden) / (2 * hidden) ** 0.5
    if workload.attention == "dot":
        return AttentionWeights(output)
    query = torch.randn(hidden, hidden) / hidden**0.5
    return AttentionWeights(output, query=query, score=torch.randn(hidden))


def _memory(workload: Generation) -> Memory:
    sizes = (workload.batch, workload.source, workload.hidden)
    lengths = torch.full((workload.batch,), workload.source)
    return Memory(torch.randn(sizes).tanh(), torch.randn(sizes), lengths)


def ours(
    problem: DecodeProblem,
    dtype: torch.dtype = torch.float32,
    name: str = OURS,
    *,
    attends: bool = True,
) -> Prepared:
    weights = problem.weights if attends else problem.weights._replace(attention=None)
    decoder, options = pack_decoder(weights, dtype), problem.options

    def call() -> Any:
        return decode(decoder, problem.state(decoder), options)

    def results(raw: Any) -> dict[str, Tensor]:
        return {"tokens": raw.tokens[:, 1:], "scores": raw.scores}

    return Side(name, call, results, torch.inference_mode), problem.expected(decoder)


def stream(problem: DecodeProblem) -> Prepared:
    """Reads as many bytes as the float32 weights of a step have, once a step: no step is faster."""
    numbers = torch.randn(problem.workload.step_weights)

    def call() -> None:
        for _ in range(problem.workload.steps):
            numbers.sum()

    return Side("streaming the weights", call, lambda raw: {}, torch.inference_mode), None


def nn_lstm_loop(problem: DecodeProblem) -> Prepared:
    def step(token: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        y, state = problem.lstm(problem.embedding(token).unsqueeze(0), state)
        return problem.output(y.squeeze(0)), state

    return _loop("nn.LSTM loop", problem, step, (problem.h, problem.c))


def cell_loop(problem: DecodeProblem) -> Prepared:
    step, state = _cell_step(problem)
    return _loop("LSTMCell loop", problem, step, state)


def compiled_cell_loop(problem: DecodeProblem) -> Prepared:
    torch.compiler.reset()
    step, state = _cell_step(problem)
    compiled = torch.compile(step, dynamic=False)
    return _loop("LSTMCell loop, torch.compile", problem, compiled, state)


def cell_beam(problem: DecodeProblem) -> Prepared:
    """The same search in plain torch, batched over rows and beams; no row ends, which spares it the
    bookkeeping of ended sequences.
    """
    step, (hs, cs) = _cell_step(problem)
    workload = problem.workload
    beams, batch, vocab = workload.beams, workload.batch, workload.vocab
    first = torch.arange(batch).unsqueeze(1) * beams

    def call() -> tuple[Tensor, Tensor]:
        h = [value.repeat_interleave(beams, 0) for value in hs]
        c = [value.repeat_interleave(beams, 0) for value in cs]
        token = torch.full((batch * beams,), BOS)
        scores = torch.full((batch, beams), -1e9)
        scores[:, 0] = 0
        tokens = torch.empty(batch, beams, 0, dtype=torch.int64)
        for _ in range(workload.steps):
            logits, (h, c) = step(token, (h, c))
            totals = logits.log_softmax(1).view(batch, beams, vocab) + scores.unsqueeze(2)
            scores, index = totals.flatten(1).topk(beams)
            parent, chosen = index // vocab, index % vocab
            tokens = torch.cat(
                (tokens.gather(1, parent.unsqueeze(2).expand_as(tokens)), chosen.unsqueeze(2)), 2
            )
            order, token = (first + parent).flatten(), chosen.flatten()
            h, c = [value[order] for value in h], [value[order] for value in c]
        return tokens[:, 0], scores[:, 0] / workload.steps

    def results(raw: Any) -> dict[str, Tensor]:
        return {"tokens": raw[0], "scores": raw[1]}

    return Side("plain torch beam", call, results, torch.inference_mode), _float32(problem)


def transformers_beam(problem: DecodeProblem) -> Prepared:
    step, state = _cell_step(problem)
    workload = problem.workload
    run = transformers_peer.search(step, state, BOS, workload.vocab, workload.beams)

    def results(raw: Any) -> dict[str, Tensor]:
        return {"tokens": raw[0], "scores": raw[1]}

    side = Side("transformers' beam", lambda: run(workload.steps), results, torch.inference_mode)
    return side, _float32(problem)


def onnx_runtime_loop(problem: DecodeProblem) -> Prepared:
    """A step as one graph, its states handed on by IO binding."""
    runtime = _optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(_onnx(problem), options, providers=["CPUExecutionProvider"])
    names = [f"{kind}_{layer}" for kind in "hc" for layer in range(problem.workload.layers)]
    start = torch.cat((problem.h, problem.c)).unsqueeze(1).numpy()
    workload = problem.workload

    def call() -> list[Any]:
        feeds = dict(zip(names, start, strict=True))
        feeds["token"] = torch.full((1, workload.batch), BOS).numpy()
        tokens = []
        for _ in range(workload.steps):
            token, *states = session.run(None, feeds)
            feeds = dict(zip(names, states, strict=True))
            feeds["token"] = token
            tokens.append(token)
        return tokens

    def results(raw: Any) -> dict[str, Tensor]:
        return {"tokens": torch.cat([torch.from_numpy(token) for token in raw]).t()}

    side = Side("ONNX Runtime step loop", call, results, omits=frozenset({"scores"}))
    return side, _float32(problem)


# by the name shown. Slow ones run only when asked for
SIDES: dict[str, Callable[[DecodeProblem], Prepared]] = {
    OURS: ours,
    f"{OURS} bfloat16": functools.partial(ours, dtype=torch.bfloat16, name=f"{OURS} bfloat16"),
    f"{OURS} int8": functools.partial(ours, dtype=torch.int8, name=f"{OURS} int8"),
    WITHOUT: functools.partial(ours, name=WITHOUT, attends=False),
    f"{WITHOUT} int8": functools.partial(
        ours, dtype=torch.int8, name=f"{WITHOUT} int8", attends=False
    ),
    "streaming the weights": stream,
    "nn.LSTM loop": nn_lstm_loop,
    "LSTMCell loop": cell_loop,
    "LSTMCell loop, torch.compile": compiled_cell_loop,
    "ONNX Runtime step loop": onnx_runtime_loop,
    "plain torch beam": cell_beam,
    "transformers' beam": transformers_beam,
}
SLOW = frozenset({"LSTMCell loop, torch.compile"})


def _float32(problem: DecodeProblem) -> dict[str, Tensor]:
    return problem.expected(pack_decoder(problem.weights, torch.float32))


def _cell_step(problem: DecodeProblem) -> tuple[Callable[..., Any], Any]:
    """logits, state = step(token, state), with states a list for each layer."""
    cells = []
    for layer in range(problem.workload.layers):
        cell = nn.LSTMCell(problem.workload.hidden, problem.workload.hidden)
        for name, _ in list(cell.named_parameters()):
            setattr(cell, name, getattr(problem.lstm, f"{name}_l{layer}"))
        cells.append(cell)

    def step(token: Tensor, state: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Any]:
        h, c = list(state[0]), list(state[1])
        x = problem.embedding(token)
        for layer, cell in enumerate(cells):
            h[layer], c[layer] = cell(x, (h[layer], c[layer]))
            x = h[layer]
        return problem.output(x), (h, c)

    return step, (list(problem.h.unbind()), list(problem.c.unbind()))


def _loop(name: str, problem: DecodeProblem, step: Callable[..., Any], state: Any) -> Prepared:
    """Search by a step in Python. Scores are left out: few who want tokens compute them. Samples
    are not checked: no two programs draw the same ones.
    """
    workload = problem.workload
    past = torch.arange(workload.steps) >= problem.limits.unsqueeze(1)

    def call() -> Tensor:
        token, now = torch.full((workload.batch,), BOS), state
        tokens = []
        for _ in range(workload.steps):
            logits, now = step(token, now)
            if workload.sample:
                token = torch.multinomial(logits.softmax(1), 1).squeeze(1)
            else:
                token = logits.argmax(1)
            tokens.append(token)
        found = torch.stack(tokens, dim=1)
        return found.masked_fill(past, 0) if workload.ragged else found

    side = Side(
        name,
        call,
        lambda raw: {"tokens": raw},
        torch.inference_mode,
        frozenset({"scores"}),
    )
    return side, None if workload.sample else _float32(problem)


def _onnx(problem: DecodeProblem) -> bytes:
    """token (1, B) and states (1, B, H) -> the next ones."""
    onnx = _optional("onnx")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    workload = problem.workload
    state = (1, workload.batch, workload.hidden)
    constants = [
        array(problem.embedding.weight.detach().numpy(), "embedding"),
        array(problem.output.weight.detach().t().contiguous().numpy(), "weight"),
        array(problem.output.bias.detach().numpy(), "bias"),
        array(torch.tensor([1]).numpy(), "directions"),
    ]
    nodes = [helper.make_node("Gather", ["embedding", "token"], ["x_0"])]
    for layer in range(workload.layers):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, r, b_w, b_r = (_iofc(getattr(problem.lstm, f"{kind}_l{layer}")) for kind in kinds)
        bias = torch.cat((torch.from_numpy(b_w), torch.from_numpy(b_r))).numpy()
        for name, values in (("W", w), ("R", r), ("B", bias)):
            constants.append(array(values[None], f"{name}_{layer}"))
        inputs = [f"x_{layer}", f"W_{layer}", f"R_{layer}", f"B_{layer}", ""]
        nodes.append(
            helper.make_node(
                "LSTM",
                [*inputs, f"h_{layer}", f"c_{layer}"],
                [f"y_{layer}", f"h_next_{layer}", f"c_next_{layer}"],
                hidden_size=workload.hidden,
            )
        )
        nodes.append(helper.make_node("Squeeze", [f"y_{layer}", "directions"], [f"x_{layer + 1}"]))
    nodes += [
        helper.make_node("MatMul", [f"x_{workload.layers}", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["next"], axis=2, keepdims=0),
    ]
    names = [f"{kind}{{}}_{layer}" for kind in "hc" for layer in range(workload.layers)]
    single, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    info = helper.make_tensor_value_info
    token = (1, workload.batch)
    graph = helper.make_graph(
        nodes,
        "step",
        [*(info(name.format(""), single, state) for name in names), info("token", whole, token)],
        [info("next", whole, token), *(info(n.format("_next"), single, state) for n in names)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
