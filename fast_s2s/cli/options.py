"""Options that several commands share, flags made from dataclasses, and files of settings."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import re
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from fast_s2s import reranking
from fast_s2s.extras import require
from fast_s2s.hypotheses import HypothesisList
from fast_s2s.pipeline import TextPipeline
from fast_s2s.reranking import RerankingPipeline
from fast_s2s.seq2seq import Seq2Seq

Settings = TypeVar("Settings")


class UsageError(Exception):
    """The command line asks for something that makes no sense: exit code 2."""


def positive_int(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def add_device_options(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """--device and --threads."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", default=default, help="cpu or cuda[:N] (default: cuda where there is one)"
    )
    group.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        default=default,
        help="CPU threads (default: torch's)",
    )


def add_model_options(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """What every command needs that runs a trained model, or several of them."""
    text = "folder of a trained model"
    if several:
        text += (
            "; given several times, the models' probabilities are averaged at each step, and those "
            "with other tokenizers choose among whole outputs"
        )
    # a list in any case: of a plain option the last one would count, in silence
    parser.add_argument("--model", required=True, action="append", metavar="DIR", help=text)
    parser.add_argument(
        "--max-new-tokens",
        type=positive_int,
        metavar="N",
        help="longest output in tokens (default: the model's own limit)",
    )
    add_device_options(parser)


def add_batch_size_option(parser: argparse.ArgumentParser) -> None:
    """--batch-size."""
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        default=64,
        help="rows at once (default: %(default)s)",
    )


def choose_device(device: str | None, threads: int | None) -> torch.device:
    """Set the number of threads, and the device asked for or the best there is.

    Raises UsageError for a device that does not exist.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type not in ("cpu", "cuda"):
            raise UsageError(f"--device: expected cpu or cuda[:N], got {device}")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return chosen


def load_pipeline(args: argparse.Namespace, name: str) -> TextPipeline:
    """The model of the argument that the command calls `name`, with its tokenizers, on the device
    asked for.
    """
    return TextPipeline.from_pretrained(args.model, device=_model_device(args, name))


def load_pipelines(args: argparse.Namespace) -> TextPipeline | RerankingPipeline:
    """The model of --model, or what several and --hypotheses make together, on the device asked
    for.
    """
    device = _model_device(args)
    files = getattr(args, "hypotheses", None) or []
    if not files:
        if getattr(args, "hypotheses_weight", None) is not None:
            raise UsageError("--hypotheses-weight: expected only with --hypotheses")
        return reranking.load_pipeline(args.model, device=device)
    weights = None
    if args.hypotheses_weight is not None:
        groups = reranking.group_folders(args.model)
        weights = [*(float(len(group)) for group in groups)]
        weights += [args.hypotheses_weight] * len(files)
    return reranking.RerankingPipeline.from_pretrained(
        args.model,
        hypotheses=[HypothesisList.from_file(file) for file in files],
        weights=weights,
        device=device,
    )


def load_model(args: argparse.Namespace) -> Seq2Seq:
    """The model of --model, on the device asked for; the folder need not have tokenizers."""
    return Seq2Seq.from_pretrained(args.model, device=_model_device(args))


def _model_device(args: argparse.Namespace, name: str = "--model") -> torch.device:
    for folder in args.model if isinstance(args.model, list) else [args.model]:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{name} {folder}: no such folder")
    return choose_device(args.device, args.threads)


def add_settings(
    parser: argparse.ArgumentParser, title: str, settings: type, skip: Collection[str] = ()
) -> None:
    """One flag for each field of a dataclass, with help from its docstring; absent unless given."""
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(settings)
    helps = field_help(settings)
    for field in dataclasses.fields(settings):
        if field.name in skip:
            continue
        text = f"{helps[field.name]} (default: {field.default})".replace("%", "%%")
        text = text.replace("None", "none")
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, **_kind(hints[field.name]))


def build_settings(
    settings: Callable[..., Settings], options: Mapping[str, Any], **more: Any
) -> Settings:
    """The dataclass from the options that are its fields.

    Raises UsageError where it refuses them.
    """
    names = {field.name for field in dataclasses.fields(typing.cast(Any, settings))}
    given = {name: value for name, value in options.items() if name in names}
    try:
        return settings(**given, **more)
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(":")
        # of a field that is a flag, by the flag's name
        text = f"--{name.replace('_', '-')}:{rest}" if name in given else str(error)
        raise UsageError(text) from error


def field_help(settings: type) -> dict[str, str]:
    """Help texts of a dataclass's fields, from the lines `name: text` of its docstring."""
    names = {field.name for field in dataclasses.fields(settings)}
    texts: dict[str, str] = {}
    open_names: list[str] = []
    for line in (inspect.getdoc(settings) or "").splitlines():
        match = re.match(r"(\w+(?:, \w+)*):\s+(.*)", line)
        found = match.group(1).split(", ") if match else []
        if match and names.issuperset(found):
            open_names = found
            texts |= dict.fromkeys(open_names, match.group(2))
        elif open_names and line.startswith(" "):
            texts |= {name: f"{texts[name]} {line.strip()}" for name in open_names}
        else:
            open_names = []
    return texts


