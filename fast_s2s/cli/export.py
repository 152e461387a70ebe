"""`fast-s2s export`: a trained model's folder, for use, in small types."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fast_s2s.cli import generating
from fast_s2s.cli.options import UsageError, load_pipeline, positive_int
from fast_s2s.pretrained import WEIGHTS_FILE
from fast_s2s.seq2seq import Seq2Seq


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "export",
        help="write a trained model for use, in int8, bfloat16 or float16",
        description="Write the model of a run or model folder, with its tokenizers, to a folder of "
        "its own: a quarter of the size in int8, half in bfloat16 or float16. An int8 model does "
        "not train.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, device="cpu", threads=None)
    parser.add_argument("model", metavar="RUN", help="folder of a trained model")
    parser.add_argument("output", metavar="DIR", help="folder to write")
    generating.add_dtype_option(parser, "all matrices in the file")
    group = parser.add_argument_group("how the new model generates unless told otherwise")
    generating.add_beam_option(group)
    group.add_argument(
        "--max-new-tokens", type=positive_int, metavar="N", help="longest output in tokens"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if Path(args.output).resolve() == Path(args.model).resolve():
        raise UsageError("DIR: expected another folder than RUN, which would be overwritten")
    pipeline = load_pipeline(args)
    model = pipeline.model
    # one folder is one model
    assert isinstance(model, Seq2Seq)
    if args.dtype is not None:
        model.compile_decoder(args.dtype)
    model.generation_config = generating.with_options(args, pipeline)
    model.save_pretrained(args.output, pipeline.source_tokenizer, pipeline.target_tokenizer)
    size = (Path(args.output) / WEIGHTS_FILE).stat().st_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.output}: {parameters:,} parameters in {size / 1e6:.2f} MB")
    return 0
