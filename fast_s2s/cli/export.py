"""`fast-s2s export`: a trained model's folder, for use, in small types or as an ONNX file."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

from fast_s2s import onnx
from fast_s2s.cli import generating
from fast_s2s.cli.options import UsageError, load_pipeline, positive_int
from fast_s2s.pipeline import TextPipeline
from fast_s2s.pretrained import (
    CONFIG_FILE,
    SOURCE_TOKENIZER_FILE,
    TARGET_TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.serialization import atomic_write_files
from fast_s2s.training.run_folder import RunFolder

# of log-probabilities in float32: of one token, and of 64 of them
_REGRET, _SCORE_ERROR = 1e-3, 1e-2


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
    if args.format == "onnx":
        return _write_onnx(args)
    if Path(args.output).resolve() == Path(args.model).resolve():
        raise UsageError("DIR: expected another folder than RUN, which would be overwritten")
    if RunFolder(args.output).manifest_file.exists():
        raise UsageError(f"DIR: expected a folder of no training run, got {args.output}")
    pipeline, model = _load(args)
    if args.dtype is not None:
        model.compile_decoder(args.dtype)
    model.generation_config = generating.with_options(args, pipeline)
    model.save_pretrained(args.output, pipeline.source_tokenizer, pipeline.target_tokenizer)
    size = (Path(args.output) / WEIGHTS_FILE).stat().st_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.output}: {parameters:,} parameters in {size / 1e6:.2f} MB")
    return 0


def _load(args: argparse.Namespace) -> tuple[TextPipeline, Seq2Seq]:
    pipeline = load_pipeline(args, "RUN")
    # one folder is one model
    assert isinstance(pipeline.model, Seq2Seq)
    return pipeline, pipeline.model


def _write_onnx(args: argparse.Namespace) -> int:
    """model.onnx and the tokenizers, after a comparison where ONNX Runtime is installed."""
    for name in ("dtype", "length_penalty"):
        if getattr(args, name) is not None:
            flag = name.replace("_", "-")
            raise UsageError(
                f"--{flag}: expected not with --format onnx, a greedy search in float32"
            )
    folder = Path(args.output)
    if (folder / CONFIG_FILE).exists() and folder.resolve() != Path(args.model).resolve():
        raise UsageError(f"DIR: expected a folder of no other model, got {folder}")
    pipeline, model = _load(args)
    if args.beam == 1:
        # several outputs are of several beams
        config = dataclasses.replace(model.generation_config, num_beams=1, num_return_sequences=1)
        model.generation_config = config
    model.generation_config = generating.with_options(args, pipeline)
    if model.generation_config.num_beams > 1:
        raise UsageError(
            "--format onnx: expected --beam 1, as the file searches greedily, and the model by "
            f"{model.generation_config.num_beams} beams"
        )
    data = onnx.serialize(model)
    if not _compared(model, data):
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers = {
        SOURCE_TOKENIZER_FILE: pipeline.source_tokenizer.save,
        TARGET_TOKENIZER_FILE: pipeline.target_tokenizer.save,
    }
    atomic_write_files(folder, {**tokenizers, onnx.MODEL_FILE: lambda path: path.write_bytes(data)})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = len(data) / 1e6
    print(f"{folder / onnx.MODEL_FILE}: {parameters:,} parameters in {size:.2f} MB")
    return 0


def _compared(model: Seq2Seq, data: bytes) -> bool:
    """Whether the file does what the model does, as far as can be told."""
    if importlib.util.find_spec("onnxruntime") is None:
        print('not compared without onnxruntime: pip install "fast-s2s[onnx]"', file=sys.stderr)
        return True
    found = onnx.check_bytes(model, data, onnx.MODEL_FILE, rows=16, seed=0)
    print(
        f"ONNX Runtime, {found.rows} random inputs: {found.tokens} tokens, none less probable than "
        f"the model's best by more than {found.regret:.1g}; scores within {found.score_error:.1g}"
    )
    # NaN is no number below
    if found.regret <= _REGRET and found.score_error <= _SCORE_ERROR:
        return True
    print(
        f"expected at most {_REGRET} and {_SCORE_ERROR}: nothing is written, please report this",
        file=sys.stderr,
    )
    return False
