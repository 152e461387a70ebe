"""Packed weights: made again when the model's change, in a type of choice, and saved with it."""

from __future__ import annotations

import copy
import io
import resource
from pathlib import Path

import pytest
import torch
from helpers_native import needs_native
from helpers_seq2seq import ARCHITECTURES, make_batch, make_model

from fast_s2s import Ensemble, GenerationConfig, Seq2Seq, serialization, stored
from fast_s2s.functional import Regularization
from fast_s2s.generation import packing, search
from fast_s2s.generation.encoding import is_served


@pytest.fixture
def packs(monkeypatch):
    """A list that grows with every pack."""
    made = []
    pack = packing.pack_decoder
    monkeypatch.setattr(packing, "pack_decoder", lambda *a: made.append(1) or pack(*a))
    return made


def looped(model, batch):
    """Tokens by `step` on the parameters as they are now."""
    config = model.config
    with torch.no_grad():
        state = model.encode(batch.src, batch.src_lengths)
        token = torch.full((len(batch.src),), config.bos_token_id)
        columns = [token]
        for _ in range(6):
            logits, state = model.step(token, state)
            logits[:, [config.pad_token_id, config.bos_token_id]] = -torch.inf
            token = logits.argmax(1)
            columns.append(token)
    return torch.stack(columns, 1)


def assert_current(model, batch):
    bias = model.output_projection.bias
    # not again where it is so: that alone would be seen
    if bias[2] != -1e4:
        with torch.no_grad():
            bias[2] = -1e4
    tokens = model.generate(batch.src, batch.src_lengths, max_new_tokens=6)
    assert torch.equal(tokens, looped(model, batch))
    return tokens


def step_of_an_optimizer(model):
    batch = make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    model(batch.src, batch.tgt).loss.backward()
    optimizer.step()


def in_place(model):
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter))


def load(model):
    torch.manual_seed(99)
    model.load_state_dict(make_model(**_fields(model)).state_dict())


def replace(model):
    shape = model.decoder.weight_hh_l0.shape
    model.decoder.weight_hh_l0 = torch.nn.Parameter(torch.randn(shape, dtype=model.dtype))


def there_and_back(model):
    # rounds to bfloat16, perhaps into the memory that was freed
    model.bfloat16().double()


def other_memory(model):
    # as `Module.to` and `vector_to_parameters` do; the version stays
    for parameter in model.decoder.parameters():
        parameter.data = torch.randn_like(parameter.data)


def tie(model):
    model.output_projection.weight = model.tgt_embedding.weight


def _fields(model):
    config = model.config
    return {
        "tie_embeddings": config.tie_embeddings,
        "embedding_size": config.embedding_size,
        "num_layers": config.num_layers,
    }


def fused(kind):
    """A step that leaves versions as they are, by torch 2.13."""

    def step(model):
        batch = make_batch()
        optimizer = kind(model.parameters(), lr=0.3, fused=True)
        model(batch.src, batch.tgt).loss.backward()
        optimizer.step()

    step.__name__ = f"fused_{kind.__name__.lower()}"
    return step


