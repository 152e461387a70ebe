"""Traces of a model, the page and the picture made of them, and the command."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html import unescape
from html.parser import HTMLParser

import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

from fast_s2s.cli import main
from fast_s2s.ensemble import Ensemble
from fast_s2s.explain import page, save_png, trace
from fast_s2s.pipeline import TextPipeline

MODELS = {
    "plain": {},
    "bidirectional": {"bidirectional": True, "num_layers": 2},
    "heads": {"attention": "general", "attention_heads": 2},
    "feeding": {"attention": "additive", "input_feeding": True, "encoder_layers": 2},
}


def pipeline_of(name):
    model = toy_model(**MODELS[name])
    with torch.no_grad():
        model.output_projection.weight.mul_(8)
    return TextPipeline(model.eval(), *toy_tokenizers())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_trace_is_what_the_model_does(name, beams):
    pipeline = pipeline_of(name)
    found = trace(pipeline, "312", top=3, units=5, num_beams=beams, max_new_tokens=6)
    (prediction,) = pipeline.predict(["312"], scores=True, num_beams=beams, max_new_tokens=6)
    assert found.output == prediction.text
    assert found.probability == pytest.approx(torch.tensor(prediction.score).exp().item(), rel=1e-4)
    steps = prediction.num_tokens
    assert found.source[:3] == ["3", "1", "2"] and len(found.source) == 4
    assert len(found.target) == len(found.chosen) == len(found.alternatives) == steps
    assert torch.tensor(found.chosen).prod().item() == pytest.approx(found.probability, rel=1e-4)
    for symbol, chosen, alternatives in zip(
        found.target, found.chosen, found.alternatives, strict=True
    ):
        values = [each.probability for each in alternatives]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        for each in alternatives:
            if each.symbol == symbol:
                assert each.probability == pytest.approx(chosen)
    config = pipeline.model.config
    names = [f"layer {index + 1}" for index in range(config.num_encoder_layers)]
    if config.bidirectional:
        names = [f"{name} {arrow}" for name in names for arrow in "→←"]
    assert [layer.name for layer in found.encoder] == names
    assert {layer.states.shape for layer in found.encoder} == {(4, max(1, 5 // len(names)))}
    layers = config.num_decoder_layers
    assert {layer.states.shape for layer in found.decoder} == {(steps, 5 // layers)}
    assert {layer.states.shape for layer in found.context} == {(2, 5 // layers)}
    assert len(found.decoder) == layers
    if pipeline.model.config.attention is None:
        assert found.attention is None
    else:
        heads = pipeline.model.config.attention_heads
        assert found.attention.shape == (heads, steps, 4)
        assert torch.allclose(found.attention.sum(2), torch.ones(heads, steps))


@pytest.mark.parametrize("name", MODELS)
def test_encoder_states_are_those_that_the_decoder_gets(name):
    pipeline = pipeline_of(name)
    model, size = pipeline.model, pipeline.model.config.hidden_size
    found = trace(pipeline, "312", units=4 * size, max_new_tokens=2)
    ids = [*pipeline.encode(["312"])[0], pipeline.source_tokenizer.eos_token_id]
    with torch.no_grad():
        outputs, (h_n, _) = model.encoder(model.src_embedding(torch.tensor([ids])))
    for layer, end in zip(found.encoder, h_n[:, 0], strict=True):
        torch.testing.assert_close(layer.states[0 if "←" in layer.name else -1], end)
    last = found.encoder[-2 if model.config.bidirectional else -1 :]
    torch.testing.assert_close(torch.cat([layer.states for layer in last], 1), outputs[0])


@pytest.mark.parametrize("name", ["heads", "feeding", "bidirectional"])
def test_decoder_states_are_those_of_teacher_forcing(name):
    pipeline = pipeline_of(name)
    model = pipeline.model
    found = trace(pipeline, "31", units=4 * model.config.hidden_size, max_new_tokens=4)
    ids = [*pipeline.encode(["31"])[0], pipeline.source_tokenizer.eos_token_id]
    tokens = model.generate(torch.tensor([ids]), max_new_tokens=4)[:, 1:]
    with torch.no_grad():
        begin = model.encode(torch.tensor([ids]), [3])
        for layer, h, c in zip(found.context, begin.h, begin.c, strict=False):
            torch.testing.assert_close(layer.states, torch.cat((h, c)))
        for step in range(len(found.target)):
            forced = model(torch.tensor([ids]), tokens[:, : step + 1], [3], [step + 1])
            for layer, h in zip(found.decoder, forced.state.h, strict=False):
                torch.testing.assert_close(layer.states[step], h[0])


class Reader(HTMLParser):
    """Raises for tags that do not match; keeps text and tags."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "rect", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("name", MODELS)
