"""The seq2seq model again, built of torch's own modules, one row at a time and without padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig

PAD, BOS, EOS = 0, 1, 2
SRC_VOCAB, TGT_VOCAB = 11, 13
SIZES = {"src_vocab_size": SRC_VOCAB, "tgt_vocab_size": TGT_VOCAB}


# every architecture that takes a path of its own
ARCHITECTURES = {
    "plain": {},
    "two-layers": {"num_layers": 2},
    "deep-encoder": {"encoder_layers": 3, "decoder_layers": 2},
    "deep-decoder": {"encoder_layers": 1, "decoder_layers": 3},
    "bidirectional": {"bidirectional": True, "num_layers": 2},
    "bidirectional-deep-decoder": {"bidirectional": True, "encoder_layers": 1, "decoder_layers": 2},
    "tied": {"tie_embeddings": True, "embedding_size": 16},
    "dot": {"attention": "dot", "num_layers": 2},
    "general-heads": {"attention": "general", "attention_heads": 4, "bidirectional": True},
    "additive-tied": {"attention": "additive", "tie_embeddings": True, "embedding_size": 16},
    "additive-heads": {"attention": "additive", "attention_heads": 2, "bidirectional": True},
    "feeding": {"attention": "general", "input_feeding": True, "num_layers": 2},
}


def make_model(dtype: torch.dtype = torch.float64, **fields: object) -> Seq2Seq:
    """A small model with random weights, in eval mode, so sharp that its choices vary."""
    config = Seq2SeqConfig(**{**SIZES, "embedding_size": 8, "hidden_size": 16, **fields})
    model = Seq2Seq(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-2.0, 2.0)
    return model.eval()


def lively(dtype: torch.dtype = torch.float64, **fields: object) -> Seq2Seq:
    """A model whose rows end early, late and never."""
    model = make_model(dtype, **fields)
    with torch.no_grad():
        model.output_projection.weight.mul_(0.5)
        model.output_projection.bias[EOS] += 0.8
    return model


class Batch(NamedTuple):
    """Padded token ids and lengths."""

    src: Tensor
    src_lengths: Tensor
    tgt: Tensor
    tgt_lengths: Tensor


def make_batch(rows: int = 5, seed: int = 3) -> Batch:
    """Ragged rows in no order; targets end with eos."""
    generator = torch.Generator().manual_seed(seed)
    src, src_lengths = _ragged(rows, 7, SRC_VOCAB, generator)
    tgt, tgt_lengths = _ragged(rows, 6, TGT_VOCAB, generator)
    tgt[torch.arange(rows), tgt_lengths - 1] = EOS
    return Batch(src, src_lengths, tgt, tgt_lengths)


def assert_same_state(state: tuple, other: tuple) -> None:
    """Every part of two states of a kind, bit for bit."""
    assert type(state) is type(other)
    for name, value, same in zip(state._fields, state, other, strict=True):
        if isinstance(value, tuple):
            assert_same_state(value, same)
        else:
            assert (value is None and same is None) or torch.equal(value, same), name


def _ragged(
    rows: int, longest: int, vocab: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    lengths[rows // 2] = longest
    ids = torch.randint(3, vocab, (rows, longest), generator=generator)
    return ids.masked_fill(torch.arange(longest) >= lengths.unsqueeze(1), PAD), lengths


class TorchSeq2Seq(nn.Module):
    """Takes the state_dict of a `Seq2Seq`. Methods take one row, (S,) or (T,), without padding."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        config = self.config = model.config
        embedding, hidden = config.embedding_size, config.hidden_size
        encoder_layers = config.encoder_layers or config.num_layers
        decoder_layers = config.decoder_layers or config.num_layers
        self.src_embedding = nn.Embedding(config.src_vocab_size, embedding, padding_idx=PAD)
        self.encoder = nn.LSTM(
            embedding, hidden, encoder_layers, bidirectional=config.bidirectional
        )
        self.tgt_embedding = nn.Embedding(config.tgt_vocab_size, embedding, padding_idx=PAD)
        fed = hidden if config.input_feeding else 0
        self.decoder = nn.LSTM(embedding + fed, hidden, decoder_layers)
        self.output_projection = nn.Linear(hidden, config.tgt_vocab_size)
        if config.bidirectional:
            layers = [nn.Linear(2 * hidden, hidden, bias=False) for _ in range(2 * decoder_layers)]
            self.bridge = nn.ModuleDict(
                {
                    "h": nn.ModuleList(layers[:decoder_layers]),
                    "c": nn.ModuleList(layers[decoder_layers:]),
                }
            )
        if config.attention is not None:
            self.attention = self._attention_parameters(hidden, hidden * (1 + config.bidirectional))
        self.to(model.dtype).load_state_dict(model.state_dict())
        if config.tie_embeddings:
            self.output_projection.weight = self.tgt_embedding.weight

    def _attention_parameters(self, hidden: int, memory: int) -> nn.Module:
        """Named as in `fast_s2s.attention.Attention`."""
        found = nn.Module()
        additive = self.config.attention == "additive"
        if self.config.attention != "dot":
            found.key = nn.Linear(memory, hidden, bias=additive)
        if additive:
            found.query = nn.Linear(hidden, hidden, bias=False)
            found.score = nn.Parameter(torch.zeros(hidden))
        found.output = nn.Linear(memory + hidden, hidden, bias=False)
        return found

    def attend(self, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """h (H,), memory (S, M) -> h~ (H,), weights (heads, S): one score after the other."""
        heads, contexts, weights = self.config.attention_heads, [], []
        key_size, value_size = len(h) // heads, memory.size(1) // heads
        for head in range(heads):
            part = slice(head * key_size, (head + 1) * key_size)
            scores = []
            for m in memory:
                if self.config.attention == "dot":
                    scores.append(h[part].dot(m[part]))
                elif self.config.attention == "general":
                    scores.append(h[part].dot((self.attention.key.weight @ m)[part]))
                else:
                    inside = self.attention.query.weight @ h + self.attention.key(m)
                    scores.append(self.attention.score[part].dot(inside[part].tanh()))
            exps = torch.stack(scores).exp() if scores else h.new_zeros(0)
            mix = exps / exps.sum()
            columns = slice(head * value_size, (head + 1) * value_size)
            contexts.append((mix.unsqueeze(1) * memory[:, columns]).sum(0))
            weights.append(mix)
        joined = torch.cat((*contexts, h))
        return (self.attention.output.weight @ joined).tanh(), torch.stack(weights)

    def read(
        self, token: int, state: tuple[Tensor, Tensor], memory: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """One step: what the output projection reads, the next state, weights of attention."""
        h, c = state
        x = self.tgt_embedding(torch.tensor([token]))
        if self.config.input_feeding:
            x, h = torch.cat((x, h[-1:]), 1), h[:-1]
        output, (h, c) = self.decoder(x, (h, c))
        found, weights = output[0], None
        if self.config.attention is not None:
            found, weights = self.attend(found, memory)
        if self.config.input_feeding:
            h = torch.cat((h, found.unsqueeze(0)))
        return found, (h, c), weights

    def context(self, src: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """h, c: (decoder layers, H), h with input feeding one more; memory (S, M)."""
        output, (h_n, c_n) = self.encoder(self.src_embedding(src))
        h, c = [], []
        for layer in range(self.decoder.num_layers):
            k = max(0, self.encoder.num_layers - self.decoder.num_layers + layer)
            if self.config.bidirectional:
                both = slice(2 * k, 2 * k + 2)
                h.append(torch.tanh(self.bridge["h"][layer](h_n[both].flatten())))
                c.append(self.bridge["c"][layer](c_n[both].flatten()))
            else:
                h.append(h_n[k])
                c.append(c_n[k])
        if self.config.input_feeding:
            h.append(torch.zeros_like(h[0]))
        return (torch.stack(h), torch.stack(c)), output

    def logits(self, src: Tensor, tgt: Tensor) -> Tensor:
        """(T, V), one step at a time."""
        return self.unroll(src, tgt)[0]

    def unroll(self, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """logits (T, V), and each step's weights of attention (heads, S)."""
        state, memory = self.context(src)
        rows, weights = [], []
        for token in [BOS, *tgt[:-1].tolist()]:
            found, state, mix = self.read(token, state, memory)
            rows.append(self.output_projection(found))
            weights.append(mix)
        return torch.stack(rows), weights

    def loss(self, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean over the tokens of all rows, written out."""
        losses = []
        for src, src_length, tgt, tgt_length in zip(*batch, strict=True):
            target = tgt[:tgt_length]
            log_probs = F.log_softmax(self.logits(src[:src_length], target), dim=1)
            chosen = log_probs[torch.arange(len(target)), target]
            smooth = log_probs.mean(1)
            losses.append(-(1 - label_smoothing) * chosen - label_smoothing * smooth)
        return torch.cat(losses).mean()

    @torch.no_grad()
    def generate(
        self, src: Tensor, max_new_tokens: int, min_new_tokens: int = 0
    ) -> tuple[list[int], Tensor, Tensor]:
        """Tokens from bos to eos, and h, c (layers, H) after the last input."""
        state, memory = self.context(src)
        tokens = [BOS]
        while len(tokens) <= max_new_tokens and tokens[-1] != EOS:
            found, state, _ = self.read(tokens[-1], state, memory)
            scores = self.output_projection(found).tolist()
            banned = {PAD, BOS, EOS} if len(tokens) <= min_new_tokens else {PAD, BOS}
            allowed = [token for token in range(len(scores)) if token not in banned]
            tokens.append(max(allowed, key=lambda token: scores[token]))
        return tokens, *state