def read_settings_file(
    path: str, parser: argparse.ArgumentParser, not_settings: Collection[str] = ()
) -> dict[str, Any]:
    """Settings of a YAML file, by the same names and rules as the flags of `parser`, but for those
    in `not_settings`. What is null is absent, unless the flag takes none.

    Raises UsageError, naming the file, for one that is no mapping or has a setting that is unknown
    or does not fit.
    """
    yaml = require("yaml")
    try:
        text = Path(path).read_text(encoding="utf-8")
        content, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected lines of the form `name: value`")
    # of two the last would count, in silence
    names = [str(key.value).replace("-", "_") for key, _ in node.value]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: {name}: expected once, got {names.count(name)} times")
    settings: dict[str, Any] = {}
    for name, value in content.items():
        if str(name).replace("-", "_") in ("help", *not_settings):
            raise UsageError(f"{path}: {name}: expected on the command line, not in a file")
        found = _setting(parser, f"--{str(name).replace('_', '-')}", value)
        if found is None:
            raise UsageError(f"{path}: unknown setting {name!r}")
        if isinstance(found, str):
            raise UsageError(f"{path}: {name}: {found}")
        settings |= found
    return settings


# what a flag makes of none where it takes a text, once or several times
_NO_TEXT: tuple[Any, ...] = ("none", ["none"])


def _setting(parser: argparse.ArgumentParser, flag: str, value: Any) -> dict[str, Any] | str | None:
    """As `_parsed`, of a value as YAML reads it."""
    if "=" in flag:
        return None
    if isinstance(value, list) and value and not any(map(_is_nested, value)):
        return _joined([_setting(parser, flag, each) for each in value], value)
    if _is_nested(value):
        return f"expected one value, got {value}"
    if isinstance(value, bool):
        switched = _parsed(parser, flag if value else f"--no-{flag[2:]}")
        if isinstance(switched, dict) or _parsed(parser, f"{flag}=") is None:
            return switched
        return f"expected a value, in quotes if it is a word, got {str(value).lower()}"
    if value is None:
        found = _parsed(parser, f"{flag}=none")
        # what is refused, or taken for a text, is no value of the flag's
        if isinstance(found, str) or any(text in (found or {}).values() for text in _NO_TEXT):
            return {}
        return found
    found = _parsed(parser, f"{flag}={value}")
    if not isinstance(found, str):
        return found
    if isinstance(_parsed(parser, flag), dict):
        return f"expected true or false, got {value}"
    # 100.0 and 1e2, which YAML takes for a text, are integers too
    whole = _parsed(parser, f"{flag}={_whole(value)}")
    return whole if isinstance(whole, dict) else found


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list, set))


def _joined(
    parts: list[dict[str, Any] | str | None], value: list[Any]
) -> dict[str, Any] | str | None:
    """Of a list in a file, for a flag that may be given several times."""
    joined: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, dict):
            return part
        for name, found in part.items():
            if isinstance(found, list):
                joined[name] = joined.get(name, []) + found
    return joined or f"expected one value, got {value}"


def _parsed(parser: argparse.ArgumentParser, text: str) -> dict[str, Any] | str | None:
    """What a flag sets, or what is wrong with its value; None if there is no such flag."""
    exits = parser.exit_on_error
    parser.exit_on_error = False
    try:
        parsed, unknown = parser.parse_known_args([text])
    except argparse.ArgumentError as error:
        return error.message
    finally:
        parser.exit_on_error = exits
    return None if unknown else vars(parsed)


def _whole(value: Any) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    return int(number) if number.is_integer() else value


def _kind(hint: Any) -> dict[str, Any]:
    """What `add_argument` needs to know about a field's type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return {"choices": options}
    kinds = [kind for kind in options or (hint,) if kind is not type(None)]
    metavar = {int: "N", float: "X"}.get(kinds[0], "TEXT")
    if type(None) not in options:
        return {"type": kinds[0], "metavar": metavar}

    def number_or_none(text: str) -> Any:
        return None if text.lower() == "none" else kinds[0](text)

    number_or_none.__name__ = f"{kinds[0].__name__} or none"
    return {"type": number_or_none, "metavar": metavar}
