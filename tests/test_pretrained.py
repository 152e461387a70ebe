"""A model folder: saved and loaded bit for bit; damaged, foreign and missing files are named."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers_seq2seq import ARCHITECTURES, TGT_VOCAB, make_batch, make_model
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import random_unstructured

from fast_s2s import serialization
from fast_s2s.generation import GenerationConfig
from fast_s2s.seq2seq import Seq2Seq

FILES = ["config.json", "generation_config.json", "model.safetensors"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_round_trip_is_bit_equal(tmp_path, architecture, dtype):
    model = make_model(dtype, dropout=0.25, **ARCHITECTURES[architecture])
    model.generation_config = GenerationConfig(max_new_tokens=9, min_new_tokens=2)
    model.save_pretrained(tmp_path / "new" / "folder")

    loaded = Seq2Seq.from_pretrained(str(tmp_path / "new" / "folder"))

    assert names(tmp_path / "new" / "folder") == FILES
    assert loaded.config == model.config
    assert loaded.generation_config == model.generation_config
    expected, state = model.state_dict(), loaded.state_dict()
    assert list(state) == list(expected)
    for name in expected:
        assert state[name].dtype == dtype and torch.equal(state[name], expected[name]), name
    assert not loaded.training
    src = make_batch().src
    assert torch.equal(loaded.generate(src), model.generate(src))


def test_a_loaded_model_trains_and_its_tied_weight_stays_one(tmp_path):
    make_model(**ARCHITECTURES["tied"]).save_pretrained(tmp_path)
    assert "output_projection.weight" not in serialization.load_tensors(
        tmp_path / "model.safetensors"
    )

    model = Seq2Seq.from_pretrained(tmp_path).train()

    assert model.output_projection.weight is model.tgt_embedding.weight
    batch = make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(batch.src, batch.tgt).loss
    before.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    optimizer.step()
    assert model(batch.src, batch.tgt).loss < before


def test_a_tied_weight_stays_one_where_parameters_are_made_anew():
    model = make_model(tie_embeddings=True, embedding_size=8, hidden_size=8).to("meta")
    assert model.output_projection.weight is model.tgt_embedding.weight
    assert model.to_empty(device="cpu").output_projection.weight is model.tgt_embedding.weight


@pytest.mark.parametrize("change", [weight_norm, partial(random_unstructured, amount=0.5)])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change):
    model = make_model()
    change(model.decoder, "weight_hh_l0")
    with pytest.raises(ValueError, match=r"\['decoder.weight_hh_l0'\] are parametrised or pruned"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model = make_model()
    model.head = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"got \['head.bias', 'head.weight'\]"):
        model.save_pretrained(tmp_path / "model")


def test_device_and_dtype(tmp_path):
    model = make_model(torch.float64)
    model.save_pretrained(tmp_path)
    half = Seq2Seq.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.output_projection.bias, model.output_projection.bias.bfloat16())
    assert Seq2Seq.from_pretrained(tmp_path, device="meta").device.type == "meta"
    for dtype in (torch.int64, "float32"):
        with pytest.raises(ValueError, match="dtype: expected a floating-point torch.dtype"):
            Seq2Seq.from_pretrained(tmp_path, dtype=dtype)


def test_loading_draws_no_random_number(tmp_path):
    make_model().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    Seq2Seq.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("tied", [False, True])
def test_loading_imports_no_compiler(tmp_path, tied):
    # torch's takes longer to import than all else does
    make_model(tie_embeddings=tied, embedding_size=9, hidden_size=9).save_pretrained(tmp_path)
    program = f"""
