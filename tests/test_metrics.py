from __future__ import annotations

import random
import sys

import pytest

from fast_s2s.metrics import Scores, bleu, score

pytest.importorskip("rapidfuzz")
sacrebleu = pytest.importorskip("sacrebleu")


def edit_distance(first, second):
    """Wagner & Fischer 1974, the plain table."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def test_by_hand():
    result = score(
        ["HH AH L OW", "K AE T", "D AO G Z"],
        [["HH AH L OW", "HH EH L OW"], ["K AH T", "K AA T S"], ["D AO G"]],
    )
    assert result == Scores(
        per=pytest.approx(100 * 2 / 10),
        wer=pytest.approx(100 * 2 / 3),
        exact_match=pytest.approx(100 / 3),
        words=3,
        token_errors=2,
        token_total=10,
    )


def test_among_equally_close_references_the_first_counts():
    assert score(["a b"], [["a", "a b c"]]).token_total == 1
    assert score(["a b"], [["a b c", "a"]]).token_total == 3


def test_closest_reference_is_the_one_with_fewest_edits():
    # 1 edit of 1 token, not 2 edits of 8
    result = score(["b"], [["b b b b b b b b", "a"]])
    assert (result.token_errors, result.token_total) == (1, 1)


def test_against_plain_edit_distance():
    generator = random.Random(0)

    def text():
        return " ".join(generator.choices(["AA", "B", "C'", "😀"], k=generator.randint(1, 7)))

    hypotheses = [text() for _ in range(300)]
    references = [[text() for _ in range(generator.randint(1, 3))] for _ in hypotheses]
    errors = total = wrong = 0
    for hypothesis, candidates in zip(hypotheses, references, strict=True):
        distance, _, length = min(
            (edit_distance(hypothesis.split(), candidate.split()), i, len(candidate.split()))
            for i, candidate in enumerate(candidates)
        )
        errors, total = errors + distance, total + length
        wrong += hypothesis not in candidates
    result = score(hypotheses, references)
    assert (result.token_errors, result.token_total, result.words) == (errors, total, 300)
    assert result.per == pytest.approx(100 * errors / total)
    assert result.wer == pytest.approx(100 * wrong / 300)
    assert result.exact_match == pytest.approx(100 - result.wer)
    split = score([h.split() for h in hypotheses], [[r.split() for r in rs] for rs in references])
    assert split == result


def test_characters():
    result = score(["hello wold"], [["hello world"]], level="char")
    assert (result.token_errors, result.token_total) == (1, 11)
    assert score(["hello wold"], [["hello world"]]).token_total == 2


def test_white_space_and_unicode_form_do_not_count():
    assert score([" a\tb "], [["a b"]]).wer == 0
    assert score(["e\u0301"], [["\u00e9"]]).wer == 0
    assert score([["e\u0301"]], [["\u00e9"]]).wer == 0


def test_empty_hypothesis():
    result = score(["", "a"], [["a b"], ["a"]])
    assert (result.token_errors, result.token_total, result.wer) == (2, 3, 50)


def test_rate_can_pass_100():
    assert score(["a b c"], [["x"]]).per == 300


@pytest.mark.parametrize("measure", [score, bleu])
@pytest.mark.parametrize(
    ("hypotheses", "references", "error", "message"),
    [
        (["a"], [], ValueError, "references: expected one item for each of 1 hypotheses, got 0"),
        ([], [], ValueError, "hypotheses: expected at least one"),
        (["a", "b"], [["a"], []], ValueError, r"references\[1\]: expected at least one reference"),
        (
            ["a"],
            ["a"],
            TypeError,
            r"references\[0\]: expected a sequence of references, got one str",
        ),
        ("a", [["a"]], TypeError, "hypotheses: expected a sequence"),
        (["a"], "a", TypeError, "references: expected a sequence"),
    ],
)
def test_bad_input(measure, hypotheses, references, error, message):
    with pytest.raises(error, match=message):
        measure(hypotheses, references)


def test_bad_level_and_nothing_to_score():
    with pytest.raises(ValueError, match="level: expected 'word' or 'char', got 'byte'"):
        score(["a"], [["a"]], level="byte")
    with pytest.raises(ValueError, match="references: expected at least one token"):
        score(["a"], [["", " "]])


def test_bleu_is_that_of_sacrebleu():
    hypotheses = ["the cat sat on the mat today", "there is a dog here now"]
    references = [
        ["the cat sat on a mat today", "a cat sat on the mat"],
        ["there is a big dog here now"],
    ]
    streams = [[r[0] for r in references], [references[0][1], None]]
    expected = sacrebleu.corpus_bleu(hypotheses, streams).score
    assert 10 < expected < 95
    assert bleu(hypotheses, references) == pytest.approx(expected)
    assert bleu(hypotheses, references) != pytest.approx(
        bleu(hypotheses, [r[:1] for r in references])
    )
    assert bleu(hypotheses, [[h] for h in hypotheses]) == pytest.approx(100)


def test_bleu_tokenizer():
    hypotheses, references = ["HH AH L OW W ER L D."], [["HH AH L OW W ER L D ."]]
    assert bleu(hypotheses, references) == pytest.approx(100)
    assert bleu(hypotheses, references, tokenize="none") < 95


@pytest.mark.parametrize(
    ("measure", "module"), [(score, "rapidfuzz.distance"), (bleu, "sacrebleu")]
)
def test_missing_library_says_how_to_get_it(monkeypatch, measure, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fast-s2s\[train\]"'):
        measure(["a"], [["a"]])
