"""`fast-s2s export`: a trained model's folder, for use, in small types or as an ONNX file."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from fast_s2s import onnx
from fast_s2s.cli import generating
from fast_s2s.cli.options import UsageError, load_pipeline, positive_int
from fast_s2s.pipeline import TextPipeline
from fast_s2s.pretrained import SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE, WEIGHTS_FILE
from fast_s2s.seq2seq import Seq2Seq

# of log-probabilities in float32: two tokens as close as this are the same to a model
_REGRET = 1e-3


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "export",
        help="write a trained model for use, in int8, bfloat16 or float16, or as an ONNX file",
        description="Write the model of a run or model folder, with its tokenizers, to a folder of "
        "its own: a quarter of the size in int8, half in bfloat16 or float16. An int8 model does "
        "not train. With --format onnx the folder gets the tokenizers and model.onnx instead: the "
        "encoder and a greedy search in float32, for ONNX Runtime and alike.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, device="cpu", threads=None)
    parser.add_argument("model", metavar="RUN", help="folder of a trained model")
    parser.add_argument("output", metavar="DIR", help="folder to write")
    parser.add_argument(
        "--format",
        choices=["fast_s2s", "onnx"],
        default="fast_s2s",
        help="a folder for --model, or an ONNX file (default: %(default)s)",
    )
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
    if args.format == "onnx" and args.dtype is not None:
        raise UsageError("--dtype: expected not with --format onnx, which is float32")
    pipeline = load_pipeline(args)
    model = pipeline.model
    # one folder is one model
    assert isinstance(model, Seq2Seq)
    if args.format == "onnx":
        model.generation_config = generating.with_options(args, pipeline)
        return _write_onnx(args, pipeline, model)
    if args.dtype is not None:
        model.compile_decoder(args.dtype)
    model.generation_config = generating.with_options(args, pipeline)
    model.save_pretrained(args.output, pipeline.source_tokenizer, pipeline.target_tokenizer)
    size = (Path(args.output) / WEIGHTS_FILE).stat().st_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.output}: {parameters:,} parameters in {size / 1e6:.2f} MB")
    return 0


def _write_onnx(args: argparse.Namespace, pipeline: TextPipeline, model: Seq2Seq) -> int:
    """model.onnx and the tokenizers; what came of a comparison, where ONNX Runtime is installed."""
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / onnx.MODEL_FILE
    onnx.export(model, path)
    pipeline.source_tokenizer.save(folder / SOURCE_TOKENIZER_FILE)
    pipeline.target_tokenizer.save(folder / TARGET_TOKENIZER_FILE)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{path}: {parameters:,} parameters in {path.stat().st_size / 1e6:.2f} MB")
    if importlib.util.find_spec("onnxruntime") is None:
        print('not compared without onnxruntime: pip install "fast-s2s[onnx]"', file=sys.stderr)
        return 0
    found = onnx.check(model, path)
    print(
        f"ONNX Runtime, {found.rows} random inputs: {found.tokens} tokens, none less probable than "
        f"the model's best by more than {found.regret:.1g}; scores within {found.score_error:.1g}"
    )
    if found.regret > _REGRET:
        print(f"expected at most {_REGRET}: the file is not the model", file=sys.stderr)
        return 1
    return 0
