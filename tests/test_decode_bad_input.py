"""The op `decode` as torch sees it, and what it and what leads to it refuse."""

from __future__ import annotations

import pytest
import torch
from helpers_attention import Case
from helpers_decode import EOS, Size, kinds, make, random_weights, run
from helpers_native import needs_native

from fast_s2s.decoding import DecodeOptions, LayerWeights, initial_state, pack_decoder
from fast_s2s.decoding.contract import Keep

TWO_MORE = (torch.zeros(32, 8), torch.zeros(32, 8))


@needs_native
@pytest.mark.parametrize("keep", [Keep(0), Keep.SCORES, Keep.LOGITS])
@pytest.mark.parametrize("name", ["greedy", "sample", "beam"])
def test_opcheck(name, keep):
    options = DecodeOptions(max_new_tokens=4, eos_token_id=EOS, keep=keep, **kinds(2)[name])
    arguments = Case(*make(Size(projection=3), 2, torch.float32)).op_arguments(options)
    torch.library.opcheck(torch.ops.fast_s2s.decode.default, tuple(arguments))


@needs_native
def test_opcheck_of_packing():
    weights = [torch.randn(12, 5), torch.randn(12, 3), torch.randn(7, 3)]
    for norms in ([], [torch.randn(42)]):
        arguments = (weights, [], [torch.randn(12), torch.randn(7)], norms, torch.randn(7, 5), 1)
        arguments = (*arguments, False, False, 0, False, False, 0.0, 0.1)
        torch.library.opcheck(torch.ops.fast_s2s.decode_pack.default, arguments)


@needs_native
@pytest.mark.parametrize(
    ("norms", "zoneout", "message"),
    [
        ([torch.zeros(42)] * 2, 0.0, "norms: expected none or 1 tensors, got 2"),
        ([torch.zeros(41)], 0.0, r"norms: expected shape \(42,\)"),
        ([torch.zeros(42).double()], 0.0, "norms: expected dtype Float, got Double"),
        ([], 1.5, "zoneout_hidden, zoneout_cell: expected numbers in 0..1, got 1.5"),
    ],
)
def test_layer_norm_and_zoneout_of_the_op(norms, zoneout, message):
    weights = [torch.randn(12, 5), torch.randn(12, 3), torch.randn(7, 3)]
    biases = [torch.randn(12), torch.randn(7)]
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.decode_pack(
            *(weights, [], biases, norms, torch.randn(7, 5)),
            *(1, False, False, 0, False, False, zoneout, 0.0),
        )


@needs_native
@pytest.mark.parametrize("kind", [3, 5, 200])
def test_weights_of_a_type_without_kernels(kind):
    """By their head, which says nothing of another length then."""
    case = Case(*make(Size(), 1, torch.float32))
    arguments = case.op_arguments(DecodeOptions(max_new_tokens=1))
    arguments[0] = arguments[0].clone()
    # behind the magic and the layout, eight bytes each
    arguments[0][16], arguments[1] = kind, [kind, *arguments[1][1:]]
    with pytest.raises(RuntimeError, match="packed: expected weights of a type that the CPU"):
        torch.ops.fast_s2s.decode.default(*arguments)


