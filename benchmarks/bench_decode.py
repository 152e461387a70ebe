"""`python -m benchmarks decode`: whole generations on the CPU, layers that run step by step, and
training steps, beside peers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command, g2p_sides
from benchmarks.decode_problem import Generation
from benchmarks.decode_sides import OURS, SLOW, WITHOUT
from benchmarks.ensemble_sides import LOOP, Together
from benchmarks.packed_sides import TORCH_INT8, Stream
from benchmarks.seq2seq_sides import Step
from benchmarks.transducer_sides import BEAM_LOOP, Speech
from fast_s2s.benchmarking.cases import Case, Versus


def decode_cases() -> list[Case]:
    """Every case, in the order of its table."""
    greedy = Generation(2, 512, 1000, 1)
    loop = "LSTMCell loop"
    cases = [
        Case(
            "generation",
            greedy,
            (
                Versus("nn.LSTM loop", 25),
                Versus(loop, 5),
                Versus(f"{loop}, torch.compile", 5),
                Versus("ONNX Runtime step loop", 5),
                # within 1.5 times of it
                Versus("streaming the weights", 1 / 1.5),
            ),
        ),
        Case("generation", Generation(1, 128, 100, 1), (Versus(loop, 5), Versus("nn.LSTM loop"))),
        Case("generation", Generation(1, 128, 100, 32), (Versus(loop, 5), Versus("nn.LSTM loop"))),
        Case("generation", Generation(2, 512, 1000, 32), (Versus(loop, 1.5),)),
    ]
    for sizes, target in (((1, 128, 100, 1), 5), ((2, 512, 1000, 1), 3), ((1, 128, 100, 32), 2)):
        peers = (Versus("plain torch beam", target), Versus("transformers' beam"))
        cases.append(Case("beam search", Generation(*sizes, beams=5), peers))
    for sizes in ((1, 128, 100, 1), (2, 512, 1000, 1), (2, 512, 8000, 1)):
        cases.append(Case("sampling", Generation(*sizes, sample=True), (Versus(loop),)))
    for sizes in ((1, 128, 100, 32), (2, 512, 1000, 32)):
        cases.append(Case("rows that end", Generation(*sizes, ragged=True), (Versus(loop),)))
    for sizes, kind, dtype in (
        ((1, 128, 100, 1), "dot", ""),
        ((2, 512, 1000, 1), "dot", ""),
        ((2, 512, 1000, 1), "dot", " int8"),
        ((2, 512, 1000, 1), "additive", ""),
        ((2, 512, 1000, 32), "dot", ""),
    ):
        workload = Generation(*sizes, attention=kind, source=64)
        # at most 1.5 times as long
        peers = (Versus(WITHOUT + dtype, 1 / 1.5),)
        cases.append(Case("attention", workload, peers, OURS + dtype))
    for dtype, target in (("int8", 2.5), ("bfloat16", 1.6)):
        cases.append(Case("stored as", greedy, (Versus(OURS, target),), f"{OURS} {dtype}"))
    for batch, target in ((1, 8), (64, 20)):
        workload = g2p_sides.Words(batch)
        for name in (OURS, f"{OURS} int8"):
            cases.append(Case("words", workload, (Versus("g2p-en 2.1.0", target),), name))
    for batch, beams in ((1, 1), (1, 5), (64, 1), (64, 5)):
        cases.append(Case("ensemble", Together(3, 256, 50, batch, beams=beams), (Versus(LOOP),)))
    for speech in (Speech(2, 640, 1025, 1), Speech(2, 640, 1025, 1, durations=5)):
        for name in (OURS, f"{OURS} int8"):
            peers = (Versus(loop, 5), Versus("ONNX Runtime step loop"))
            cases.append(Case("speech", speech, peers, name))
    for speech in (Speech(1, 320, 500, 1), Speech(1, 320, 500, 16), Speech(2, 640, 1025, 16)):
        cases.append(Case("speech", speech, (Versus(loop),)))
    for batch in (1, 16):
        cases.append(Case("speech", Speech(2, 640, 1025, batch, beams=4), (Versus(BEAM_LOOP),)))
    for stream in (Stream(1, 64), Stream(2, 128), Stream(2, 512), Stream(1, 128, batch=8)):
        others = tuple(map(Versus, ("nn.LSTM", OURS, TORCH_INT8, "ONNX Runtime")))
        cases.append(Case("step by step", stream, others, f"{OURS} int8"))
        cases.append(Case("step by step", stream, (Versus(OURS),), f"{OURS} bfloat16"))
    for step in (Step(1, 256, 100, 32, 20, 20), Step(2, 512, 1000, 16, 30, 30)):
        cases.append(Case("training step", step, (Versus("nn.LSTM model"),)))
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("decode", __doc__, lambda: decode_cases(), slow=SLOW)


if __name__ == "__main__":
    sys.exit(main())
