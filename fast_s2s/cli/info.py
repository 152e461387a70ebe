"""`fast-s2s info`: versions, backends, and what a model is made of."""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

import torch

from fast_s2s import __version__, backends
from fast_s2s.cli.options import UsageError, add_device_options, load_model


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "info",
        help="versions, backends, and what a model is made of",
        description="Print versions and which backend serves what; with --model, its config.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    # a list: of a plain option the last one would count, in silence
    parser.add_argument("--model", action="append", metavar="DIR", help="folder of a trained model")
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.model is not None:
        if len(args.model) > 1:
            raise UsageError(f"--model: expected one, got {len(args.model)}")
        args.model = args.model[0]
        _print_model(args)
        return 0
    print(f"fast_s2s {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs", end="")
    print(f", torch uses {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        print(f"cuda:{index}: {torch.cuda.get_device_name(index)}")
    print(backends.describe())
    return 0


def _print_model(args: argparse.Namespace) -> None:
    model = load_model(args)
    for name, value in model.config.to_dict().items():
        print(f"{name}: {value}")
    print(f"max_new_tokens: {model.generation_config.max_new_tokens}")
    modes = {"training": True, "generation": False}
    if model.is_rounded:
        # what was rounded is gone
        del modes["training"]
    for name, lstm in (("encoder", model.encoder), ("decoder", model.decoder)):
        for mode, training in modes.items():
            choice = lstm.train(training).backend_choice()
            print(f"{name}, in {mode}: {choice.backend} ({choice.reason})")
    kind = "stored as int8, for generation alone" if model.is_rounded else f"of {model.dtype}"
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,} {kind}")
