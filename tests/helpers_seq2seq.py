"""The seq2seq model again, built of torch's own modules, one row at a time and without padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig

PAD, BOS, EOS = 0, 1, 2
SRC_VOCAB, TGT_VOCAB = 11, 13

# every architecture that takes a path of its own
ARCHITECTURES = {
    "plain": {},
    "two-layers": {"num_layers": 2},
    "deep-encoder": {"encoder_layers": 3, "decoder_layers": 2},
    "deep-decoder": {"encoder_layers": 1, "decoder_layers": 3},
    "bidirectional": {"bidirectional": True, "num_layers": 2},
    "bidirectional-deep-decoder": {"bidirectional": True, "encoder_layers": 1, "decoder_layers": 2},
    "tied": {"tie_embeddings": True, "embedding_size": 16},
}


def make_model(dtype: torch.dtype = torch.float64, **fields: object) -> Seq2Seq:
    """A small model with random weights, in eval mode, so sharp that its choices vary."""
    sizes = {"embedding_size": 8, "hidden_size": 16}
    config = Seq2SeqConfig(
        **{"src_vocab_size": SRC_VOCAB, "tgt_vocab_size": TGT_VOCAB, **sizes, **fields}
    )
    model = Seq2Seq(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-2.0, 2.0)
    return model.eval()


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
        self.decoder = nn.LSTM(embedding, hidden, decoder_layers)
        self.output_projection = nn.Linear(hidden, config.tgt_vocab_size)
        if config.bidirectional:
            layers = [nn.Linear(2 * hidden, hidden, bias=False) for _ in range(2 * decoder_layers)]
            self.bridge = nn.ModuleDict(
                {
                    "h": nn.ModuleList(layers[:decoder_layers]),
                    "c": nn.ModuleList(layers[decoder_layers:]),
                }
            )
        self.to(model.dtype).load_state_dict(model.state_dict())
        if config.tie_embeddings:
            self.output_projection.weight = self.tgt_embedding.weight

    def context(self, src: Tensor) -> tuple[Tensor, Tensor]:
        """h, c: (decoder layers, H)."""
        _, (h_n, c_n) = self.encoder(self.src_embedding(src))
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
        return torch.stack(h), torch.stack(c)

    def logits(self, src: Tensor, tgt: Tensor) -> Tensor:
        """(T, V), one step at a time."""
        state = self.context(src)
        rows = []
        for token in [BOS, *tgt[:-1].tolist()]:
            output, state = self.decoder(self.tgt_embedding(torch.tensor([token])), state)
            rows.append(self.output_projection(output[0]))
        return torch.stack(rows)

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
        state = self.context(src)
        tokens = [BOS]
        while len(tokens) <= max_new_tokens and tokens[-1] != EOS:
            output, state = self.decoder(self.tgt_embedding(torch.tensor(tokens[-1:])), state)
            scores = self.output_projection(output[0]).tolist()
            banned = {PAD, BOS, EOS} if len(tokens) <= min_new_tokens else {PAD, BOS}
            allowed = [token for token in range(len(scores)) if token not in banned]
            tokens.append(max(allowed, key=lambda token: scores[token]))
        return tokens, *state
