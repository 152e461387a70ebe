from __future__ import annotations

import json
import random
import sys

import pytest
import torch

from fast_s2s.text import HuggingFaceTokenizer, Vocabulary, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def bpe(special=SPECIAL, texts=("hello world", "low lower lowest")):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=special[-1]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=special, vocab_size=40, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_level(vocabulary, unknown="<unk>"):
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_characters_get_ids_by_falling_count():
    vocabulary = Vocabulary.build(["banana", "ab"])
    assert vocabulary.symbols == ("a", "b", "n")
    assert vocabulary.encode("nab a") == [6, 4, 5, 3, 4]
    assert len(vocabulary) == 7
    assert vocabulary.tokens([0, 1, 2, 3, 4]) == [*SPECIAL, "a"]


def test_words_are_separated_by_any_white_space():
    vocabulary = Vocabulary.build(["HH AH L", "L\tOW  L"], level="word")
    assert vocabulary.symbols == ("L", "AH", "HH", "OW")
    assert vocabulary.encode(" HH\u00a0OW\n") == [6, 7]
    assert vocabulary.decode([6, 7, 2, 0]) == "HH OW"


def test_order_of_texts_does_not_change_a_vocabulary():
    texts = ["abc", "cab", "zeta", "éa"]
    assert Vocabulary.build(texts).symbols == Vocabulary.build(texts[::-1]).symbols


@pytest.mark.parametrize("level", ["char", "word"])
def test_round_trip(level):
    generator = random.Random(0)
    texts = [
        " ".join(
            "".join(generator.choices("abcé'漢😀", k=3)) for _ in range(generator.randint(1, 5))
        )
        for _ in range(50)
    ]
    vocabulary = Vocabulary.build(texts, level=level)
    for text in texts:
        ids = vocabulary.encode(text)
        assert vocabulary.count_unknown(text) == 0
        assert vocabulary.decode(ids) == text
        assert vocabulary.decode(torch.tensor(ids)) == text
        assert vocabulary.tokens(ids) == (list(text) if level == "char" else text.split())


def test_decode_can_show_special_tokens():
    vocabulary = Vocabulary(["a", "b"], level="word")
    ids = [1, 4, 3, 5, 2, 0]
    assert vocabulary.decode(ids) == "a b"
    assert vocabulary.decode(ids, skip_special_tokens=False) == "<s> a <unk> b </s> <pad>"


def test_unknown_symbols_are_counted():
    vocabulary = Vocabulary("abc")
    assert vocabulary.encode("a?b😀\udc80") == [4, 3, 5, 3, 3]
    assert vocabulary.count_unknown("a?b😀\udc80") == 3
    assert vocabulary.encode("") == []


def test_special_tokens_in_a_text_are_unknown():
    vocabulary = Vocabulary.build(["</s> a <pad> a"], level="word")
    assert vocabulary.symbols == ("a",)
    assert vocabulary.encode("a </s> <pad> <s>") == [4, 3, 3, 3]


def test_composed_and_decomposed_spellings_are_one():
    vocabulary = Vocabulary.build(["e\u0301"])
    assert vocabulary.symbols == ("\u00e9",)
    assert vocabulary.encode("e\u0301\u00e9") == [4, 4]


def test_lowercase():
    vocabulary = Vocabulary.build(["Ab", "É"], lowercase=True)
    assert set(vocabulary.symbols) == {"a", "b", "é"}
    assert vocabulary.encode("aB") == vocabulary.encode("Ab")
    assert Vocabulary.build(["Ab"]).count_unknown("aB") == 2


def test_reverse():
    """Ids from the end of the text; texts as they were."""
    for level, text in (("char", "abc"), ("word", "one two three")):
        forwards = Vocabulary.build([text], level=level)
        backwards = Vocabulary.build([text], level=level, reverse=True)
        assert backwards.symbols == forwards.symbols
        assert backwards.encode(text) == forwards.encode(text)[::-1]
        ids = [*backwards.encode(text), backwards.eos_token_id]
        assert backwards.decode(ids) == text
        # ids in their own order
        assert backwards.tokens(ids[:1]) == [forwards.split(text)[-1]]


def test_min_count_and_max_size():
    texts = ["aaa bb c"]
    assert Vocabulary.build(texts, min_count=2).symbols == ("a", " ", "b")
    limited = Vocabulary.build(texts, max_size=6)
    assert limited.symbols == ("a", " ")
    assert len(limited) == 6


