"""What `python -m benchmarks lstm` measures, against whom, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers import OURS
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.workloads import Workload


def lstm_cases() -> list[Case]:
    """Every case of `bench_lstm`, in the order of its table."""
    return [
        *_step(),
        *_small_batches(),
        *_large_batches(),
        *_ragged(),
        *_front_end(),
        *_bfloat16(),
        *_memory(),
        *_cells(),
        *_grid(),
        *_lengths(),
        *_published(),
        *_awkward(),
        *_both_directions(),
        *_cold_starts(),
    ]


def _step() -> Iterator[Case]:
    peers = (
        Versus("nn.LSTM", 20),
        Versus("nn.LSTM native"),
        Versus("LSTMCell loop", 5),
        Versus("LSTMCell loop, torch.compile"),
        Versus("ONNX Runtime"),
        Versus("OpenVINO"),
        Versus("JAX lax.scan"),
        Versus("nn.LSTM per layer"),
        Versus("nn.LSTM, torch.compile"),
    )
    yield Case("one step", Workload(1, 1, 512, layers=2), peers)


def _small_batches() -> Iterator[Case]:
    others = (Versus("nn.LSTM native"), Versus("ONNX Runtime"), Versus("OpenVINO"))
    loops = (Versus("LSTMCell loop"), Versus("LSTMCell loop, torch.compile"))
    loops += (Versus("nn.LSTM, torch.compile"), Versus("JAX lax.scan"))
    for batch, target in ((1, 1.5), (8, 1.3)):
        for hidden in (256, 512):
            peers: tuple[Versus, ...] = (Versus("nn.LSTM", target), *others)
            peers += loops if (batch, hidden) == (1, 256) else ()
            yield Case("small batch", Workload(64, batch, hidden), peers)


def _large_batches() -> Iterator[Case]:
    for batch in (32, 64):
        for hidden in (256, 512, 1024):
            for training in (False, True):
                peers: tuple[Versus, ...] = (Versus("nn.LSTM", 1.1, floor=0.95),)
                if (batch, hidden) == (32, 512):
                    peers += (Versus("nn.LSTM native"), Versus("JAX lax.scan"))
                yield Case("large batch", Workload(64, batch, hidden, training=training), peers)


def _ragged() -> Iterator[Case]:
    peers = (Versus("nn.LSTM PackedSequence", 5), Versus("nn.LSTM padded", 1.5))
    yield Case("ragged", Workload(200, 32, 256, training=True, ragged=True), peers)


def _front_end() -> Iterator[Case]:
    for hidden in (32, 64, 128):
        for batch in (1, 8):
            for steps in (16, 64):
                peers = (Versus("nn.LSTM", 1.5), Versus("ONNX Runtime", 1.5), Versus("OpenVINO"))
                yield Case("speech front end", Workload(steps, batch, hidden), peers)


def _bfloat16() -> Iterator[Case]:
    single = f"{OURS} float32"
    for workload in (
        Workload(1, 1, 512, layers=2, dtype="bfloat16"),
        Workload(64, 1, 512, dtype="bfloat16"),
        Workload(64, 1, 1024, dtype="bfloat16"),
    ):
        peers = (Versus(single, 1.6), Versus("nn.LSTM"))
        yield Case("bfloat16 weights", workload, peers)


def _memory() -> Iterator[Case]:
    for workload in (
        Workload(200, 32, 256, training=True),
        Workload(1000, 8, 256, training=True),
        Workload(200, 32, 256),
    ):
        if workload.training:
            peers = (Versus("nn.LSTM", 0.7),)
            yield Case("peak memory", workload, peers, f"{OURS} recompute", "memory")
        yield Case("peak memory", workload, _NN_LSTM, OURS, "memory")


def _cells() -> Iterator[Case]:
    for batch, hidden in ((1, 128), (1, 512), (32, 512)):
        for training in (False, True):
            workload = Workload(1, batch, hidden, training=training)
            yield Case("cell", workload, (Versus("nn.LSTMCell"),), f"{OURS} LSTMCell")


_NN_LSTM = (Versus("nn.LSTM"),)


def _grid() -> Iterator[Case]:
    """What the other groups leave of the table by batch and hidden size at 64 steps."""
    there = {
        (case.workload.batch, case.workload.hidden, case.workload.training)
        for case in (*_small_batches(), *_large_batches(), *_front_end())
        if case.workload.steps == 64
    }
    for hidden in (32, 64, 128, 256, 512, 650, 1024, 1150):
        for batch in (1, 3, 8, 20, 32, 64, 130):
            # larger ones take seconds a call, and say what their neighbours say
            if batch * hidden <= 64 * 1024 and (batch, hidden, False) not in there:
                yield Case("batch and size", Workload(64, batch, hidden), _NN_LSTM)
    for hidden in (64, 128, 256, 512, 1024):
        for batch in (1, 8, 20, 32, 64):
            if batch * hidden <= 32 * 1024 and (batch, hidden, True) not in there:
                workload = Workload(64, batch, hidden, training=True)
                yield Case("batch and size", workload, _NN_LSTM)


def _lengths() -> Iterator[Case]:
    """For time per step against T; 64 is in the table by batch and hidden size."""
    for batch, hidden in ((1, 64), (1, 256), (32, 256)):
        for steps in (1, 4, 16, 256, 1024):
            if (steps, batch, hidden) != (16, 1, 64):
                yield Case("number of steps", Workload(steps, batch, hidden), _NN_LSTM)
    native = (Versus("nn.LSTM"), Versus("nn.LSTM native"))
    yield Case("number of steps", Workload(70_000, 1, 32), native)


def _published() -> Iterator[Case]:
    """Shapes of DeepBench (its rnn_problems.h), of FlashRNN's paper, and of seq2seq models."""
    for steps, batch, hidden in ((25, 16, 512), (25, 32, 1024), (50, 8, 1536), (150, 16, 256)):
        workload = Workload(steps, batch, hidden, training=True)
        yield Case("DeepBench", workload, _NN_LSTM)
    for batch, hidden in ((1, 1536), (4, 512)):
        yield Case("DeepBench", Workload(25, batch, hidden), _NN_LSTM)
    yield Case("FlashRNN", Workload(1024, 2, 768), _NN_LSTM)
    yield Case("FlashRNN", Workload(256, 16, 768, training=True), _NN_LSTM)
    for training in (False, True):
        encoder = Workload(30, 32, 512, layers=2, training=training, bidirectional=True)
        yield Case("seq2seq", encoder, _NN_LSTM)
        deep = Workload(30, 32, 500, layers=4, training=training)
        yield Case("seq2seq", deep, (*_NN_LSTM, Versus("nn.LSTM per layer")))


