"""How sequences are generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fast_s2s.checks import check_bool, check_integer, check_sequence, plain
from fast_s2s.configuration.common import check_special_tokens, from_dict
from fast_s2s.configuration.ranges import MOST, check_ranges


@dataclass(frozen=True)
class GenerationConfig:
    """How sequences are generated. Names and meanings as in transformers' `GenerationConfig`.

    max_new_tokens:          the most tokens generated per row, the end of sequence included; those
                             of a prefix do not count
    min_new_tokens:          the end of sequence is not generated among so many tokens
    num_beams:               beam search, if more than 1
    do_sample:               choose by chance instead of the most probable token; with beams,
                             which continuations are looked at
    num_return_sequences:    sequences per row: samples, or the best of `num_beams`
    seed:                    of sampling: the same seed, the same text; none, by torch's generator
    temperature:             of sampling: logits are divided by it
    top_k:                   of sampling: among so many of the most probable tokens; 0, all
    top_p:                   of sampling: among the fewest tokens that have this probability
    min_p:                   of sampling: among tokens at least so probable beside the best; or None
    repetition_penalty:      above 1, tokens that were there before are less probable
    no_repeat_ngram_size:    no sequence of so many tokens occurs twice; 0, off
    length_penalty:          of beams: a sequence's score is the sum of its log-probabilities over
                             its length to this power
    early_stopping:          of beams, when a row ends: True, as soon as `num_beams` sequences have;
                             False, when a better one is unlikely; "never", when it is impossible
    renormalize_logits:      of beams: log-probabilities are among the tokens that the rules leave
    bad_words_ids:           sequences that are not generated
    suppress_tokens:         tokens that are never generated
    begin_suppress_tokens:   tokens that are not generated first
    forced_bos_token_id:     the first token, after bos
    forced_eos_token_id:     the last token at `max_new_tokens`; one or several
    return_dict_in_generate: return a `GenerateOutput`
    output_scores:           with the scores of all tokens at each step
    output_logits:           with the logits of all tokens at each step
    output_attentions:       with the weights of attention at each step
    pad_token_id:            fills a row after its end; never generated
    bos_token_id:            the decoder's first input; never generated
    eos_token_id:            ends a row; one or several

    Raises TypeError or ValueError naming the field that does not fit.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    num_beams: int = 1
    do_sample: bool = False
    num_return_sequences: int = 1
    seed: int | None = None
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    renormalize_logits: bool = False
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int | Sequence[int] = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            object.__setattr__(self, name, plain(value))
        for name in _TOKENS:
            # lists become tuples: what JSON gives equals what was saved
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        if self.bad_words_ids is not None:
            object.__setattr__(self, "bad_words_ids", _sequences(self.bad_words_ids))
        check_integer("max_new_tokens", self.max_new_tokens, 1, MOST)
        check_ranges(self, optional=("min_p",))
        for name in _BOOLS:
            check_bool(name, getattr(self, name))
        if self.seed is not None:
            check_integer("seed", self.seed, 0)
            if self.seed >= 2**63:
                raise ValueError(f"seed: expected below 2^63, got {self.seed}")
        check_special_tokens(self)
        self._check_together()

    def _check_together(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens: expected at most max_new_tokens = {self.max_new_tokens}, "
                f"got {self.min_new_tokens}"
            )
        samples = self.do_sample and self.num_beams == 1
        if not samples and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences: expected at most num_beams = {self.num_beams} unless "
                f"do_sample without beams, got {self.num_return_sequences}"
            )
        never = (self.pad_token_id, self.bos_token_id)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            value = getattr(self, name)
            for token in value if isinstance(value, tuple) else (value,):
                if token in never:
                    raise ValueError(
                        f"{name}: expected neither pad_token_id nor bos_token_id, which are never "
                        f"generated, got {token}"
                    )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All that end a row."""
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else (*self.eos_token_id,)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return {name: _json(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """The inverse of `to_dict`.

        Raises TypeError or ValueError naming the key that does not fit.
        """
        return from_dict(cls, values)


_TOKENS = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "eos_token_id",
)
_ONE = ("forced_bos_token_id",)
_ONE_OR_MORE = ("forced_eos_token_id", "eos_token_id")
_BOOLS = (
    "do_sample",
    "renormalize_logits",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
)


def _token_ids(name: str, value: Any) -> Any:
    """Checked; a tuple where it is a sequence. That eos is there at all is checked elsewhere."""
    if value is None:
        return None
    if name in _ONE or (name in _ONE_OR_MORE and not isinstance(value, (list, tuple))):
        check_integer(name, value, 0)
        return value
    check_sequence(name, value, "token ids")
    for token in value:
        check_integer(name, token, 0)
    if name == "eos_token_id" and not value:
        raise ValueError("eos_token_id: expected at least one id, got none")
    return tuple(value)


def _sequences(value: Any) -> tuple[tuple[int, ...], ...]:
    name = "bad_words_ids"
    check_sequence(name, value, "token sequences")
    for word in value:
        check_sequence(name, word, "token ids")
        if not word:
            raise ValueError(f"{name}: expected sequences of at least one token, got an empty one")
        for token in word:
            check_integer(name, token, 0)
    return tuple(tuple(word) for word in value)


def _json(value: Any) -> Any:
    return [_json(item) for item in value] if isinstance(value, tuple) else value