FUSED = [getattr(torch.optim, name) for name in ("Adam", "AdamW", "SGD", "Adagrad")]
CHANGES = (
    *(step_of_an_optimizer, in_place, load, replace, there_and_back, other_memory),
    *map(fused, FUSED),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tied", [False, True])
def test_changes_are_seen(change, tied, packs):
    fields = {"tie_embeddings": tied, "embedding_size": 16 if tied else 8}
    model = make_model(num_layers=2, **fields)
    batch = make_batch()
    before = assert_current(model, batch)
    count = len(packs)
    model.generate(batch.src, num_beams=2)
    assert len(packs) == count
    change(model)
    after = assert_current(model, batch)
    assert len(packs) > count
    # bfloat16 keeps too much of the weights to be sure of
    if change is not there_and_back:
        assert not torch.equal(before, after)


def test_other_zoneout_and_norms_are_seen(packs):
    """The former is no tensor."""
    model = make_model(norm="layer", zoneout_hidden=0.1)
    batch = make_batch()
    found = [assert_current(model, batch)]
    for lstm in (model.decoder, model.encoder):
        lstm.regularization = Regularization(zoneout_hidden=0.9)
        found.append(assert_current(model, batch))
    with torch.no_grad():
        model.decoder.norm_weight_c_l0.mul_(-3)
    found.append(assert_current(model, batch))
    assert len(packs) == 3
    assert not any(map(torch.equal, found[:-1], found[1:]))


def test_tying_later_is_seen(packs):
    model = make_model(embedding_size=16)
    batch = make_batch()
    before = assert_current(model, batch)
    tie(model)
    assert not torch.equal(assert_current(model, batch), before)


def test_nothing_changed_nothing_packed(packs):
    model = make_model()
    src = make_batch().src
    for _ in range(3):
        model.generate(src)
        model.eval()
        model.train().eval()
    with torch.no_grad():
        model(src, src)
    model.src_embedding.weight.data.mul_(2)
    model.generate(src)
    assert len(packs) == 1


def test_weights_made_in_inference_mode_are_never_stale():
    with torch.inference_mode():
        model = make_model()
        batch = make_batch()
        first = model.generate(batch.src, max_new_tokens=6)
        for parameter in model.decoder.parameters():
            parameter.mul_(-1)
        assert not torch.equal(model.generate(batch.src, max_new_tokens=6), first)


def test_copies_and_pickles_hold_no_packed_weights():
    model = make_model()
    src = make_batch().src
    expected = model.generate(src)
    twin = copy.deepcopy(model)
    assert twin._packed._last is None and torch.equal(twin.generate(src), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded._packed._last is None and torch.equal(loaded.generate(src), expected)


@pytest.mark.parametrize("dtype", [torch.float32, "bfloat16", "float16", torch.int8])
@pytest.mark.parametrize("architecture", ["two-layers", "tied", "bidirectional"])
def test_compiled_decoder_is_saved_and_loaded(tmp_path, dtype, architecture, packs, assert_close):
    model = make_model(torch.float32, **ARCHITECTURES[architecture])
    name = str(dtype).removeprefix("torch.")
    if name != "float32":
        # what the file will hold
        rounded = stored.expand(stored.compress(model.state_dict(), getattr(torch, name)))
        assert any(
            not torch.equal(rounded[name], value) for name, value in model.named_parameters()
        )
        model.load_state_dict(rounded)
    batch = make_batch(rows=8)
    plain = model.generate(batch.src, batch.src_lengths)
    assert model.compile_decoder(dtype) is model
    count = len(packs)
    assert model.config.decoder_dtype == name
    output = model.generate(batch.src, batch.src_lengths, num_beams=3, return_dict_in_generate=True)
    assert len(packs) == count
    # the CPU multiplies float16's numbers as float32
    served = "float32" if name == "float16" else name
    assert model._pack().dtype == getattr(torch, served)
    model.save_pretrained(tmp_path)
    loaded = Seq2Seq.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded._packed._last is not None
    again = loaded.generate(batch.src, batch.src_lengths, num_beams=3, return_dict_in_generate=True)
    assert torch.equal(again.sequences, output.sequences)
    # the encoder of an int8 file is packed as int8 too, which sums in another order
    assert_close(again.sequences_scores, output.sequences_scores, "scores", torch.float32)
    # the same file again
    first = (tmp_path / "model.safetensors").read_bytes()
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    if name == "int8":
        return
    # and back
    assert torch.equal(loaded.compile_decoder().generate(batch.src, batch.src_lengths), plain)
    assert loaded.config.decoder_dtype is None
    loaded.train()


@needs_native
@pytest.mark.parametrize("fields", [{}, {"attention": "additive", "attention_heads": 2}], ids=str)
def test_float16_is_no_loop_in_python_on_the_cpu(tmp_path, fields, assert_close):
    model, batch = make_model(torch.float32, **fields).compile_decoder("float16"), make_batch()
    model.save_pretrained(tmp_path)
    wide = Seq2Seq.from_pretrained(tmp_path, dtype=torch.float32)
    for each in (model, wide, Ensemble([model]), make_model(torch.float32).half()):
        packs = [one._pack() for one in getattr(each, "models", [each])]
        assert [pack.backend for pack in packs] == ["native"]
    # the numbers are rounded, as where there are kernels for them
    pack, rounded = model._pack(), model.decoder.weight_hh_l0.half().float()
    assert torch.equal(pack.layers[0][1].values, rounded)
    options = {"max_new_tokens": 5, "return_dict_in_generate": True}
    found = model.generate(batch.src, batch.src_lengths, **options)
    narrow = packing.pack_decoder(model._decoder_weights(), torch.float16)
    assert narrow.dtype == torch.float16
    with torch.no_grad():
        state = model._context(batch.src, batch.src_lengths)
    expected = search.run(narrow, state, search.Request(GenerationConfig(max_new_tokens=5), 5))
    assert torch.equal(found.sequences, expected.tokens)
    assert_close(found.token_scores, expected.scores, "scores", torch.float32)


def test_rounding_again_changes_nothing():
    torch.manual_seed(0)
    weight = torch.randn(5000, 3) * torch.randn(5000, 1).exp()
    once = stored.store(weight, torch.int8)
    again = stored.store(once.dense(torch.float32), torch.int8)
    assert torch.equal(again.values, once.values) and torch.equal(again.scale, once.scale)
    assert (once.dense(torch.float32) - weight).abs().max(1).values.le(once.scale * 0.501).all()


@pytest.mark.parametrize(
    ("name", "least", "most"), [("bfloat16", 1.9, 2.0), ("float16", 1.9, 2.0), ("int8", 3.4, 4.0)]
)
def test_files_of_rounded_weights_are_small(tmp_path, name, least, most):
    model = make_model(torch.float32, hidden_size=100)
    model.save_pretrained(tmp_path / "plain")
    model.compile_decoder(name).save_pretrained(tmp_path / "small")
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("plain", "small")]
    assert least < sizes[0] / sizes[1] < most


def test_a_model_from_an_int8_file_stays_int8_and_does_not_train(tmp_path):
    make_model(torch.float32).compile_decoder("int8").save_pretrained(tmp_path)
    loaded = Seq2Seq.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="train: expected a model with its own weights, got"):
        loaded.train()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for dtype in (None, torch.float32, "bfloat16"):
        with pytest.raises(ValueError, match="dtype: expected int8 for a model loaded from an int"):
            loaded.compile_decoder(dtype)
    assert loaded.compile_decoder(torch.int8).config.decoder_dtype == "int8"
    with pytest.raises(ValueError, match="dtype: expected None for the int8 weights of"):
        Seq2Seq.from_pretrained(tmp_path, dtype=torch.float64)
    assert copy.deepcopy(loaded)._rounded


