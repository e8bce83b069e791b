import json
import logging
import math
import operator
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.evals.evaluator import Passed
from mmkit.evals.intervals import clustered, wilson
from mmkit.evals.recall import Relevance, answered, places, recall_of
from mmkit.evals.results.reranking import Reranking
from mmkit.evals.retrieval import Pairs, Retrieval, reranked
from mmkit.inference.tokens import HeldTokens, TokenBank
from tests.evals.parts import Pictures, alike, predictor


def brute_force(model, source, rerank_top=None, published=False):
    """Everything at once, by sorting; with the matching probability of every single pair.

    published: the own picture alone is right, and the logit of "match" alone re-ranks.
    """
    images = [source[i] for i in range(len(source))]
    texts = [(c, i) for i, record in enumerate(images) for c in record.captions]
    same = [[" ".join(c.lower().split()) == " ".join(d.lower().split()) for d, _ in texts] for c, _ in texts]
    relevant = torch.zeros(len(texts), len(images), dtype=torch.bool)
    for t in range(len(texts)):
        for u, (_, image) in enumerate(texts):
            relevant[t, image] |= t == u if published else same[t][u]
    embed_i, embed_t = model.encode_image([r.image for r in images]), model.encode_text([c for c, _ in texts])
    words = list(dict.fromkeys(c for c, _ in texts))
    bank, (tokens,) = TokenBank(model.text_tokens(words)), model.image_tokens(images)
    pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(words)))
    score = "match_logit" if published else "log_odds"
    logits = model.match_pairs(tokens, bank, pairs, score=score).view(len(images), len(words)).T
    logits = logits[[words.index(c) for c, _ in texts]]
    out = {}
    for way, sims, match, rel in (
        ("t2i", embed_t @ embed_i.T, logits, relevant),
        ("i2t", embed_i @ embed_t.T, logits.T, relevant.T),
    ):
        chances = {k: [] for k in (1, 5, 10)}
        for row in range(len(sims)):
            near = [round(value, 5) for value in sims[row].tolist()]
            keys = [(0, value) for value in near]
            if rerank_top:
                for j in sorted(range(len(near)), key=lambda j: (-near[j], j))[:rerank_top]:
                    keys[j] = (1, match[row, j].item())
            right = [keys[j] for j in range(len(keys)) if rel[row, j]]
            above, equal = (sum(compare(key, max(right)) for key in keys) for compare in (operator.gt, operator.eq))
            for k, chance in chances.items():  # of equal candidates any order is as likely
                room = min(max(0, k - above), equal)
                chance.append(1 - math.comb(equal - right.count(max(right)), room) / math.comb(equal, room))
        out |= {f"{way}_r{k}": sum(chance) / len(chance) for k, chance in chances.items()}
    return out


@pytest.mark.parametrize(("rerank_top", "seed"), [(None, 0), (4, 0), (4, 1), (100, 2)])
def test_equals_brute_force(rerank_top, seed, device):
    model, source = predictor(seed).to(device), Pictures(17)
    found = Retrieval(source=source, rerank_top=rerank_top, batch_size=2, chunk=4, pair_batch=7)(model)
    for name, value in brute_force(model, source).items():
        assert found[name] == pytest.approx(value), name
    for name, value in brute_force(model, source, published=True).items():
        assert found[f"published.{name}"] == pytest.approx(value), name
    if rerank_top:
        for name, value in brute_force(model, source, rerank_top).items():
            assert found[f"rerank.{name}"] == pytest.approx(value), name
        for name, value in brute_force(model, source, rerank_top, published=True).items():
            assert found[f"published.rerank.{name}"] == pytest.approx(value), name
    assert found["published.t2i_r5"] < found["t2i_r5"]  # several pictures share words here
    assert found["published.chance_r1"] == pytest.approx(1 / 17)
    assert found["chance_r1"] > 1 / 16
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
    evaluator = Retrieval(source=partial(Pictures, 30), rerank_top=3, batch_size=8, protocol="msvd")
    result = evaluator.evaluate(predictor())
    found, metrics = result.to_json(), result.metrics()
    chances = {f"{rule}chance_{name}" for rule in ("", "published.") for name in ("r1", "i2t_r1")}
    assert alike(evaluator, metrics) == {"images", "texts", *chances}
    plain = replace(evaluator, rerank_top=None, protocol=None)
    assert {"rerank.t2i_r1", "t2i_mean_rank", "t2i_r2"} <= alike(plain, {**metrics, "t2i_r2": 0.0})
    assert alike(plain, plain(predictor())) == {"images", "texts", *chances}
    assert found["rerank"]["t2i_r1"] == metrics["rerank.t2i_r1"]
    assert found["rerank"]["top"] == 3
    assert 1 / 30 < found["chance_r1"] == found["chance"]["t2i_r1"] < 0.1
    assert found["chance"]["i2t_r1"] != found["chance_r1"]
    assert 0 < found["chance"]["i2t_r10"] < 1
    assert found["published"]["rerank"]["t2i_r1"] == metrics["published.rerank.t2i_r1"]
    assert "own picture alone" in found["published"]["relevance"]
    assert "equal captions are relevant" in found["relevance"]
    assert result.table().row_count == 10


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


