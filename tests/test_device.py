"""What is kept for other streams of a device, and how often one is waited for; without one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers_decode import EOS, Size, kinds, make, run
from helpers_training import toy_model
from test_streamers import Recorder

from fast_s2s.configuration import GenerationConfig
from fast_s2s.data import Batch
from fast_s2s.decoding import Automaton, DecodeOptions, options, packed
from fast_s2s.device import settled
from fast_s2s.generation import arguments, constraint, packing, search
from fast_s2s.generation.state import DecoderState
from fast_s2s.generation.streams import Streams
from fast_s2s.training.gradients import accumulate_gradients

# a device that is not the CPU, and has no numbers to look at
ELSEWHERE = torch.device("meta")


class Stream:
    """Stands for the current stream of a GPU."""

    def __init__(self, monkeypatch, capturing=False):
        self.waits = 0
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)

    def synchronize(self):
        self.waits += 1


@pytest.mark.parametrize(("capturing", "waits"), [(False, 1), (True, 0)])
def test_what_may_be_kept_has_been_waited_for(monkeypatch, capturing, waits):
    stream = Stream(monkeypatch, capturing)
    assert settled(torch.device("cuda", 0)) is not capturing
    assert stream.waits == waits
    assert settled(torch.device("cpu")) and stream.waits == waits


@pytest.mark.parametrize("kept", [False, True])
def test_packs_are_kept_only_when_settled(monkeypatch, kept):
    seen = []
    monkeypatch.setattr(packing, "settled", lambda device: seen.append("settled") or kept)
    cache, weights = packing.PackedCache(), [torch.ones(3)]
    for _ in range(2):
        cache._kept(weights, None, lambda: seen.append("packed"))
    assert seen == ["packed", "settled"] * (1 if kept else 2)


def test_the_references_numbers_are_settled_too(monkeypatch):
    asked = []
    decoder = make(Size(), 2)[0]
    kept = [False, True]
    monkeypatch.setattr(
        packed, "settled", lambda device: asked.append(device) or kept[len(asked) - 1]
    )
    first = decoder.dense
    assert decoder.dense is not first
    assert decoder.dense is decoder.dense
    assert asked == [decoder.device] * 2


@pytest.mark.parametrize("kept", [False, True])
def test_rules_are_kept_only_when_settled(monkeypatch, kept):
    asked = []
    monkeypatch.setattr(options, "settled", lambda device: asked.append(device) or kept)
    decoder, given = make(Size(), 2)[0], DecodeOptions(eos_token_id=EOS)
    first, second = (options.op_rules(decoder, given, 2) for _ in range(2))
    assert (first is second) is kept
    assert bool(given.shared_rules) is bool(given.last_rules) is kept
    assert asked == [decoder.device] * (1 if kept else 2)


@pytest.mark.parametrize(
    "given",
    [
        {"eos_token_id": 11},
        {"forced_bos_token_id": 11},
        {"forced_eos_token_id": [3, 11]},
        {"suppress_tokens": [-3]},
        {"begin_suppress_tokens": [11]},
        {"bad_words_ids": [[2, 11]]},
    ],
    ids=str,
)
def test_ids_are_checked_before_they_are_moved(given):
    decoder = SimpleNamespace(device=ELSEWHERE, vocab_size=11)
    with pytest.raises(ValueError, match=r"expected token ids in 0\.\.10, got (11|-3)"):
        options.op_rules(decoder, DecodeOptions(**given), 2)


def test_rules_are_moved_in_one_copy(monkeypatch):
    moved = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda t, *args: moved.append(t.numel()) or to(t, *args)
    )
    given = DecodeOptions(
        eos_token_id=[1, 2], suppress_tokens=[3], bad_words_ids=[[4, 5]], max_new_tokens=3
    )
    rules = options.op_rules(SimpleNamespace(device=ELSEWHERE, vocab_size=11), given, 2)
    assert [count for count in moved if count] == [2 + 1 + 2 + 2]
    assert (len(rules.eos), len(rules.suppress), len(rules.bad_tokens)) == (2, 1, 2)
    assert all(part.device == ELSEWHERE for part in rules)


def test_rules_in_one_copy_are_the_same(monkeypatch):
    given = {
        "eos_token_id": [1, 2],
        "forced_eos_token_id": 2,
        "suppress_tokens": [3, 7],
        "bad_words_ids": [[4, 5], [6]],
    }
    expected = options._shared_rules(DecodeOptions(**given), torch.device("cpu"), 11)
    # the numbers stay where they can be looked at
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    found = options._shared_rules(DecodeOptions(**given), ELSEWHERE, 11)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_limits_are_looked_at_once(monkeypatch):
    looked = []
    real = options.extremes
    monkeypatch.setattr(options, "extremes", lambda values: looked.append(1) or real(values))
    given = DecodeOptions(max_new_tokens=torch.tensor([3, 7]), **kinds(2)["greedy"])
    result = run(make(Size(), 2), given, chunk=2)
    assert result.lengths.tolist() == [3, 7]
    assert len(looked) == 1


def test_a_rows_own_limits_are_checked_before_they_are_moved():
    for values, message in [([3, 0], "integers >= 1, got 0"), ([3], r"expected shape \(batch,\)")]:
        with pytest.raises(ValueError, match=f"max_new_tokens: .*{message}"):
            arguments._per_row("max_new_tokens", values, 2, ELSEWHERE, least=1)
    assert arguments._per_row("max_new_tokens", [3, 1], 2, ELSEWHERE, least=1).is_meta


def test_an_automaton_is_copied_to_a_device_once():
    automaton = Automaton.from_sequences([[4, 5], [6]])
    first, second = (constraint.checked(automaton, 11, (0, 1)).on(ELSEWHERE) for _ in range(2))
    assert first is second
    assert all(part.device == ELSEWHERE for part in first)
    other = Automaton.from_sequences([[4, 5], [7]])
    assert constraint.checked(other, 11, (0, 1)).on(ELSEWHERE) is not first


def test_generation_asks_for_that_copy(monkeypatch):
    copied = []
    real = Automaton.to
    monkeypatch.setattr(
        Automaton, "to", lambda self, device: copied.append(self) or real(self, device)
    )
    automaton, model = Automaton.from_sequences([[4, 5], [6]]), toy_model()
    for _ in range(2):
        model.generate(torch.tensor([[4, 5]]), constraint=automaton, max_new_tokens=3)
    # what is there already costs nothing
    assert [each is automaton for each in copied].count(True) == 1


class Far(torch.Tensor):
    """Counts what a GPU's tensor would be waited for."""

    waits = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("cpu", "tolist", "item", "__int__", "__bool__", "__index__"):
            Far.waits += 1
        return found.as_subclass(torch.Tensor) if name == "cpu" else found