def test_files_of_the_parameters_with_a_compiled_type_load(tmp_path):
    """As versions before int8 files wrote them: they can be trained."""
    model = make_model(torch.float32)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"decoder_dtype": null', '"decoder_dtype": "int8"'))
    loaded = Seq2Seq.from_pretrained(tmp_path).train()
    assert loaded._pack().dtype == torch.int8
    assert torch.equal(loaded.decoder.weight_hh_l0, model.decoder.weight_hh_l0)


@pytest.mark.parametrize("scale", [None, torch.ones(3)])
def test_int8_matrices_need_their_scales(tmp_path, scale):
    make_model(torch.float32).compile_decoder("int8").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in serialization.load_tensors(path).items()}
    del tensors["decoder.weight_hh_l0.scale"]
    if scale is not None:
        tensors["decoder.weight_hh_l0.scale"] = scale
    serialization.save_tensors(path, tensors)
    with pytest.raises(ValueError, match=r"safetensors: decoder.weight_hh_l0.scale: expected shap"):
        Seq2Seq.from_pretrained(tmp_path)


def test_compiled_types_are_close(assert_close):
    model = make_model(torch.float32, num_layers=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
    batch = make_batch()
    forced = {"prefix": batch.tgt, "max_new_tokens": 1, "return_dict_in_generate": True}

    def scores():
        # of one more token, after all those of the prefix
        return model.generate(batch.src, batch.src_lengths, **forced).token_scores[:, -1]

    expected = scores()
    for dtype in ("float32", "bfloat16", "int8"):
        model.compile_decoder(dtype)
        bound = torch.float32 if dtype == "float32" else torch.bfloat16
        assert_close(scores(), expected, dtype, bound)
    # the loop in Python multiplies by the same numbers
    looped = model.generate(
        batch.src, batch.src_lengths, logits_processor=lambda _, scores: scores, **forced
    )
    assert_close(scores(), looped.token_scores[:, -1], "loop", torch.float32)


@pytest.mark.parametrize("dtype", ["float64", torch.complex64, "int4", 8])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype: expected one of float32, bfloat16, float16, int8"):
        make_model().compile_decoder(dtype)


def _resident():
    """Kilobytes of memory in use now; the peak may be that of another test."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def test_memory_does_not_grow():
    model = make_model(torch.float32, tie_embeddings=True, embedding_size=16)
    batch = make_batch(rows=2)
    automaton = [[3, 4, 5], [6]]
    options = (
        {},
        {"num_beams": 2},
        {"do_sample": True, "num_return_sequences": 2},
        {"constraint": automaton},
        {"return_state": True},
    )

    def call(times):
        for index in range(times):
            chosen = options[index % len(options)]
            model.generate(batch.src, batch.src_lengths, max_new_tokens=4, **chosen)

    call(300)
    before = _resident()
    call(2000)
    # a leak of one small tensor a call would be more
    assert _resident() - before < 1000


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_packed_encoder_reads_as_the_layer_does(backend, architecture, dtype, assert_close):
    model = make_model(dtype, **ARCHITECTURES[architecture])
    assert is_served(model.src_embedding.weight, model.encoder)
    batch = make_batch(rows=6)
    lengths = batch.src_lengths.clone()
    # an empty row too
    lengths[1] = 0
    for _ in range(2):
        with torch.no_grad():
            packed, encoded = model._context(batch.src, lengths), model.encode(batch.src, lengths)
        assert_close(packed.h, encoded.h, "h", dtype)
        assert_close(packed.c, encoded.c, "c", dtype)
        assert (packed.memory is None) == (model.attention is None)
        if packed.memory is not None:
            assert_close(packed.memory.values, encoded.memory.values, "values", dtype)
            steps = torch.arange(batch.src.size(1))
            past = (steps >= lengths.unsqueeze(1)).unsqueeze(2)
            keys = encoded.memory.keys.masked_fill(past, 0.0)
            assert_close(packed.memory.keys, keys, "keys", dtype)
        # changes are seen
        with torch.no_grad():
            model.encoder.weight_hh_l0.mul_(0.5)
            if model.bridge is not None:
                model.bridge.c[0].weight.mul_(0.5)
            if model.attention is not None and model.attention.key is not None:
                model.attention.key.weight.mul_(0.5)
