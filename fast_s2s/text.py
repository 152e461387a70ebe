"""Text to token ids and back: a vocabulary of characters or words, and Hugging Face tokenizers.

Every text is brought to Unicode NFC first, so that composed and decomposed spellings are the same
symbols. A symbol that is not known becomes `unk_token_id`, and so does a special token written out
in a text: no input can end a sequence early, and none is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor

from fast_s2s import huggingface
from fast_s2s.checks import check_bool, check_integer, check_path
from fast_s2s.huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
from fast_s2s.serialization import atomic_write_json, read_json
from fast_s2s.tokenizer import (
    FORMAT_VERSION,
    PathLike,
    check_format,
    id_list,
    naming,
    normalize,
    without_surrogates,
)
from fast_s2s.tokenizer import Tokenizer as Tokenizer

Level = Literal["char", "word"]
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")

_VOCABULARY_FORMAT = "fast_s2s.vocabulary"


class Vocabulary:
    """Symbols with ids: <pad> 0, <s> 1, </s> 2, <unk> 3, then the symbols in their order.

    symbols:   one character each for level "char"; anything without white space for level "word"
    level:     "char": every code point of a text is a symbol, spaces too;
               "word": symbols are separated by white space (words, phonemes); `decode` joins them
               with one space
    lowercase: texts are lower-cased before they are looked up
    reverse:   ids run from the end of the text to its beginning; `decode` gives the text in its
               own order again. A model whose target is reversed writes right to left: it errs
               elsewhere than one that writes left to right, so they choose well together

    Raises ValueError for a symbol that is repeated, special, or could never be met in a text.
    """

    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2
    unk_token_id = 3

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        level: Level = "char",
        lowercase: bool = False,
        reverse: bool = False,
    ) -> None:
        if level not in ("char", "word"):
            raise ValueError(f"level: expected 'char' or 'word', got {level!r}")
        check_bool("lowercase", lowercase)
        check_bool("reverse", reverse)
        _check_iterable("symbols", symbols)
        self.level: Level = level
        self.lowercase = lowercase
        self.reverse = reverse
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
        reverse: bool = False,
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
        empty = cls((), level=level, lowercase=lowercase, reverse=reverse)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(empty.split(text))
        kept = [s for s, n in counts.items() if n >= min_count and s not in SPECIAL_TOKENS]
        kept.sort(key=lambda symbol: (-counts[symbol], symbol))
        if max_size is not None:
            del kept[max_size - len(SPECIAL_TOKENS) :]
        return cls(kept, level=level, lowercase=lowercase, reverse=reverse)

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        backwards = ", reverse=True" if self.reverse else ""
        return (
            f"Vocabulary({len(self)} tokens, level={self.level!r}, "
            f"lowercase={self.lowercase}{backwards})"
        )

    def split(self, text: str) -> Sequence[str]:
        """The symbols of a text, known or not."""
        text = normalize(text)
        if self.lowercase:
            # lower-casing can leave a decomposed form behind
            text = normalize(text.lower())
        return text if self.level == "char" else text.split()

    def encode(self, text: str) -> list[int]:
        unknown = self.unk_token_id
        symbols = self.split(text)
        in_order = reversed(symbols) if self.reverse else symbols
        return [self._ids.get(symbol, unknown) for symbol in in_order]

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        ids = id_list(ids, len(self))
        if skip_special_tokens:
            ids = [i for i in ids if i >= len(SPECIAL_TOKENS)]
        if self.reverse:
            ids.reverse()
        return ("" if self.level == "char" else " ").join(self._tokens[i] for i in ids)

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        return [self._tokens[i] for i in id_list(ids, len(self))]

    def count_unknown(self, text: str) -> int:
        return self.encode(text).count(self.unk_token_id)

    def save(self, path: PathLike) -> None:
        """Write JSON, atomically."""
        check_path("path", path)
        content: dict[str, Any] = {
            "format": _VOCABULARY_FORMAT,
            "version": FORMAT_VERSION,
            "level": self.level,
            "lowercase": self.lowercase,
            "special_tokens": list(SPECIAL_TOKENS),
            "symbols": list(self.symbols),
        }
        if self.reverse:
            # not else: the file of the same vocabulary by an earlier version is the same
            content["reverse"] = True
        atomic_write_json(path, content)

    @classmethod
    def load(cls, path: PathLike) -> Vocabulary:
        """Read what `save` wrote. Raises FileNotFoundError or ValueError naming the file."""
        check_path("path", path)
        content = read_json(path)
        with naming(path):
            return cls._from_json(content)

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> Vocabulary:
        check_format(content, _VOCABULARY_FORMAT)
        special, symbols = content.get("special_tokens"), content.get("symbols")
        if special != list(SPECIAL_TOKENS):
            raise ValueError(f"special_tokens: expected {list(SPECIAL_TOKENS)}, got {special!r}")
        if not isinstance(symbols, list):
            raise ValueError(f"symbols: expected a list, got {type(symbols).__name__}")
        level: Any = content.get("level")
        lowercase: Any = content.get("lowercase")
        reverse: Any = content.get("reverse", False)
        return cls(symbols, level=level, lowercase=lowercase, reverse=reverse)

    def _check_symbols(self) -> None:
        for symbol in self.symbols:
            if not isinstance(symbol, str):
                raise TypeError(f"symbols: expected str, got {type(symbol).__name__}")
            if symbol in SPECIAL_TOKENS:
                raise ValueError(f"symbols: {symbol!r} is a special token")
            if without_surrogates(symbol) != symbol:
                raise ValueError(f"symbols: expected Unicode text, got {symbol!r}")
            if list(self.split(symbol)) != [symbol]:
                rule = "lower-case, " if self.lowercase else ""
                raise ValueError(
                    f"symbols: expected one {rule}NFC-normalized {self.level}, got {symbol!r}"
                )
        for symbol, count in Counter(self.symbols).most_common(1):
            if count > 1:
                raise ValueError(f"symbols: expected no repeats, got {symbol!r} more than once")


def load_tokenizer(path: PathLike) -> Tokenizer:
    """Read a file written by `Tokenizer.save`, or a `tokenizer.json` of Hugging Face.

    Raises FileNotFoundError or ValueError, naming the file.
    """
    check_path("path", path)
    content = read_json(path)
    kind = content.get("format")
    with naming(path):
        if kind == _VOCABULARY_FORMAT:
            return Vocabulary._from_json(content)
        if kind == huggingface.WRAPPED_FORMAT:
            return huggingface.unwrap(content)
        if kind is None and isinstance(content.get("model"), dict):
            return HuggingFaceTokenizer(huggingface.parse(json.dumps(content)))
        raise ValueError("expected a fast_s2s vocabulary or a Hugging Face tokenizer.json")


def _check_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected an iterable of str, got {type(value).__name__}")
