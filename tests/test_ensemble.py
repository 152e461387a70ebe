"""Several models that write one output: against every possible output, and a loop by hand."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from helpers_training import toy_entries, toy_model, toy_tokenizers, toy_tsv
from torch.nn import functional as F

import fast_s2s
from fast_s2s.cli import main
from fast_s2s.pipeline import TextPipeline

SRC = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0], [5, 5, 2, 0]])
# of different sizes, with and without attention, layer norm and zoneout
KINDS = [
    {"bidirectional": True, "num_layers": 2},
    {"attention": "dot", "hidden_size": 7},
    {"attention": "general", "bidirectional": True, "input_feeding": True, "hidden_size": 6},
    {"norm": "layer", "hidden_size": 5, "zoneout_cell": 0.1},
]


def made(seed=0, **fields):
    model = toy_model(seed, **fields).eval()
    # so that outputs differ, and end
    with torch.no_grad():
        model.output_projection.weight.mul_(6)
    return model


@pytest.fixture
def models():
    return [made(seed, **kind) for seed, kind in enumerate(KINDS)]


def mixed(logits):
    """The mean of the probabilities, as a logarithm, in float64."""
    return torch.stack([each.double().softmax(-1) for each in logits]).mean(0).log()


def test_greedy_is_the_loop_by_hand(models):
    found = fast_s2s.Ensemble(models).generate(SRC, max_new_tokens=7)
    states = [model.encode(SRC) for model in models]
    token = torch.ones(3, dtype=torch.int64)
    expected, over = [token], torch.zeros(3, dtype=torch.bool)
    for _ in range(found.size(1) - 1):
        steps = [model.step(token, state) for model, state in zip(models, states, strict=True)]
        states = [state for _, state in steps]
        scores = mixed([logits for logits, _ in steps])
        # pad and bos are never chosen
        scores[:, [0, 1]] = -torch.inf
        token = scores.argmax(1).masked_fill(over, 0)
        over |= token == 2
        expected.append(token)
    assert torch.equal(found, torch.stack(expected, 1))
    # not what one of them would have written
    assert not any(torch.equal(found, model.generate(SRC, max_new_tokens=7)) for model in models)


def test_beam_finds_the_most_probable_of_all(models):
    """A beam as wide as all outputs of 2 tokens, whose scores are sums of the mixture's."""
    ensemble = fast_s2s.Ensemble(models[:3])
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "num_beams": 60, "length_penalty": 0.0}
    out = ensemble.generate(SRC, return_dict_in_generate=True, **options)
    words = range(3, 9)
    every = list(itertools.product(words, (2, *words)))
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores, strict=True)):
        tgt = torch.tensor(every)
        src = SRC[row][SRC[row] != 0].expand(len(every), -1)
        steps = mixed([model(src, tgt).logits for model in models[:3]])
        totals = steps.gather(2, tgt.unsqueeze(2)).sum((1, 2))
        assert tuple(sequence[1:].tolist()) == every[int(totals.argmax())]
        assert score.item() == pytest.approx(totals.max().item(), rel=1e-4)


def test_one_model_is_itself(models):
    for model in models:
        alone = fast_s2s.Ensemble([model])
        for num_beams in (1, 3):
            options = {"max_new_tokens": 6, "num_beams": num_beams, "return_dict_in_generate": True}
            ours, theirs = alone.generate(SRC, **options), model.generate(SRC, **options)
            assert torch.equal(ours.sequences, theirs.sequences)
            torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores)


def test_forward_is_the_mixture(models, assert_close):
    tgt = torch.tensor([[4, 5, 2], [6, 2, 0], [8, 7, 2]])
    loss, logits = fast_s2s.Ensemble(models)(SRC, tgt)
    expected = mixed([model(SRC, tgt).logits for model in models])
    assert_close(logits, expected, "logits")
    by_hand = F.nll_loss(expected.flatten(0, 1), tgt.flatten(), ignore_index=0)
    assert_close(loss, by_hand, "loss")


