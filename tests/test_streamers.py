"""Streamers of one row, many rows and beams; generation that is broken off."""

from __future__ import annotations

import _thread
import signal
import threading

import pytest
import torch
from helpers_seq2seq import BOS, PAD, make_batch, make_model
from test_generation_options import lively


class Recorder:
    def __init__(self):
        self.parts, self.ends = [], 0

    def put(self, value):
        assert not self.ends and value.dtype == torch.int64
        self.parts.append(value)

    def end(self):
        self.ends += 1

    @property
    def tokens(self):
        return torch.cat([part.flatten() for part in self.parts]).tolist()


def test_tokens_are_whole_numbers_whatever_the_default_type():
    model = make_model(torch.float32, tgt_vocab_size=3000)
    src = make_batch(rows=2).src
    streamers = [Recorder(), Recorder()]
    torch.set_default_dtype(torch.bfloat16)
    try:
        tokens = model.generate(src, max_new_tokens=9, streamer=streamers)
    finally:
        torch.set_default_dtype(torch.float32)
    assert tokens.max() > 256
    assert [each.tokens for each in streamers] == tokens.tolist()


CASES = {
    "greedy": ({}, 1),
    "samples": ({"do_sample": True, "seed": 1, "num_return_sequences": 3}, 3),
    "beams": ({"num_beams": 3}, 1),
    "n best": ({"num_beams": 4, "num_return_sequences": 2}, 2),
    "loop": ({"logits_processor": lambda tokens, scores: scores}, 1),
    "prefix": ({"prefix": torch.tensor([[5, 6]] * 4), "prefix_lengths": [2, 0, 1, 2]}, 1),
    "limits": ({"max_new_tokens": torch.tensor([1, 9, 4, 2])}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_each_sequence_is_streamed_once_and_whole(case):
    options, per_row = CASES[case]
    model = lively()
    batch = make_batch(rows=4)
    streamers = [Recorder() for _ in range(4 * per_row)]
    given = {"max_new_tokens": 9, **options}
    output = model.generate(
        batch.src, batch.src_lengths, streamer=streamers, return_dict_in_generate=True, **given
    )
    lengths = options.get("prefix_lengths", [0] * 4)
    for index, streamer in enumerate(streamers):
        expected = output.sequences[index, : 1 + output.lengths[index]].tolist()
        assert streamer.tokens == expected
        assert streamer.ends == 1
        # the prompt at once, then token by token
        assert streamer.parts[0].shape == (1, 1 + lengths[index // per_row])
        assert all(part.shape == (1,) for part in streamer.parts[1:])
    assert torch.equal(output.sequences, model.generate(batch.src, batch.src_lengths, **given))


def test_beams_stream_before_they_end():
    model = make_model()
    with torch.no_grad():
        # sure of itself: beams soon agree on what is past
        model.output_projection.weight.mul_(5)
    src = make_batch(rows=1).src
    seen = []

    class Watching(Recorder):
        def put(self, value):
            super().put(value)
            seen.append(("put", value.flatten().tolist()))

    def count(tokens, scores):
        seen.append(("step", tokens.size(1)))
        return scores

    model.generate(
        src,
        num_beams=2,
        min_new_tokens=30,
        max_new_tokens=30,
        streamer=Watching(),
        logits_processor=count,
    )
    kinds = [kind for kind, _ in seen]
    last_step = len(kinds) - 1 - kinds[::-1].index("step")
    assert kinds[:last_step].count("put") > 3


def test_resumed_streams_begin_where_the_state_is():
    model = lively()
    src = make_batch(rows=1).src
    head, state = model.generate(src, max_new_tokens=3, min_new_tokens=3, return_state=True)
    streamer = Recorder()
    tail = model.generate(state=state, max_new_tokens=4, streamer=streamer)
    assert streamer.tokens == [t for t in tail[0].tolist() if t != PAD]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3}], ids=str)
def test_a_streamer_that_raises_leaves_the_model_usable(options):
    model = lively()
    src = make_batch(rows=1).src
    expected = model.generate(src, min_new_tokens=5, max_new_tokens=9, **options)

    class Full(Exception):
        pass

    class Failing(Recorder):
        def put(self, value):
            if len(self.parts) == 3:
                raise Full
            super().put(value)

    failing = Failing()
    with pytest.raises(Full):
        model.generate(src, min_new_tokens=5, max_new_tokens=9, streamer=failing, **options)
    assert failing.tokens == expected[0, :3].tolist() and not failing.ends
    assert torch.equal(model.generate(src, min_new_tokens=5, max_new_tokens=9, **options), expected)


def test_ctrl_c_is_heard_and_leaves_the_model_usable():
    # a shell's background jobs begin with it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model = make_model(torch.float32)
    with torch.no_grad():
        model.output_projection.bias[2] = -1e4
    src = make_batch(rows=2).src
    expected = model.generate(src, max_new_tokens=20)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        # a minute's work, broken off after a chunk
        model.generate(src, max_new_tokens=10**9)
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert torch.equal(model.generate(src, max_new_tokens=20), expected)


def test_threads_share_a_model():
    model = lively()
    batches = [make_batch(rows=3, seed=seed) for seed in range(4)]
    expected = [model.generate(b.src, b.src_lengths, num_beams=2) for b in batches]
    model._packed.clear()
    wrong = []

    def work(index):
        batch = batches[index]
        for _ in range(20):
            found = model.generate(batch.src, batch.src_lengths, num_beams=2)
            if not torch.equal(found, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bos_is_what_a_stream_begins_with():
    streamer = Recorder()
    make_model().generate(make_batch(rows=1).src, max_new_tokens=1, streamer=streamer)
    assert streamer.parts[0].tolist() == [[BOS]]
