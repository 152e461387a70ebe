"""Which tokens may come next and how likely each is: the rules of `decode` in plain torch.

Rules, their order and their formulas are transformers' logits processors'; scores are (N, V), a
slot in each row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.contract import Options, Parameters, Rules
from fast_s2s.decoding.philox import gumbel as gumbel


class Candidates(NamedTuple):
    """Where each slot stands: tokens (N, 1 + T), the others (N, …); as in `State` and `Rules`."""

    tokens: Tensor
    position: Tensor
    node: Tensor
    prefix: Tensor
    prefix_lengths: Tensor
    limits: Tensor


def finite(logits: Tensor) -> Tensor:
    """NaN, which is never chosen, as -inf; +inf as the largest number."""
    return logits.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def log_softmax(scores: Tensor) -> Tensor:
    """In float64; -inf throughout where no token is left."""
    return scores.double().log_softmax(1).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def first_best(scores: Tensor) -> Tensor:
    """(N,) the lowest of the best tokens' ids."""
    best = scores.amax(1, keepdim=True)
    ids = torch.arange(scores.size(1), device=scores.device)
    return torch.where(scores == best, ids, scores.size(1)).amin(1).clamp(max=scores.size(1) - 1)


def process(
    scores: Tensor, at: Candidates, rules: Rules, options: Options, parameters: Parameters
) -> Tensor:
    """Scores with the rules applied, in transformers' order; -inf is not allowed."""
    new = (at.position - at.prefix_lengths).unsqueeze(1)
    never = scores.new_tensor(-torch.inf)
    scores = _penalize_repetition(scores, at, parameters.repetition_penalty)
    scores = scores.masked_fill(_repeated_ngrams(scores, at, options.no_repeat_ngram_size), never)
    scores = scores.masked_fill(_bad_words(scores, at, rules), never)
    is_eos = _mask(scores, rules.eos)
    scores = scores.where(~(is_eos & (new < options.min_new_tokens)), never)
    if rules.node_offsets.numel():
        scores = scores.where(allowed(scores, at.node, rules), never)
    first = (at.position == 0).unsqueeze(1)
    if options.forced_bos >= 0:
        forced = F.one_hot(torch.tensor(options.forced_bos), scores.size(1)).bool()
        no_prefix = (at.prefix_lengths == 0).unsqueeze(1)
        scores = _force(scores, forced.to(scores.device), first & no_prefix)
    if rules.forced_eos.numel():
        last = new == at.limits.unsqueeze(1) - 1
        scores = _force(scores, _mask(scores, rules.forced_eos), last)
    scores = scores.masked_fill(_mask(scores, rules.suppress), never)
    after_bos = (options.forced_bos >= 0) & (at.prefix_lengths == 0).unsqueeze(1)
    begins = new == after_bos.long()
    scores = scores.where(~(_mask(scores, rules.begin_suppress) & begins), never)
    return _force_prefix(scores, at)


def warp(scores: Tensor, options: Options, parameters: Parameters) -> Tensor:
    """Temperature, top-k, top-p and min-p, in this order -> float64."""
    scores = (scores / parameters.temperature).double()
    if 0 < options.top_k < scores.size(1):
        smallest = scores.topk(options.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < smallest, -torch.inf)
    if parameters.top_p < 1:
        ordered, ids = scores.sort(dim=1, descending=True, stable=True)
        probabilities = log_softmax(ordered).exp()
        # of the tokens before each one
        above = probabilities.cumsum(1) - probabilities
        drop = above >= parameters.top_p
        drop[:, 0] = False
        scores = scores.masked_fill(drop.scatter(1, ids, drop), -torch.inf)
    if parameters.min_p > 0:
        relative = (scores - scores.amax(1, keepdim=True)).exp()
        scores = scores.masked_fill(relative < parameters.min_p, -torch.inf)
    return scores