class Same(Records):
    """Three pictures, two of which say the same; and a model for which picture and text are near as given."""

    def __init__(self):
        super().__init__([("a", ("a dog",)), ("b", ("A  dog",)), ("c", ("a cat",))])


def test_the_published_rule_takes_the_own_picture_alone(monkeypatch):
    """Both "a dog" find picture a first: by words 3 of 3 are right, as published 2 of 3."""
    near = {"a dog": [1.0, 0, 0], "A  dog": [1.0, 0, 0], "a cat": [0, 0, 1.0]}
    model = predictor()
    monkeypatch.setattr(
        "mmkit.evals.retrieval.encode_texts", lambda p, texts, size: torch.tensor([near[text] for text in texts])
    )
    pictures = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]])
    everything = Passed(rows=(0, 1, 2), found=[], bad=(), left_out=None)
    monkeypatch.setattr(Retrieval, "_encode_images", lambda *args, **k: (HeldTokens(3), pictures, everything))
    found = Retrieval(source=Same())(model)
    assert found["t2i_r1"] == 1.0
    assert found["published.t2i_r1"] == pytest.approx(2 / 3)
    assert found["i2t_r1"] == 1.0
    # of image to text two texts have the very same score: as published, a draw of one of two, for both pictures
    assert found["published.i2t_r1"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_re_ranking_by_a_head_at_chance_is_said_with_both_numbers(caplog):
    logging.getLogger("mmkit").propagate = True
    good = Reranking(
        what="R@1, text to image", before={1: 0.516, 5: 0.8}, after={1: 0.7, 5: 0.8}, chance=0.06, candidates=16, n=500
    )
    good.tell()
    assert not caplog.text
    assert good.flags() == {"lowers": False, "at_chance": False}
    bad = Reranking(
        what="R@1, text to image",
        before={1: 0.516, 5: 0.6},
        after={1: 0.014, 5: 0.5},
        chance=0.05,
        candidates=16,
        n=500,
    )
    bad.tell()
    assert bad.flags() == {"lowers": True, "at_chance": True}
    assert "re-ranking lowers R@1, text to image from 51.6% to 1.4%; the matching head orders the 16" in caplog.text
    caplog.clear()
    worse = Reranking(
        what="R@1, text to image", before={1: 0.5, 5: 0.9}, after={1: 0.5, 5: 0.7}, chance=0.05, candidates=16, n=500
    )
    worse.tell()
    assert worse.flags() == {"lowers": True, "at_chance": False}
    assert "lowers R@5, text to image from 90.0% to 70.0%" in caplog.text
    for rate, chance in ((0.07, True), (0.08, False)):  # of 500 queries at 5 %, 95 % of draws give at most 7.3 %
        near = Reranking(what="", before={1: 0.01}, after={1: rate}, chance=0.05, candidates=16, n=500)
        assert near.flags() == {"lowers": False, "at_chance": chance}
    assert not Reranking(what="", before={1: 0.1}, after={1: 0.1}, chance=0.1, candidates=1, n=50).at_chance


def test_the_evaluation_sees_that_re_ranking_hurts(caplog):
    """A head that always says the same orders by index: the first of the candidates, that is, chance."""
    logging.getLogger("mmkit").propagate = True
    model = predictor()
    torch.nn.init.zeros_(model.heads["itm"].classify.weight)
    result = Retrieval(source=Pictures(30), rerank_top=5, batch_size=8).evaluate(model)
    found = result.to_json()
    assert found["rerank"]["at_chance"] is True
    judged = result.judged[0]
    assert result.metrics()["rerank.t2i_r1"] == pytest.approx(judged.chance, abs=1e-6)  # equal scores are a draw
    assert found["rerank"]["lowers"] == any(
        result.rates["rerank"][w][k] < rate for w in ("t2i", "i2t") for k, rate in result.rates[""][w].items()
    )
    assert "no better than chance" in caplog.text


def test_a_collapsed_model_is_at_chance_however_the_captions_lie():
    """All embeddings alike, and nearly all captions belong to the first picture, which ties would be given to."""
    model, source = predictor(), Records([("a", tuple(f"text {i}" for i in range(20))), ("b", ("x",)), ("c", ("y",))])
    with torch.no_grad():
        for tower in (model.model.image_proj, model.model.text_proj):
            tower.weight.zero_()
            tower.bias.fill_(1.0)
    found = Retrieval(source=source)(model)
    assert found["chance_r1"] == pytest.approx(1 / 3)
    assert found["t2i_r1"] == pytest.approx(1 / 3)
    assert found["i2t_r1"] == pytest.approx(found["chance_i2t_r1"])
    assert found["published.i2t_r1"] == pytest.approx(found["published.chance_i2t_r1"])


@pytest.mark.parametrize("rerank_top", [None, 4])
def test_predictions_hold_the_rank_and_the_best_of_each_query(tmp_path, rerank_top):
    model, source = predictor(1), Pictures(13)
    file = tmp_path / "new" / "r.json"
    evaluator = Retrieval(source=source, rerank_top=rerank_top, batch_size=4, chunk=5, predictions=file)
    found = evaluator(model)
    rows = json.loads(file.read_text())
    pairs = Pairs.read(source)
    assert len(rows) == 13 + len(pairs.texts)
    for way, words, n in (("t2i", "text to image", len(pairs.texts)), ("i2t", "image to text", 13)):
        own = [row for row in rows if row["direction"] == words]
        assert len(own) == n
        right = next(row for row in own if row["rank"] <= 10)
        assert right["found"][right["rank"] - 1] if way == "t2i" else right["found"][right["rank"] - 1]["image"]
        if way == "i2t":  # equal texts have equal scores, which rates count as a draw
            continue
        for rule, rank in ((f"{way}_r5", "rank"), (f"published.{way}_r5", "published_rank")):
            assert sum(row[rank] <= 5 for row in own) / n == pytest.approx(found[rule])
        if rerank_top:
            for rule, rank in ((f"rerank.{way}_r1", "rank"), (f"published.rerank.{way}_r1", "published_rank")):
                assert sum(row["rerank"][rank] == 1 for row in own) / n == pytest.approx(found[rule])
    texts = [row for row in rows if row["direction"] == "text to image"]
    assert [row["text"] for row in texts] == pairs.texts  # in the order of the data
    similar = model.encode_text(pairs.texts) @ model.encode_image([source[i] for i in range(13)]).T
    for row, scores in zip(texts, similar, strict=True):
        assert row["found"] == [str(i) for i in scores.argsort(descending=True).tolist()[:10]]
        assert row["scores"] == pytest.approx(scores.sort(descending=True).values[:10].tolist(), abs=1e-6)
        assert row["image"] == str(pairs.image_of[texts.index(row)])
        if row["published_rank"] <= 10:
            assert row["found"][row["published_rank"] - 1] == row["image"]
        if rerank_top:
            assert set(row["rerank"]["found"]) == set(row["found"][:4])
            assert row["rerank"]["scores"] == sorted(row["rerank"]["scores"], reverse=True)
    pictures = [row for row in rows if row["direction"] == "image to text"]
    assert [row["image"] for row in pictures] == [str(i) for i in range(13)]
    assert pictures[3]["found"][0] in [
        {"text": t, "image": str(i)} for t, i in zip(pairs.texts, pairs.image_of, strict=True)
    ]


def test_a_query_whose_right_candidate_was_not_re_ranked_stays_behind_those_that_were():
    """Of three that score the same one was among the re-ranked two: the right one shares two places, not three."""
    relevance = Relevance.of([[3]], 4)
    found = places(torch.tensor([[1.0, 0.5, 0.5, 0.5]]), relevance.mask(range(1)))
    assert found.tolist() == [[3, 1, 3, 1]]
    again = reranked(found, torch.tensor([[0, 1]]), torch.tensor([[0.0, 1.0]]), relevance)
    assert again.tolist() == [[3, 2, 2, 1]]
    assert recall_of(again, [2, 3, 4]) == {2: 0.0, 3: 0.5, 4: 1.0}


def test_intervals_take_the_texts_of_one_picture_together():
    source = Records([("a", ("one", "two", "three")), ("b", ("four",)), ("c", ("five", "six"))])
    model = predictor(2)
    result = Retrieval(source=source, rerank_top=2).evaluate(model)
    found, metrics = result.to_json(), result.metrics()
    group = torch.tensor([0, 0, 0, 1, 2, 2])
    evaluator = Retrieval(source=source)
    pairs = Pairs.read(source)
    texts = model.encode_text(pairs.texts)
    images = model.encode_image([source[i] for i in range(3)])
    hits = places(texts @ images.T, pairs.own()["t2i"].mask(range(6)))
    for k in (1, 5, 10):
        assert found["published"]["interval"][f"t2i_r{k}"] == pytest.approx(clustered(answered(hits, k), group))
    n = {"t2i": 6, "i2t": 3}
    for rule, place in (("", found), ("published.", found["published"])):
        for again, inner in (("", place), ("rerank.", place["rerank"])):
            for way in n:
                low, high = inner["interval"][f"{way}_r1"]
                assert (metrics[f"{rule}{again}{way}_r1_low"], metrics[f"{rule}{again}{way}_r1_high"]) == (low, high)
                assert low <= inner[f"{way}_r1"] <= high
                plain = wilson(n[way] * inner[f"{way}_r1"], n[way])
                if way == "i2t":
                    assert (low, high) == pytest.approx(plain)
                else:
                    assert high - low >= plain[1] - plain[0] - 1e-12
    assert evaluator.evaluate(model).to_json()["published"].keys() >= {"interval", "t2i_r1"}
    assert "95 % interval" in [column.header for column in result.table().columns]


def test_where_predictions_cannot_be_written_is_said_before_any_work(tmp_path):
    for name, message in (("p.xml", "one of .json, .jsonl, .csv"), ("f.json/p.json", "is a file, not a folder")):
        (tmp_path / "f.json").write_text("mine")
        evaluator = Retrieval(source=Pictures(3), predictions=tmp_path / name)
        for call in (evaluator.check, evaluator):
            with pytest.raises(UserError, match=message):
                call(predictor())
    assert (tmp_path / "f.json").read_text() == "mine"


class Twice(Pictures):
    """The first picture stands under two names, with words of its own each."""

    def __getitem__(self, i):
        record = super().__getitem__(i)
        return replace(record, image=super().__getitem__(0).image) if i == 1 else record


def test_draws_are_said(caplog):
    logging.getLogger("mmkit").propagate = True
    made = predictor()
    Retrieval(source=Pictures(5))(made)
    assert "the same score" not in caplog.text
    found = Retrieval(source=Twice(2))(made)
    own = len(Pictures(2)[0].captions) + len(Pictures(2)[1].captions)
    assert found["t2i_r1"] == 0.5
    assert f"text to image: {own} of {own}: others have the same score as the right one" in caplog.text
