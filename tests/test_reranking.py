"""`RerankingPipeline`: models of different tokenizers choose among whole outputs."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
import torch
from helpers_cli import QUICK, assert_wrong_usage
from helpers_training import NAMES, toy_entries, toy_model, toy_tokenizers, toy_tsv

from fast_s2s import RerankingPipeline, Seq2Seq, Seq2SeqConfig, TextPipeline, Vocabulary
from fast_s2s.cli import main
from fast_s2s.reranking import load_pipeline
from fast_s2s.text import load_tokenizer

TEXTS = ["123", "0", "4412", "3"]
# of beams that end: an output that was cut off is not what is scored
SHORT = {"num_beams": 4, "constraint": ["one two", "three", "nil four nil", "two one", "four"]}
BACKWARDS = Vocabulary(NAMES, level="word", reverse=True)


@pytest.fixture(scope="module")
def pipelines():
    source, target = toy_tokenizers()
    # large first weights: outputs that differ
    first, second = (toy_model(seed).eval() for seed in (0, 1))
    third = toy_model(2, hidden_size=7).eval()
    with torch.no_grad():
        for model in (first, second, third):
            for parameter in model.parameters():
                parameter.mul_(3)
    return [
        TextPipeline(first, source, target),
        TextPipeline(second, source, BACKWARDS),
        TextPipeline(
            third, Vocabulary("43210", level="char"), Vocabulary(NAMES[::-1], level="word")
        ),
    ]


def log_probability(pipeline, text, output):
    """By the model itself, in its own tokens."""
    src, tgt = (
        torch.tensor([[*tokenizer.encode(line), tokenizer.eos_token_id]])
        for tokenizer, line in (
            (pipeline.source_tokenizer, text),
            (pipeline.target_tokenizer, output),
        )
    )
    return pipeline.model(src, tgt).logits.log_softmax(-1).gather(2, tgt[..., None]).sum().item()


def test_score_of_a_pipeline(pipelines):
    texts, outputs = ["123", "0", "44"], ["one two", "", "four nil three"]
    for pipeline in pipelines:
        expected = [log_probability(pipeline, *pair) for pair in zip(texts, outputs, strict=True)]
        assert pipeline.score(texts, outputs) == pytest.approx(expected, abs=1e-4)
        assert pipeline.score([], []) == []
    # backwards, words are other ids
    assert BACKWARDS.encode("one two") == pipelines[0].target_tokenizer.encode("two one")
    (found,) = pipelines[1].predict(["123"], scores=True, **SHORT)
    assert pipelines[1].score(["123"], [found.text]) == pytest.approx([found.score], abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("weights", [None, [1, 2, 5], [1000, 1, 1], [1, 1, 1000]])
def test_all_choose_among_what_each_proposes(pipelines, penalty, weights):
    joint = RerankingPipeline(pipelines, weights=weights)
    shares = [w / sum(weights) for w in weights] if weights else [1 / 3] * 3
    options = {**SHORT, "num_beams": 2, "length_penalty": penalty}
    found = joint.predict(TEXTS, scores=True, num_return_sequences=2, **options)
    proposed = [each.predict(TEXTS, num_return_sequences=2, **options) for each in pipelines]
    changed = 0
    for row, (text, prediction) in enumerate(zip(TEXTS, found, strict=True)):
        candidates = {h.text for one in proposed for h in one[row].nbest}
        ranks, scores = {}, {}
        for output in candidates:
            logs = [log_probability(each, text, output) for each in pipelines]
            length = len(output.split()) + 1
            scores[output] = sum(w * p for w, p in zip(shares, logs, strict=True))
            ranks[output] = scores[output] / length**penalty
        best = sorted(candidates, key=lambda output: -ranks[output])[:2]
        assert [h.text for h in prediction.nbest] == best
        assert [h.score for h in prediction.nbest] == pytest.approx(
            [scores[t] for t in best], abs=1e-4
        )
        assert prediction.num_tokens == len(prediction.text.split()) + 1
        changed += sum(one[row].text != prediction.text for one in proposed)
    assert changed


def test_rows_do_not_depend_on_each_other(pipelines):
    joint = RerankingPipeline(pipelines)
    together = joint.predict(TEXTS, scores=True, **SHORT)
    for text, prediction in zip(TEXTS, together, strict=True):
        (alone,) = joint.predict([text], scores=True, **SHORT)
        assert alone.text == prediction.text
        assert alone.score == pytest.approx(prediction.score, abs=1e-4)
    streamed = [p for batch in joint.stream(iter(TEXTS), batch_size=3, **SHORT) for p in batch]
    assert [p.text for p in streamed] == joint(TEXTS, **SHORT) == [p.text for p in together]
    assert streamed[0].score is None
    assert joint.predict([]) == [] and list(joint.stream([])) == []
    assert joint.predict(["19"])[0].unknown == 1


def test_constraint(pipelines):
    joint = RerankingPipeline(pipelines)
    words = ["one two", "three", "nil four nil"]
    compiled = joint.compile_constraint(iter(words))
    for constraint in (words, compiled):
        for beams in (1, 3):
            assert set(joint(TEXTS, constraint=constraint, num_beams=beams)) <= set(words)
    assert joint(TEXTS, constraint=list(compiled)) == joint(TEXTS, constraint=compiled)
    with pytest.raises(ValueError, match="constraint: expected at least one text"):
        joint(TEXTS, constraint=())
    with pytest.raises(TypeError, match="constraint: expected texts, or what `compile_constraint`"):
        joint(TEXTS, constraint=compiled[0])
    with pytest.raises(ValueError, match="constraint: expected 3 automata, got 2"):
        joint(TEXTS, constraint=compiled[:2])
    with pytest.raises(TypeError, match="constraint: expected texts or an Automaton, got 'one'"):
        joint(TEXTS, constraint="one")


def letters_beside_words(pipelines):
    """The first pipeline, and one that writes the same words letter by letter."""
    torch.manual_seed(5)
    letters = Vocabulary.build(["nil one two three four"])
    config = toy_model().config.to_dict() | {"tgt_vocab_size": len(letters)}
    model = Seq2Seq(Seq2SeqConfig.from_dict(config)).eval()
    return [pipelines[0], TextPipeline(model, toy_tokenizers()[0], letters)]


def test_what_is_impossible_is_not_chosen(pipelines):
    """A search that has nothing to offer gives a cut output of probability 0."""
    words = ["nil nil nil", "four", "one three", "two"]
    rows = [str(number) for number in range(40)]
    options = {"constraint": words, "no_repeat_ngram_size": 1, "num_beams": 1}
    parts = letters_beside_words(pipelines)
    alone = [each.predict(rows, scores=True, **options) for each in parts]
    stuck = [[p.score == -math.inf for p in found] for found in alone]
    assert any(a != b for a, b in zip(*stuck, strict=True))
    joint = RerankingPipeline(parts).predict(rows, scores=True, **options)
    for prediction, *nothing in zip(joint, *stuck, strict=True):
        if all(nothing):
            assert (prediction.text, prediction.score) == ("", -math.inf)
        else:
            assert prediction.text in words and prediction.score > -math.inf
    # three times the same word is impossible in words and in letters
    options["constraint"] = ["nil nil nil"]
    for prediction in RerankingPipeline(parts).predict(rows, scores=True, **options):
        assert (prediction.text, prediction.score) == ("", -math.inf)


def test_outputs_that_ended_come_first(pipelines):
    words = ["one two", "four nil", "nil"]
    rows = [str(number) for number in range(40)]
    # too few letters for some of the words
    options = {"constraint": words, "max_new_tokens": 6, "num_beams": 2}
    parts = letters_beside_words(pipelines)
    assert not set(parts[1](rows, **options)) <= set(words)
    assert set(RerankingPipeline(parts)(rows, **options)) <= set(words)


def test_a_model_that_says_nothing_leaves_the_choice(pipelines):
    broken = copy.deepcopy(pipelines[1].model)
    with torch.no_grad():
        broken.output_projection.bias.fill_(torch.nan)
    silent = TextPipeline(broken, pipelines[1].source_tokenizer, BACKWARDS)
    joint = RerankingPipeline([pipelines[0], silent])
    assert joint(TEXTS, **SHORT) == pipelines[0](TEXTS, **SHORT)


def test_an_output_that_is_nan_to_one_is_not_chosen(pipelines, monkeypatch):
    (before,) = RerankingPipeline(pipelines).predict(["123"], **SHORT)
    judge = pipelines[1]
    score_ids, best = judge.score_ids, judge.target_tokenizer.encode(before.text)

    def broken(rows, outputs):
        scores = score_ids(rows, outputs)
        return [math.nan if ids == best else s for ids, s in zip(outputs, scores, strict=True)]

    monkeypatch.setattr(judge, "score_ids", broken)
    options = {"scores": True, "num_return_sequences": 4, **SHORT}
    (after,) = RerankingPipeline(pipelines).predict(["123"], **options)
    assert after.text != before.text and after.score > -math.inf


@pytest.mark.parametrize("penalty", [-50.0, 50.0])
def test_the_largest_penalties(pipelines, penalty):
    found = RerankingPipeline(pipelines)(TEXTS, length_penalty=penalty, **SHORT)
    assert len(found) == len(TEXTS)


def test_models_that_sample_by_their_own_config(pipelines):
    model = copy.deepcopy(pipelines[0].model)
    values = {"do_sample": True, "num_return_sequences": 4, "seed": 3}
    model.generation_config = dataclasses.replace(model.generation_config, **values)
    sampling = TextPipeline(model, *toy_tokenizers())
    options = {"max_new_tokens": 5, "num_beams": None}
    expected = RerankingPipeline(pipelines[:2])(TEXTS, **options)
    assert RerankingPipeline([sampling, pipelines[1]])(TEXTS, **options) == expected


def test_score(pipelines):
    joint = RerankingPipeline(pipelines, weights=[1, 2, 1])
    (found,) = joint.predict(["12"], scores=True, **SHORT)
    assert joint.score(["12"], [found.text]) == pytest.approx([found.score], abs=1e-5)


def test_vocabularies_need_not_have_anything_in_common(pipelines):
    joint = RerankingPipeline(letters_beside_words(pipelines))
    (found,) = joint.predict(["12"], scores=True, num_return_sequences=4, **SHORT)
    for each in found.nbest:
        logs = [log_probability(one, "12", each.text) for one in joint.pipelines]
        assert each.score == pytest.approx(sum(logs) / 2, abs=1e-4)


def saved(tmp_path, pipelines):
    folders = []
    for index, each in enumerate([*pipelines[:2], pipelines[0]]):
        folders.append(str(tmp_path / str(index)))
        each.model.save_pretrained(folders[-1], each.source_tokenizer, each.target_tokenizer)
    return folders


def test_folders_with_the_same_tokenizers_are_an_ensemble(tmp_path, pipelines):
    folders = saved(tmp_path, pipelines)
    joint = load_pipeline(folders)
    assert isinstance(joint, RerankingPipeline)
    assert [len(getattr(each.model, "models", [1])) for each in joint.pipelines] == [2, 1]
    assert joint.weights == pytest.approx([2 / 3, 1 / 3])
    assert isinstance(load_pipeline(folders[::2]), TextPipeline)
    assert isinstance(load_pipeline(folders[0]), TextPipeline)
    with pytest.raises(ValueError, match="directories: expected models of at least two vocab"):
        RerankingPipeline.from_pretrained(folders[::2])
    with pytest.raises(
        ValueError,
        match="target_tokenizer.json: expected the same tokenizer as .*RerankingPipeline",
    ):
        TextPipeline.from_pretrained(folders)
    joint.compile_decoder("bfloat16")
    assert len(joint(["12"])) == 1


def test_command_line(tmp_path, pipelines, capsys):
    folders = saved(tmp_path, pipelines)
    flags = [f"--model={folder}" for folder in folders]
    (tmp_path / "words.txt").write_text("one two\nthree\nfour nil\n")
    constrain = ["--constrain", str(tmp_path / "words.txt")]
    assert main(["generate", *flags, *constrain, "--nbest=2", "--scores", "12", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    predictions = load_pipeline(folders).predict(
        ["12", "4"],
        scores=True,
        num_beams=2,
        num_return_sequences=2,
        constraint=["one two", "three", "four nil"],
    )
    expected = [(p, h) for p in zip(["12", "4"], predictions, strict=True) for h in p[1].nbest]
    assert lines == [f"{text}\t{h.text}\t{h.score:.4f}" for (text, _), h in expected]
    data = toy_tsv(tmp_path / "test.tsv", toy_entries(9))
    assert main(["evaluate", *flags, "--data", data, "--beam=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == folders
    assert main(["generate", *flags, "--sample", "12"]) == 2
    assert "--sample: expected models with the same tokenizers" in capsys.readouterr().err
    assert main(["generate", *flags, "--top-k", "3", "12"]) == 2
    assert "--top-k: expected models with the same tokenizers" in capsys.readouterr().err
    assert main(["explain", *flags, "--output", str(tmp_path / "page.html"), "12"]) == 2
    assert "--model: expected one folder, got" in capsys.readouterr().err


def test_training_right_to_left(tmp_path, capsys):
    tsv = toy_tsv(tmp_path / "train.tsv", toy_entries(60))
    flags = ["--train", tsv, "--dev", tsv, *QUICK, "--output", str(tmp_path / "run")]
    assert main(["train", *flags, "--reverse-target"]) == 0
    written = load_tokenizer(tmp_path / "run" / "target_tokenizer.json")
    assert isinstance(written, Vocabulary) and written.reverse
    assert not load_tokenizer(tmp_path / "run" / "source_tokenizer.json").reverse
    tokenizer = str(tmp_path / "run" / "target_tokenizer.json")
    flags[-1] = str(tmp_path / "other")
    assert_wrong_usage("train", *flags, "--reverse-target", "--target-tokenizer", tokenizer)
    assert "--reverse-target: expected not with --target-tokenizer" in capsys.readouterr().err
