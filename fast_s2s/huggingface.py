"""Tokenizers of Hugging Face's library `tokenizers`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fast_s2s.checks import check_integer, check_path
from fast_s2s.extras import require
from fast_s2s.serialization import atomic_write_json, atomic_write_text
from fast_s2s.tokenizer import (
    FORMAT_VERSION,
    PathLike,
    check_format,
    id_list,
    naming,
    normalize,
    without_surrogates,
)

WRAPPED_FORMAT = "fast_s2s.huggingface_tokenizer"
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
        text = without_surrogates(normalize(text))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self.unk_token_id if i in self._control_ids else i for i in ids]

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        ids = id_list(ids, len(self))
        if skip_special_tokens:
            ids = [i for i in ids if i not in self._special_ids]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        # an id in a gap has no name
        return [self._tokenizer.id_to_token(i) or "" for i in id_list(ids, len(self))]

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
            "format": WRAPPED_FORMAT,
            "version": FORMAT_VERSION,
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


def unwrap(content: dict[str, Any]) -> HuggingFaceTokenizer:
    """From the JSON that `save` writes where there are special tokens of other names."""
    check_format(content, WRAPPED_FORMAT)
    text = content.get("tokenizer")
    if not isinstance(text, str):
        raise ValueError("tokenizer: expected a string")
    return HuggingFaceTokenizer(parse(text), **{name: content.get(name) for name in _USUAL_NAMES})


def parse(text: str) -> Any:
    """The library's tokenizer of a `tokenizer.json`. Raises ValueError if it is none."""
    library = require("tokenizers")
    try:
        return library.Tokenizer.from_str(text)
    # the library raises plain Exception
    except Exception as error:
        raise ValueError(f"not a Hugging Face tokenizer: {error}") from error


def _copy_tokenizer(tokenizer: Any) -> Any:
    if isinstance(tokenizer, (str, os.PathLike)):
        with naming(tokenizer):
            copy = parse(Path(tokenizer).read_text(encoding="utf-8"))
    elif isinstance(tokenizer, require("tokenizers").Tokenizer):
        copy = parse(_serialize(tokenizer))
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
