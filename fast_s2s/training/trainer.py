"""`Trainer`: teacher forcing over token batches, resumable to the same numbers."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fast_s2s.checks import check_bool, check_path
from fast_s2s.data import Entry, PairDataset
from fast_s2s.ensemble import Ensemble
from fast_s2s.extras import require
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import Tokenizer
from fast_s2s.training import evaluation
from fast_s2s.training.arguments import check_arguments, check_dev_entries
from fast_s2s.training.average import ExponentialAverage
from fast_s2s.training.batches import BatchStream
from fast_s2s.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    prune_checkpoints,
    random_states,
    remove_newer_checkpoints,
    restore,
    save_checkpoint,
)
from fast_s2s.training.config import HIGHER_IS_BETTER, TrainingConfig
from fast_s2s.training.curve import plot_where_possible
from fast_s2s.training.distillation import make_distillation
from fast_s2s.training.fingerprint import check_fingerprint, check_same_everywhere, fingerprint
from fast_s2s.training.gradients import accumulate_gradients, check_finite, clip_gradients
from fast_s2s.training.interrupt import SignalCatcher, TrainingInterrupted
from fast_s2s.training.optimizer import make_optimizer
from fast_s2s.training.processes import Processes
from fast_s2s.training.progress import Progress
from fast_s2s.training.run_folder import RunFolder, TrainLog
from fast_s2s.training.schedule import Schedule, sampling_probability
from fast_s2s.training.state import TrainingResult, TrainingState


class Trainer:
    """Trains a model and keeps everything about the run in one folder.

    model:                              trained in place, on the device where it is
    source_tokenizer, target_tokenizer: of the model's vocabularies
    output_dir:                         the run's folder: the best model by dev score (without dev
                                        entries the latest), train_log.jsonl with one line for each
                                        evaluation, curve.png, run.json and checkpoints/
    quiet:                              show no progress
    teacher:                            learn its probabilities too: `Distillation` has the loss

    Where `torch.distributed` is in use, all its processes train this model together: the same
    numbers as one process but for rounding and dropout's chance. Only the first writes and shows
    progress. See docs/distributed.md.

    Raises TypeError or ValueError naming the argument that does not fit.
    """

    def __init__(
        self,
        model: Seq2Seq,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        config: TrainingConfig,
        output_dir: str | os.PathLike[str],
        *,
        quiet: bool = False,
        teacher: Seq2Seq | Ensemble | None = None,
    ) -> None:
        if not isinstance(config, TrainingConfig):
            raise TypeError(f"config: expected a TrainingConfig, got {type(config).__name__}")
        self.pipeline = TextPipeline(model, source_tokenizer, target_tokenizer)
        self.model = model
        self.config = config
        self._distillation = make_distillation(teacher, model, config)
        check_path("output_dir", output_dir)
        check_bool("quiet", quiet)
        self.folder = RunFolder(output_dir)
        self.state = TrainingState()
        self._quiet = quiet
        self._log = TrainLog(self.folder.log_file)

    def fit(
        self,
        train_entries: Sequence[Entry],
        dev_entries: Sequence[Entry] = (),
        *,
        resume: bool = False,
        overwrite: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> TrainingResult:
        """Train until one of the limits in the config is reached.

        train_entries: every target of an entry is trained on
        dev_entries:   an output counts as right if it is any of an entry's targets
        resume:        go on from the newest checkpoint in the folder, to the same numbers as
                       without the break, but for a schedule that follows the clock (linear with
                       max_minutes); with none there, begin
        overwrite:     remove the run in the folder first
        options:       JSON values kept in run.json, for whoever called

        Sets torch's random seed. SIGINT and SIGTERM save a checkpoint.

        Raises FileExistsError if another process trains in the folder, or if it holds a run and
        neither `resume` nor `overwrite` is given, ValueError for data or settings other than the
        run began with, TypeError or ValueError for an argument that does not fit,
        TrainingInterrupted after a signal, RuntimeError if the loss or the gradient is not finite,
        ModuleNotFoundError if a package is missing that scores dev entries.
        """
        check_arguments(train_entries, dev_entries, resume, overwrite, options or {})
        self._prepare(train_entries, dev_entries)
        try:
            self._begin(resume=resume, overwrite=overwrite, options=options or {})
            return self._finish(self._run())
        finally:
            self.folder.close()

    def _prepare(self, train_entries: Sequence[Entry], dev_entries: Sequence[Entry]) -> None:
        config, pipeline = self.config, self.pipeline
        check_dev_entries(config, dev_entries)
        self._dataset = PairDataset(
            train_entries,
            pipeline.source_tokenizer,
            pipeline.target_tokenizer,
            max_length=config.max_length,
        )
        self._processes = Processes(self.model.device)
        self._replica = self._processes.replicate(self.model)
        self._batches = BatchStream(self._dataset, config, self._processes)
        self._dev = evaluation.spread(dev_entries, config.dev_size)
        self._fingerprint = fingerprint(
            config, self.model, self._dataset, self._dev, self._distillation
        )
        check_same_everywhere(self._processes.gather(self._fingerprint))
        self._optimizer = make_optimizer(self.model, config)
        self._schedule = Schedule(config)
        self._average: ExponentialAverage | None = None
        # what is evaluated and saved
        self._best = pipeline
        if config.ema is not None:
            self._average = ExponentialAverage(self.model, config.ema)
            tokenizers = pipeline.source_tokenizer, pipeline.target_tokenizer
            self._best = TextPipeline(self._average.model, *tokenizers)
        self._saved_at = -1
        self._signal = 0

    def _begin(self, *, resume: bool, overwrite: bool, options: Mapping[str, Any]) -> None:
        # each process has chance of its own
        torch.manual_seed((self.config.seed + self._processes.rank * _GOLDEN) % 2**63)
        self.state = TrainingState()

        def open_folder() -> Checkpoint | None:
            going_on = self.folder.open(resume=resume, overwrite=overwrite)
            return latest_checkpoint(self.folder.checkpoints) if going_on else None

        checkpoint = self._processes.from_main(open_folder)
        if checkpoint is not None:
            check_fingerprint(checkpoint.state["fingerprint"], self._fingerprint)
            average = None if self._average is None else self._average.model
            rank = self._processes.rank
            content = restore(checkpoint, self.model, self._optimizer, average, rank)
            self.state = TrainingState(**content["training"])
            if self._average is not None:
                self._average.go_on(self.state.update)
            self._schedule.load_state_dict(content["schedule"])
            self._saved_at = self.state.update
        self._manifest = {
            "finished": False,
            "training_config": dataclasses.asdict(self.config),
            "options": dict(options),
        }
        self._processes.from_main(self._take_folder)
        # a run that is killed early goes on with its own first weights
        if checkpoint is None:
            self._save()
        self._writer: Any = None
        if self.config.tensorboard and self._processes.is_main:
            module = require("torch.utils.tensorboard")
            purge = self.state.update + 1
            self._writer = module.SummaryWriter(str(self.folder.tensorboard), purge_step=purge)

    def _run(self) -> str:
        """Train, and say why it ended."""
        quiet = self._quiet or not self._processes.is_main
        self._progress = Progress(self.config.max_updates, self.state.update, quiet=quiet)
        try:
            with SignalCatcher() as signals:
                return self._train(signals)
        finally:
            self._progress.close()
            if self._writer is not None:
                self._writer.close()

    def _take_folder(self) -> None:
        self._log.rewind(self.state.log_position)
        remove_newer_checkpoints(self.folder.checkpoints, self.state.update)
        self.folder.write_manifest(self._manifest)

    def _train(self, signals: SignalCatcher) -> str:
        config, state = self.config, self.state
        while True:
            self._agree(signals)
            started = time.monotonic()
            stop = self._stop_reason()
            due = stop is not None or state.update % config.evaluate_every == 0
            due = due and state.update > state.evaluated_at
            # who sent a signal may not wait for an evaluation; the run that goes on begins with it
            if due and not self._signal:
                self._evaluate()
                due = False
                state.seconds += time.monotonic() - started
                self._agree(signals)
                stop = self._stop_reason()
            if self._checkpoint_due(stop):
                self._save()
            if stop is not None and not due:
                return stop
            if self._signal:
                path = self.folder.checkpoints / f"step-{state.update}"
                raise TrainingInterrupted(self._signal, path)
            self._update()

    def _checkpoint_due(self, stop: str | None) -> bool:
        update = self.state.update
        due = stop is not None or self._signal > 0 or update % self.config.checkpoint_every == 0
        return due and self._saved_at != update

    def _agree(self, signals: SignalCatcher) -> None:
        """On how late it is, and whether to leave: clocks and signals differ."""
        told = self._processes.gather_numbers(self.state.seconds, signals.received or 0)
        self.state.seconds, signal = told.amax(0).tolist()
        self._signal = int(signal)

    def _stop_reason(self) -> str | None:
        config, state = self.config, self.state
        limits: dict[str, tuple[float, float | None]] = {
            "max_updates": (state.update, config.max_updates),
            "max_epochs": (state.epoch, config.max_epochs),
            "max_minutes": (state.seconds / 60, config.max_minutes),
            "patience": (state.evaluations_since_best, config.patience),
        }
        for name, (value, limit) in limits.items():
            if limit is not None and value >= limit:
                return name
        return None

    def _update(self) -> None:
        """One update of the weights from the next group of batches."""
        config, state = self.config, self.state
        started = time.monotonic()
        self._replica.train()
        batches, counts, total = self._batches.next(state)
        rate = self._schedule.rate(state.update + 1, self._time_used())
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        part, tokens = accumulate_gradients(
            self._replica,
            batches,
            bf16=config.precision == "bf16",
            counts=counts,
            total=total,
            processes=self._processes.size,
            distillation=self._distillation,
            sampling_probability=sampling_probability(config, state.update + 1),
            sampling_passes=config.scheduled_sampling_passes,
        )
        norm = clip_gradients(self.model, config.clip_norm)
        # in one go: a GPU is waited for once
        told = self._processes.gather_numbers(*torch.stack([part, norm.double()]).tolist())
        loss = float(told[:, 0].sum())
        # while the weights are still those of the update before
        check_finite("loss", loss, state.update + 1)
        check_finite("norm of the gradient", float(told[:, 1].amax()), state.update + 1)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        state.update += 1
        state.tokens += tokens
        state.window_loss += loss
        state.window_tokens += tokens
        state.seconds += time.monotonic() - started
        self._progress.update(loss / tokens, state.tokens / max(state.seconds, 1e-9))
        if self._writer is not None:
            self._writer.add_scalar("train/loss", loss / tokens, state.update)
            self._writer.add_scalar("train/learning_rate", rate, state.update)

    def _time_used(self) -> float:
        limit = self.config.max_minutes
        return 0.0 if limit is None else self.state.seconds / (60 * limit)

    def _evaluate(self) -> None:
        config, state = self.config, self.state
        rate = self._schedule.rate(max(state.update, 1), self._time_used())
        record: dict[str, Any] = {
            "update": state.update,
            "epoch": round(self._batches.epochs(state), 4),
            "train_loss": state.window_loss / max(state.window_tokens, 1),
            **evaluation.dev_scores(self._best, self._dev, config, self._processes),
            "learning_rate": rate,
            "tokens": state.tokens,
            "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
            "seconds": round(state.seconds, 3),
        }
        state.evaluated_at, state.window_loss, state.window_tokens = state.update, 0.0, 0
        best = self._take_note(record.get(_RECORD_KEY.get(config.dev_metric, config.dev_metric)))
        if self._processes.is_main:
            self._log.append(record)
            state.log_position = self._log.position()
        self._progress.evaluation(record, config.dev_metric, state.update == state.best_update)
        if self._writer is not None:
            for name in ("dev_loss", "per", "wer", "exact_match", "bleu"):
                if name in record:
                    self._writer.add_scalar(f"dev/{name}", record[name], state.update)
        if best and self._processes.is_main:
            self._save_model()

    def _take_note(self, score: float | None) -> bool:
        """Whether this is the best dev score so far; without one the latest model is the best."""
        state = self.state
        if score is None:
            return True
        sign = -1.0 if self.config.dev_metric in HIGHER_IS_BETTER else 1.0
        # an evaluation at the end only must leave no trace in a run that goes on to a later end
        regular = state.update % self.config.evaluate_every == 0
        finite = math.isfinite(score)
        if regular:
            self._schedule.observe(sign * score if finite else math.inf)
        if not finite:
            state.evaluations_since_best += regular
            # a folder without a model would be worse
            return state.best_score is None
        if state.best_score is not None and sign * score >= sign * state.best_score:
            state.evaluations_since_best += regular
            return False
        state.best_score, state.best_update = score, state.update
        state.evaluations_since_best = 0
        return True

    def _save(self) -> None:
        self._saved_at = self.state.update
        random = self._processes.gather(random_states(self.model.device))
        if not self._processes.is_main:
            return
        content = {
            "training": dataclasses.asdict(self.state),
            "schedule": self._schedule.state_dict(),
            "fingerprint": self._fingerprint,
        }
        folder = self.folder.checkpoints
        average = None if self._average is None else self._average.model
        update = self.state.update
        save_checkpoint(folder, update, self.model, self._optimizer, random, content, average)
        prune_checkpoints(folder, self.config.keep_checkpoints)

    def _save_model(self) -> None:
        pipeline = self._best
        model = self.model if self._average is None else self._average.model
        model.save_pretrained(
            self.folder.path, pipeline.source_tokenizer, pipeline.target_tokenizer
        )

    def _finish(self, stop_reason: str) -> TrainingResult:
        state = self.state
        result = TrainingResult(
            updates=state.update,
            epochs=self._batches.epochs(state),
            seconds=state.seconds,
            tokens=state.tokens,
            stop_reason=stop_reason,
            best_score=state.best_score,
            best_update=state.best_update,
            dropped=self._dataset.dropped,
        )
        self._manifest |= {"finished": True, "result": dataclasses.asdict(result)}
        # the others, too, return only when the folder is whole
        self._processes.from_main(self._complete_folder)
        self.model.eval()
        return result

    def _complete_folder(self) -> None:
        plot_where_possible(self._log.records(), self.folder.curve_file, stacklevel=5)
        self.folder.write_manifest(self._manifest)


# 2^64 over the golden ratio: seeds of processes far from each other
_GOLDEN = 0x9E3779B97F4A7C15


# the name of a dev metric in the log, where it is not its own
_RECORD_KEY = {"loss": "dev_loss"}
