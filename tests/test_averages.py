"""Averages of weights: over the updates of a run, over checkpoints."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from helpers_training import toy_entries, toy_model, toy_tokenizers, toy_trainer

from fast_s2s.cli import main
from fast_s2s.data import TokenBatches
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.serialization import load_tensors
from fast_s2s.text import Vocabulary
from fast_s2s.training.average import average_models
from fast_s2s.training.gradients import accumulate_gradients


def test_ema_is_the_formula(tmp_path):
    """The average by hand, beside the plain loop; tied weights stay tied."""
    sizes = {"embedding_size": 12, "tie_embeddings": True}
    entries = toy_entries(40)
    trainer = toy_trainer(tmp_path, toy_model(**sizes), max_updates=10, ema=0.6)
    trainer.fit(entries)

    model = toy_model(**sizes)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    batches = TokenBatches(trainer._dataset, 64, seed=1)
    order = [indices for epoch in range(10) for indices in batches.batches(epoch)]
    averages = {}
    for update, indices in enumerate(order[:10], start=1):
        optimizer.zero_grad()
        accumulate_gradients(model.train(), [batches.collate(indices)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = trainer._schedule.rate(update)
        optimizer.step()
        decay = min(0.6, update / (9 + update))
        for name, weight in model.state_dict().items():
            before = averages.get(name, weight.double())
            averages[name] = decay * before + (1 - decay) * weight.double()
    saved = Seq2Seq.from_pretrained(tmp_path)
    assert saved.output_projection.weight is saved.tgt_embedding.weight
    for name, weight in saved.state_dict().items():
        torch.testing.assert_close(weight.double(), averages[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(weight, model.state_dict()[name], atol=1e-5) or weight.dim() < 2


def test_ema_goes_on_where_it_was(tmp_path):
    train, dev = toy_entries(40), toy_entries(8, seed=1)
    toy_trainer(tmp_path / "whole", max_updates=11, ema=0.9, schedule="constant").fit(train, dev)
    for updates, resume in ((5, False), (11, True)):
        trainer = toy_trainer(tmp_path / "parts", max_updates=updates, ema=0.9, schedule="constant")
        trainer.fit(train, dev, resume=resume)
    whole, parts = (
        load_tensors(tmp_path / name / "checkpoints" / "step-11" / "average.safetensors")
        for name in ("whole", "parts")
    )
    for name, weight in whole.items():
        assert torch.equal(parts[name], weight), name


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages") / "run"
    toy_trainer(folder, keep_checkpoints=9).fit(toy_entries(40), toy_entries(8, seed=1))
    return folder


def test_average_of_the_last_checkpoints(run_folder, tmp_path, capsys):
    assert main(["average", "--output", str(tmp_path / "out"), "--last=3", str(run_folder)]) == 0
    assert "average of 3" in capsys.readouterr().out
    parts = [
        load_tensors(run_folder / "checkpoints" / f"step-{step}" / "model.safetensors")
        for step in (4, 8, 12)
    ]
    pipeline = TextPipeline.from_pretrained(tmp_path / "out")
    for name, weight in pipeline.model.state_dict().items():
        mean = sum(part[name].double() for part in parts) / 3
        torch.testing.assert_close(weight, mean.float(), rtol=0, atol=0)
    assert pipeline.model.config == Seq2Seq.from_pretrained(run_folder).config
    assert pipeline(["12"])


def test_average_of_models_and_checkpoints(run_folder, tmp_path):
    files = average_models([run_folder, run_folder / "checkpoints" / "step-4"], tmp_path / "out")
    assert [file.parent.name for file in files] == ["run", "step-4"]
    # an average of the updates counts for the checkpoint it is in
    toy_trainer(tmp_path / "ema", ema=0.5).fit(toy_entries(40))
    (file,) = average_models([tmp_path / "ema" / "checkpoints" / "step-12"], tmp_path / "one")
    assert file.name == "average.safetensors"


def test_average_refuses_what_differs(run_folder, tmp_path):
    first = tmp_path / "first"
    model = toy_model()
    model.save_pretrained(first, *toy_tokenizers())

    def refused(message, *sources, error=ValueError, **options):
        with pytest.raises(error, match=message):
            average_models([first, *sources], tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def saved(name, model, tokenizers=None):
        model.save_pretrained(tmp_path / name, *(tokenizers or toy_tokenizers()))
        return tmp_path / name

    refused("hidden_size 10 instead of 12", saved("narrow", toy_model(hidden_size=10)))
    refused("zoneout_cell 0.1 instead of 0.0", saved("zoned", toy_model(zoneout_cell=0.1)))
    other = Vocabulary("43210", level="char"), toy_tokenizers()[1]
    refused("another source_tokenizer.json", saved("tokenizer", toy_model(), other))
    refused(
        r"decoder.bias_hh_l0: expected \(48,\) torch.float32 .*first.* got \(48,\) torch.float64",
        saved("double", toy_model(dtype=torch.float64)),
    )
    refused("no such folder", tmp_path / "missing", error=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused("to be a model, or a checkpoint", tmp_path / "empty", error=FileNotFoundError)
    refused("expected one run", run_folder, last=2)
    with pytest.raises(ValueError, match="at most the 3 checkpoints"):
        # of step 0, 4, 8, 12
        average_models([run_folder], tmp_path / "out", last=4)
    with pytest.raises(FileExistsError, match="an empty folder"):
        average_models([first], run_folder)
    # what only the training reads may differ
    smoothed = toy_model()
    smoothed.config = dataclasses.replace(smoothed.config, label_smoothing=0.1, dropout=0.2)
    average_models([first, saved("smoothed", smoothed)], tmp_path / "out")


def test_weights_that_were_not_trained_are_not_averaged(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    for step in (4, 8, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step}")
    with pytest.raises(ValueError, match="last: expected checkpoints of a trained model .* step-0"):
        average_models([tmp_path / "run"], tmp_path / "out", last=1)
    assert not (tmp_path / "out").exists()
    # by its name, it is meant
    assert average_models([tmp_path / "run" / "checkpoints" / "step-0"], tmp_path / "out")


def test_a_model_half_there_is_not_averaged(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="step-8/model.safetensors: expected a safetensors file"):
        average_models([tmp_path / "run"], tmp_path / "out", last=2)
    assert not (tmp_path / "out").exists()
