"""How sequences are chosen: options by the names users know, and as the op takes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fast_s2s.checks import (
    check_integer,
    check_tensor,
    check_token_ids,
    extremes,
    integer_tensor,
)
from fast_s2s.configuration import MOST, check_ranges
from fast_s2s.decoding.automaton import Automaton
from fast_s2s.decoding.contract import (
    Decoder,
    EarlyStopping,
    Keep,
    Options,
    Parameters,
    Rules,
    Strategy,
)
from fast_s2s.device import settled

_EARLY_STOPPING = {
    False: EarlyStopping.HEURISTIC,
    True: EarlyStopping.FIRST,
    "never": EarlyStopping.NEVER,
}


@dataclass(frozen=True, eq=False)
class DecodeOptions:
    """How sequences are chosen. Names and meanings as in transformers' `GenerationConfig`.

    max_new_tokens:       the most tokens after the prefix; an int or one per row (B,)
    min_new_tokens:       no eos among so many tokens after the prefix
    num_beams:            beam search, if more than 1
    do_sample:            sampling; of beams, which are drawn without replacement
    num_return_sequences: sequences per row: samples, or the best of num_beams
    seed:                 (B,) int64, each row's own stream of random numbers; needed to sample
    temperature, top_k (0: off), top_p, min_p: of sampling
    repetition_penalty, no_repeat_ngram_size (0: off): over all tokens from the first input on
    length_penalty, early_stopping (False, True or "never"): of beam search
    renormalize_logits:   of beam search: scores are log-probabilities among what the rules leave
    pad_token_id:         fills a row after its end
    eos_token_id:         tokens that end a row; one, several or none
    forced_bos_token_id:  the first token, where there is no prefix
    forced_eos_token_id:  the last token at the limit; one or several
    suppress_tokens:      never chosen
    begin_suppress_tokens: not chosen first
    bad_words_ids:        sequences that are not generated
    prefix:               (B, M) int64, what each row begins with, padded
    prefix_lengths:       (B,) int64 in 0..M; default M
    automaton:            what a whole row may be
    keep:                 what to keep of each step
    """

    max_new_tokens: int | Tensor = 128
    min_new_tokens: int = 0
    num_beams: int = 1
    do_sample: bool = False
    num_return_sequences: int = 1
    seed: Tensor | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    renormalize_logits: bool = False
    pad_token_id: int = 0
    eos_token_id: int | Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    prefix: Tensor | None = None
    prefix_lengths: Tensor | None = None
    automaton: Automaton | None = None
    keep: Keep = Keep(0)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_integer("pad_token_id", self.pad_token_id, 0, MOST)
        if self.do_sample and self.seed is None:
            raise ValueError("seed: expected a tensor (B,) to sample, got None")
        most = None if self.strategy == Strategy.SAMPLE else self.num_beams
        if most is not None and self.num_return_sequences > most:
            raise ValueError(
                f"num_return_sequences: expected at most num_beams = {most} unless sampling, "
                f"got {self.num_return_sequences}"
            )
        if self.prefix is None and self.prefix_lengths is not None:
            raise ValueError("prefix_lengths: expected None without a prefix")

    @functools.cached_property
    def numbers(self) -> tuple[list[int], list[float]]:
        """`op_numbers`, made once."""
        return op_numbers(self)

    @functools.cached_property
    def shared_rules(self) -> dict[tuple[torch.device, int], dict[str, Tensor]]:
        """What `op_rules` made of these options before, by device and vocabulary."""
        return {}

    @functools.cached_property
    def last_rules(self) -> dict[tuple[torch.device, int, int], Rules]:
        """What it gave last, by device, vocabulary and rows."""
        return {}

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest of max_new_tokens. They are looked at when they have
        changed, since that is a wait for a GPU.
        """
        limits = self.max_new_tokens
        if not isinstance(limits, Tensor):
            return limits, limits
        if limits.is_inference():
            return extremes(limits)
        kept: tuple[int, tuple[int, int]] | None = self.__dict__.get("_limits")
        if kept is None or kept[0] != limits._version:
            kept = limits._version, extremes(limits)
            self.__dict__["_limits"] = kept
        return kept[1]

    @property
    def strategy(self) -> Strategy:
        if self.num_beams > 1:
            return Strategy.BEAM
        return Strategy.SAMPLE if self.do_sample else Strategy.GREEDY

    @property
    def width(self) -> int:
        """Slots per row: see `fast_s2s.decoding.contract`."""
        sampling = self.strategy == Strategy.SAMPLE
        return self.num_return_sequences if sampling else self.num_beams


def op_numbers(options: DecodeOptions) -> tuple[list[int], list[float]]:
    """`Options` and `Parameters` of the op."""
    forced_bos = options.forced_bos_token_id
    numbers = Options(
        strategy=options.strategy,
        width=options.width,
        min_new_tokens=options.min_new_tokens,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        top_k=options.top_k,
        early_stopping=_EARLY_STOPPING[options.early_stopping],  # type: ignore[index]
        pad=options.pad_token_id,
        forced_bos=-1 if forced_bos is None else forced_bos,
        renormalize=int(options.renormalize_logits),
        sample_beams=int(options.do_sample and options.num_beams > 1),
        keep=options.keep,
    )
    parameters = Parameters(
        temperature=float(options.temperature),
        top_p=float(options.top_p),
        min_p=float(options.min_p),
        repetition_penalty=float(options.repetition_penalty),
        length_penalty=float(options.length_penalty),
    )
    return [int(number) for number in numbers], list(parameters)


