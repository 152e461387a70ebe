"""Outputs of other systems beside the models' own: `HypothesisList` in a `RerankingPipeline`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from helpers_cli import assert_wrong_usage
from helpers_training import NAMES, toy_entries, toy_model, toy_tokenizers, toy_tsv

from fast_s2s import Automaton, HypothesisList, RerankingPipeline, TextPipeline, Vocabulary
from fast_s2s.cli import main
from fast_s2s.hypotheses import score_listed

TEXTS = ["123", "0", "4412", "3"]
OPTIONS = {"num_beams": 3, "max_new_tokens": 4}
# costs, so up to a constant; "9" no model was asked
LISTED = {
    "123": {"one two": -3.0, "nil  nil": -4.5, "two": -9.0},
    "0": {"four four four": 2.0},
    "3": {"one three": -1.0, "eleven": -0.5, "": -2.0},
    "9": {"one": 0.0},
}


@pytest.fixture(scope="module")
def pipeline():
    model = toy_model(0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return TextPipeline(model, *toy_tokenizers())


def in_all(outputs):
    total = math.log(sum(math.exp(score) for score in outputs.values()) or 1.0)
    return {" ".join(text.split()): score - total for text, score in outputs.items()}


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("weights", [None, [1, 3], [1, 1e-6], [1e-6, 1]])
def test_models_and_lists_choose_together(pipeline, weights, penalty):
    joint = RerankingPipeline([pipeline], hypotheses=[HypothesisList(LISTED)], weights=weights)
    shares = [w / sum(weights) for w in weights] if weights else [0.5, 0.5]
    options = {**OPTIONS, "length_penalty": penalty}
    found = joint.predict(TEXTS, scores=True, num_return_sequences=3, **options)
    proposed = pipeline.predict(TEXTS, num_return_sequences=3, **options)
    differ = 0
    for text, prediction, own in zip(TEXTS, found, proposed, strict=True):
        listed = in_all(LISTED.get(text, {}))
        # no model here can say it; what is left keeps its share
        listed.pop("eleven", None)
        # the search was cut off: those that ended go first
        rows = pipeline.encode([text])
        (beams,) = pipeline.propose(rows, num_return_sequences=3, **options)
        candidates = list(dict.fromkeys([*beams, *listed]))
        unlisted = min(listed.values(), default=1.0) - 1
        totals, ranks = {}, {}
        for output in candidates:
            (model,) = pipeline.score([text], [output])
            totals[output] = shares[0] * model + shares[1] * listed.get(output, unlisted)
            ranks[output] = totals[output] / (len(output.split()) + 1) ** penalty
        best = sorted(candidates, key=lambda output: -ranks[output])[:3]
        assert [each.text for each in prediction.nbest] == best
        assert [each.score for each in prediction.nbest] == pytest.approx(
            [totals[output] for output in best], abs=1e-4
        )
        assert joint.score([text], [best[0]]) == pytest.approx([totals[best[0]]], abs=1e-4)
        differ += prediction.text != own.text
    assert differ or weights == [1, 1e-6]


def test_the_list_alone_decides_with_all_the_weight(pipeline):
    joint = RerankingPipeline([pipeline], hypotheses=[HypothesisList(LISTED)], weights=[1e-9, 1e9])
    # of an input that is not listed, the model says what it says alone
    own = RerankingPipeline([pipeline, pipeline])(["4412"], length_penalty=0.0, **OPTIONS)
    expected = ["one two", "four four four", *own]
    assert joint(TEXTS[:3], length_penalty=0.0, **OPTIONS) == expected


def test_several_lists_beside_several_models(pipeline):
    second = TextPipeline(toy_model(3).eval(), *toy_tokenizers())
    lists = [HypothesisList(LISTED), HypothesisList({"123": {"three": 0.0}})]
    joint = RerankingPipeline([pipeline, second], hypotheses=lists)
    assert joint.weights == pytest.approx([0.25] * 4)
    (score,) = joint.score(["123"], ["three"])
    logs = [each.score(["123"], ["three"])[0] for each in (pipeline, second)]
    least = min(in_all(LISTED["123"]).values()) - 1
    assert score == pytest.approx((sum(logs) + least + 0.0) / 4, abs=1e-4)
    joint = RerankingPipeline([pipeline, second], hypotheses=lists, weights=[1, 1, 1e6, 1e8])
    (found,) = joint.predict(["123"], num_return_sequences=4, num_beams=4, length_penalty=0.0)
    assert [each.text for each in found.nbest][:2] == ["three", "one two"]


def test_constraint_holds_for_lists_too(pipeline):
    joint = RerankingPipeline([pipeline], hypotheses=[HypothesisList(LISTED)], weights=[1, 1000])
    allowed = ["nil nil", "three four"]
    found = joint.predict(["123"], constraint=allowed, num_beams=4, num_return_sequences=4)
    assert {each.text for each in found[0].nbest} == set(allowed)
    assert found[0].text == "nil nil"


def test_what_an_automaton_accepts():
    automaton = Automaton.from_sequences([[4, 5], [4, 9, 9], []])
    for sequence in ([4, 5], [4, 9, 9], []):
        assert automaton.accepts(sequence)
    for sequence in ([4], [5], [4, 5, 5], [9], [4, 6], [4, 9], [3]):
        assert not automaton.accepts(sequence)


def test_probabilities_add_up_to_one_and_unlisted_ones_are_less_probable():
    listed = HypothesisList({" a ": {"x": -700.0, "y": -701.0}, "b": {}})
    assert len(listed) == 1 and listed.outputs("b") == listed.outputs("c") == {}
    found = listed.outputs("a")
    assert sum(map(math.exp, found.values())) == pytest.approx(1.0)
    assert found["x"] - found["y"] == pytest.approx(1.0)
    assert score_listed(found, ["y", "z"]) == pytest.approx([found["y"], found["y"] - 1])
    assert score_listed({}, ["y", "z"]) == [0.0, 0.0]


def test_a_file(tmp_path):
    path = tmp_path / "nbest.tsv"
    # a byte order mark, an empty line, one pair twice, lines that end as on Windows
    path.write_text(
        "\ufeffa b\tx y\t-1.5\r\n\na b\tz\t-1.5\nc\t\t0\na b\tz\t-1.5\n"
        # what `generate` writes where nothing is possible
        "a b\t\t-inf\nd\t\t-inf\n"
    )
    listed = HypothesisList.from_file(path)
    assert {text: math.exp(p) for text, p in listed.outputs("a b").items()} == pytest.approx(
        {"x y": 1 / 3, "z": 2 / 3}
    )
    assert listed.outputs("c") == {"": 0.0} and len(listed) == 2


def test_inputs_and_outputs_that_are_the_same():
    """By Unicode's form and spaces; outputs as the first pipeline's vocabulary reads them."""
    listed = HypothesisList({"\u00e9": {"One": -2.0}, " e\u0301 ": {"one": -1.0, "two": -1.2}})
    assert len(listed) == 1 and len(listed.outputs("e\u0301")) == 3
    lower = Vocabulary(NAMES, level="word", lowercase=True)
    pipeline = TextPipeline(toy_model(0).eval(), toy_tokenizers()[0], lower)
    joint = RerankingPipeline([pipeline], hypotheses=[listed], weights=[1e-9, 1.0])
    total = math.log(math.exp(-2) + math.exp(-1) + math.exp(-1.2))
    one = math.log(math.exp(-2) + math.exp(-1)) - total
    expected = [one, one, one, -1.2 - total]
    for text, score in zip(["One", "one", " ONE", "two"], expected, strict=True):
        assert joint.score(["\u00e9"], [text]) == pytest.approx([score], abs=1e-5)
    (found,) = joint.predict(["\u00e9"], num_beams=4, scores=True, length_penalty=0.0)
    assert found.text == "one" and found.score == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("line", ["a\tb", "a\tb\tc", "a\tb\tnan", "a\tb\tinf", "a\tb\t1\t2", "a"])
def test_a_line_that_does_not_fit(tmp_path, line):
    path = tmp_path / "nbest.tsv"
    path.write_text(f"a\tb\t-1\n{line}\n")
    with pytest.raises(ValueError, match=r"nbest.tsv, line 2: expected input, tab, output, tab"):
        HypothesisList.from_file(path)


def test_an_empty_file(tmp_path):
    path = tmp_path / "nbest.tsv"
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"nbest.tsv: expected at least one line, got none"):
        HypothesisList.from_file(path)


def test_command_line(tmp_path, pipeline, capsys):
    folder, nbest = str(tmp_path / "model"), str(tmp_path / "nbest.tsv")
    pipeline.model.save_pretrained(folder, *toy_tokenizers())
    with Path(nbest).open("w") as file:
        for text, outputs in LISTED.items():
            file.writelines(f"{text}\t{output}\t{score}\n" for output, score in outputs.items())
    flags = ["--model", folder, "--model", folder, "--hypotheses", nbest]
    own = ["--beam=3", "--max-new-tokens=4", "--nbest=2", "--scores"]
    assert main(["generate", *flags, "--hypotheses-weight=2.5", *own, *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    both = TextPipeline.from_pretrained([folder, folder])
    joint = RerankingPipeline(
        [both], hypotheses=[HypothesisList.from_file(nbest)], weights=[2, 2.5]
    )
    found = joint.predict(TEXTS, scores=True, num_return_sequences=2, **OPTIONS)
    assert lines == [
        f"{text}\t{each.text}\t{each.score:.4f}"
        for text, prediction in zip(TEXTS, found, strict=True)
        for each in prediction.nbest
    ]
    # its own output is a list again
    written = tmp_path / "own.tsv"
    written.write_text("\n".join(lines))
    assert len(HypothesisList.from_file(written)) == len(TEXTS)
    data = toy_tsv(tmp_path / "test.tsv", toy_entries(9))
    assert main(["evaluate", *flags, "--data", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == 9
    assert_wrong_usage("generate", "--model", folder, "--hypotheses-weight=2", "12")
    assert "--hypotheses-weight: expected only with --hypotheses" in capsys.readouterr().err
    assert_wrong_usage("generate", *flags, "--hypotheses-weight=0", "12")
    assert "expected a number above 0, got '0'" in capsys.readouterr().err
    assert_wrong_usage("generate", *flags, "--sample", "12")
    assert "--sample: expected models with the same tokenizers and no" in capsys.readouterr().err
    assert main(["generate", "--model", folder, "--hypotheses", folder + "x", "12"]) == 1
    assert "modelx" in capsys.readouterr().err