def test_states_that_do_not_fit(models):
    ensemble = fast_s2s.Ensemble(models[:2])
    _, state = ensemble.generate(SRC, max_new_tokens=3, return_state=True)
    for change, message in (
        ({"position": None}, "state.position: expected one beside state.history"),
        ({"position": state.position + 50}, "state.position: expected lengths in 0.."),
        ({"finished": state.finished.long()}, "state.finished: expected dtype torch.bool"),
    ):
        with pytest.raises(ValueError, match=message):
            ensemble.generate(state=state._replace(**change))


def test_members_have_their_own_precision_under_autocast(models):
    """Also where another member goes through its modules."""
    by_modules = toy_model(3, dropout=0.1).train()
    plain = models[0].float()
    mixed_kinds = fast_s2s.Ensemble([plain, by_modules])
    seen = []
    step = mixed_kinds._members[0]._step_compute()[0]

    def watched(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return step(*arguments)

    plain._step_compute = lambda: (watched, torch.float32)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            mixed_kinds.generate(SRC, max_new_tokens=3)
    finally:
        del plain._step_compute
    assert seen and not any(seen)


def test_generation_goes_on(models):
    """States of the ensemble: in two parts as in one; samples by a seed; int8 weights."""
    ensemble = fast_s2s.Ensemble(models[:3])
    whole = ensemble.generate(SRC, max_new_tokens=6)
    first, state = ensemble.generate(SRC, max_new_tokens=2, return_state=True)
    second = ensemble.generate(state=state, max_new_tokens=4)
    joined = torch.cat((first, second[:, 1:]), 1)[:, : whole.size(1)]
    assert torch.equal(joined, whole)
    samples = [ensemble.generate(SRC, do_sample=True, seed=3, max_new_tokens=5) for _ in range(2)]
    assert torch.equal(*samples)
    assert ensemble.compile_decoder("int8").generate(SRC, max_new_tokens=3).size(0) == 3
    with pytest.raises(ValueError, match="output_attentions: expected False"):
        ensemble.generate(SRC, output_attentions=True, return_dict_in_generate=True)
    with pytest.raises(ValueError, match=r"state.h: expected shape \(1, batch, units\)"):
        ensemble.generate(state=models[0].encode(SRC))


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ([], ValueError, "models: expected at least one"),
        ([toy_tokenizers()], TypeError, r"models\[0\]: expected a Seq2Seq, got tuple"),
        (
            [toy_model(), fast_s2s.Seq2Seq(src_vocab_size=9, tgt_vocab_size=8)],
            ValueError,
            r"models\[1\]: expected tgt_vocab_size 9, got 8",
        ),
        ([toy_model(), toy_model().to("meta")], ValueError, r"models\[1\]: expected on cpu"),
    ],
)
def test_bad_ensembles(others, error, message):
    with pytest.raises(error, match=message):
        fast_s2s.Ensemble(others)


def test_command_line(models, tmp_path, capsys):
    """--model several times: generate, with n-best and scores, and evaluate."""
    folders = []
    for index, model in enumerate(models[:2]):
        folders.append(str(tmp_path / str(index)))
        model.save_pretrained(folders[-1], *toy_tokenizers())
    both = ["--model", folders[0], "--model", folders[1]]
    assert main(["generate", *both, "--max-new-tokens=6", "--scores", "12", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pipeline = TextPipeline.from_pretrained(folders)
    predictions = pipeline.predict(["12", "4"], max_new_tokens=6, scores=True)
    assert lines == [f"{p.text}\t{p.score:.4f}" for p in predictions]
    assert isinstance(pipeline.model, fast_s2s.Ensemble)
    data = toy_tsv(tmp_path / "test.tsv", toy_entries(9))
    assert main(["evaluate", *both, "--data", data, "--beam=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == folders
    assert main(["generate", "--model", folders[0], "--model", str(tmp_path / "no"), "1"]) == 1
    assert "no: no such folder" in capsys.readouterr().err
