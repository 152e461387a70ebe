"""What `python -m benchmarks gpu` measures, in the order in which time is spent on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks import flashrnn_peer, gpu_peers, norm_sides
from benchmarks.decode_problem import Generation
from benchmarks.norm_sides import NormWorkload
from benchmarks.seq2seq_sides import Step
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.generation import Greedy
from fast_s2s.benchmarking.sides import OURS
from fast_s2s.benchmarking.workloads import Workload

KERNELS = tuple(f"{OURS} triton {name}" for name in gpu_peers.KERNELS)
FLASHRNN = tuple(f"FlashRNN {backend}" for backend in flashrnn_peer.BACKENDS)
_LOOPS = ("nn.LSTM loop", "LSTMCell loop", "nn.LSTM step CUDA graph", "LSTMCell step CUDA graph")
_COMPILED = ("nn.LSTM, torch.compile", "LSTMCell loop, torch.compile")


def gpu_cases() -> list[Case]:
    """Every case, the most valuable first."""
    found = [
        *_first(),
        *_generations(),
        *_shapes(),
        *_models(),
        *_norms(),
        *_cold_starts(),
        *_compiled(),
        *_awkward(),
        *_grid(),
    ]
    unique: dict[tuple[str, str, str], Case] = {}
    for case in found:
        # what comes early, with more peers, comes again in the grid
        unique.setdefault((case.group, str(case.workload), case.ours), case)
    return list(unique.values())


def tiny_cases() -> list[Case]:
    """One of each sort, for Triton's interpreter."""
    train, half = Workload(2, 3, 17, training=True), Workload(2, 1, 8, dtype="bfloat16")
    return [
        Case("LSTM on the GPU", train, _versus(train, "nn.LSTM CUDA graph", FLASHRNN[0])),
        Case("LSTM on the GPU", half, _versus(half, *KERNELS)),
        Case("generation", Greedy(2, 8, 11, 2, 4), _named(*_LOOPS)),
        _cell(2, 8, "float32", False),
        Case("beam search", Generation(1, 8, 11, 2, beams=3, steps=4), _named("plain torch beam")),
        Case("sampling", Generation(1, 8, 11, 2, steps=4, sample=True), _named("LSTMCell loop")),
        Case("training step", Step(1, 8, 11, 3, 4, 5), _named("nn.LSTM model")),
        Case("layer norm", NormWorkload(2, 3, 17, training=True), _named(norm_sides.LOOP)),
        Case("first call", Workload(2, 1, 8), _named("nn.LSTM"), kind="cold start"),
    ]


def _first() -> Iterator[Case]:
    """Those of the targets: bfloat16, small B, all forms of both sides."""
    for hidden, batch in itertools.product((512, 128, 1024, 256), (16, 1)):
        for training in (False, True):
            workload = Workload(512, batch, hidden, dtype="bfloat16", training=training)
            names = ("nn.LSTM CUDA graph", f"{OURS} CUDA graph") if not training else ()
            yield _case(workload, *names, *KERNELS)


def _generations() -> Iterator[Case]:
    for sizes in ((2, 512, 1000, 1), (1, 256, 100, 1), (2, 512, 1000, 32), (2, 1024, 8000, 1)):
        yield Case("generation", Greedy(*sizes, 50), _named(*_LOOPS))


def _shapes() -> Iterator[Case]:
    """Layers, directions, ragged rows, other lengths; the loop over cells where it is short."""
    for workload in (
        Workload(64, 1, 512, dtype="bfloat16"),
        Workload(1, 1, 512, layers=2, dtype="bfloat16"),
        Workload(200, 32, 512, layers=2, dtype="bfloat16", training=True),
        Workload(200, 32, 512, dtype="bfloat16", training=True, bidirectional=True),
        Workload(200, 32, 256, dtype="bfloat16", training=True, ragged=True),
        Workload(1024, 16, 768, dtype="bfloat16"),
        Workload(1024, 16, 768, dtype="bfloat16", training=True),
        Workload(30, 64, 1024, layers=4, dtype="bfloat16", training=True),
        Workload(70_000, 1, 128, dtype="bfloat16"),
    ):
        short = workload.steps <= 64 and not workload.training and workload.layers <= 2
        names = ("LSTMCell loop", "LSTMCell loop CUDA graph") if short else ()
        yield _case(workload, *names)


