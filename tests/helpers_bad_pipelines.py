"""Bad input for pipelines from text to text."""

from __future__ import annotations

from helpers_bad_input import NO_TOKENIZER
from helpers_seq2seq import make_model
from helpers_training import toy_model, toy_tokenizers
from torch import nn

import fast_s2s

SOURCE, TARGET = toy_tokenizers()
PIPELINE = fast_s2s.TextPipeline(toy_model().eval(), SOURCE, TARGET)
RERANKING = fast_s2s.RerankingPipeline([PIPELINE, PIPELINE])
MODEL = make_model()
LISTED = fast_s2s.HypothesisList({"1": {"one": 0.0}})

# as the table in test_bad_input.py
TABLE = {
    "HypothesisList": [
        (
            lambda _: fast_s2s.HypothesisList(["one"]),
            TypeError,
            "hypotheses: expected a mapping, got ['one'] of type list",
        ),
        (
            lambda _: fast_s2s.HypothesisList({"1": ["one"]}),
            TypeError,
            "hypotheses['1']: expected a mapping of a str to a mapping, got ['one']",
        ),
        (
            lambda _: fast_s2s.HypothesisList({1: {}}),
            TypeError,
            "hypotheses[1]: expected a mapping of a str to a mapping, got {}",
        ),
        (
            lambda _: fast_s2s.HypothesisList({"1": {2: 0.0}}),
            TypeError,
            "hypotheses['1'][2]: expected a str, got int",
        ),
        (
            lambda _: fast_s2s.HypothesisList({"1": {"one": "0"}}),
            TypeError,
            "hypotheses['1']['one']: expected a number, got str",
        ),
        (
            lambda _: fast_s2s.HypothesisList({"1": {"one": float("inf")}}),
            ValueError,
            "hypotheses['1']['one']: expected a number below infinity, got inf",
        ),
    ],
    "RerankingPipeline": [
        (
            lambda _: fast_s2s.RerankingPipeline(PIPELINE),
            TypeError,
            "pipelines: expected a sequence of TextPipeline, got TextPipeline",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE]),
            ValueError,
            "pipelines: expected at least two, or one beside hypotheses, got 1 beside 0",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE, MODEL]),
            TypeError,
            "pipelines[1]: expected a TextPipeline, got Seq2Seq",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE, PIPELINE], weights=[1]),
            ValueError,
            "weights: expected 2, as there are pipelines and hypotheses, got 1",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([], hypotheses=[LISTED, LISTED]),
            ValueError,
            "pipelines: expected at least two, or one beside hypotheses, got 0 beside 2",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE], hypotheses=LISTED),
            TypeError,
            "hypotheses: expected a sequence of HypothesisList, got HypothesisList",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE], hypotheses=[{"1": {"one": 0.0}}]),
            TypeError,
            "hypotheses[0]: expected a HypothesisList, got dict",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE, PIPELINE], weights=[1, 0]),
            ValueError,
            "weights[1]: expected above 0 and finite, got 0",
        ),
        (
            lambda _: fast_s2s.RerankingPipeline([PIPELINE, PIPELINE], weights=["1", 0]),
            TypeError,
            "weights[0]: expected a number, got str",
        ),
        (
            lambda _: PIPELINE.score_ids([[4], [4]], [[4]]),
            ValueError,
            "outputs: expected 2, as of rows, got 1",
        ),
        (lambda _: RERANKING(3), TypeError, "texts: expected a sequence of strings, got 3"),
        (
            lambda _: RERANKING(["1"], temperature=0.5),
            ValueError,
            "temperature: expected one of num_beams, num_return_sequences, length_penalty, early_",
        ),
        (
            lambda _: RERANKING(["1"], do_sample=True),
            ValueError,
            "do_sample: expected one of num_beams, ",
        ),
        (
            lambda _: RERANKING(["1"], num_beams=2, num_return_sequences=3),
            ValueError,
            "num_return_sequences: expected at most num_beams = 2",
        ),
    ],
    "TextPipeline": [
        (
            lambda _: PIPELINE.score(["1", "2"], "ab"),
            TypeError,
            "outputs: expected a sequence of strings, got 'ab'",
        ),
        (
            lambda _: PIPELINE.score(["1", "2"], ["one"]),
            ValueError,
            "outputs: expected 2, as there are texts, got 1",
        ),
        (
            lambda _: fast_s2s.TextPipeline(nn.Linear(2, 2), SOURCE, TARGET),
            TypeError,
            "model: expected a Seq2Seq, got Linear",
        ),
        (
            lambda _: fast_s2s.TextPipeline(PIPELINE.model, None, TARGET),
            TypeError,
            f"source_tokenizer: {NO_TOKENIZER} NoneType",
        ),
        (
            lambda _: fast_s2s.TextPipeline(PIPELINE.model, SOURCE, "x" * 9),
            TypeError,
            f"target_tokenizer: {NO_TOKENIZER} str",
        ),
        (
            lambda _: fast_s2s.TextPipeline.from_pretrained(3),
            TypeError,
            "directory: expected a path, got 3",
        ),
        (lambda _: PIPELINE(3), TypeError, "texts: expected a sequence of strings, got 3"),
        (lambda _: PIPELINE(None), TypeError, "texts: expected a sequence of strings, got None"),
        (lambda _: PIPELINE("abc"), TypeError, "texts: expected a sequence of strings, got 'abc'"),
        (lambda _: PIPELINE([None]), TypeError, "texts: expected a sequence of strings, got [No"),
        (lambda _: PIPELINE(iter(["1"])), TypeError, "texts: expected a sequence of strings, got"),
        (lambda _: PIPELINE([["1"]]), TypeError, "texts: expected a sequence of strings, got [["),
        (
            lambda _: PIPELINE(["1"], max_new_tokens=0),
            ValueError,
            "max_new_tokens: expected an integer >= 1, got 0",
        ),
        *(
            (
                lambda _, name=name: PIPELINE(["1"], **{name: True}),
                ValueError,
                f"{name}: expected False for a pipeline, which returns texts, got True",
            )
            for name in (
                "return_state",
                "return_dict_in_generate",
                "output_scores",
                "output_logits",
                "output_attentions",
            )
        ),
        (
            lambda _: PIPELINE(["1"], constraint="nil one"),
            TypeError,
            "constraint: expected texts or an Automaton, got 'nil one'",
        ),
        (
            lambda _: PIPELINE(["1"], constraint=["nil", 3]),
            TypeError,
            "constraint[1]: expected a str, got int",
        ),
        (
            lambda _: PIPELINE(["1"], constraint=["nil", "five"]),
            ValueError,
            "constraint[1]: expected symbols of the target vocabulary, got 'five'",
        ),
        (
            lambda _: PIPELINE.compile_constraint([]),
            ValueError,
            "constraint: expected at least one text, got none",
        ),
        (
            lambda _: PIPELINE(["1"], num_beans=3),
            TypeError,
            "generate: expected fields of GenerationConfig as further arguments, got num_beans",
        ),
        (lambda _: PIPELINE.stream("12"), TypeError, "texts: expected an iterable of strings, got"),
        (lambda _: PIPELINE.stream(3), TypeError, "texts: expected an iterable of strings, got 3"),
        (
            lambda _: PIPELINE.stream(["1"], batch_size=1.5),
            TypeError,
            "batch_size: expected an integer, got 1.5",
        ),
        (
            lambda _: PIPELINE.stream(["1"], batch_size=0),
            ValueError,
            "batch_size: expected an integer >= 1, got 0",
        ),
    ],
}
