"""Several sources by weights: exact shares at every position, each source in its own order, no state."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch

from mmkit.cli.main import main
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.order import ROUND, Mixed, Order, order_of, part_seed, shares_of
from mmkit.data.show.batch import sample_batch
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_records
from mmkit.errors import UserError
from mmkit.evals.labels import Relabelled
from mmkit.train.loop import train
from tests.data.sources.test_joined import Part
from tests.train.fakes import Squares, tiny


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((3, 1), (750, 250)), ((0.75, 0.25), (750, 250)), ((0.7, 0.2, 0.1), (700, 200, 100)), ((5,), (1000,)),
        ((1, 1, 1), (3334, 3333, 3333)), ((1, 9_999), (1, 9_999)), ((1, 2, 4), (1429, 2857, 5714)),
        ((1e-3, 1e3 - 1e-3), None), ((0, 1), None), ((-1, 2), None), ((float("nan"), 1), None), (("1", 2), None),
        ((float("inf"), 1), None),
    ],
)  # fmt: skip
def test_shares_of_weights(weights, shares):
    if shares is None:
        with pytest.raises(UserError, match=r"weights = .*(above 0|less than 1 of 10,000)"):
            shares_of(weights)
    else:
        assert shares_of(weights) == shares


def mixed(sizes=(50, 7, 1_000), weights=(5, 3, 2), seed=4, **options):
    parts = tuple(Order(size=n, seed=part_seed(seed, i), **options) for i, n in enumerate(sizes))
    return Mixed(parts=parts, shares=shares_of(weights), seed=seed)


def test_every_draw_of_a_set_is_taken_once_and_shares_are_exact():
    sets, draws = mixed().drawn(np.arange(5 * ROUND))
    for number, share in enumerate((500, 300, 200)):
        assert np.array_equal(np.sort(draws[sets == number]), np.arange(5 * share))
        assert all((sets[i : i + ROUND] == number).sum() == share for i in range(0, 5 * ROUND, ROUND))
    changes = (sets[1:] != sets[:-1]).mean()  # as drawn, not in turn: 1 - (0.5^2 + 0.3^2 + 0.2^2)
    assert 0.58 < changes < 0.66
    assert not np.array_equal(sets[:ROUND], sets[ROUND : 2 * ROUND])
    assert not np.array_equal(sets[:ROUND], mixed(seed=5).drawn(np.arange(ROUND))[0])


def test_each_set_has_its_own_order_and_small_ones_repeat():
    made = mixed()
    epochs, records = (np.concatenate(both) for both in zip(*(
        made.visits(step, np.arange(50), 50) for step in range(40)
    ), strict=True))  # fmt: skip
    sets, draws = made.drawn(np.arange(2_000))
    for number, (first, size) in enumerate(((0, 50), (50, 7), (57, 1_000))):
        own = sets == number
        assert records[own].min() >= first
        assert records[own].max() < first + size
        turns = np.argsort(draws[own])
        found, times = records[own][turns] - first, epochs[own][turns]
        for epoch in range(len(found) // size):
            whole = found[epoch * size : (epoch + 1) * size]
            assert np.array_equal(whole, made.parts[number].at(epoch, np.arange(size)))
            assert np.array_equal(np.sort(whole), np.arange(size))
            assert set(times[epoch * size : (epoch + 1) * size]) == {epoch}
    assert epochs[sets == 1].max() == 85  # 600 turns of 7 records
    assert epochs[sets == 2].max() == 0  # and the large one is not through
    assert len(set(zip(epochs.tolist(), records.tolist(), strict=True))) == 2_000  # no sample twice
    assert (
        mixed((9, 9), (1, 1)).parts[0].at(0, np.arange(9)).tolist()
        != mixed((9, 9), (1, 1)).parts[1].at(0, np.arange(9)).tolist()
    )


@pytest.mark.parametrize("block", [1, 3])
def test_any_ranks_accumulation_and_start_take_the_same(block):
    made = mixed(block=block, window=2)

    def steps(**options):
        return list(StepSampler(made, steps=30, **options))

    whole = steps(rank_batch=12)
    for world in (2, 3):
        parts = [steps(rank_batch=12 // world, rank=rank, world=world) for rank in range(world)]
        assert [[pair for chunk in chunks for pair in chunk] for chunks in zip(*parts, strict=True)] == whole
    halves = steps(rank_batch=6, accumulation=2)
    assert [halves[i] + halves[i + 1] for i in range(0, 60, 2)] == whole
    assert steps(rank_batch=12, start_step=17) == whole[17:]


def test_joined_by_weights():
    source = Joined([Part([{"label": i} for i in range(n)]) for n in (4, 6)], weights=(3, 1))
    assert len(source) == 10
    made = order_of(source, seed=2)
    assert made.shares == (750, 250)
    assert made.size == 10
    assert [part.size for part in made.parts] == [4, 6]
    assert made.parts[0].seed != made.parts[1].seed
    assert made.sets() == (("Part", 4, 0.75), ("Part", 6, 0.25))
    assert order_of(Relabelled(source, {}), seed=2) == made
    assert order_of(source, seed=2, block=2, window=3).parts[1] == Order(
        size=6, seed=part_seed(2, 1), block=2, window=3
    )
    plain = Joined(source.parts)
    assert order_of(plain, seed=2) == Order(size=10, seed=2)
    with pytest.raises(UserError, match="1 weights for 2 parts"):
        Joined(source.parts, weights=(1,))
    for weights in (None, (1, 1)):
        with pytest.raises(UserError, match="a part has weights of its own"):
            Joined([source, plain], weights=weights)


def test_what_is_read_together_in_parts():
    parts = [Part([{}] * 30), Part([{}] * 50), Part([{}] * 9)]
    parts[0].neighbours, parts[1].neighbours = (10, 4), (5, 8)
    assert order_of(parts[0]) == Order(size=30, block=10, window=4)
    assert order_of(parts[0], block=1).told() == order_of(parts[2]).told()
    assert order_of(Joined(parts)) == Order(size=89, block=10, window=4)
    assert [part.block for part in order_of(Joined(parts, weights=(1, 1, 1))).parts] == [10, 5, 1]
    assert order_of(parts[1]).told() == "feistel 16, 8 blocks of 5 mixed"
    with pytest.raises(UserError, match="window = 0"):
        order_of(parts[1], window=0)


def test_workers_give_the_same_samples(tokenizer):
    source = Joined([Squares(20), Squares(6)], weights=(1, 2))
    data = PairDataset(source=source, transform=TrainTransform(size=16), tokenizer=tokenizer, max_tokens=8, seed=1)
    plan = dict(rank_batch=8, steps=4)
    one, two = (
        list(make_loader(data, StepSampler(order_of(source, seed=1), **plan), workers=workers)) for workers in (0, 2)
    )
    assert [b.keys for b in one] == [b.keys for b in two]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one, two, strict=True))


def test_what_is_shown_is_what_a_run_would_take():
    source = Joined([Squares(64), Squares(6)], weights=(1, 3))
    batch, _ = sample_batch(source, n=32, size=16, seed=9)
    taken = order_of(source, seed=9).visits(0, np.arange(32), 32)[1]
    assert batch.keys == tuple(source[i].key for i in taken.tolist())
    assert (taken >= 64).sum() > 16


def test_the_plan_says_visits_and_a_resumed_run_goes_on(tmp_path, caplog):
    caplog.set_level("INFO", "mmkit")
    exp = tiny(data=dict(train=partial(Joined, [partial(Squares, 30), partial(Squares, 10)], weights=(1, 3))))
    whole = train(exp, tmp_path / "whole")
    plan = json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[0])
    assert plan["sets"] == [["Squares", 30, 0.25], ["Squares", 10, 0.75]]
    assert plan["order"] == "250 x feistel 16; 750 x feistel 16"
    said = caplog.text
    assert "Squares 30 records, 25.0% of the samples = 0.80 visits each; Squares 10 records, 75.0%" in said  # of 96
    assert "= 7.20 visits each" in said
    train(tiny(data=dict(train=exp.data.train), run=dict(stop_after_steps=7)), tmp_path / "parts")
    [meta] = (tmp_path / "parts").glob("checkpoints/step-*/meta.json")
    text = meta.read_text()
    meta.write_text(text.replace("750 x feistel", "700 x feistel"))
    with pytest.raises(UserError, match=r"in the order '250 x .*; 700 x .*', and now it would be '250 x .*; 750 x"):
        train(exp, tmp_path / "parts", resume=True)
    meta.write_text(text)
    assert train(exp, tmp_path / "parts", resume=True)["loss"] == whole["loss"]


def test_a_config_takes_records_with_their_weights(pictures, tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    b.write_text("".join(a.read_text().splitlines(keepends=True)[:2]))
    source = open_records({str(a): 1, str(b): 3}, needs=("caption",))
    assert [len(part) for part in source.parts] == [6, 2]
    assert source.shares == (250, 750)
    out = tmp_path / "out"
    call = f"configs/pretrain/albef.py:small(records={{'{a}': 1, '{b}': 3}})"
    assert main(["data", "export", call, str(out)]) == 0
    assert len((out / "train.jsonl").read_text().splitlines()) == 8
    with pytest.raises(UserError, match=re.escape("weights = (0, 1)")):
        open_records({str(a): 0, str(b): 1})
