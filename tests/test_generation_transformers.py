"""Greedy and beam search against transformers' own `generate`, on the same toy decoder."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers_seq2seq import BOS, EOS, PAD, TGT_VOCAB, TorchSeq2Seq, make_batch, make_model

from fast_s2s.decoding.philox import gumbel

transformers = pytest.importorskip("transformers")

WORDS = ((5, 7, 3), (5, 7), (9,), (4, 4, 4, 4), (11, 3))
# what is asked of both; `constraint` becomes prefix_allowed_tokens_fn there
OPTIONS = {
    "plain": {},
    "min_new_tokens": {"min_new_tokens": 4},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[5, 5], [9], [7, 11, 7], [2]]},
    "suppress_tokens": {"suppress_tokens": [5, 11]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [5, 11, 9]},
    "forced_bos_token_id": {"forced_bos_token_id": 6, "begin_suppress_tokens": [5, 11]},
    "forced_eos_token_id": {"forced_eos_token_id": EOS},
    "several eos": {"eos_token_id": [EOS, 7]},
    "prefix": {"prefix": [5, 9]},
    "constraint": {"constraint": WORDS},
    "everything": {
        "min_new_tokens": 3,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[5, 5], [9]],
        "suppress_tokens": [12],
        "forced_eos_token_id": EOS,
        "prefix": [4],
    },
}
BEAMS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "early": {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.3},
    "short": {"num_beams": 3, "length_penalty": -0.5, "num_return_sequences": 2},
    "renormalized": {"num_beams": 2, "renormalize_logits": True, "num_return_sequences": 2},
}
MAX_NEW_TOKENS = 9


class Toy(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The decoder of a `TorchSeq2Seq` at one context; runs over all tokens at each step."""

    config_class = transformers.PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, reference, src):
        super().__init__(transformers.PretrainedConfig(vocab_size=TGT_VOCAB))
        self.reference = reference
        (self.h, self.c), _ = reference.context(src)

    def forward(self, input_ids, attention_mask=None, **_):
        h, c = (
            part.unsqueeze(1).repeat(1, len(input_ids), 1).contiguous() for part in (self.h, self.c)
        )
        reference = self.reference
        embedded = reference.tgt_embedding(input_ids).transpose(0, 1)
        output, _ = reference.decoder(embedded, (h, c))
        logits = reference.output_projection(output).transpose(0, 1)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids}


def theirs(reference, src, options):
    options = dict(options)
    prompt = torch.tensor([[BOS, *options.pop("prefix", ())]])
    constraint = options.pop("constraint", None)
    if constraint is not None:

        def allowed(_, tokens):
            done = tuple(tokens.tolist()[1:])
            at = len(done)
            words = [word for word in constraint if word[:at] == done]
            ends = [EOS] if done in constraint else []
            return sorted({word[at] for word in words if len(word) > at}) + ends or [EOS]

        options["prefix_allowed_tokens_fn"] = allowed
    suppressed = [PAD, BOS, *options.pop("suppress_tokens", ())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Toy(reference, src).generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            use_cache=False,
            do_sample=options.pop("do_sample", False),
            pad_token_id=PAD,
            bos_token_id=BOS,
            suppress_tokens=suppressed,
            return_dict_in_generate=True,
            output_scores=True,
            max_new_tokens=MAX_NEW_TOKENS,
            **{"eos_token_id": EOS, **options},
        )


def rows_of(tokens, options):
    """Lists that end with eos. With pad 0 transformers fills up with eos."""
    ends = {EOS, *options.get("eos_token_id", ())}
    begin = 1 + len(options.get("prefix", ()))
    rows = []
    for row in tokens.tolist():
        end = next((i + 1 for i, t in enumerate(row) if i >= begin and t in ends), len(row))
        rows.append([token for token in row[:end] if token != PAD])
    return rows


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("case", OPTIONS)
def test_equals_transformers(case, beams, assert_close):
    model = make_model(torch.float32, num_layers=2)
    with torch.no_grad():
        model.output_projection.weight.mul_(0.5)
        model.output_projection.bias[EOS] += 1.0
    reference = TorchSeq2Seq(model).eval()
    batch = make_batch(rows=4)
    options = {**OPTIONS[case], **BEAMS[beams]}
    ours = dict(options)
    if "prefix" in ours:
        ours["prefix"] = torch.tensor([ours["prefix"]] * 4)

    output = model.generate(
        batch.src,
        batch.src_lengths,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        output_scores=True,
        **ours,
    )

    count = options.get("num_return_sequences", 1)
    for row, (src, length) in enumerate(zip(batch.src, batch.src_lengths, strict=True)):
        expected = theirs(reference, src[:length], options)
        mine = slice(row * count, (row + 1) * count)
        # a search that found fewer than asked for has rows of pad here, and made-up ones there
        here = output.sequences_scores[mine] > -torch.inf
        if case != "constraint":
            assert here.all()
        found = rows_of(output.sequences[mine][here], options)
        assert found == rows_of(expected.sequences[: here.sum()], options)
        if beams != "greedy":
            scores = expected.sequences_scores[: here.sum()]
            assert_close(output.sequences_scores[mine][here], scores, "scores", torch.float32)
        for index in here.nonzero().flatten().tolist():
            compare_scores(output, mine.start + index, expected, index, options, assert_close)


