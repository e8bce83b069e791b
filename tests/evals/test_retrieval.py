from functools import partial

import pytest
import torch
from PIL import Image

from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.evals.retrieval import Pairs, Retrieval
from tests.evals.parts import Pictures, predictor


def brute_force(model, source, rerank_top=None):
    """Everything at once, by sorting; with the matching probability of every single pair."""
    images = [source[i] for i in range(len(source))]
    texts = [(c, i) for i, record in enumerate(images) for c in record.captions]
    same = [[" ".join(c.lower().split()) == " ".join(d.lower().split()) for d, _ in texts] for c, _ in texts]
    relevant = torch.zeros(len(texts), len(images), dtype=torch.bool)
    for t in range(len(texts)):
        for u, (_, image) in enumerate(texts):
            relevant[t, image] |= same[t][u]
    embed_i, embed_t = model.encode_image([r.image for r in images]), model.encode_text([c for c, _ in texts])
    logits = torch.stack([model.match([r.image] * len(texts), [c for c, _ in texts]).logit() for r in images], 1)
    out = {}
    for way, sims, match, rel in (
        ("t2i", embed_t @ embed_i.T, logits, relevant),
        ("i2t", embed_i @ embed_t.T, logits.T, relevant.T),
    ):
        ranks = []
        for row in range(len(sims)):
            order = sorted(range(sims.shape[1]), key=lambda j: (-round(sims[row, j].item(), 5), j))
            if rerank_top:
                order[:rerank_top] = sorted(order[:rerank_top], key=lambda j: -match[row, j].item())
            ranks.append(next(place for place, j in enumerate(order) if rel[row, j]))
        out |= {f"{way}_r{k}": sum(r < k for r in ranks) / len(ranks) for k in (1, 5, 10)}
    return out


@pytest.mark.parametrize(("rerank_top", "seed"), [(None, 0), (4, 0), (4, 1), (100, 2)])
def test_equals_brute_force(rerank_top, seed):
    model, source = predictor(seed), Pictures(17)
    found = Retrieval(source=source, rerank_top=rerank_top, batch_size=2, chunk=4, pair_batch=7)(model)
    for name, value in brute_force(model, source).items():
        assert found[name] == pytest.approx(value), name
    if rerank_top:
        for name, value in brute_force(model, source, rerank_top).items():
            assert found[f"rerank.{name}"] == pytest.approx(value), name
    assert found["images"] == 17
    assert found["texts"] == len(Pairs.read(source).texts)


class Records(list):
    """A list of (image_id, captions) as a source."""

    def __getitem__(self, i):
        name, captions = super().__getitem__(i)
        return Record(image=Image.new("RGB", (8, 8)), captions=captions, image_id=name, key=f"row {i}")


def test_relevance_is_many_to_many():
    pairs = Pairs.read(
        Records([("a", ("A  Dog", "two cats")), ("b", ("a dog",)), ("c", ("a bird",)), ("a", ("rain",))])
    )
    assert len(pairs.rows) == 3
    assert pairs.texts == ["A  Dog", "two cats", "a dog", "a bird", "rain"]
    relevance = pairs.relevance()
    assert relevance["t2i"].mask(range(5)).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert relevance["i2t"].mask(range(3)).int().tolist() == [[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_chance_is_beside_the_numbers_and_json_is_nested():
    result = Retrieval(source=partial(Pictures, 30), rerank_top=3, batch_size=8).evaluate(predictor())
    found, metrics = result.to_json(), result.metrics()
    assert found["rerank"]["t2i_r1"] == metrics["rerank.t2i_r1"]
    assert found["rerank"]["top"] == 3
    assert 1 / 30 < found["chance_r1"] == found["chance"]["t2i_r1"] < 0.1
    assert found["chance"]["i2t_r1"] != found["chance_r1"]
    assert 0 < found["chance"]["i2t_r10"] < 1
    assert result.table().row_count == 6


def test_each_picture_is_encoded_once():
    model, seen = predictor(), []
    encode = model.model.encode_image
    model.model.encode_image = lambda pixels: seen.append(len(pixels)) or encode(pixels)
    Retrieval(source=Pictures(13), rerank_top=5, batch_size=4)(model)
    assert seen == [4, 4, 4, 1]


def test_what_cannot_be_evaluated_is_named():
    with pytest.raises(UserError, match="row 1: no caption"):
        Retrieval(source=Records([("a", ("x",)), ("b", ())]))(predictor())
    with pytest.raises(UserError, match="no records"):
        Retrieval(source=Records())(predictor())
    with pytest.raises(UserError, match="picture 3: not a picture"):
        Retrieval(source=Pictures(9, broken=3), batch_size=2)(predictor())
    with pytest.raises(UserError, match="cannot match"):
        Retrieval(source=Pictures(9), rerank_top=2)(predictor(heads=("itc",)))
    with pytest.raises(UserError, match="rerank_top=0"):
        Retrieval(source=Pictures(9), rerank_top=0)


def test_a_broken_model_gets_no_numbers():
    model = predictor()
    with torch.no_grad():
        model.model.text_proj.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="text embeddings hold values that are not finite"):
        Retrieval(source=Pictures(9))(model)


def test_each_text_is_counted_once_and_equal_ones_each(caplog):
    """Five captions, three different, are read for the joint space and again for matching: two of five are cut."""
    long = "a red square " * 9
    rows = [(str(i), (text,)) for i, text in enumerate((long, "a red box", long, "a red box", "a green box"))]
    own = predictor()
    with own.encoder.counting():  # as the command does
        Retrieval(source=Records(rows), rerank_top=2)(own)
    (said,) = [message for message in caplog.messages if "longer" in message]
    assert said.startswith("2 of 5 texts are longer")
