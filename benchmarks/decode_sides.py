"""What `bench_decode` times: whole generations by us and by whatever else a PyTorch user has.

Every side of a problem has the same random weights and starts from the same context. Its tokens and
scores are compared with those of a float64 reference: of the very weights it stores, so ours in
bfloat16 or int8 has one of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import onnx_peers, transformers_peer
from benchmarks.decode_problem import BOS, DecodeProblem
from benchmarks.onnx_peers import SPINNING_S
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import CellLoop
from fast_s2s.decoding import decode, pack_decoder

OURS = "fast_s2s"
WITHOUT = "fast_s2s without attention"


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

    return _side(problem, name, call, results), problem.expected(decoder)


def stream(problem: DecodeProblem) -> Prepared:
    """Reads as many bytes as the float32 weights of a step have, once a step: no step is faster."""
    numbers = torch.randn(problem.workload.step_weights, device=problem.device)

    def call() -> None:
        for _ in range(problem.workload.steps):
            numbers.sum()

    return _side(problem, "streaming the weights", call, lambda raw: {}), None


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
    device = problem.device
    first = torch.arange(batch, device=device).unsqueeze(1) * beams

    def call() -> tuple[Tensor, Tensor]:
        h = [value.repeat_interleave(beams, 0) for value in hs]
        c = [value.repeat_interleave(beams, 0) for value in cs]
        token = torch.full((batch * beams,), BOS, device=device)
        scores = torch.full((batch, beams), -1e9, device=device)
        scores[:, 0] = 0
        tokens = torch.empty(batch, beams, 0, dtype=torch.int64, device=device)
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

    return _side(problem, "plain torch beam", call, results), _float32(problem)


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
    session = onnx_peers.session(_onnx(problem))
    names = onnx_peers.state_names(problem.workload.layers)
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

    side = Side(
        "ONNX Runtime step loop", call, results, omits=frozenset({"scores"}), rest_s=SPINNING_S
    )
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
    cells = list(CellLoop(problem.lstm).cells)

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
    past = torch.arange(workload.steps, device=problem.device) >= problem.limits.unsqueeze(1)

    def call() -> Tensor:
        token, now = torch.full((workload.batch,), BOS, device=problem.device), state
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

    side = _side(problem, name, call, lambda raw: {"tokens": raw}, frozenset({"scores"}))
    return side, None if workload.sample else _float32(problem)


def _side(
    problem: DecodeProblem,
    name: str,
    call: Callable[[], Any],
    results: Callable[[Any], dict[str, Tensor]],
    omits: frozenset[str] = frozenset(),
) -> Side:
    cuda = problem.device.type == "cuda"
    return Side(name, call, results, torch.inference_mode, omits, cuda)


def _onnx(problem: DecodeProblem) -> bytes:
    """token (1, B) and states (1, B, H) -> the next ones."""
    onnx = onnx_peers._optional("onnx")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    workload = problem.workload
    nodes, constants = onnx_peers.step_nodes(problem.embedding, problem.lstm)
    constants += [
        array(problem.output.weight.detach().t().contiguous().numpy(), "weight"),
        array(problem.output.bias.detach().numpy(), "bias"),
    ]
    nodes += [
        helper.make_node("MatMul", [f"x_{workload.layers}", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["next"], axis=2, keepdims=0),
    ]
    token, state = (1, workload.batch), (1, workload.batch, workload.hidden)

    def infos(name: str, suffix: str) -> list[Any]:
        info = helper.make_tensor_value_info
        states = onnx_peers.state_names(workload.layers, suffix)
        return [
            info(name, onnx.TensorProto.INT64, token),
            *(info(each, onnx.TensorProto.FLOAT, state) for each in states),
        ]

    inputs, outputs = infos("token", ""), infos("next", "_next")
    return onnx_peers.step_model("step", nodes, inputs, outputs, constants)