def _awkward() -> Iterator[Case]:
    for workload in (
        Workload(7, 3, 100, inputs=80),
        Workload(64, 20, 200, inputs=300, training=True),
        Workload(64, 3, 650, layers=2),
        Workload(20, 130, 1150, inputs=300),
        Workload(64, 8, 512, proj=128),
        Workload(64, 8, 512, proj=128, training=True),
        Workload(64, 1, 256, bidirectional=True),
        Workload(70, 20, 1150, layers=3, inputs=400),
    ):
        yield Case("awkward", workload, _NN_LSTM)
    for workload in (Workload(200, 32, 256, ragged=True), Workload(64, 3, 128, ragged=True)):
        peers = (Versus("nn.LSTM PackedSequence"), Versus("nn.LSTM padded"))
        yield Case("ragged", workload, peers)
    both = Workload(64, 20, 256, training=True, ragged=True, bidirectional=True)
    yield Case("ragged", both, (Versus("nn.LSTM PackedSequence"),))


def _both_directions() -> Iterator[Case]:
    """Encoders of short inputs, taggers, text recognition."""
    for batch, hidden in ((1, 64), (1, 128), (8, 64), (8, 128), (32, 128)):
        for training in (False, True):
            workload = Workload(64, batch, hidden, training=training, bidirectional=True)
            yield Case("both directions", workload, _NN_LSTM)


def _cold_starts() -> Iterator[Case]:
    peers = (Versus("nn.LSTM"), Versus("LSTMCell loop, torch.compile"))
    yield Case("first call", Workload(16, 1, 256, layers=2), peers, kind="cold start")
