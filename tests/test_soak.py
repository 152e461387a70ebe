"""`benchmarks.soak`, for a moment: every kind of call runs, on threads; and what NaN weights do."""

from __future__ import annotations

import torch
from helpers_seq2seq import BOS, PAD, make_batch, make_model

from benchmarks import soak


def test_a_short_soak(capsys):
    # so short that what a first call keeps would count as growth
    assert soak.main(["--calls", "200", "--limit", "1000000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[9].startswith("     200 calls:")
    assert soak.main(["--calls", "20", "--limit", "-1000000"]) == 1


def test_nan_weights_end_rows_and_are_never_chosen():
    model = make_model(torch.float32)
    batch = make_batch()
    with torch.no_grad():
        model.output_projection.bias[5] = torch.nan
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1, "temperature": 5.0}):
        tokens = model.generate(batch.src, batch.src_lengths, max_new_tokens=12, **options)
        assert tokens.size(1) > 2 and not (tokens == 5).any()
    with torch.no_grad():
        model.output_projection.bias.fill_(torch.nan)
    for options in ({}, {"num_beams": 3}):
        output = model.generate(
            batch.src, batch.src_lengths, return_dict_in_generate=True, **options
        )
        assert output.sequences_scores.isneginf().all()
        assert ((output.sequences == BOS) | (output.sequences == PAD)).all()
