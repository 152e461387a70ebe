"""Dropout whose mask does not change over time."""

from __future__ import annotations

from torch import Tensor, nn

from fast_s2s import functional


class VariationalDropout(nn.Dropout):
    """Dropout with one mask for all steps of a row, Gal and Ghahramani 2016,
    https://arxiv.org/abs/1512.05287.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input (B, T, features), or (B, features) as in `torch.nn.Dropout`."""
        several = input.dim() == 3
        return functional.variational_dropout(input, self.p, self.training, several, dim=1)
