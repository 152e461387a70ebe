"""What a model learns from a teacher: its probabilities of every next token, beside the targets."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

from fast_s2s.checks import shown
from fast_s2s.data import Batch
from fast_s2s.ensemble import SAME_IN_ALL, Ensemble, EnsembleOutput
from fast_s2s.seq2seq import Seq2Seq, Seq2SeqOutput
from fast_s2s.training.config import TrainingConfig


class Distillation:
    """The loss of a model that has a teacher, after Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, section 2, token by token as in Kim and Rush 2016,
    https://arxiv.org/abs/1606.07947, section 3.1:

        (1 - w) · loss + w · t² · KL(softmax(teacher / t) ‖ softmax(model / t))

    w and t are `distillation_weight` and `distillation_temperature`, the logits those after the
    target's own tokens; an ensemble's are its log-probabilities. Both terms are means over the
    target tokens.
    """

    def __init__(self, teacher: Seq2Seq | Ensemble, model: Seq2Seq, config: TrainingConfig) -> None:
        """teacher: put into eval mode, and never trained

        Raises TypeError or ValueError naming what does not fit.
        """
        _check_teacher(teacher, model)
        if config.scheduled_sampling > 0:
            raise ValueError(
                "teacher: expected none with scheduled_sampling, since it reads the targets and "
                f"the model other tokens, got scheduled_sampling={config.scheduled_sampling}"
            )
        self.teacher = teacher.eval()
        self.weight = config.distillation_weight
        self.temperature = config.distillation_temperature

    def loss(self, output: Seq2SeqOutput, batch: Batch) -> Tensor:
        """Of what the model makes of the batch, which is on its device."""
        src, src_lengths, tgt, tgt_lengths = batch
        with torch.no_grad():
            told: Seq2SeqOutput | EnsembleOutput = self.teacher(src, tgt, src_lengths, tgt_lengths)
        divergence = nn.functional.kl_div(
            self._log_probabilities(output.logits),
            self._log_probabilities(told.logits),
            reduction="none",
            log_target=True,
        ).sum(-1)
        steps = torch.arange(tgt.size(1), device=tgt.device)
        counts = steps < tgt_lengths.unsqueeze(1)
        counts &= tgt != self.teacher.config.pad_token_id
        mean = divergence.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
        return (1 - self.weight) * output.loss + self.weight * self.temperature**2 * mean

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return (wide / self.temperature).log_softmax(-1)

    def fingerprint(self) -> str:
        """A digest of the teacher's configurations and weights."""
        digest = hashlib.sha256()
        members = self.teacher.models if isinstance(self.teacher, Ensemble) else [self.teacher]
        for member in members:
            assert isinstance(member, Seq2Seq)
            digest.update(json.dumps(member.config.to_dict(), sort_keys=True).encode())
            for value in member.state_dict().values():
                digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def make_distillation(
    teacher: Seq2Seq | Ensemble | None, model: Seq2Seq, config: TrainingConfig
) -> Distillation | None:
    """None without a teacher.

    Raises TypeError or ValueError naming what does not fit.
    """
    if teacher is not None:
        return Distillation(teacher, model, config)
    for name in ("distillation_weight", "distillation_temperature"):
        if getattr(config, name) != getattr(TrainingConfig, name):
            raise ValueError(f"{name}: expected a teacher with it, got {getattr(config, name)}")
    return None


def _check_teacher(teacher: Seq2Seq | Ensemble, model: Seq2Seq) -> None:
    if not isinstance(teacher, (Seq2Seq, Ensemble)):
        raise TypeError(f"teacher: expected a Seq2Seq or an Ensemble, got {shown(teacher)}")
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError("teacher: expected no parameters of the model that is trained")
    for name in SAME_IN_ALL:
        ours, theirs = getattr(model.config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise ValueError(f"teacher: expected {name} {ours}, as the model has, got {theirs}")
    if teacher.device != model.device:
        raise ValueError(f"teacher: expected on {model.device}, got {teacher.device}")