def test_vocabulary_file(tmp_path):
    path = tmp_path / "source_tokenizer.json"
    for vocabulary in (
        Vocabulary.build(["naïve 漢"], lowercase=True),
        Vocabulary.build(['K "AE" T'], level="word"),
        Vocabulary.build(["K AE T"], level="word", reverse=True),
    ):
        vocabulary.save(path)
        for loaded in (Vocabulary.load(path), load_tokenizer(path)):
            assert isinstance(loaded, Vocabulary)
            assert loaded.symbols == vocabulary.symbols
            for name in ("level", "lowercase", "reverse"):
                assert getattr(loaded, name) == getattr(vocabulary, name)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected a fast_s2s vocabulary"),
        ({"version": 2}, "version: expected 1, got 2"),
        ({"level": "byte"}, "level: expected 'char' or 'word', got 'byte'"),
        ({"level": None}, "level"),
        ({"lowercase": "no"}, "lowercase"),
        ({"reverse": 1}, "reverse"),
        ({"symbols": "ab"}, "symbols: expected a list"),
        ({"symbols": [["a"]]}, "symbols: expected str"),
        ({"symbols": [1]}, "symbols: expected str"),
        ({"symbols": ["a", "a"]}, "'a' more than once"),
        ({"special_tokens": ["<pad>"]}, "special_tokens"),
    ],
)
def test_damaged_vocabulary_file_is_named(tmp_path, change, message):
    path = tmp_path / "v.json"
    Vocabulary("ab").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        load_tokenizer(tmp_path / "nothing.json")
    for name, content in (
        ("a.json", "{"),
        ("b.json", "[]"),
        ("c.json", "{}"),
        ("d.json", '{"model": {}}'),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ValueError, match=name):
            load_tokenizer(path)


@pytest.mark.parametrize(
    ("symbols", "options", "error", "message"),
    [
        (["ab"], {}, ValueError, "got 'ab'"),
        ([""], {}, ValueError, "got ''"),
        (["a b"], {"level": "word"}, ValueError, "got 'a b'"),
        (["A"], {"lowercase": True}, ValueError, "lower-case"),
        (["e\u0301"], {"level": "word"}, ValueError, "NFC"),
        (["<s>"], {"level": "word"}, ValueError, "special token"),
        (["\ud800"], {}, ValueError, "Unicode"),
        (["a", "b", "a"], {}, ValueError, "'a' more than once"),
        ([3], {}, TypeError, "symbols: expected str, got int"),
        (["a"], {"level": "byte"}, ValueError, "level"),
        (["a"], {"lowercase": 1}, TypeError, "lowercase"),
        (["a"], {"reverse": None}, TypeError, "reverse"),
    ],
)
def test_bad_symbols(symbols, options, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(symbols, **options)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("abc", {}, TypeError, "texts: expected an iterable of str, got one str"),
        ([b"abc"], {}, TypeError, "text: expected str, got bytes"),
        (["a"], {"min_count": 0}, ValueError, "min_count"),
        (["a"], {"min_count": 1.5}, TypeError, "min_count"),
        (["a"], {"max_size": 4}, ValueError, "max_size"),
        (["a"], {"max_size": True}, TypeError, "max_size"),
    ],
)
def test_bad_build(texts, options, error, message):
    with pytest.raises(error, match=message):
        Vocabulary.build(texts, **options)


@pytest.mark.parametrize(
    "tokenizer", [Vocabulary("ab"), HuggingFaceTokenizer(word_level([*SPECIAL, "a", "b"]))]
)
def test_bad_ids(tokenizer):
    for ids in ([6], [-1], torch.tensor([6])):
        with pytest.raises(ValueError, match=r"ids: expected ids in 0\.\.5"):
            tokenizer.decode(ids)
        with pytest.raises(ValueError, match=r"ids: expected ids in 0\.\.5"):
            tokenizer.tokens(ids)
    for ids in (torch.tensor([[4]]), torch.tensor([4.0]), torch.tensor(4)):
        with pytest.raises(ValueError, match="ids: expected a 1-D integer tensor"):
            tokenizer.decode(ids)
    with pytest.raises(TypeError):
        tokenizer.decode([4.0])
    with pytest.raises(TypeError, match="text: expected str, got list"):
        tokenizer.encode(["a"])


def test_huggingface_round_trip():
    plain = bpe()
    tokenizer = HuggingFaceTokenizer(plain)
    assert len(tokenizer) == plain.get_vocab_size()
    ids = tokenizer.encode("hello lower")
    assert ids == plain.encode("hello lower", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "hello lower"
    assert tokenizer.decode([1, *ids, 2, 0, 0]) == "hello lower"
    assert tokenizer.decode(torch.tensor(ids)) == "hello lower"
    assert "".join(tokenizer.tokens(ids)) == "▁hello▁lower"
    assert tokenizer.count_unknown("hello") == 0


@pytest.mark.parametrize(
    "names", [SPECIAL, ["[PAD]", "[BOS]", "[EOS]", "[UNK]"], ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]]
)
def test_huggingface_special_tokens_by_usual_names(names):
    tokenizer = HuggingFaceTokenizer(word_level(["a", *reversed(names)], names[3]))
    ids = (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
    )
    assert ids == (4, 3, 2, 1)


def test_huggingface_leaves_out_padding_truncation_and_post_processing():
    plain = bpe()
    plain.enable_padding(length=20)
    plain.enable_truncation(1)
    plain.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    before = plain.to_str()
    assert HuggingFaceTokenizer(plain).encode("hello lower") == HuggingFaceTokenizer(bpe()).encode(
        "hello lower"
    )
    assert plain.to_str() == before


