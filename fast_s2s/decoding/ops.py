"""The ops `decode_pack`, `decode`, `decode_ensemble`, `decode_read`, `decode_encode`,
`transducer_greedy`, `transducer_beam` and `forecast`: schemas and fake kernels. They have no
gradients.

Lists are those that `fast_s2s.decoding.contract` and `fast_s2s.decoding.weights` name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fast_s2s.decoding.contract import Header, Keep, Options, join_state, split_state
from fast_s2s.decoding.weights import DTYPES
from fast_s2s.reference import accumulate_dtype

# kept alive for the life of the process: the schemas go when it does
_library = torch.library.Library("fast_s2s", "FRAGMENT")
_library.define(
    "decode_pack(Tensor[] matrices, Tensor[] scales, Tensor[] biases, Tensor[] norms, "
    "Tensor inputs, int num_layers, bool projected, bool table, int heads, bool additive, "
    "bool feeding, float zoneout_hidden, float zoneout_cell) -> Tensor"
)
_library.define(
    "decode(Tensor packed, int[] header, Tensor[] state, Tensor[] memory, Tensor[] rules, "
    "int[] options, float[] parameters, int max_steps) -> Tensor[]"
)
_library.define(
    "decode_ensemble(Tensor[] packed, int[] headers, Tensor[] state, Tensor[] memory, "
    "Tensor[] rules, int[] options, float[] parameters, int max_steps) -> Tensor[]"
)
_library.define(
    "decode_read(Tensor[] packed, int[] header, Tensor h, Tensor c, Tensor inputs, "
    "Tensor lengths, bool outputs) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "decode_encode(Tensor[] packed, int[] headers, Tensor tokens, Tensor lengths, int layers, "
    "int directions, int[] pairs, bool bridged, bool outputs, bool feeding) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "transducer_greedy(Tensor[] packed, int[] headers, Tensor[] state, Tensor encoded, "
    "Tensor lengths, int[] durations, int blank, int max_symbols, bool relu) -> Tensor[]"
)
_library.define(
    "transducer_beam(Tensor[] packed, int[] headers, Tensor[] state, Tensor encoded, "
    "Tensor lengths, int blank, int max_symbols, bool relu) -> Tensor[]"
)
_library.define(
    "forecast(Tensor[] packed, int[] headers, Tensor h, Tensor c, Tensor history, Tensor known, "
    "Tensor seeds, int[] lags, int paths, int family, int positive) -> Tensor[]"
)


@torch.library.register_fake("fast_s2s::decode_pack")  # type: ignore[untyped-decorator]
def _(
    matrices: list[Tensor],
    scales: list[Tensor],
    biases: list[Tensor],
    norms: list[Tensor],
    inputs: Tensor,
    num_layers: int,
    projected: bool,
    table: bool,
    heads: int,
    additive: bool,
    feeding: bool,
    zoneout_hidden: float,
    zoneout_cell: float,
) -> Tensor:
    # the size depends on the machine's vectors
    size = torch.library.get_ctx().new_dynamic_size()
    return inputs.new_empty(size, dtype=torch.uint8)


@torch.library.register_fake("fast_s2s::decode")  # type: ignore[untyped-decorator]
def _(
    packed: Tensor,
    header: list[int],
    state: list[Tensor],
    memory: list[Tensor],
    rules: list[Tensor],
    options: list[int],
    parameters: list[float],
    max_steps: int,
) -> list[Tensor]:
    sizes, seen = Header(*header), memory[0].size(1) if memory else 0
    return _decoded(state, options, max_steps, sizes.vocab, (sizes.heads, seen))


@torch.library.register_fake("fast_s2s::decode_ensemble")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    headers: list[int],
    state: list[Tensor],
    memory: list[Tensor],
    rules: list[Tensor],
    options: list[int],
    parameters: list[float],
    max_steps: int,
) -> list[Tensor]:
    first = Header(*headers[: len(Header._fields)])
    return _decoded(state, options, max_steps, first.vocab, (0, 0))


def _decoded(
    state: list[Tensor], options: list[int], max_steps: int, vocab: int, seen: tuple[int, int]
) -> list[Tensor]:
    """What a call gives; `seen`: heads of attention that can be kept, and steps of the memory."""
    begin, hypotheses = split_state(state)

    def grown(values: Tensor) -> Tensor:
        return values.new_empty(values.size(0), values.size(1) + max_steps)

    begin = begin._replace(tokens=grown(begin.tokens), token_scores=grown(begin.token_scores))
    if hypotheses is not None:
        hypotheses = hypotheses._replace(
            tokens=grown(hypotheses.tokens), token_scores=grown(hypotheses.token_scores)
        )
    results = [torch.empty_like(tensor) for tensor in join_state(begin, hypotheses)]
    keep, position = Options(*options).keep, begin.position
    if keep:
        path = position.new_empty(max_steps, position.size(0))
        kept = [
            path.new_empty(
                max_steps if keep & what else 0, path.size(1), *each, dtype=torch.float32
            )
            for what, each in (
                (Keep.SCORES, (vocab,)),
                (Keep.LOGITS, (vocab,)),
                (Keep.ATTENTION, seen),
            )
        ]
        results += [*kept, path, torch.empty_like(path)]
    return [*results, position.new_empty(5)]


@torch.library.register_fake("fast_s2s::decode_read")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    header: list[int],
    h: Tensor,
    c: Tensor,
    inputs: Tensor,
    lengths: Tensor,
    outputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps = inputs.shape[:2]
    sizes = batch if outputs else 0, steps, len(packed) * Header(*header).output
    return torch.empty_like(h), torch.empty_like(c), h.new_empty(sizes)


@torch.library.register_fake("fast_s2s::decode_encode")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    headers: list[int],
    tokens: Tensor,
    lengths: Tensor,
    layers: int,
    directions: int,
    pairs: list[int],
    bridged: bool,
    outputs: bool,
    feeding: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = len(Header._fields)
    each = [Header(*headers[at : at + size]) for at in range(0, len(headers), size)]
    batch, steps = tokens.shape
    joined = directions * each[0].output
    acc = accumulate_dtype(DTYPES[each[0].weights])

    def made(*sizes: int) -> Tensor:
        return tokens.new_empty(sizes, dtype=acc)

    start = each[layers * directions].vocab if bridged and pairs else joined
    keyed = len(packed) > layers * directions + (2 * len(pairs) if bridged else 0)
    return (
        made(len(pairs) + feeding, batch, start),
        made(len(pairs), batch, start),
        made(batch if outputs else 0, steps, joined),
        made(batch if keyed else 0, steps, each[-1].vocab if keyed else 0),
    )


@torch.library.register_fake("fast_s2s::transducer_greedy")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    headers: list[int],
    state: list[Tensor],
    encoded: Tensor,
    lengths: Tensor,
    durations: list[int],
    blank: int,
    max_symbols: int,
    relu: bool,
) -> list[Tensor]:
    longest = torch.library.get_ctx().new_dynamic_size()
    tokens = lengths.new_empty(lengths.size(0), longest)
    found = [tokens, torch.empty_like(tokens), torch.empty_like(tokens, dtype=torch.float64)]
    return [*found, torch.empty_like(lengths), *map(torch.empty_like, state)]


@torch.library.register_fake("fast_s2s::transducer_beam")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    headers: list[int],
    state: list[Tensor],
    encoded: Tensor,
    lengths: Tensor,
    blank: int,
    max_symbols: int,
    relu: bool,
) -> list[Tensor]:
    longest = torch.library.get_ctx().new_dynamic_size()
    h, c, token, score, count, tokens, frames, seen = map(torch.empty_like, state)
    sequences = [part.new_empty(part.size(0), longest) for part in (tokens, frames)]
    return [h, c, token, score, count, *sequences, seen]


@torch.library.register_fake("fast_s2s::forecast")  # type: ignore[untyped-decorator]
def _(
    packed: list[Tensor],
    headers: list[int],
    h: Tensor,
    c: Tensor,
    history: Tensor,
    known: Tensor,
    seeds: Tensor,
    lags: list[int],
    paths: int,
    family: int,
    positive: int,
) -> list[Tensor]:
    count = h.size(1) * paths
    return [
        h.new_empty(count, known.size(1), history.size(2)),
        h.new_empty(h.size(0), count, h.size(2)),
        c.new_empty(c.size(0), count, c.size(2)),
    ]