def test_the_page_is_whole_and_needs_nothing_else(name):
    found = trace(pipeline_of(name), "31", max_new_tokens=5)
    reader = Reader()
    reader.feed(page([found, found]))
    assert not reader.open
    assert not any(tag in ("script", "link", "img") for tag, _ in reader.tags)
    assert not any({"src", "href"} & attributes.keys() for _, attributes in reader.tags)
    text = " ".join(reader.text)
    assert "Attention" in text if found.attention is not None else "Attention" not in text
    for symbol in (*found.source, *found.target):
        assert symbol in text
    cells = sum(tag == "rect" for tag, _ in reader.tags)
    layers = (*found.encoder, *found.context, *found.decoder)
    states = sum(layer.states.numel() for layer in layers)
    heads = 0 if found.attention is None else found.attention.size(0)
    charts = heads + 1 if heads > 1 else heads
    assert cells == 2 * (states + charts * len(found.source) * len(found.target))


def test_symbols_are_text_and_never_markup():
    found = trace(pipeline_of("heads"), "<b>&", max_new_tokens=3)
    text = page([found])
    assert "<b>&</" not in text and "&lt;b&gt;&amp;" in text


def test_long_symbols_have_room():
    found = trace(pipeline_of("heads"), "3121", max_new_tokens=3)
    words = ["opposite", "<unk>", "I_TURN_RIGHT", "a", "</s>"][: len(found.source)]
    long = dataclasses.replace(found, source=words, target=[f"{s}{s}" for s in found.target])
    for svg in re.findall("<svg.*?</svg>", page([long])):
        rows: dict = {}
        for x, y, text in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*middle">(.*?)<', svg):
            rows.setdefault(y, []).append((float(x), len(unescape(text))))
        for labels in rows.values():
            for (left, before), (right, after) in itertools.pairwise(labels):
                # half of each, of letters 7 pixels wide
                assert right - left >= 3.5 * (before + after)


def test_a_dollar_sign_in_a_picture_begins_no_formula(tmp_path):
    pytest.importorskip("matplotlib")
    found = trace(pipeline_of("plain"), "3121", max_new_tokens=3)
    save_png([dataclasses.replace(found, text=r"$\frac$")], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("name", ["plain", "heads"])
def test_the_picture(name, tmp_path):
    pytest.importorskip("matplotlib")
    found = trace(pipeline_of(name), "3121", max_new_tokens=5)
    path = tmp_path / "picture.png"
    save_png([found, found], path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000


def test_bad_arguments():
    pipeline = pipeline_of("plain")
    with pytest.raises(TypeError, match="text: expected a str, got list"):
        trace(pipeline, ["31"])
    several = TextPipeline(Ensemble([pipeline.model] * 2), *toy_tokenizers())
    with pytest.raises(TypeError, match="pipeline: expected one of a single model, got Ensemble"):
        trace(several, "31")
    with pytest.raises(ValueError, match="top: expected an integer >= 1, got 0"):
        trace(pipeline, "31", top=0)
    for call in (lambda: page([]), lambda: save_png([], "x.png")):
        with pytest.raises(ValueError, match="traces: expected at least one, got none"):
            call()


def test_the_command(tmp_path, capsys):
    pipeline = pipeline_of("heads")
    model_dir = tmp_path / "model"
    pipeline.model.save_pretrained(model_dir, *toy_tokenizers())
    output = tmp_path / "new folder" / "page.html"
    flags = ["--model", str(model_dir), "--output", str(output), "--beam", "2", "--top", "2"]
    assert main(["explain", *flags, "312", "12"]) == 0
    assert capsys.readouterr().out.split("\n")[0] == str(output)
    text = output.read_text()
    assert len(re.findall("<section>", text)) == 2
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert main(["explain", "--model", str(tmp_path / "none"), "3"]) == 1
    capsys.readouterr()
    assert main(["explain", "--model", str(model_dir), "--output", str(tmp_path), "3"]) == 1
    assert f"--output {tmp_path}: expected a file, got a folder" in capsys.readouterr().err
    # the picture would be written over the page
    picture = str(tmp_path / "page.png")
    assert main(["explain", "--model", str(model_dir), "--output", picture, "3"]) == 2
    assert f"--output: expected a name for the page, FILE.html, got {picture}" in (
        capsys.readouterr().err
    )


def test_the_command_takes_one_model(model_dir, tmp_path, capsys):
    output = tmp_path / "page.html"
    two = ["--model", model_dir, "--model", str(tmp_path / "other")]
    assert main(["explain", *two, "--output", str(output), "3"]) == 2
    message = f"--model: expected one folder, got {model_dir} and {tmp_path / 'other'}"
    assert capsys.readouterr().err == f"fast-s2s explain: {message}\n"
    assert not output.exists()
    for command, several in (("explain", False), ("generate", True)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert ("given several times" in text) == several