def compare_scores(output, row, expected, index, options, assert_close):
    """Of all tokens, at every step of one sequence."""
    skipped = len(options.get("prefix", ()))
    for step in range(skipped, int(output.lengths[row])):
        slot, other = row, index
        if output.beam_indices is not None:
            slot = int(output.beam_indices[row, step])
            other = int(expected.beam_indices[index, step - skipped])
        theirs_ = expected.scores[step - skipped][other]
        assert_close(output.scores[step][slot], theirs_, f"{row}, {step}", torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.6},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2, "top_k": 0},
        {"temperature": 1.4, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_distribution_to_sample_from(options, assert_close):
    """Scores of all tokens at the first step, where nothing has been drawn yet."""
    model = make_model(torch.float32)
    batch = make_batch(rows=3)
    output = model.generate(
        batch.src,
        batch.src_lengths,
        do_sample=True,
        seed=1,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    reference = TorchSeq2Seq(model).eval()
    for row, (src, length) in enumerate(zip(batch.src, batch.src_lengths, strict=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prompt = torch.tensor([[BOS]])
            expected = Toy(reference, src[:length]).generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                use_cache=False,
                do_sample=True,
                max_new_tokens=1,
                suppress_tokens=[PAD, BOS],
                pad_token_id=PAD,
                eos_token_id=EOS,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        assert_close(
            output.scores[0][row].softmax(0), expected.scores[0][0].softmax(0), f"row {row}"
        )


def test_their_processors_and_criteria_run_in_the_step_loop():
    model = make_model(torch.float32)
    batch = make_batch(rows=4)
    names = transformers.generation
    given = {
        "logits_processor": names.LogitsProcessorList(
            [names.NoRepeatNGramLogitsProcessor(2), names.RepetitionPenaltyLogitsProcessor(1.3)]
        ),
        "stopping_criteria": names.StoppingCriteriaList([names.MaxLengthCriteria(6)]),
    }
    for beams in ({}, {"num_beams": 3}):
        found = model.generate(batch.src, batch.src_lengths, max_new_tokens=9, **given, **beams)
        longest = found.size(1)
        assert longest == 6
        if not beams:
            # the same rules in the kernels; the order of the two does not matter to the choice
            native = model.generate(
                batch.src,
                batch.src_lengths,
                max_new_tokens=5,
                no_repeat_ngram_size=2,
                repetition_penalty=1.3,
            )
            assert torch.equal(found, native)


def test_their_text_streamer(capsys):
    model = make_model(torch.float32)

    class Tokenizer:
        def decode(self, ids, **_):
            return " ".join(map(str, ids)) + " "

    src = make_batch(rows=1).src
    streamer = transformers.TextStreamer(Tokenizer(), skip_prompt=True)
    tokens = model.generate(src, max_new_tokens=6, streamer=streamer)
    assert capsys.readouterr().out.split() == [str(t) for t in tokens[0, 1:].tolist()]


SAMPLED_BEAMS = {
    "plain": {"num_beams": 3},
    "warped": {"num_beams": 4, "temperature": 1.7, "top_k": 6, "top_p": 0.9},
    "rules": {"num_beams": 3, "repetition_penalty": 1.4, "min_new_tokens": 3, "temperature": 2.0},
    "renormalized": {"num_beams": 2, "top_k": 4, "renormalize_logits": True},
    "early": {"num_beams": 4, "early_stopping": True, "length_penalty": 0.4},
}


@pytest.mark.parametrize("case", SAMPLED_BEAMS)
def test_beams_by_chance_equal_transformers_given_its_random_numbers(
    case, assert_close, monkeypatch
):
    model = make_model(torch.float32, num_layers=2)
    with torch.no_grad():
        model.output_projection.weight.mul_(0.3)
        model.output_projection.bias[EOS] += 1.0
    reference = TorchSeq2Seq(model).eval()
    batch = make_batch(rows=4)
    options = {**SAMPLED_BEAMS[case], "do_sample": True}
    options["num_return_sequences"] = options["num_beams"]
    seeds = torch.tensor([5, -7, 2**40, 12])
    call = {"max_new_tokens": MAX_NEW_TOKENS, "return_dict_in_generate": True, **options}
    output = model.generate(batch.src, batch.src_lengths, seed=seeds, **call)
    plain = model.generate(batch.src, batch.src_lengths, num_beams=options["num_beams"])
    assert not torch.equal(output.sequences[:: options["num_beams"]], plain)

    row, position = 0, 0

    def multinomial(probabilities, num_samples):
        nonlocal position
        beams = torch.arange(options["num_beams"])
        noise = gumbel(
            seeds[row].repeat(len(beams)), torch.full_like(beams, position), beams, TGT_VOCAB
        )
        position += 1
        by = probabilities.double().log() + noise.flatten()
        return by.topk(num_samples).indices

    monkeypatch.setattr(torch, "multinomial", multinomial)
    count = options["num_beams"]
    for row in range(4):
        position = 0
        src = batch.src[row, : batch.src_lengths[row]]
        theirs_ = theirs(reference, src, options)
        ours = output.sequences[row * count : (row + 1) * count]
        assert rows_of(ours, options) == rows_of(theirs_.sequences, options)
        scores = output.sequences_scores[row * count : (row + 1) * count]
        assert_close(scores, theirs_.sequences_scores.double(), "scores", torch.float32)


def test_beams_by_chance_do_not_depend_on_the_batch():
    model = make_model(torch.float32)
    batch = make_batch(rows=4)
    call = {"num_beams": 3, "do_sample": True, "max_new_tokens": 8, "temperature": 3.0}
    whole = model.generate(batch.src, batch.src_lengths, seed=3, **call)
    assert torch.equal(model.generate(batch.src, batch.src_lengths, seed=3, **call), whole)
    assert not torch.equal(model.generate(batch.src, batch.src_lengths, seed=4, **call), whole)
    first = model.generate(batch.src[:1], batch.src_lengths[:1], seed=3, **call)
    assert torch.equal(first[0], whole[0, : first.size(1)])
