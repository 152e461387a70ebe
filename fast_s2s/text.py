"""Text to token ids and back: a vocabulary of characters or words, and Hugging Face tokenizers.

Every text is brought to Unicode NFC first, so that composed and decomposed spellings are the same
symbols. A symbol that is not known becomes `unk_token_id`, and so does a special token written out
in a text: no input can end a sequence early, and none is refused.
"""

from __future__ import annotations

import json
import operator
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from fast_s2s.checks import check_bool, check_integer, check_path
from fast_s2s.extras import require
from fast_s2s.serialization import atomic_write_json, atomic_write_text, read_json

PathLike = str | os.PathLike[str]
Level = Literal["char", "word"]
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

_VOCABULARY_FORMAT = "fast_s2s.vocabulary"
_WRAPPED_FORMAT = "fast_s2s.huggingface_tokenizer"
_FORMAT_VERSION = 1
_USUAL_NAMES = {
    "pad_token_id": ("<pad>", "[PAD]"),
    "bos_token_id": ("<s>", "[BOS]", "[CLS]"),
    "eos_token_id": ("</s>", "[EOS]", "[SEP]"),
    "unk_token_id": ("<unk>", "[UNK]"),
}
# a model could not tell where padding or a sequence ends, or what to learn from an unknown symbol
_DISTINCT = (
    ("pad_token_id", "eos_token_id"),
    ("pad_token_id", "unk_token_id"),
    ("eos_token_id", "unk_token_id"),
    ("bos_token_id", "eos_token_id"),
)


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer."""

    @property
    def pad_token_id(self) -> int: ...
    @property
    def bos_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...
    @property
    def unk_token_id(self) -> int: ...

    def __len__(self) -> int:
        """Number of ids, special tokens included: the size of an embedding table."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around them."""
        ...

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        """Text of a sequence of ids. Unknown tokens count as special."""
        ...

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """Name of every id, special tokens too."""
        ...

    def count_unknown(self, text: str) -> int:
        """How many symbols of a text become `unk_token_id`."""
        ...

    def save(self, path: PathLike) -> None:
        """Write one JSON file that `load_tokenizer` reads."""
        ...


def check_tokenizer(name: str, value: object) -> None:
    """Raises TypeError unless `value` has all that a `Tokenizer` has."""
    if not isinstance(value, Tokenizer):
        raise TypeError(f"{name}: expected a fast_s2s.text.Tokenizer, got {type(value).__name__}")


