"""ONNX files: what ONNX Runtime makes of them is what `generate` gives."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

import fast_s2s
from fast_s2s import Seq2Seq, TextPipeline
from fast_s2s.cli import main
from fast_s2s.onnx import check, export

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

SRC = torch.tensor([[3, 8, 4, 4, 10], [5, 0, 0, 0, 0], [7, 6, 9, 1, 3], [9, 9, 3, 0, 0]])
LENGTHS = torch.tensor([5, 1, 0, 3])
MODELS = [
    {},
    {"hidden_size": 1, "embedding_size": 1},
    {"num_layers": 2, "bidirectional": True},
    {"encoder_layers": 3, "tie_embeddings": True, "embedding_size": 12},
    {"decoder_layers": 3, "encoder_layers": 2, "bidirectional": True},
    {"attention": "dot"},
    {"attention": "dot", "attention_heads": 3},
    {"attention": "general", "attention_heads": 2, "bidirectional": True},
    {"attention": "additive", "bidirectional": True},
    {"attention": "additive", "attention_heads": 4, "num_layers": 2},
    {"attention": "general", "attention_heads": 3, "input_feeding": True, "decoder_layers": 2},
    # of training alone
    {"dropout": 0.5, "recurrent_dropout": 0.5, "variational_dropout": True},
]


def make(seed=0, **fields):
    """A model that has something to say."""
    torch.manual_seed(seed)
    sizes = {"src_vocab_size": 11, "tgt_vocab_size": 9, "embedding_size": 8, "hidden_size": 12}
    model = Seq2Seq(**(sizes | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        # some rows end
        model.output_projection.bias[model.config.eos_token_id] += 1.5
    return model


def configured(model, **options):
    model.generation_config = dataclasses.replace(model.generation_config, **options)
    return model


def broken(model):
    with torch.no_grad():
        model.output_projection.bias[3] = torch.nan
    return model


def run(path, src, lengths, limit):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {
        "src": src.numpy(),
        "src_lengths": lengths.numpy(),
        "max_new_tokens": np.asarray(limit),
    }
    return [torch.from_numpy(each) for each in session.run(None, feeds)]


@pytest.mark.parametrize("fields", MODELS, ids=str)
@pytest.mark.parametrize("limit", [1, 12])
def test_the_file_is_the_model(tmp_path, fields, limit):
    ended = 0
    for seed in range(3):
        model = make(seed, **fields)
        path = tmp_path / "model.onnx"
        export(model, path)
        for rows in ([0, 1, 2, 3], [2], [3, 0, 0]):
            src, lengths = SRC[rows], LENGTHS[rows]
            sequences, found, scores = run(path, src, lengths, limit)
            expected = model.double().generate(
                src, lengths, max_new_tokens=limit, return_dict_in_generate=True
            )
            model.float()
            assert torch.equal(sequences, expected.sequences)
            assert torch.equal(found, expected.lengths)
            torch.testing.assert_close(
                scores, expected.sequences_scores, rtol=1e-5, atol=1e-5, check_dtype=False
            )
            ended += int((found < limit).sum())
    assert ended or limit == 1


def test_what_is_past_a_row_does_not_count(tmp_path):
    model = make(attention="general", bidirectional=True, num_layers=2)
    export(model, tmp_path / "model.onnx")
    past = torch.arange(5) >= LENGTHS.unsqueeze(1)
    other = SRC.where(~past, 10)
    assert not torch.equal(other, SRC)
    one, two = (run(tmp_path / "model.onnx", src, LENGTHS, 9) for src in (SRC, other))
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))


def test_its_own_ends_and_suppressed_tokens(tmp_path):
    model = make(2)
    plain = model.generate(SRC, LENGTHS, max_new_tokens=9)
    often = int(plain[:, 1:].flatten().bincount(minlength=9)[3:].argmax()) + 3
    for options in ({"suppress_tokens": [often]}, {"eos_token_id": [2, often]}):
        configured(model, **options)
        expected = model.generate(SRC, LENGTHS, max_new_tokens=9)
        assert not torch.equal(expected, plain)
        export(model, tmp_path / "model.onnx")
        assert torch.equal(run(tmp_path / "model.onnx", SRC, LENGTHS, 9)[0], expected)
        configured(model, suppress_tokens=None, eos_token_id=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_become_float32(tmp_path, dtype):
    model = make(attention="dot").to(dtype)
    export(model, tmp_path / "model.onnx")
    sequences, *_ = run(tmp_path / "model.onnx", SRC, LENGTHS, 9)
    assert torch.equal(sequences, model.float().generate(SRC, LENGTHS, max_new_tokens=9))


def test_check_finds_a_file_that_is_not_the_model(tmp_path):
    model = configured(make(attention="general"), max_new_tokens=20)
    export(model, tmp_path / "model.onnx")
    good = check(model, tmp_path / "model.onnx")
    assert good.rows == 16 and good.tokens > 30
    assert good.regret < 1e-4 and good.score_error < 1e-4
    with torch.no_grad():
        model.output_projection.bias[4] += 0.7
    bad = check(model, tmp_path / "model.onnx")
    assert bad.regret > 0.1 and bad.score_error > 0.1


def test_check_reads_what_the_search_begins_with(tmp_path):
    model = configured(make(attention="dot"), bos_token_id=4, max_new_tokens=9)
    export(model, tmp_path / "model.onnx")
    expected = model.generate(SRC, LENGTHS)
    assert torch.equal(run(tmp_path / "model.onnx", SRC, LENGTHS, 9)[0], expected)
    before = torch.get_rng_state()
    found = check(model, tmp_path / "model.onnx")
    assert found.regret < 1e-4 and found.score_error < 1e-4
    assert torch.equal(torch.get_rng_state(), before)


def test_check_names_what_is_no_such_file(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text: expected an ONNX file of the model: "):
        check(make(), tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        check(make(), tmp_path / "nothing")


def test_a_tied_weight_is_in_the_file_once(tmp_path):
    sizes = {}
    for tied in (False, True):
        model = make(tie_embeddings=tied, embedding_size=12, tgt_vocab_size=999)
        export(model, tmp_path / "model.onnx")
        sizes[tied] = (tmp_path / "model.onnx").stat().st_size
    assert sizes[False] - sizes[True] > 999 * 12 * 3


def test_properties(tmp_path):
    model = configured(make(), max_new_tokens=33, bad_words_ids=[], eos_token_id=[2, 5])
    export(model, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    told = {each.key: each.value for each in model.metadata_props}
    assert told == {
        "pad_token_id": "0",
        "bos_token_id": "1",
        "eos_token_id": "[2, 5]",
        "max_new_tokens": "33",
    }
    assert {each.domain for each in model.opset_import} == {""}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "model: expected a Seq2Seq, got int"),
        (make(norm="layer"), ValueError, "model: expected one without layer norm and zoneout"),
        (make(zoneout_cell=0.1), ValueError, "model: expected one without layer norm and zoneout"),
        (configured(make(), num_beams=3), ValueError, "num_beams: expected 1 in the model's gen"),
        (make().to("meta"), ValueError, "model: expected one with numbers, got src_embedding.wei"),
        (
            broken(make()),
            ValueError,
            "model: expected finite parameters, got output_projection",
        ),
        (
            configured(make(), suppress_tokens=[50]),
            ValueError,
            "suppress_tokens: expected token ids in 0..8, got 50",
        ),
        (
            configured(make(), eos_token_id=[2, 50]),
            ValueError,
            "eos_token_id: expected an id below tgt_vocab_size = 9, got 50",
        ),
        (
            configured(make(), suppress_tokens=list(range(2, 9))),
            ValueError,
            "suppress_tokens: expected some token that can be chosen, got none",
        ),
        (
            configured(make(), repetition_penalty=1.5),
            ValueError,
            "repetition_penalty: expected 1.0 in the model's generation config",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_exported(tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys, monkeypatch):
    model = configured(toy_model().eval(), max_new_tokens=7)
    model.save_pretrained(tmp_path / "run", *toy_tokenizers())
    arguments = ["export", "--format", "onnx", str(tmp_path / "run"), str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "model.onnx: " in out and "16 random inputs" in out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["model.onnx", "source_tokenizer.json", "target_tokenizer.json"]
    # text to text, by what is in the folder
    pipeline = TextPipeline.from_pretrained(tmp_path / "run")
    src, lengths = pipeline._pad(pipeline.encode(["123", "4"]))
    sequences, found, _ = run(tmp_path / "out" / "model.onnx", src, lengths, 7)
    symbols = json.loads((tmp_path / "out" / "target_tokenizer.json").read_text())
    names = [*symbols["special_tokens"], *symbols["symbols"]]
    texts = [
        " ".join(names[token] for token in row[1 : 1 + n] if token > 3)
        for row, n in zip(sequences.tolist(), found.tolist(), strict=True)
    ]
    assert texts == pipeline(["123", "4"])
    assert main([*arguments, "--dtype", "int8"]) == 2
    assert "--dtype: expected not with --format onnx" in capsys.readouterr().err
    assert main([*arguments, "--beam", "3"]) == 2
    assert "--format onnx: expected --beam 1, as the file" in capsys.readouterr().err
    assert main([*arguments, "--length-penalty", "3"]) == 2
    assert "--length-penalty: expected not with --format onnx" in capsys.readouterr().err
    # beside the run itself, but not into another model's folder
    assert main([*arguments[:3], str(tmp_path / "run"), str(tmp_path / "run")]) == 0
    assert pipeline(["123", "4"]) == TextPipeline.from_pretrained(tmp_path / "run")(["123", "4"])
    toy_model(7).save_pretrained(tmp_path / "other", *toy_tokenizers())
    capsys.readouterr()
    assert main([*arguments[:4], str(tmp_path / "other")]) == 2
    assert "DIR: expected a folder of no other model" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(arguments) == 0
    assert "not compared without onnxruntime" in capsys.readouterr().err


def test_command_line_of_a_model_with_beams(tmp_path, capsys):
    model = configured(toy_model().eval(), num_beams=5, num_return_sequences=2)
    model.save_pretrained(tmp_path / "run", *toy_tokenizers())
    arguments = ["export", "--format", "onnx", str(tmp_path / "run"), str(tmp_path / "out")]
    assert main(arguments) == 2
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--beam", "1"]) == 0
    assert (tmp_path / "out" / "model.onnx").exists()


def test_nothing_is_written_that_is_not_the_model(tmp_path, capsys, monkeypatch):
    toy_model().save_pretrained(tmp_path / "run", *toy_tokenizers())
    wrong = fast_s2s.onnx.serialize(toy_model(5))
    monkeypatch.setattr(fast_s2s.onnx, "serialize", lambda model: wrong)
    arguments = ["export", "--format", "onnx", str(tmp_path / "run"), str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
