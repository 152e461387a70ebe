"""Speech to tokens: a transducer's greedy search by us, and by loops over predictor and joiner.

About three frames in ten bring a token, as in English speech of 80 ms a frame. Ours and a loop give
the same tokens or the timing is refused.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fast_s2s
from benchmarks import onnx_peers
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS, CellLoop
from fast_s2s.decoding import (
    PackedTransducer,
    TransducerBeamResult,
    TransducerResult,
    TransducerWeights,
    pack_transducer,
    transducer_beam,
    transducer_greedy,
)

MAX_SYMBOLS = 10
_TOKENS_A_FRAME = 0.3

BEAM_LOOP = "loop in torch"

Found = TransducerResult | TransducerBeamResult
# predicted, state = read(tokens (B,), state); the state is h and c, a list of layers each
State = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Speech:
    """`frames` of each of `batch` rows; embeddings and joiner of size `hidden`.

    durations: 0 to so many less one, of a token-and-duration transducer; 0: a blank takes one frame
    beams:     of a beam search; 0: greedy search
    """

    layers: int
    hidden: int
    vocab: int
    batch: int
    frames: int = 100
    durations: int = 0
    beams: int = 0

    def __str__(self) -> str:
        kind = f" {self.durations} durations" if self.durations else ""
        kind += f" {self.beams} beams" if self.beams else ""
        sizes = f"L={self.layers} H={self.hidden} V={self.vocab} B={self.batch}"
        return f"transducer {sizes}{kind} {self.frames} frames"


class SpeechProblem:
    """Weights and frames, drawn from a seed of their own; the blank is the last token."""

    def __init__(self, workload: Speech) -> None:
        self.workload = workload
        hidden, vocab = workload.hidden, workload.vocab
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.embedding = nn.Embedding(vocab, hidden)
            self.lstm = nn.LSTM(hidden, hidden, workload.layers)
            self.projection = nn.Linear(hidden, hidden)
            self.output = nn.Linear(hidden, vocab + workload.durations)
            # so far apart as those of a trained model that rounding decides no choice
            nn.init.normal_(self.projection.weight, std=6 / hidden**0.5)
            nn.init.normal_(self.output.weight, std=4 / hidden**0.5)
            self.encoded = torch.randn(workload.batch, workload.frames, hidden)
        self.durations = tuple(range(workload.durations))
        self._silence()

    @torch.no_grad()
    def _silence(self) -> None:
        """The blank's bias by which about as many frames as in speech bring a token."""
        low, high = 0.0, 100.0
        for _ in range(12):
            bias = (low + high) / 2
            self.output.bias[self.workload.vocab - 1] = bias
            found = transducer_greedy(self.packed(torch.float32), self.encoded[:4])
            often = float(found.lengths.double().mean()) / self.workload.frames
            low, high = (bias, high) if often > _TOKENS_A_FRAME else (low, bias)

    def packed(self, dtype: torch.dtype) -> PackedTransducer:
        weights = TransducerWeights.of(self.embedding, self.lstm, self.output, self.projection)
        return pack_transducer(
            weights,
            blank=self.workload.vocab - 1,
            activation="relu",
            durations=self.durations,
            dtype=dtype,
        )

    def expected(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """By the reference, of the numbers that are stored as `dtype`."""
        with fast_s2s.backend("reference"):
            return self.results(self.search(self.packed(dtype)))

    def search(self, transducer: PackedTransducer) -> Found:
        """What is measured."""
        if not self.workload.beams:
            return transducer_greedy(transducer, self.encoded, max_symbols=MAX_SYMBOLS)
        # all of them: the likeliest of a model that is not trained is nearly empty
        beams = {"num_beams": self.workload.beams, "num_return_sequences": self.workload.beams}
        return transducer_beam(transducer, self.encoded, max_symbols=MAX_SYMBOLS, **beams)

    def results(self, found: Found) -> dict[str, Tensor]:
        """The tokens of each row."""
        return {"tokens": found.tokens.flatten(1)}


def ours(problem: SpeechProblem, dtype: torch.dtype = torch.float32, name: str = OURS) -> Prepared:
    transducer = problem.packed(dtype)

    def call() -> Found:
        return problem.search(transducer)

    return Side(name, call, problem.results, torch.inference_mode), problem.expected(dtype)


def beam_loop(problem: SpeechProblem) -> Prepared:
    """Our reference: row by row, hypotheses of a row at once."""
    if not problem.workload.beams:
        raise Unavailable("beam search only")
    transducer = problem.packed(torch.float32)

    def call() -> Found:
        return problem.search(transducer)

    around = functools.partial(fast_s2s.backend, "reference")
    return Side(BEAM_LOOP, call, problem.results, around), problem.expected()


def cell_loop(problem: SpeechProblem) -> Prepared:
    """In plain torch, all rows at once: the predictor reads only when one has a new token."""
    if problem.workload.beams:
        raise Unavailable("greedy search only")
    cells, hidden = list(CellLoop(problem.lstm).cells), problem.workload.hidden

    def read(token: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = list(state[0]), list(state[1])
        x = problem.embedding(token)
        for layer, cell in enumerate(cells):
            h[layer], c[layer] = cell(x, (h[layer], c[layer]))
            x = h[layer]
        return problem.projection(x), (h, c)

    zeros = [torch.zeros(problem.workload.batch, hidden) for _ in cells]
    search = _one_row if problem.workload.batch == 1 else _all_rows

    def call() -> list[list[int]]:
        return search(problem, read, (list(zeros), list(zeros)))

    def results(raw: list[list[int]]) -> dict[str, Tensor]:
        return _padded(raw, problem.workload.vocab - 1)

    side = Side("LSTMCell loop", call, results, torch.inference_mode)
    return side, problem.expected()


def onnx_runtime_loop(problem: SpeechProblem) -> Prepared:
    """Predictor and joiner as a session each, as programs that serve such models have them."""
    if problem.workload.batch > 1 or problem.workload.beams:
        raise Unavailable("greedy search of one row only")
    predictor, joiner = (onnx_peers.session(model) for model in _onnx(problem))
    vocab, durations = problem.workload.vocab, problem.durations
    encoded = problem.encoded.numpy()
    names = onnx_peers.state_names(problem.workload.layers)
    zeros = torch.zeros(1, 1, problem.workload.hidden).numpy()

    def read(token: int, states: list[Any]) -> list[Any]:
        feeds = dict(zip(names, states, strict=True))
        feeds["token"] = torch.tensor([[token]]).numpy()
        found: list[Any] = predictor.run(None, feeds)
        return found

    def call() -> list[list[int]]:
        (predicted, *after), found, at, symbols = read(vocab - 1, [zeros] * len(names)), [], 0, 0
        while at < problem.workload.frames:
            feeds = {"frame": encoded[:, at], "predicted": predicted}
            token, *lasts = (int(part[0]) for part in joiner.run(None, feeds))
            if token != vocab - 1:
                found.append(token)
                predicted, *after = read(token, after)
            takes = durations[lasts[0]] if lasts else 0
            ahead, symbols = _ahead(token == vocab - 1, takes, symbols)
            at += ahead
        return [found]

    def results(raw: list[list[int]]) -> dict[str, Tensor]:
        return _padded(raw, vocab - 1)

    name, rest = "ONNX Runtime step loop", onnx_peers.SPINNING_S
    return Side(name, call, results, rest_s=rest), problem.expected()


SIDES: dict[str, Callable[[SpeechProblem], Prepared]] = {
    OURS: ours,
    f"{OURS} bfloat16": functools.partial(ours, dtype=torch.bfloat16, name=f"{OURS} bfloat16"),
    f"{OURS} int8": functools.partial(ours, dtype=torch.int8, name=f"{OURS} int8"),
    BEAM_LOOP: beam_loop,
    "LSTMCell loop": cell_loop,
    "ONNX Runtime step loop": onnx_runtime_loop,
}


def _padded(found: list[list[int]], fill: int) -> dict[str, Tensor]:
    rows = [torch.tensor(row, dtype=torch.int64) for row in found]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
    return {"tokens": padded}


def _ahead(blank: bool, takes: int, symbols: int) -> tuple[int, int]:
    """Frames to go on by, and tokens of the frame then."""
    if blank:
        return max(1, takes), 0
    if takes:
        return takes, 0
    return (1, 0) if symbols + 1 == MAX_SYMBOLS else (0, symbols + 1)


def _one_row(problem: SpeechProblem, read: Callable[..., Any], state: State) -> list[list[int]]:
    vocab, durations = problem.workload.vocab, problem.durations
    predicted, after = read(torch.tensor([vocab - 1]), state)
    found: list[int] = []
    at = symbols = 0
    while at < problem.workload.frames:
        logits = problem.output((problem.encoded[:, at] + predicted).relu())
        token = int(logits[0, :vocab].argmax())
        takes = durations[int(logits[0, vocab:].argmax())] if durations else 0
        if token != vocab - 1:
            found.append(token)
            predicted, after = read(torch.tensor([token]), after)
        ahead, symbols = _ahead(token == vocab - 1, takes, symbols)
        at += ahead
    return [found]


def _all_rows(problem: SpeechProblem, read: Callable[..., Any], state: State) -> list[list[int]]:
    """Each at its own frame. Of a transducer without durations."""
    if problem.durations:
        raise Unavailable("no durations")
    batch, frames, blank = (
        problem.workload.batch,
        problem.workload.frames,
        problem.workload.vocab - 1,
    )
    rows, at = torch.arange(batch), torch.zeros(batch, dtype=torch.int64)
    symbols = torch.zeros_like(at)
    token = torch.full((batch,), blank)
    predicted, after = read(token, state)
    found: list[list[int]] = [[] for _ in range(batch)]
    while bool((runs := at < frames).any()):
        x = problem.encoded[rows, at.clamp(max=frames - 1)]
        best = problem.output((x + predicted).relu()).argmax(1)
        chose = runs & (best != blank)
        symbols = torch.where(chose, symbols + 1, 0)
        full = symbols == MAX_SYMBOLS
        at = at + (runs & (~chose | full))
        symbols = symbols.masked_fill(full, 0)
        chosen = chose.nonzero().squeeze(1)
        for row, one in zip(chosen.tolist(), best[chosen].tolist(), strict=True):
            found[row].append(one)
        if len(chosen):
            h, c = ([part[chosen] for part in parts] for parts in after)
            new, (new_h, new_c) = read(best[chosen], (h, c))
            predicted = predicted.index_copy(0, chosen, new)
            for parts, changed in zip(after, (new_h, new_c), strict=True):
                for layer, part in enumerate(changed):
                    parts[layer] = parts[layer].index_copy(0, chosen, part)
    return found


def _onnx(problem: SpeechProblem) -> tuple[bytes, bytes]:
    """Of token (1, 1) and states (1, 1, H): predicted (1, J) and the states. Of frame and predicted
    (1, J): token (1,), with durations the index of its own (1,).
    """
    onnx = onnx_peers._optional("onnx")
    helper, make_array = onnx.helper, onnx.numpy_helper.from_array
    node, workload = helper.make_node, problem.workload
    hidden, layers = workload.hidden, workload.layers

    def array(name: str, tensor: Tensor) -> Any:
        return make_array(tensor.detach().contiguous().numpy(), name)

    def floats(sizes: tuple[int, ...], *names: str) -> list[Any]:
        make = helper.make_tensor_value_info
        return [make(name, onnx.TensorProto.FLOAT, sizes) for name in names]

    def whole(name: str, *sizes: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.INT64, sizes)

    nodes, constants = onnx_peers.step_nodes(problem.embedding, problem.lstm)
    predictor = onnx_peers.step_model(
        "predictor",
        [
            *nodes,
            node("Squeeze", [f"x_{layers}", "first"], ["top"]),
            node("Gemm", ["top", "matrix", "bias"], ["predicted"], transB=1),
        ],
        [whole("token", 1, 1), *floats((1, 1, hidden), *onnx_peers.state_names(layers))],
        [
            *floats((1, hidden), "predicted"),
            *floats((1, 1, hidden), *onnx_peers.state_names(layers, "_next")),
        ],
        [
            *constants,
            array("first", torch.tensor([0])),
            array("matrix", problem.projection.weight),
            array("bias", problem.projection.bias),
        ],
    )
    sizes = [workload.vocab] + [workload.durations] * (workload.durations > 0)
    names = ["token", "duration"][: len(sizes)]
    logits = [f"{name}_logits" for name in names]
    joiner = onnx_peers.step_model(
        "joiner",
        [
            node("Add", ["frame", "predicted"], ["sum"]),
            node("Relu", ["sum"], ["joined"]),
            node("Gemm", ["joined", "matrix", "bias"], ["logits"], transB=1),
            node("Split", ["logits", "sizes"], logits, axis=1),
            *(
                node("ArgMax", [each], [name], axis=1, keepdims=0)
                for each, name in zip(logits, names, strict=True)
            ),
        ],
        floats((1, hidden), "frame", "predicted"),
        [whole(name, 1) for name in names],
        [
            array("sizes", torch.tensor(sizes)),
            array("matrix", problem.output.weight),
            array("bias", problem.output.bias),
        ],
    )
    return predictor, joiner
