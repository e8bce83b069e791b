"""Captions written over a source: the scores by hand, one picture's records together, COCO's form, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmkit.encoders.decoding import Decoding
from mmkit.errors import UserError
from mmkit.evals.captions.evaluate import CaptionsResult, WrittenCaptions
from mmkit.evals.captions.scores import Written, bleu, cider_d, rouge_l
from mmkit.evals.captions.words import words_of
from mmkit.heads.captioning import Captioner
from mmkit.inference.predictor import Predictor
from tests.evals import parts
from tests.evals.parts import Pictures, alike

HOW = Decoding(beams=2, max_new_tokens=6)


def writing(prompt: str = "") -> Predictor:
    """A tiny model whose captions differ between pictures."""
    predictor = parts.predictor()
    torch.manual_seed(2)
    head = Captioner(predictor.model.spec, prompt=prompt, depth=1, heads=2, max_tokens=12).eval()
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.mul_(8) if parameter.ndim > 1 and "positions" not in name else None
    predictor.heads["caption"] = head
    return predictor


class Nearly(Pictures):
    """Pictures whose captions are nearly what a model writes about them."""

    def __init__(self, n: int, texts=()) -> None:
        super().__init__(n)
        self.texts = texts

    def __getitem__(self, i: int):
        record, said = super().__getitem__(i), self.texts[i]
        captions = (f"{said} {parts.caption(i)}", *(said[:-1] for _ in range(i % 3)))
        return replace(record, captions=captions)


def test_scores_are_those_of_what_the_predictor_writes():
    model = writing()
    source = Nearly(7, model.caption([Pictures(7)[i].image for i in range(7)], HOW))
    result = WrittenCaptions(source=source, how=HOW, batch_size=3).evaluate(model)
    texts = model.caption([source[i].image for i in range(7)], HOW, batch_size=7)
    assert list(result.captions) == texts
    assert len(set(texts)) > 1
    written = [
        Written(candidate=words_of(text), references=[words_of(c) for c in source[i].captions])
        for i, text in enumerate(texts)
    ]
    numbers = result.metrics()
    assert alike(WrittenCaptions(source=source), numbers) == {"n", "references_min", "references_max"}
    assert [numbers[f"bleu{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu(written))
    assert numbers["rouge_l"] == pytest.approx(sum(rouge_l(written)) / 7)
    assert numbers["cider_d"] == pytest.approx(sum(cider_d(written)) / 7)
    assert all(value > 0.01 for value in result.scores.values())
    assert (numbers["n"], numbers["references_min"], numbers["references_max"]) == (7, 1, 3)
    assert numbers["words"] == pytest.approx(sum(len(words_of(text)) for text in texts) / 7)


class ByCaption(Pictures):
    """A record for each of two captions of every picture; the names are numbers, as COCO's."""

    def __len__(self) -> int:
        return 2 * self.n

    def __getitem__(self, i: int):
        record = super().__getitem__(i // 2)
        return replace(record, captions=(f"{parts.caption(i)} again",), image_id=str(391_895 + i // 2))


def test_records_of_one_picture_are_its_references(tmp_path):
    file = tmp_path / "captions.json"
    result = WrittenCaptions(source=ByCaption(4), how=HOW, predictions=file).evaluate(writing())
    assert result.metrics()["references"] == 2
    assert len(result.captions) == 4
    rows = json.loads(file.read_text())
    assert [row["image_id"] for row in rows] == [391_895, 391_896, 391_897, 391_898]
    assert [row["caption"] for row in rows] == list(result.captions)


def test_the_table_names_the_scores_as_papers_do(capsys):
    from rich.console import Console

    scores = {"bleu4": 0.234, "rouge_l": 0.5, "cider_d": 1.234}
    result = CaptionsResult(names=["1"], captions=["a dog"], scores=scores, references=(2, 2))
    Console().print(result.table())
    shown = capsys.readouterr().out
    assert "2 references each" in " ".join(shown.split())
    for name, key in (("BLEU-4", "bleu4"), ("ROUGE-L", "rouge_l"), ("CIDEr-D", "cider_d")):
        (line,) = [line for line in shown.splitlines() if name in line]
        assert f"{100 * result.scores[key]:.1f}" in line


def test_a_picture_that_may_be_left_out_takes_its_references_with_it():
    source = Pictures(6, broken=2)
    with pytest.raises(UserError, match="--max-bad"):
        WrittenCaptions(source=source, how=HOW).evaluate(writing())
    result = WrittenCaptions(source=source, how=HOW, bad=0.5).evaluate(writing())
    assert (result.metrics()["n"], result.left_out) == (5, 1)
    assert list(result.names) == ["0", "1", "3", "4", "5"]


def test_a_prompt_stands_before_and_is_not_told():
    plain, prompted = writing(), writing("a red")
    first = prompted.captioning(HOW).first.tolist()
    assert first == prompted.tokenizer.encode("a red", None)
    texts = prompted.caption([Pictures(3)[i].image for i in range(3)], HOW)
    assert texts != plain.caption([Pictures(3)[i].image for i in range(3)], HOW)
    with pytest.raises(UserError, match=r"max_new_tokens = 11: .*at most"):
        prompted.captioning(Decoding(max_new_tokens=11))
    with pytest.raises(UserError, match=r"min_new_tokens = 11: .*at most"):
        prompted.captioning(Decoding(min_new_tokens=11))


def test_a_length_that_nobody_gave_is_what_the_head_has_room_for():
    predictor = writing()
    room = predictor.captioning(HOW).head.max_tokens - 1  # after [CLS]
    assert room < Decoding().longest == 30
    assert predictor.captioning(Decoding(beams=5)).how == Decoding(beams=5, max_new_tokens=room)
    assert predictor.captioning(None).how == Decoding(beams=3, max_new_tokens=room)
    assert predictor.captioning(Decoding(max_new_tokens=room)).how.longest == room
    predictor.captioning(HOW).head.max_tokens = 99
    assert predictor.captioning(Decoding(beams=5)).how.longest == 30


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match=r"no head that writes captions.*captions\.py"):
        WrittenCaptions(source=Pictures(3)).check(parts.predictor())
    with pytest.raises(UserError, match="1 picture"):
        WrittenCaptions(source=Pictures(1), how=HOW).evaluate(writing())


def test_scores_that_are_no_numbers_end_the_evaluation():
    model = writing()
    model.heads["caption"].vocabulary.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="captions"):
        WrittenCaptions(source=Pictures(3), how=HOW).evaluate(model)