def allowed(scores: Tensor, node: Tensor, rules: Rules) -> Tensor:
    """(N, V) bool: tokens of the arcs that leave each slot's node, and eos where it is final."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for slot, where in enumerate(node.tolist()):
        if where < 0:
            continue
        begin, end = rules.node_offsets[where : where + 2].tolist()
        mask[slot, rules.arc_tokens[begin:end]] = True
        if rules.final[where]:
            mask[slot, rules.eos] = True
    return mask


def follow(rules: Rules, node: Tensor, token: Tensor) -> Tensor:
    """(N,) where `token` leads from `node`. eos at a final node without such an arc stays there;
    -1 where there is no way.
    """
    if not rules.node_offsets.numel():
        return node
    found = []
    eos = set(rules.eos.tolist())
    for where, choice in zip(node.tolist(), token.tolist(), strict=True):
        target = -1
        if where >= 0:
            begin, end = rules.node_offsets[where : where + 2].tolist()
            hits = (rules.arc_tokens[begin:end] == choice).nonzero()
            if len(hits):
                target = int(rules.arc_targets[begin + int(hits[0])])
            elif choice in eos and bool(rules.final[where]):
                target = where
        found.append(target)
    return node.new_tensor(found)


def grow(values: Tensor, by: int, fill: float) -> Tensor:
    """Columns of `fill` behind."""
    return F.pad(values, (0, by), value=fill)


def put(values: Tensor, index: Tensor, column: Tensor, where: Tensor) -> Tensor:
    """`values` with column[n] at index[n, 0] of each row n that `where` marks."""
    index = index.clamp(max=values.size(1) - 1)
    here = values.gather(1, index).squeeze(1)
    return values.scatter(1, index, column.to(values.dtype).where(where, here).unsqueeze(1))


def _mask(scores: Tensor, tokens: Tensor) -> Tensor:
    """(V,) bool."""
    mask = torch.zeros(scores.size(1), dtype=torch.bool, device=scores.device)
    mask[tokens] = True
    return mask


def _force(scores: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """`tokens` (V,) and no others, with score 0, in the slots of `where` (N, 1)."""
    forced = torch.where(tokens, 0.0, -torch.inf).to(scores.dtype)
    return torch.where(where, forced, scores)


def _force_prefix(scores: Tensor, at: Candidates) -> Tensor:
    if not at.prefix.size(1):
        return scores
    index = at.position.clamp(max=at.prefix.size(1) - 1).unsqueeze(1)
    tokens = F.one_hot(at.prefix.gather(1, index).squeeze(1), scores.size(1)).bool()
    return _force(scores, tokens, (at.position < at.prefix_lengths).unsqueeze(1))


def _history(at: Candidates, vocab_size: int) -> Tensor:
    """Tokens with V, which is none, past each slot's last."""
    columns = torch.arange(at.tokens.size(1), device=at.tokens.device)
    return at.tokens.where(columns <= at.position.unsqueeze(1), vocab_size).clamp(max=vocab_size)


def _penalize_repetition(scores: Tensor, at: Candidates, penalty: float) -> Tensor:
    if penalty == 1:
        return scores
    seen = torch.zeros_like(F.pad(scores, (0, 1)), dtype=torch.bool)
    seen = seen.scatter(1, _history(at, scores.size(1)), True)[:, :-1]
    penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen, penalized, scores)


def _repeated_ngrams(scores: Tensor, at: Candidates, size: int) -> Tensor:
    """(N, V) bool: tokens that would end an n-gram that was there before."""
    vocab_size = scores.size(1)
    banned = torch.zeros_like(F.pad(scores, (0, 1)), dtype=torch.bool)
    history = _history(at, vocab_size)
    if 0 < size <= history.size(1):
        offsets = torch.arange(2 - size, 1, device=history.device)
        ends = at.position.unsqueeze(1) + offsets
        ending = history.gather(1, ends.clamp(min=0))
        windows = history.unfold(1, size, 1)
        same = (windows[..., :-1] == ending.unsqueeze(1)).all(2) & (ends >= 0).all(1, keepdim=True)
        banned = banned.scatter(1, torch.where(same, windows[..., -1], vocab_size), True)
    return banned[:, :-1]


def _bad_words(scores: Tensor, at: Candidates, rules: Rules) -> Tensor:
    """(N, V) bool: tokens that would complete one of the bad sequences."""
    banned = torch.zeros_like(scores, dtype=torch.bool)
    offsets = rules.bad_offsets.tolist()
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        *head, last = rules.bad_tokens[begin:end].tolist()
        first = at.position - len(head) + 1
        matches = first >= 0
        for offset, token in enumerate(head):
            index = (first + offset).clamp(min=0).unsqueeze(1)
            matches = matches & (at.tokens.gather(1, index).squeeze(1) == token)
        banned[:, last] |= matches
    return banned