def test_huggingface_unknown_and_special_text():
    tokenizer = HuggingFaceTokenizer(word_level([*SPECIAL, "a", "é"]))
    assert tokenizer.encode("a zz </s> <pad> <s> e\u0301 \udc80") == [4, 3, 3, 3, 3, 5, 3]
    assert tokenizer.count_unknown("a zz </s> \udc80") == 3
    # here they are special tokens of the library too, cut out of a text before the model sees it
    merged = HuggingFaceTokenizer(bpe())
    assert set(merged.encode("hello</s><pad>")).isdisjoint({0, 1, 2})
    assert merged.count_unknown("hello</s><pad>") == 2


def test_huggingface_ids_with_gaps():
    model = tokenizers.models.WordLevel(
        {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 9}, unk_token="<unk>"
    )
    tokenizer = HuggingFaceTokenizer(tokenizers.Tokenizer(model))
    assert len(tokenizer) == 10
    assert tokenizer.encode("a") == [9]
    assert tokenizer.tokens([9, 5]) == ["a", ""]
    assert tokenizer.decode([9, 5]) == "a"


def test_huggingface_file(tmp_path):
    path = tmp_path / "target_tokenizer.json"
    tokenizer = HuggingFaceTokenizer(bpe())
    tokenizer.save(path)
    ids = tokenizer.encode("hello lower")
    assert tokenizers.Tokenizer.from_file(str(path)).encode("hello lower").ids == ids
    for loaded in (
        load_tokenizer(path),
        HuggingFaceTokenizer(path),
        HuggingFaceTokenizer(str(path)),
    ):
        assert isinstance(loaded, HuggingFaceTokenizer)
        assert loaded.encode("hello lower") == ids
        assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 2)


def test_huggingface_file_keeps_given_special_ids(tmp_path):
    path = tmp_path / "tokenizer.json"
    plain = word_level(["nil", "go", "stop", "what", "a", "<s>"], "what")
    given = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 3}
    HuggingFaceTokenizer(plain, **given).save(path)
    loaded = load_tokenizer(path)
    assert {name: getattr(loaded, name) for name in given} == given
    assert loaded.encode("a stop b") == [4, 3, 3]


@pytest.mark.parametrize(
    "content", [{"version": 2}, {"tokenizer": None}, {"tokenizer": "{}"}, {"pad_token_id": 99}]
)
def test_damaged_huggingface_file_is_named(tmp_path, content):
    path = tmp_path / "damaged.json"
    HuggingFaceTokenizer(word_level(["nil", *SPECIAL[1:]]), pad_token_id=0).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(ValueError, match="damaged.json"):
        load_tokenizer(path)


def test_huggingface_missing_special_token():
    plain = word_level(["<pad>", "<s>", "<unk>", "a"])
    with pytest.raises(
        ValueError, match=r"eos_token_id: the tokenizer has no </s> or \[EOS\] or \[SEP\]"
    ):
        HuggingFaceTokenizer(plain)
    assert HuggingFaceTokenizer(plain, eos_token_id=3).eos_token_id == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"pad_token_id": 4},
            ValueError,
            "pad_token_id: expected the id of one of 4 tokens, got 4",
        ),
        ({"pad_token_id": -1}, ValueError, "pad_token_id"),
        ({"pad_token_id": "<pad>"}, TypeError, "pad_token_id"),
        ({"pad_token_id": 2}, ValueError, "pad_token_id, eos_token_id: expected two tokens, got 2"),
        ({"bos_token_id": 2}, ValueError, "bos_token_id, eos_token_id"),
        ({"unk_token_id": 2}, ValueError, "eos_token_id, unk_token_id"),
        ({"unk_token_id": 0}, ValueError, "pad_token_id, unk_token_id"),
    ],
)
def test_huggingface_bad_special_ids(arguments, error, message):
    with pytest.raises(error, match=message):
        HuggingFaceTokenizer(word_level(SPECIAL), **arguments)


def test_huggingface_bos_may_be_pad():
    plain = word_level(["<pad>", "</s>", "<unk>"])
    assert HuggingFaceTokenizer(plain, bos_token_id=0).bos_token_id == 0


def test_huggingface_bad_tokenizer(tmp_path):
    with pytest.raises(
        TypeError, match="tokenizer: expected tokenizers.Tokenizer or a path, got int"
    ):
        HuggingFaceTokenizer(3)
    path = tmp_path / "foreign.json"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="foreign.json"):
        HuggingFaceTokenizer(path)
    custom = bpe()
    custom.pre_tokenizer = tokenizers.pre_tokenizers.PreTokenizer.custom(object())
    with pytest.raises(ValueError, match="tokenizer: expected one that can be saved"):
        HuggingFaceTokenizer(custom)


def test_missing_library_says_how_to_get_it(monkeypatch, tmp_path):
    path = tmp_path / "tokenizer.json"
    HuggingFaceTokenizer(bpe()).save(path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'tokenizers is not installed: pip install "fast-s2s\[train\]"'
    ):
        load_tokenizer(path)
