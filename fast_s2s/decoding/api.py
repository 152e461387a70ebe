"""`decode` with names, checks and defaults: what `generate` is made of."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fast_s2s.attention import Memory, values_in
from fast_s2s.checks import check_integer, check_tensor, check_token_id, check_token_ids
from fast_s2s.decoding.contract import (
    AttentionSizes,
    Decoder,
    Hypotheses,
    Keep,
    Kept,
    State,
    Strategy,
    join_state,
    split_results,
)
from fast_s2s.decoding.options import (
    DecodeOptions,
    most_steps,
    op_rules,
)
from fast_s2s.decoding.packed import PackedDecoder, read_packed

# the op makes room for all its steps, and for what it keeps of them
_STEPS_AT_ONCE = 1024
_KEPT_AT_ONCE = 2**25
Part = TypeVar("Part", State, Hypotheses)


class DecodeState(NamedTuple):
    """Where a generation stands: `State` and, in a beam search, `Hypotheses`, of all B·W slots;
    with attention what the B rows' slots look at.
    """

    slots: State
    hypotheses: Hypotheses | None = None
    memory: Memory | None = None

    def select(self, rows: Tensor, width: int) -> DecodeState:
        """These rows, (any number,) int64, each with its `width` slots; repeats are fine."""
        slots = (rows.unsqueeze(1) * width + torch.arange(width, device=rows.device)).flatten()
        return DecodeState(
            self.slots._replace(**_selected(self.slots, slots)),
            self.hypotheses and self.hypotheses._replace(**_selected(self.hypotheses, slots)),
            self.memory and self.memory.select(rows),
        )


class DecodeResult(NamedTuple):
    """What was generated: N = B · num_return_sequences, a row's sequences side by side.

    tokens:       (N, 1 + T) int64, the token begun from, what was chosen, pad; T is the longest
    lengths:      (N,) int64, tokens chosen, prefix and eos included
    token_scores: (N, T) float64, log-probability of each; beams: what each added to the score
    scores:       (N,) float64, of a sequence: their sum, in a beam search over its length to the
                  power of length_penalty; -inf for a row stuck, or a beam search's empty places
    state:        to go on from
    done:         whether every row has ended or reached its limit
    steps:        steps this call took
    slot_steps:   slots computed, summed over the steps: the work done
    shared_steps: of those, how many took no work: another sample of the row, alike so far, did
    kept:         what `options.keep` asks for
    """

    tokens: Tensor
    lengths: Tensor
    token_scores: Tensor
    scores: Tensor
    state: DecodeState
    done: bool
    steps: int
    slot_steps: int
    shared_steps: int
    kept: Kept | None


def initial_state(
    decoder: Decoder,
    h: Tensor,
    c: Tensor,
    token: Tensor | int,
    options: DecodeOptions,
    node: Tensor | None = None,
    memory: Memory | None = None,
) -> DecodeState:
    """Where generation begins.

    h, c:   (L, B, R), (L, B, H), of any floating-point type; h with input feeding (L + 1, B, R)
    token:  (B,) int64 or one for all, the first input
    node:   (B,) int64, the automaton's state; default 0
    memory: what attention looks at, of any floating-point type; None without attention

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    batch = h.size(1) if isinstance(h, Tensor) and h.dim() == 3 else None
    device, layers = decoder.device, decoder.num_layers
    feeding = decoder.attention is not None and decoder.attention.feeding
    check_tensor("h", h, "(L, B, R)", (layers + feeding, batch, decoder.output_size), None, device)
    check_tensor("c", c, "(L, B, H)", (layers, batch, decoder.hidden_size), None, device)
    assert batch is not None
    memory = _memory(decoder, memory, batch)
    if isinstance(token, Tensor):
        check_tensor("token", token, "(B,)", (batch,), torch.int64, device)
        check_token_ids("token", token, decoder.vocab_size)
    else:
        check_token_id("token", token, decoder.vocab_size)
        token = torch.full((batch,), token, device=device)
    if node is None:
        node = token.new_zeros(batch)
    else:
        check_tensor("node", node, "(B,)", (batch,), torch.int64, device)
    width = options.width

    def spread(values: Tensor, dim: int = 0) -> Tensor:
        return values if width == 1 else values.repeat_interleave(width, dim)

    count = batch * width
    score = torch.zeros(count, dtype=torch.float64, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    state = State(
        h=spread(values_in(h, decoder.acc), 1),
        c=spread(values_in(c, decoder.acc), 1),
        tokens=spread(token).unsqueeze(1),
        token_scores=score.new_zeros(count, 0),
        position=node.new_zeros(count),
        score=score,
        finished=finished,
        node=spread(node),
    )
    if options.strategy != Strategy.BEAM:
        return DecodeState(state, None, memory)
    # the first beam alone: others would be the same again
    finished.view(batch, width)[:, 1:] = True
    score.view(batch, width)[:, 1:] = -torch.inf
    hypotheses = Hypotheses(
        h=torch.zeros_like(state.h),
        c=torch.zeros_like(state.c),
        tokens=torch.full_like(state.tokens, options.pad_token_id),
        token_scores=state.token_scores.clone(),
        position=state.position.clone(),
        score=torch.full_like(score, -torch.inf),
        node=torch.full_like(state.node, -1),
    )
    return DecodeState(state, hypotheses, memory)


@torch.no_grad()
def decode(
    decoder: Decoder,
    state: DecodeState,
    options: DecodeOptions,
    max_steps: int | None = None,
) -> DecodeResult:
    """Generate from `state`, which is left as it is, until all rows end or `max_steps` are taken.

    Going on from the result's state with the same options gives what one call would have given.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    rules = op_rules(decoder, options, state.slots.position.size(0))
    if options.keep & Keep.ATTENTION and decoder.attention is None:
        raise ValueError("keep: expected no ATTENTION of a decoder without attention, got it")
    numbers = options.numbers
    wanted = most_steps(options, rules)
    if max_steps is not None:
        check_integer("max_steps", max_steps, 0)
        wanted = min(wanted, max_steps)
    steps = slot_steps = shared_steps = 0
    at_once, parts = _STEPS_AT_ONCE, []
    if options.keep:
        seen = 0
        if options.keep & Keep.ATTENTION and state.memory is not None and decoder.attention:
            seen = decoder.attention.heads * state.memory.values.size(1)
        step = max(1, state.slots.position.size(0) * max(decoder.vocab_size, seen))
        at_once = min(at_once, max(1, _KEPT_AT_ONCE // step))
    while True:
        most = min(wanted - steps, at_once)
        begin, memory = join_state(state.slots, state.hypotheses), list(state.memory or ())
        tensors = decoder.run(begin, memory, list(rules), *numbers, most)
        slots, hypotheses, kept, counts = split_results(tensors, numbers[0])
        steps, slot_steps = steps + counts.steps, slot_steps + counts.slot_steps
        shared_steps += counts.shared
        if kept is not None:
            parts.append(Kept(*(part[: counts.steps] for part in kept)))
        state = DecodeState(
            _trimmed(slots, counts.longest),
            hypotheses and _trimmed(hypotheses, counts.longest),
            state.memory,
        )
        if counts.left == 0 or steps == wanted:
            done = counts.left == 0
            work = steps, slot_steps, shared_steps, _joined(parts)
            return DecodeResult(*_returned(state, options), state, done, *work)


def read(
    packed: PackedDecoder, h: Tensor, c: Tensor, tokens: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The states after reading tokens, without choosing any: packed weights as an encoder.

    h, c:    (L, B, R), (L, B, H), of any floating-point type
    tokens:  (B, T) int64, padded
    lengths: (B,) int64 in 0..T; default T

    Returns h, c. Raises TypeError or ValueError naming the argument that does not fit.
    """
    batch = h.size(1) if isinstance(h, Tensor) and h.dim() == 3 else None
    device, layers = packed.device, packed.num_layers
    check_tensor("h", h, "(L, B, R)", (layers, batch, packed.output_size), None, device)
    check_tensor("c", c, "(L, B, H)", (layers, batch, packed.hidden_size), None, device)
    check_tensor("tokens", tokens, "(B, T)", (batch, None), torch.int64, device)
    check_token_ids("tokens", tokens, packed.vocab_size)
    if lengths is None:
        lengths = tokens.new_full(tokens.shape[:1], tokens.size(1))
    check_tensor("lengths", lengths, "(B,)", (batch,), torch.int64, device)
    check_token_ids("lengths", lengths, tokens.size(1) + 1, "lengths")
    if packed.attending is not None:
        raise ValueError("packed: expected layers without attention, got some with it")
    h, c = values_in(h, packed.acc), values_in(c, packed.acc)
    return read_packed([packed], h, c, tokens, lengths, outputs=False)[:2]


def _joined(parts: list[Kept]) -> Kept | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return Kept(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _memory(decoder: Decoder, memory: Memory | None, batch: int) -> Memory | None:
    """Checked, in the decoder's type."""
    sizes = decoder.attention
    if sizes is None:
        if memory is not None:
            raise ValueError("memory: expected None for a decoder without attention, got one")
        return None
    if not isinstance(memory, Memory):
        got = type(memory).__name__
        raise TypeError(f"memory: expected a Memory for a decoder with attention, got {got}")
    values, keys, lengths = memory
    device = decoder.device
    if _fits(memory, batch, sizes, device):
        # what follows has nothing to say but of the lengths
        check_token_ids("memory.lengths", lengths, values.size(1) + 1, "lengths")
        return memory.to(decoder.acc)
    check_tensor("memory.values", values, "(B, S, M)", (batch, None, sizes.values), None, device)
    steps = values.size(1)
    check_tensor("memory.keys", keys, "(B, S, A)", (batch, steps, sizes.keys), None, device)
    check_tensor("memory.lengths", lengths, "(B,)", (batch,), torch.int64, device)
    check_token_ids("memory.lengths", lengths, steps + 1, "lengths")
    return memory.to(decoder.acc)


def _fits(memory: Memory, batch: int, sizes: AttentionSizes, device: torch.device) -> bool:
    """Whether types, shapes and devices are right, as fast as can be."""
    values, keys, lengths = memory
    if not all(isinstance(part, Tensor) and part.device == device for part in memory):
        return False
    steps = values.shape[1:2]
    return (
        values.shape == (batch, *steps, sizes.values)
        and keys.shape == (batch, *steps, sizes.keys)
        and lengths.shape == (batch,)
        and lengths.dtype == torch.int64
    )


def _selected(part: State | Hypotheses, slots: Tensor) -> dict[str, Tensor]:
    return {
        name: values.index_select(1 if name in ("h", "c") else 0, slots)
        for name, values in part._asdict().items()
    }


def _trimmed(part: Part, longest: int) -> Part:
    """Without columns that no sequence reaches."""
    return part._replace(
        tokens=part.tokens[:, : 1 + longest], token_scores=part.token_scores[:, :longest]
    )


def _returned(state: DecodeState, options: DecodeOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slots, found, _ = state
    if found is None:
        return slots.tokens, slots.position, slots.token_scores, slots.score
    count, width = options.num_return_sequences, options.width
    tokens, lengths, token_scores, scores = (
        values if count == width else values.unflatten(0, (-1, width))[:, :count].flatten(0, 1)
        for values in (found.tokens, found.position, found.token_scores, found.score)
    )
    # beams may have gone further
    longest = int(lengths.max()) if lengths.numel() else 0
    return tokens[:, : 1 + longest], lengths, token_scores[:, :longest], scores