def normalize(text: str) -> str:
    """Unicode NFC form. Raises TypeError if it is not a str."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    return unicodedata.normalize("NFC", text)


class Vocabulary:
    """Symbols with ids: <pad> 0, <s> 1, </s> 2, <unk> 3, then the symbols in their order.

    symbols:   one character each for level "char"; anything without white space for level "word"
    level:     "char": every code point of a text is a symbol, spaces too;
               "word": symbols are separated by white space (words, phonemes); `decode` joins them
               with one space
    lowercase: texts are lower-cased before they are looked up

    Raises ValueError for a symbol that is repeated, special, or could never be met in a text.
    """

    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2
    unk_token_id = 3

    def __init__(
        self, symbols: Iterable[str], *, level: Level = "char", lowercase: bool = False
    ) -> None:
        if level not in ("char", "word"):
            raise ValueError(f"level: expected 'char' or 'word', got {level!r}")
        check_bool("lowercase", lowercase)
        _check_iterable("symbols", symbols)
        self.level: Level = level
        self.lowercase = lowercase
        self.symbols = tuple(symbols)
        self._check_symbols()
        self._tokens = (*SPECIAL_TOKENS, *self.symbols)
        # special tokens are left out, so that their names in a text are unknown symbols
        self._ids = {s: i for i, s in enumerate(self.symbols, start=len(SPECIAL_TOKENS))}

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        *,
        level: Level = "char",
        lowercase: bool = False,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> Vocabulary:
        """The symbols of the texts, most frequent first, equally frequent ones in code point order.

        min_count: symbols met less often are left out, and so unknown
        max_size:  largest `len`, special tokens included; None for no limit
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected an iterable of str, got one str")
        _check_iterable("texts", texts)
        check_integer("min_count", min_count, 1)
        if max_size is not None:
            check_integer("max_size", max_size, len(SPECIAL_TOKENS) + 1)
        empty = cls((), level=level, lowercase=lowercase)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(empty.split(text))
        kept = [s for s, n in counts.items() if n >= min_count and s not in SPECIAL_TOKENS]
        kept.sort(key=lambda symbol: (-counts[symbol], symbol))
        if max_size is not None:
            del kept[max_size - len(SPECIAL_TOKENS) :]
        return cls(kept, level=level, lowercase=lowercase)

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens, level={self.level!r}, lowercase={self.lowercase})"

    def split(self, text: str) -> Sequence[str]:
        """The symbols of a text, known or not."""
        text = normalize(text)
        if self.lowercase:
            # lower-casing can leave a decomposed form behind
            text = normalize(text.lower())
        return text if self.level == "char" else text.split()

    def encode(self, text: str) -> list[int]:
        unknown = self.unk_token_id
        return [self._ids.get(symbol, unknown) for symbol in self.split(text)]

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        ids = _id_list(ids, len(self))
        if skip_special_tokens:
            ids = [i for i in ids if i >= len(SPECIAL_TOKENS)]
        return ("" if self.level == "char" else " ").join(self._tokens[i] for i in ids)

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        return [self._tokens[i] for i in _id_list(ids, len(self))]

    def count_unknown(self, text: str) -> int:
        return self.encode(text).count(self.unk_token_id)

    def save(self, path: PathLike) -> None:
        """Write JSON, atomically."""
        check_path("path", path)
        content = {
            "format": _VOCABULARY_FORMAT,
            "version": _FORMAT_VERSION,
            "level": self.level,
            "lowercase": self.lowercase,
            "special_tokens": list(SPECIAL_TOKENS),
            "symbols": list(self.symbols),
        }
        atomic_write_json(path, content)

    @classmethod
    def load(cls, path: PathLike) -> Vocabulary:
        """Read what `save` wrote. Raises FileNotFoundError or ValueError naming the file."""
        check_path("path", path)
        content = read_json(path)
        with _naming(path):
            return cls._from_json(content)

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> Vocabulary:
        _check_format(content, _VOCABULARY_FORMAT)
        special, symbols = content.get("special_tokens"), content.get("symbols")
        if special != list(SPECIAL_TOKENS):
            raise ValueError(f"special_tokens: expected {list(SPECIAL_TOKENS)}, got {special!r}")
        if not isinstance(symbols, list):
            raise ValueError(f"symbols: expected a list, got {type(symbols).__name__}")
        level: Any = content.get("level")
        lowercase: Any = content.get("lowercase")
        return cls(symbols, level=level, lowercase=lowercase)

    def _check_symbols(self) -> None:
        for symbol in self.symbols:
            if not isinstance(symbol, str):
                raise TypeError(f"symbols: expected str, got {type(symbol).__name__}")
            if symbol in SPECIAL_TOKENS:
                raise ValueError(f"symbols: {symbol!r} is a special token")
            if _without_surrogates(symbol) != symbol:
                raise ValueError(f"symbols: expected Unicode text, got {symbol!r}")
            if list(self.split(symbol)) != [symbol]:
                rule = "lower-case, " if self.lowercase else ""
                raise ValueError(
                    f"symbols: expected one {rule}NFC-normalized {self.level}, got {symbol!r}"
                )
        for symbol, count in Counter(self.symbols).most_common(1):
            if count > 1:
                raise ValueError(f"symbols: expected no repeats, got {symbol!r} more than once")