import sys, torch
from fast_s2s import Seq2Seq
Seq2Seq.from_pretrained({str(tmp_path)!r}).generate(torch.tensor([[3, 4]]), max_new_tokens=2)
sys.exit("torch._dynamo" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", program], timeout=300).returncode == 0


def test_a_loaded_model_does_not_depend_on_the_file(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = Seq2Seq.from_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x00" * path.stat().st_size)
    assert torch.equal(loaded.output_projection.weight, model.output_projection.weight)


class Tokenizer:
    def __init__(self, text):
        self.text = text

    def save(self, path):
        path.write_text(self.text)


def test_tokenizers_are_written_beside_and_stay(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path, Tokenizer("source"), Tokenizer("target"))
    model.save_pretrained(tmp_path)
    assert names(tmp_path) == [*FILES, "source_tokenizer.json", "target_tokenizer.json"]
    assert (tmp_path / "source_tokenizer.json").read_text() == "source"
    assert (tmp_path / "target_tokenizer.json").read_text() == "target"


class BrokenTokenizer:
    def save(self, path):
        path.write_text("half")
        raise OSError("disk full")


def test_a_failed_save_leaves_the_old_model(tmp_path):
    old = make_model()
    old.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        make_model(num_layers=2).save_pretrained(tmp_path, target_tokenizer=BrokenTokenizer())
    assert names(tmp_path) == FILES
    loaded = Seq2Seq.from_pretrained(tmp_path)
    assert torch.equal(loaded.decoder.weight_hh_l0, old.decoder.weight_hh_l0)


def test_saving_over_another_architecture(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = make_model(num_layers=3, bidirectional=True)
    model.save_pretrained(tmp_path)
    loaded = Seq2Seq.from_pretrained(tmp_path)
    assert torch.equal(loaded.decoder.weight_hh_l2, model.decoder.weight_hh_l2)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(FileExistsError, match="file"):
        make_model().save_pretrained(tmp_path / "file")


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def binary(path):
    path.write_bytes(b"\x80\x04\x95" * 10)


def edit_json(**changes):
    def edit(path):
        obj = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in obj.items() if value != "drop"}))

    return edit


def edit_tensors(edit):
    def apply(path):
        tensors = serialization.load_tensors(path)
        edit(tensors)
        path.unlink()
        serialization.save_tensors(path, tensors)

    return apply


DAMAGE = [
    *[(name, remove, FileNotFoundError, "no such file") for name in FILES],
    *[(name, cut, ValueError, "expected a") for name in FILES],
    *[(name, binary, ValueError, "expected a") for name in FILES],
    ("config.json", edit_json(model_type="bert"), ValueError, "model_type: expected 'fast_s2s', "),
    ("config.json", edit_json(model_type="drop"), ValueError, "got None"),
    ("config.json", edit_json(src_vocab_size="drop"), ValueError, "expected src_vocab_size, which"),
    ("config.json", edit_json(num_heads=8), ValueError, "expected only fields of Seq2SeqConfig, g"),
    ("config.json", edit_json(hidden_size="16"), ValueError, "hidden_size: expected an integer"),
    ("config.json", edit_json(dropout=2.0), ValueError, "dropout: expected a number in"),
    ("generation_config.json", edit_json(max_new_tokens=0), ValueError, "max_new_tokens: expected"),
    ("generation_config.json", edit_json(num_beans=4), ValueError, "GenerationConfig, got num_be"),
    (
        "generation_config.json",
        edit_json(eos_token_id=TGT_VOCAB),
        ValueError,
        f"eos_token_id: expected an id below tgt_vocab_size = {TGT_VOCAB}",
    ),
    (
        "model.safetensors",
        edit_tensors(lambda tensors: tensors.pop("output_projection.bias")),
        ValueError,
        "missing: ['output_projection.bias'], unexpected: none",
    ),
    (
        "model.safetensors",
        edit_tensors(lambda tensors: tensors.update(extra=torch.zeros(1))),
        ValueError,
        "missing: none, unexpected: ['extra']",
    ),
    (
        "model.safetensors",
        edit_tensors(lambda t: t.update({"output_projection.bias": torch.zeros(3).double()})),
        ValueError,
        "output_projection.bias: expected shape (13,) by config.json, got (3,)",
    ),
    (
        "model.safetensors",
        edit_tensors(lambda t: t.update({"output_projection.bias": torch.zeros(13)})),
        ValueError,
        "expected tensors of one floating-point type, got torch.float32, torch.float64",
    ),
    (
        "model.safetensors",
        edit_tensors(lambda t: t.update({name: tensor.long() for name, tensor in t.items()})),
        ValueError,
        "expected tensors of one floating-point type, got torch.int64",
    ),
]


@pytest.mark.parametrize(("name", "damage", "error", "message"), DAMAGE)
def test_damage_is_named(tmp_path, name, damage, error, message):
    make_model().save_pretrained(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(error) as raised:
        Seq2Seq.from_pretrained(tmp_path)
    assert str(tmp_path / name) in str(raised.value)
    assert message in str(raised.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        Seq2Seq.from_pretrained(tmp_path / "absent")
