"""What a run reports: means over the items that they claim, of all micro-batches and steps since the last report."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from mmkit.data.texts.tokenizers import reuse, train_sentencepiece
from mmkit.errors import UserError
from mmkit.heads.base import Head
from mmkit.train.loop import train
from mmkit.train.means import Means
from mmkit.types import HeadOutput, TaskOutput
from tests.train.fakes import Squares, change, plain, tiny


def output(loss, means) -> TaskOutput:
    losses = {name.removeprefix("losses."): torch.zeros(()) for name in means if name.startswith("losses.")}
    heads = {name.split(".")[0]: torch.zeros(()) for name in losses}
    return TaskOutput(loss=torch.tensor(loss), losses=heads | losses, logs={}, counts={}, means=means, carry={})


def one(value: float, count: float, on_device: bool) -> tuple:
    return (torch.tensor(value), torch.tensor(float(count))) if on_device else (value, count)


@pytest.mark.parametrize("on_device", [True, False])
def test_means_are_weighted_by_counts_over_micro_batches_and_steps(on_device):
    means = Means(torch.device("cpu"))
    pair = partial(one, on_device=on_device)
    nothing = pair(math.nan, 0)
    micro = [
        output(1.0, {"losses.a": pair(8.0, 3), "a.hits": pair(0.5, 3), "a.rare": nothing}),
        output(2.0, {"losses.a": pair(2.0, 1), "a.hits": pair(1.0, 1), "a.rare": nothing}),
    ]
    means.add(micro, torch.tensor(4.0))
    means.add([output(5.0, {"losses.a": pair(1.0, 6), "a.hits": pair(0.0, 6), "a.rare": nothing})], torch.tensor(6.0))
    found = means.read()
    assert found == {
        "loss": pytest.approx((3 + 5) / 2), "losses.a": pytest.approx((24 + 2 + 6) / 10),
        "a.hits": pytest.approx(2.5 / 10), "grad_norm": pytest.approx(5.0),
    }  # fmt: skip
    assert list(found)[:2] == ["loss", "losses.a"]
    assert means.read() == {}
    means.add([output(7.0, {"losses.a": pair(3.0, 2)})], torch.tensor(1.0))
    assert means.read() == {"loss": 7.0, "losses.a": 3.0, "grad_norm": 1.0}


def test_a_head_with_parts_has_their_sum_too():
    means = Means(torch.device("cpu"))
    parts = {
        "losses.d.boxes": (torch.tensor(1.0), 10),
        "losses.d.classes": (torch.tensor(0.5), 2),
        "losses.e": (2.0, 1),
    }
    means.add([output(1.0, parts)], torch.tensor(1.0))
    means.add([output(1.0, parts | {"losses.d.boxes": (torch.tensor(3.0), 30)})], torch.tensor(1.0))
    found = means.read()
    assert found["losses.d.boxes"] == 2.5
    assert found["losses.d"] == 3.0
    assert list(found)[:5] == ["loss", "losses.d", "losses.e", "losses.d.boxes", "losses.d.classes"]


def test_a_head_whose_name_begins_as_another_s_has_no_part_of_it():
    means = Means(torch.device("cpu"))
    means.add([output(1.0, {"losses.a.x": (1.0, 1), "losses.ab": (5.0, 1)})], torch.tensor(1.0))
    assert means.read()["losses.a"] == 1.0


def test_a_long_window_loses_no_digits():
    means = Means(torch.device("cpu"))
    for _ in range(2000):
        means.add([output(0.1, {"losses.a": (torch.tensor(0.1), 50_000)})], torch.tensor(1.0))
    assert means.read()["losses.a"] == pytest.approx(torch.tensor(0.1).item(), rel=1e-9)


class Telling(Head):
    """Tells for each sample whether its caption has a number below 20, in the log; the rest is as little as works."""

    def __init__(self, spec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, f):
        number = torch.tensor([int(key.split()[-1]) for key in f.batch.keys])
        known = number % 3 == 0
        value = (number.float() * known).sum() / known.sum()  # NaN where nothing is known
        loss = (self.scale * f.image_embed.float().mean() * 0).nan_to_num() + value.nan_to_num()
        return HeadOutput(
            loss=loss, count=known.sum(), logs={"value": value, "all": (number.float().mean(), len(number))}
        )


SEEN: list[int] = []


class Noting(Telling):
    """Keeps what it learned from."""

    def forward(self, f):
        if torch.is_grad_enabled():
            SEEN.extend(int(key.split()[-1]) for key in f.batch.keys)
        return super().forward(f)


@pytest.mark.parametrize("rank_batch", [8, 2, 1])
def test_logs_of_a_run_are_means_over_the_whole_window(tmp_path, rank_batch):
    SEEN.clear()
    heads = dict(tiny().heads) | {"telling": partial(Noting)}
    exp = change(
        tiny(heads=heads), run=dict(steps=3, log_every_steps=3), data=dict(global_batch=8, rank_batch=rank_batch)
    )
    if rank_batch == 1:  # nothing to compare with
        exp = change(exp, heads={"mlm": tiny().heads["mlm"], "telling": partial(Noting)}, optim=dict(rules=frozen()))
    numbers = train(exp, tmp_path)
    (line,) = [
        e for e in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if e["event"] == "train"
    ]
    known = [number for number in SEEN if number % 3 == 0]
    assert len(SEEN) == 24
    for found in (line, numbers):
        assert found["telling.value"] == pytest.approx(sum(known) / len(known), rel=1e-6)
        assert found["losses.telling"] == pytest.approx(sum(known) / len(known), rel=1e-6)
        assert found["telling.all"] == pytest.approx(sum(SEEN) / 24, rel=1e-6)
    assert not math.isnan(line["loss"])


def frozen():
    from mmkit.config import Rule, mmkit_rules

    return (Rule(pattern=r"^model\.(image_proj|text_proj|temperature)", freeze=True), *mmkit_rules())


DRAWN: list[torch.Tensor] = []


class Drawing(Noting):
    """Keeps the numbers that it draws."""

    def forward(self, f):
        if torch.is_grad_enabled():
            DRAWN.append(f.random("drawing").words(2))
        return super().forward(f)


def test_the_micro_batches_of_a_step_draw_as_the_joined_batch_does(tmp_path):
    found = []
    for rank_batch in (8, 2):
        DRAWN.clear()
        heads = dict(tiny().heads) | {"telling": partial(Drawing)}
        train(change(plain(3), heads=heads, data=dict(rank_batch=rank_batch)), tmp_path / str(rank_batch))
        found.append(torch.cat(DRAWN))
    assert torch.equal(*found)
    assert len(found[0].unique()) == 3 * 8 * 2


class Lying(Telling):
    def counts(self, f):
        return len(f.batch)


def test_a_head_that_counts_otherwise_than_it_said_stops_the_run(tmp_path):
    heads = dict(tiny().heads) | {"telling": partial(Lying)}
    with pytest.raises(UserError, match="step 1: the loss 'telling' was over another number of items than `counts`"):
        train(change(tiny(heads=heads), data=dict(rank_batch=4)), tmp_path / "a")
    assert train(change(tiny(heads=heads), run=dict(steps=3)), tmp_path / "b")["step"] == 3  # nothing was asked before


def test_the_plan_says_what_accumulation_changes(tmp_path):
    heads = dict(tiny().heads) | {"telling": partial(Telling)}
    train(change(plain(3), heads=heads, data=dict(rank_batch=4)), tmp_path / "a")
    train(change(plain(3), heads=heads), tmp_path / "b")
    plans = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in "ab"]
    assert [plan["within"] for plan in plans] == [["itc", "itm"], []]
    assert [plan["counted"] for plan in plans] == [["telling"], []]


def test_the_lines_of_the_plan(tmp_path, caplog):
    caplog.set_level("INFO", "mmkit")
    heads = dict(tiny().heads) | {"telling": partial(Telling)}
    train(change(plain(3), heads=heads, data=dict(rank_batch=4)), tmp_path)
    assert (
        "accumulation: itc, itm compare the 4 samples of a micro-batch with each other, not the 8 of a" in caplog.text
    )
    assert "accumulation: telling say only after a pass what they count" in caplog.text


def test_the_plan_says_how_the_vocabulary_fits(tmp_path, caplog):
    caplog.set_level("INFO", "mmkit")
    source = Squares()
    captions = [source[i].captions[0] for i in range(40)]
    train_sentencepiece(captions=lambda: captions, folder=tmp_path / "words", vocab_size=80)
    data = dict(train=partial(Known, texts=[*captions, "ж"]), max_tokens=6)
    exp = change(tiny(), data=data, tokenizer=partial(reuse, path=str(tmp_path / "words")), run=dict(steps=3))
    train(exp, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["texts"]
    assert (found["texts"], found["unknown"], found["cut"], found["max_tokens"]) == (41, 1, 40, 6)
    assert "of the pieces of 41 captions" in caplog.text
    assert caplog.text.count("are longer than 6 tokens") == 1


class Known(Squares):
    """Squares whose captions are known without pictures."""

    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def captions(self):
        yield from self.texts