def far(tree):
    if isinstance(tree, torch.Tensor):
        return tree.as_subclass(Far)
    if isinstance(tree, tuple) and hasattr(tree, "_replace"):
        return type(tree)(*map(far, tree))
    return tree


@pytest.mark.parametrize("kind", ["greedy", "beam"])
@pytest.mark.parametrize("over", [False, True])
def test_streams_wait_for_a_device_no_more_for_more_rows(kind, over):
    waits = []
    for rows in (1, 6):
        torch.manual_seed(0)
        given = DecodeOptions(max_new_tokens=5, eos_token_id=EOS, **kinds(rows)[kind])
        result = run(make(Size(), rows), given)
        count = result.lengths.numel()
        prompts = [torch.tensor([1])] * count
        streams = Streams([Recorder() for _ in range(count)], prompts, torch.zeros(count).long())
        Far.waits = 0
        streams.update(far(result), [over] * rows, given.width)
        waits.append(Far.waits)
    assert waits[0] == waits[1] <= 9


def test_nor_do_their_prompts(monkeypatch):
    copies = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self) or real(self))
    counts = []
    for rows in (1, 6):
        copies.clear()
        state = DecoderState(*torch.zeros(2, 1, rows, 3))
        streamers = [Recorder() for _ in range(rows)]
        prefix = torch.tensor([[5, 6]] * rows)
        request = search.Request(GenerationConfig(), 3, prefix=prefix, streamer=streamers)
        search._streams(request, state, DecodeOptions())
        assert [each.tokens[1:] for each in streamers] == prefix.tolist()
        counts.append(len(copies))
    assert counts[0] == counts[1]


def test_batches_are_moved_before_anything_is_computed(monkeypatch):
    done = []
    to = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, *args: done.append("moved") or to(self, *args))
    model = toy_model()
    model.register_forward_pre_hook(lambda *_: done.append("computed"))
    lengths = torch.tensor([3, 3])
    batches = [Batch(torch.full((2, 3), 4), lengths, torch.full((2, 3), 5), lengths)] * 2
    accumulate_gradients(model, batches)
    assert done == ["moved"] * 2 + ["computed"] * 2