def _models() -> Iterator[Case]:
    """Whole training steps, searches and samples, and single cells; in float32."""
    for step in (Step(2, 512, 1000, 32, 30, 30), Step(1, 256, 100, 32, 20, 20)):
        yield Case("training step", step, _named("nn.LSTM model"))
    for sizes in ((2, 512, 1000, 1), (1, 128, 100, 32)):
        yield Case("beam search", Generation(*sizes, beams=5), _named("plain torch beam"))
        yield Case("sampling", Generation(*sizes, sample=True), _named("LSTMCell loop"))
        yield Case("rows that end", Generation(*sizes, ragged=True), _named("LSTMCell loop"))
    for batch, hidden in ((32, 512), (1, 512)):
        for training in (False, True):
            yield _cell(batch, hidden, "bfloat16", training)


def _norms() -> Iterator[Case]:
    """Layer norm, which cuDNN has not: beside loops over steps."""
    peers = _named(norm_sides.LOOP, norm_sides.SCRIPT, norm_sides.COMPILED)
    for dtype, training in itertools.product(("bfloat16", "float32"), (True, False)):
        yield Case("layer norm", NormWorkload(200, 32, 512, dtype=dtype, training=training), peers)


def _cold_starts() -> Iterator[Case]:
    peers = _named("nn.LSTM", f"{OURS} triton", "LSTMCell loop, torch.compile")
    yield Case("first call", Workload(16, 1, 256, dtype="bfloat16"), peers, kind="cold start")


def _compiled() -> Iterator[Case]:
    """Peers that compile for minutes, with `--compile`. Triton's of FlashRNN takes up to H=64."""
    group = "beside compilers"
    yield Case(group, Workload(64, 1, 512, dtype="bfloat16"), _named(*_COMPILED))
    for hidden, steps in ((512, 512), (768, 1024), (64, 512)):
        for training in (False, True):
            workload = Workload(steps, 16, hidden, dtype="bfloat16", training=training)
            yield Case(group, workload, _named(*(FLASHRNN if hidden == 64 else FLASHRNN[:2])))


def _awkward() -> Iterator[Case]:
    """Sizes that are no multiples of a tile, projections, and those of DeepBench and seq2seq."""
    for workload in (
        Workload(64, 3, 650, layers=2, dtype="bfloat16"),
        Workload(64, 20, 100, inputs=80, dtype="bfloat16", training=True),
        Workload(20, 130, 1150, inputs=300, dtype="bfloat16", training=True),
        Workload(64, 8, 512, proj=128, dtype="bfloat16", training=True),
        Workload(64, 20, 256, dtype="bfloat16", training=True, ragged=True, bidirectional=True),
        Workload(30, 32, 500, layers=4, dtype="bfloat16", training=True),
        Workload(25, 32, 1024, dtype="bfloat16", training=True),
        Workload(50, 8, 1536, dtype="bfloat16", training=True),
        Workload(150, 16, 256, dtype="bfloat16", training=True),
        *(Workload(steps, 16, 512, dtype="bfloat16") for steps in (1, 16, 2048)),
    ):
        yield _case(workload)


def _grid() -> Iterator[Case]:
    dtypes = ("bfloat16", "float16", "float32")
    for dtype, training in itertools.product(dtypes, (False, True)):
        for hidden in (128, 512, 64, 256, 1024, 768, 200, 2048):
            for batch in (16, 1, 32, 8, 128, 3, 512):
                yield _case(Workload(512, batch, hidden, dtype=dtype, training=training))


def _cell(batch: int, hidden: int, dtype: str, training: bool) -> Case:
    workload = Workload(1, batch, hidden, dtype=dtype, training=training)
    return Case("cell", workload, _named("nn.LSTMCell"), f"{OURS} LSTMCell")


def _case(workload: Workload, *names: str) -> Case:
    return Case("LSTM on the GPU", workload, _versus(workload, *names))


def _versus(workload: Workload, *names: str) -> tuple[Versus, ...]:
    """Peers that have another form for this workload, our backends, and those named."""
    found = ["nn.LSTM PackedSequence", "nn.LSTM padded"] if workload.ragged else ["nn.LSTM"]
    # without its last steps the reverse direction of a padded row is another one
    if workload.ragged and workload.bidirectional:
        found.remove("nn.LSTM padded")
    if workload.dtype == "bfloat16" and not workload.ragged:
        found += ["nn.LSTM repaired", "nn.LSTM float16"]
    if workload.layers > 1:
        found.append("nn.LSTM per layer")
    return _named(*found, f"{OURS} cuda", f"{OURS} triton", *names)


def _named(*names: str) -> tuple[Versus, ...]:
    return tuple(Versus(name) for name in names)