class HuggingFaceTokenizer:
    """A tokenizer of the `tokenizers` library, with the names used here.

    tokenizer:     a `tokenizers.Tokenizer` (copied) or the path of its `tokenizer.json`
    *_token_id:    special tokens; None looks for the usual names: <pad> [PAD], <s> [BOS] [CLS],
                   </s> [EOS] [SEP], <unk> [UNK]

    Its post-processor, padding and truncation are not used. Raises ValueError where a special token
    is not found or two that must differ are the same: pad, eos and unk from each other, bos from
    eos.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        unk_token_id: int | None = None,
    ) -> None:
        self._tokenizer = _copy_tokenizer(tokenizer)
        # ids may have gaps
        self._size: int = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self.pad_token_id = self._special_id("pad_token_id", pad_token_id)
        self.bos_token_id = self._special_id("bos_token_id", bos_token_id)
        self.eos_token_id = self._special_id("eos_token_id", eos_token_id)
        self.unk_token_id = self._special_id("unk_token_id", unk_token_id)
        self._check_distinct()
        self._control_ids = {self.pad_token_id, self.bos_token_id, self.eos_token_id}
        self._special_ids = self._control_ids | {self.unk_token_id}

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"HuggingFaceTokenizer({len(self)} tokens, {type(self._tokenizer.model).__name__})"

    def encode(self, text: str) -> list[int]:
        text = _without_surrogates(normalize(text))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self.unk_token_id if i in self._control_ids else i for i in ids]

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        ids = _id_list(ids, len(self))
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        # an id in a gap has no name
        return [self._tokenizer.id_to_token(i) or "" for i in _id_list(ids, len(self))]

    def count_unknown(self, text: str) -> int:
        return self.encode(text).count(self.unk_token_id)

    def save(self, path: PathLike) -> None:
        """Write JSON, atomically: a plain `tokenizer.json`.

        Special ids that its token names do not tell are wrapped around it; only `load_tokenizer`
        reads the file then.
        """
        check_path("path", path)
        special = {name: getattr(self, name) for name in _USUAL_NAMES}
        if special == {name: self._usual_id(name) for name in _USUAL_NAMES}:
            atomic_write_text(path, self._tokenizer.to_str(pretty=True))
            return
        content = {
            "format": _WRAPPED_FORMAT,
            "version": _FORMAT_VERSION,
            **special,
            "tokenizer": self._tokenizer.to_str(),
        }
        atomic_write_json(path, content)

    def _usual_id(self, name: str) -> int | None:
        ids = (self._tokenizer.token_to_id(token) for token in _USUAL_NAMES[name])
        return next((i for i in ids if i is not None), None)

    def _special_id(self, name: str, given: int | None) -> int:
        if given is None:
            found = self._usual_id(name)
            if found is None:
                names = " or ".join(_USUAL_NAMES[name])
                raise ValueError(f"{name}: the tokenizer has no {names}; give the id as {name}=")
            return found
        check_integer(name, given, 0)
        if given >= len(self) or self._tokenizer.id_to_token(given) is None:
            raise ValueError(f"{name}: expected the id of one of {len(self)} tokens, got {given}")
        return given

    def _check_distinct(self) -> None:
        for first, second in _DISTINCT:
            shared = getattr(self, first)
            if shared == getattr(self, second):
                raise ValueError(f"{first}, {second}: expected two tokens, got {shared} for both")


def load_tokenizer(path: PathLike) -> Tokenizer:
    """Read a file written by `Tokenizer.save`, or a `tokenizer.json` of Hugging Face.

    Raises FileNotFoundError or ValueError, naming the file.
    """
    check_path("path", path)
    content = read_json(path)
    kind = content.get("format")
    with _naming(path):
        if kind == _VOCABULARY_FORMAT:
            return Vocabulary._from_json(content)
        if kind == _WRAPPED_FORMAT:
            return _unwrap(content)
        if kind is None and isinstance(content.get("model"), dict):
            return HuggingFaceTokenizer(_parse_tokenizer(json.dumps(content)))
        raise ValueError("expected a fast_s2s vocabulary or a Hugging Face tokenizer.json")


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    """Bad content of a file is a ValueError that begins with the file's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _unwrap(content: dict[str, Any]) -> HuggingFaceTokenizer:
    _check_format(content, _WRAPPED_FORMAT)
    text = content.get("tokenizer")
    if not isinstance(text, str):
        raise ValueError("tokenizer: expected a string")
    return HuggingFaceTokenizer(
        _parse_tokenizer(text), **{name: content.get(name) for name in _USUAL_NAMES}
    )


def _parse_tokenizer(text: str) -> Any:
    library = require("tokenizers")
    try:
        return library.Tokenizer.from_str(text)
    # the library raises plain Exception
    except Exception as error:
        raise ValueError(f"not a Hugging Face tokenizer: {error}") from error


def _copy_tokenizer(tokenizer: Any) -> Any:
    if isinstance(tokenizer, (str, os.PathLike)):
        with _naming(tokenizer):
            copy = _parse_tokenizer(Path(tokenizer).read_text(encoding="utf-8"))
    elif isinstance(tokenizer, require("tokenizers").Tokenizer):
        copy = _parse_tokenizer(_serialize(tokenizer))
    else:
        kind = type(tokenizer).__name__
        raise TypeError(f"tokenizer: expected tokenizers.Tokenizer or a path, got {kind}")
    copy.no_padding()
    copy.no_truncation()
    return copy


def _serialize(tokenizer: Any) -> str:
    try:
        text: str = tokenizer.to_str()
    # the library raises plain Exception
    except Exception as error:
        raise ValueError(f"tokenizer: expected one that can be saved: {error}") from error
    return text


def _check_format(content: dict[str, Any], expected: str) -> None:
    if content.get("format") != expected:
        raise ValueError(f"format: expected {expected!r}, got {content.get('format')!r}")
    if content.get("version") != _FORMAT_VERSION:
        version = content.get("version")
        raise ValueError(f"version: expected {_FORMAT_VERSION}, got {version!r}")


def _id_list(ids: Sequence[int] | Tensor, size: int) -> list[int]:
    if isinstance(ids, Tensor):
        if ids.dim() != 1 or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
            raise ValueError(f"ids: expected a 1-D integer tensor, got {ids.dim()}-D {ids.dtype}")
        ids = ids.tolist()
    try:
        values = [operator.index(i) for i in ids]
    except TypeError as error:
        raise TypeError(f"ids: expected a sequence of integers, got {ids!r}") from error
    for i in values:
        if not 0 <= i < size:
            raise ValueError(f"ids: expected ids in 0..{size - 1}, got {i}")
    return values


def _check_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected an iterable of str, got {type(value).__name__}")


def _without_surrogates(text: str) -> str:
    # half of a surrogate pair cannot be encoded; it becomes "?", an ordinary symbol
    return text.encode("utf-8", "replace").decode("utf-8")
