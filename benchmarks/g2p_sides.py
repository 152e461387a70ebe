"""Words to pronunciations: a model of ours with about 1.7 million parameters, and g2p-en.

g2p-en (https://pypi.org/project/g2p-en) is a GRU encoder and decoder in numpy, one word at a time.
Ours has random weights and writes as many phonemes as g2p-en does, one more than it says for the
end: what is compared is speed, not what is said.
"""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_s2s import LSTM, Seq2Seq
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.decoding import (
    DecodeOptions,
    DecoderWeights,
    LayerWeights,
    decode,
    initial_state,
    pack_decoder,
    pack_encoder,
    read,
)

_TEXT = """
activate aspirin balloons cabinet daffodil ecology fabric galaxy habitat iceberg jackal kettle
lantern magnify narrate oatmeal paddock quartet rapidly sandstorm tadpole umbrella vacancy
waffling xylophone yearbook zeppelin abacus blorptastic crumple dwindle eggplant flummox
grizzle hopscotch injure jumble knapsack lollipop mongoose nutmeg opossum porcupine quibble
rigmarole squabble trinket upheaval vortex wigwam yodel zigzag armadillo bumblebee caterpillar
dumbwaiter everglade fisticuffs gobbledygook hullabaloo inkling jitterbug kerfuffle
lackadaisical
"""
WORDS = _TEXT.split()


@dataclass(frozen=True)
class Words:
    """All of `WORDS`, `batch` at a time; g2p-en knows only one at a time."""

    batch: int

    def __str__(self) -> str:
        return f"{len(WORDS)} words, {self.batch} at a time"


@functools.cache
def _g2p_en() -> Any:
    """Its network, without the corpora that its package wants to download."""
    names = ("nltk", "nltk.corpus", "nltk.tokenize", "nltk.data", "inflect")
    before = {name: sys.modules.get(name) for name in names}
    stubs: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    stubs["nltk"].pos_tag = stubs["nltk.data"].find = lambda *_: None
    stubs["nltk"].data = stubs["nltk.data"]
    stubs["nltk.corpus"].cmudict = types.SimpleNamespace(dict=dict)
    tokenizer = types.SimpleNamespace(tokenize=str.split)
    stubs["nltk.tokenize"].TweetTokenizer = lambda: tokenizer
    stubs["inflect"].engine = lambda: None
    sys.modules.update(stubs)
    try:
        from g2p_en import G2p

        return G2p()
    except ImportError as error:
        raise Unavailable(
            f"g2p_en does not import ({error}): pip install --no-deps g2p-en"
        ) from error
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def g2p_en(words: Words) -> tuple[Side, dict[str, Tensor] | None]:
    model = _g2p_en()

    def call() -> list[list[str]]:
        return [model.predict(word) for word in WORDS]

    return Side("g2p-en 2.1.0", call, lambda raw: {}), None


def ours(
    words: Words, dtype: torch.dtype = torch.float32, name: str = "fast_s2s"
) -> tuple[Side, dict[str, Tensor]]:
    model = _g2p_en()
    # phonemes, and the end; g2p-en stops by itself after 20
    limits = [min(20, len(model.predict(word)) + 1) for word in WORDS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Seq2Seq(src_vocab_size=31, tgt_vocab_size=76, embedding_size=256, hidden_size=336)
    assert 1.6e6 < sum(parameter.numel() for parameter in net.parameters()) < 1.8e6
    net.eval()
    encoder = pack_encoder(net.src_embedding.weight, (_layer(net.encoder),), dtype)
    output = net.output_projection
    weights = DecoderWeights(
        net.tgt_embedding.weight, (_layer(net.decoder),), output.weight, output.bias
    )
    decoder = pack_decoder(weights, dtype)
    # shortest first, as a server would sort them
    order = sorted(range(len(WORDS)), key=lambda index: len(WORDS[index]))
    batches = [order[i : i + words.batch] for i in range(0, len(order), words.batch)]
    letters = [[3 + ord(letter) - ord("a") for letter in word] for word in WORDS]

    def call() -> list[Tensor]:
        results = []
        for batch in batches:
            lengths = [len(letters[index]) for index in batch]
            rows = [letters[index] + [0] * (max(lengths) - len(letters[index])) for index in batch]
            zeros = torch.zeros(1, len(batch), net.config.hidden_size)
            h, c = read(encoder, zeros, zeros, torch.tensor(rows), torch.tensor(lengths))
            options = DecodeOptions(max_new_tokens=torch.tensor([limits[i] for i in batch]))
            state = initial_state(decoder, h, c, 1, options)
            results.append(decode(decoder, state, options).lengths)
        return results

    expected = torch.tensor([limits[index] for batch in batches for index in batch])
    side = Side(name, call, lambda raw: {"lengths": torch.cat(raw)}, torch.inference_mode)
    return side, {"lengths": expected}


def _layer(lstm: LSTM) -> LayerWeights:
    return LayerWeights(lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)


SIDES = {
    "fast_s2s": ours,
    "fast_s2s int8": functools.partial(ours, dtype=torch.int8, name="fast_s2s int8"),
    "g2p-en 2.1.0": g2p_en,
}