def op_rules(decoder: Decoder, options: DecodeOptions, slots: int) -> Rules:
    """The options as the op's tensors, checked."""
    device, vocab_size = decoder.device, decoder.vocab_size
    if slots % options.width:
        raise ValueError(
            f"state: expected rows of {options.width} slots, as the options say, got {slots} slots"
        )
    batch = slots // options.width
    last = options.last_rules.get((device, vocab_size, batch))
    if last is not None:
        return last
    key = (device, vocab_size)
    shared = options.shared_rules.get(key)
    if shared is None:
        shared = _shared_rules(options, device, vocab_size)
    prefix, prefix_lengths = _prefix(options, batch, vocab_size, device)
    if options.seed is not None:
        check_tensor("seed", options.seed, "(B,)", (batch,), torch.int64, device)
    rules = Rules(
        seeds=torch.empty(0, dtype=torch.int64, device=device)
        if options.seed is None
        else options.seed,
        limits=_limits(options, batch, device),
        prefix=prefix,
        prefix_lengths=prefix_lengths,
        **shared,
    )
    # the next call may be on another stream
    if settled(device):
        options.shared_rules[key] = shared
        # one: batches differ in size without end
        options.last_rules.clear()
        options.last_rules[device, vocab_size, batch] = rules
    return rules


def _shared_rules(
    options: DecodeOptions, device: torch.device, vocab_size: int
) -> dict[str, Tensor]:
    """The rules that do not depend on the rows."""
    empty = torch.empty(0, dtype=torch.int64, device="cpu")

    def tokens(name: str) -> Tensor:
        value = getattr(options, name)
        if value is None:
            return empty
        value = [value] if isinstance(value, int) else value
        ids = integer_tensor(name, list(value))
        check_token_ids(name, ids, vocab_size)
        return ids

    tokens("forced_bos_token_id")
    eos = tokens("eos_token_id")
    bad_words, bad_offsets = empty, empty
    if options.bad_words_ids:
        bad_words, bad_offsets = _bad_words(options.bad_words_ids, eos.tolist())
        check_token_ids("bad_words_ids", bad_words, vocab_size)
    automaton = options.automaton or Automaton(empty, empty, empty, empty.bool())
    rules = {
        "eos": eos,
        "forced_eos": tokens("forced_eos_token_id"),
        "suppress": tokens("suppress_tokens"),
        "begin_suppress": tokens("begin_suppress_tokens"),
        "bad_tokens": bad_words,
        "bad_offsets": bad_offsets,
    }
    return {**_moved(rules, device), **automaton.to(device)._asdict()}


def _moved(rules: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """On the device, by one copy: each is a wait."""
    if device.type == "cpu":
        return rules
    together = torch.cat(list(rules.values())).to(device)
    parts = together.split([ids.numel() for ids in rules.values()])
    return dict(zip(rules, parts, strict=True))


def _bad_words(sequences: Sequence[Sequence[int]], eos: list[int]) -> tuple[Tensor, Tensor]:
    """End to end, and where each begins. As in transformers, eos alone is no bad word."""
    words = [list(word) for word in sequences]
    if not all(words):
        raise ValueError(
            "bad_words_ids: expected sequences of at least one token, got an empty one"
        )
    words = [word for word in words if not (len(word) == 1 and word[0] in eos)]
    ids = integer_tensor("bad_words_ids", [token for word in words for token in word])
    lengths = torch.tensor([0, *map(len, words)])
    return ids.long(), lengths.cumsum(0)


def _limits(options: DecodeOptions, batch: int, device: torch.device) -> Tensor:
    limits = options.max_new_tokens
    least = 1 if options.strategy == Strategy.BEAM else 0
    if not isinstance(limits, Tensor):
        check_integer("max_new_tokens", limits, least, MOST)
        return torch.full((batch,), limits, device=device)
    check_tensor("max_new_tokens", limits, "(B,)", (batch,), torch.int64, device)
    low, high = options.limits if limits.numel() else (least, least)
    if low < least or high > MOST:
        got = low if low < least else high
        raise ValueError(f"max_new_tokens: expected integers in {least}..{MOST}, got {got}")
    return limits


def _prefix(
    options: DecodeOptions, batch: int, vocab_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    prefix, lengths = options.prefix, options.prefix_lengths
    if prefix is None:
        none = torch.zeros(batch, dtype=torch.int64, device=device)
        return none.new_empty(batch, 0), none
    check_tensor("prefix", prefix, "(B, M)", (batch, None), torch.int64, device)
    check_token_ids("prefix", prefix, vocab_size)
    if lengths is None:
        return prefix, torch.full((batch,), prefix.size(1), device=device)
    check_tensor("prefix_lengths", lengths, "(B,)", (batch,), torch.int64, device)
    low, high = extremes(lengths) if batch else (0, 0)
    if low < 0 or high > prefix.size(1):
        raise ValueError(
            f"prefix_lengths: expected integers in 0..{prefix.size(1)}, got {lengths.tolist()}"
        )
    return prefix, lengths


def most_steps(options: DecodeOptions, rules: Rules) -> int:
    """No row takes more."""
    most = options.limits[1] if rules.limits.numel() else 0
    return most + rules.prefix.size(1)