@needs_native
@pytest.mark.parametrize(
    ("index", "part", "change", "message"),
    [
        (0, None, lambda t: t[:-1], "packed: expected .* bytes, got"),
        (0, None, lambda t: t.flip(0), "packed: expected what decode_pack of this version gave"),
        (0, None, lambda t: t.float(), "packed: expected what decode_pack gave"),
        (1, None, lambda h: h[1:], "header: expected that of the packed weights"),
        (1, 4, lambda n: n + 1, "header: expected that of the packed weights"),
        (2, None, lambda s: s[:-1], "state: expected 15 tensors, got 14"),
        (2, 0, lambda t: t.double(), "state.h: expected dtype Float, got Double"),
        (2, 1, lambda t: t[:, :-1], "state.c: expected shape"),
        (2, 2, lambda t: t + 50, r"state.tokens: expected ids in 0\.\.10, got 51"),
        (2, 4, lambda t: t + 1, r"state.position: expected values in 0\.\.0, got 1"),
        (2, 14, lambda t: t.int(), "hypotheses.node: expected dtype Long, got Int"),
        (3, None, lambda m: [torch.zeros(1)], "memory: expected 0 tensors, got 1"),
        (4, None, lambda r: r[1:], "rules: expected 14 tensors, got 13"),
        (4, 1, lambda t: t - 99, "rules.limits: expected values in 1"),
        (4, 4, lambda t: t + 99, r"rules.eos: expected values in 0\.\.10, got 101"),
        (4, 3, lambda t: t + 1, r"rules.prefix_lengths: expected values in 0\.\.0, got 1"),
        (4, 9, lambda t: t + 1, "rules.bad_offsets: expected to rise from 0"),
        (5, None, lambda o: o[1:], "options: expected 11 numbers, got 10"),
        (5, None, lambda o: [7, *o[1:]], r"strategy: expected a value in 0\.\.2, got 7"),
        (5, None, lambda o: [o[0], 4, *o[2:]], "state: expected rows of 4 slots"),
        (6, None, lambda p: [0.0, *p[1:]], "temperature: expected a number > 0, got 0"),
        (7, None, lambda n: -1, "max_steps: expected at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_op(index, part, change, message):
    options = DecodeOptions(
        max_new_tokens=4, eos_token_id=EOS, bad_words_ids=[[3, 4]], **kinds()["beam"]
    )
    arguments = Case(*make(Size(), 1, torch.float32)).op_arguments(options)
    if part is None:
        arguments[index] = change(arguments[index])
    else:
        arguments[index][part] = change(arguments[index][part])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.decode(*arguments)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, "num_beams: expected an integer >= 1, got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p: expected a number in \[0, 1\], got 1.5"),
        ({"temperature": 0}, ValueError, "temperature: expected a number in .1e-06, 1e.30., got 0"),
        ({"min_p": None}, TypeError, "min_p: expected a number, got None"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected a number"),
        ({"early_stopping": "ever"}, ValueError, "early_stopping: expected True, False or 'never'"),
        ({"early_stopping": 1}, ValueError, "early_stopping: expected True, False or 'never'"),
        ({"do_sample": True}, ValueError, "seed: expected a tensor"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences: expected at most"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens: expected an integer >= 0, got -1"),
        ({"max_new_tokens": 2**63}, ValueError, "max_new_tokens: expected an integer <= "),
        ({"top_k": 2**63}, ValueError, "top_k: expected an integer <= "),
        ({"max_new_tokens": 0, "num_beams": 2}, ValueError, "max_new_tokens: expected .* >= 1"),
        ({"max_new_tokens": torch.tensor([1, 2])}, ValueError, "max_new_tokens: expected shape"),
        ({"eos_token_id": 11}, ValueError, r"eos_token_id: expected token ids in 0\.\.10, got 11"),
        ({"suppress_tokens": ["a"]}, TypeError, "suppress_tokens: expected"),
        ({"bad_words_ids": [[]]}, ValueError, "bad_words_ids: expected sequences of at least one"),
        ({"bad_words_ids": [[1, 12]]}, ValueError, "bad_words_ids: expected token ids"),
        ({"prefix": torch.tensor([[11]] * 3)}, ValueError, "prefix: expected token ids"),
        ({"prefix_lengths": torch.tensor([1])}, ValueError, "prefix_lengths: expected None"),
        (
            {"prefix": torch.ones(3, 1).long(), "prefix_lengths": torch.tensor([0, 1, 2])},
            ValueError,
            r"prefix_lengths: expected integers in 0\.\.1",
        ),
        ({"do_sample": True, "seed": torch.tensor([1])}, ValueError, "seed: expected shape"),
    ],
)
def test_bad_options(fields, error, message):
    with pytest.raises(error, match=message):
        run(make(Size(), 3), DecodeOptions(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w._replace(embedding=torch.zeros(10, 5)), r"embedding: expected shape \(V, E\)"),
        (lambda w: w._replace(output_bias=torch.zeros(3)), "output_bias: expected shape"),
        (lambda w: w._replace(layers=()), "layers: expected at least one, got none"),
        (
            lambda w: w._replace(layers=(w.layers[0]._replace(norm_c=torch.ones(8)),)),
            r"layers\[0\].norm_c: expected all parameters of layer norm in every layer, or none",
        ),
        (
            lambda w: w._replace(layers=(w.layers[0]._replace(zoneout_cell=2.0),)),
            r"layers\[0\].zoneout_cell: expected a number in \[0.0, 1.0\], got 2.0",
        ),
        (
            lambda w: w._replace(
                layers=(w.layers[0], LayerWeights(*TWO_MORE, zoneout_hidden=0.5)),
            ),
            r"layers\[1\].zoneout_hidden: expected that of layer 0, 0.0, got 0.5",
        ),
        (lambda w: w._replace(output_weight=torch.zeros(11, 7)), r"layers\[0\].w_hh: expected"),
        (
            lambda w: w._replace(layers=(LayerWeights(torch.zeros(32, 4), torch.zeros(32, 8)),)),
            r"layers\[0\].w_ih: expected shape \(4H, I\) = \(32, 5\)",
        ),
        (lambda w: w._replace(embedding=torch.zeros(11, 5).long()), "embedding: expected a float"),
    ],
)
def test_bad_weights(change, message):
    with pytest.raises(ValueError, match=message):
        pack_decoder(change(random_weights(Size())))


def test_bad_types_of_weights():
    with pytest.raises(ValueError, match="dtype: expected one of torch.float32"):
        pack_decoder(random_weights(Size()), torch.int32)
    with pytest.raises(ValueError, match="table: expected one of auto, on, off, got 'yes'"):
        pack_decoder(random_weights(Size()), table="yes")
    with pytest.raises(TypeError, match="weights: expected DecoderWeights, got dict"):
        pack_decoder({})


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (1, lambda h: h[:, :, :-1], r"h: expected shape \(L, B, R\)"),
        (2, lambda c: c[:1], r"c: expected shape \(L, B, H\)"),
    ],
)
def test_bad_contexts(index, change, message):
    made = list(make(Size(layers=2), 2))
    made[index] = change(made[index])
    with pytest.raises(ValueError, match=message):
        run(tuple(made), DecodeOptions())


def test_bad_first_token():
    decoder, h, c = make(Size(), 2)
    with pytest.raises(ValueError, match=r"token: expected token ids in 0\.\.10, got 11"):
        initial_state(decoder, h, c, 11, DecodeOptions())
