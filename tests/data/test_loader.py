"""The loader: what a sample depends on, who gets which records, resuming, broken pictures, and collation."""

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from PIL import Image

from mmkit.data import loader
from mmkit.data.collate import Collator, Sample
from mmkit.data.images.opening import BadImage
from mmkit.data.images.transforms import BlankTrain, TrainTransform
from mmkit.data.images.variable_size import KeepShapeTrain
from mmkit.data.loader import PairDataset, StepSampler, make_loader, still
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.records import JsonLines, Record
from mmkit.data.targets import RawTargets
from mmkit.data.text_files import stable_id
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from tests.examples import batch


@pytest.fixture(scope="module")
def words():
    return SentencePieceTokenizer.train(Scenes(n=200).captions(), vocab_size=300)


def dataset(tokenizer, source=None, **options):
    return PairDataset(
        source=source if source is not None else Scenes(n=50, paraphrases=3, size=48),
        transform=TrainTransform(size=32),
        tokenizer=tokenizer,
        max_tokens=24,
        **{"masking": Masking(), **options},
    )


def load(data, workers=0, **plan):
    return make_loader(data, StepSampler(len(data), **plan), workers=workers)


def same(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.masked.ids, b.masked.ids)
        assert torch.equal(a.masked.positions, b.masked.positions)
    return True


def test_every_tensor_of_a_batch_is_pinned_for_a_gpu_and_nothing_else(monkeypatch):
    pin = lambda x: x.clone().as_subclass(Pinned)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    b = replace(
        batch(3), pixel_mask=torch.ones(3, 32, 32) > 0, erased=torch.ones(3, 4),
        targets={"label": torch.arange(3), "words": ["a"] * 3},
    )  # fmt: skip
    pinned = b.pin_memory()
    for one, other in ((b, pinned), (b.masked, pinned.masked)):
        for field in fields(one):
            before, after = getattr(one, field.name), getattr(other, field.name)
            assert isinstance(after, Pinned) == isinstance(before, torch.Tensor)
            assert torch.equal(before, after) if isinstance(before, torch.Tensor) else field.name in (
                "masked", "targets", "keys", "skipped", "normalise",
            )  # fmt: skip
    assert isinstance(pinned.targets["label"], Pinned)
    assert pinned.targets["words"] == ["a"] * 3
    assert pinned.keys == b.keys
    assert replace(b, masked=None, ids=None).pin_memory().masked is None


class Pinned(torch.Tensor):
    """A tensor that was pinned."""


def test_pages_are_pinned_where_that_is_asked_for(words):
    sampler = StepSampler(50, rank_batch=8, steps=2)
    assert [make_loader(dataset(words), sampler, pinned=pinned).pin_memory for pinned in (True, False)] == [True, False]


def test_workers_change_nothing(words):
    data = dataset(words)
    assert same(load(data, rank_batch=8, steps=7), load(data, rank_batch=8, steps=7, workers=2))


def test_resume_continues_in_the_middle_of_an_epoch(words):
    data = dataset(words)
    whole = list(load(data, rank_batch=8, steps=15, accumulation=2))
    rest = load(data, rank_batch=8, steps=15, accumulation=2, start_step=10)
    assert len(rest) == 10
    assert same(rest, whole[20:])


def test_resuming_opens_nothing_to_skip_it(words):
    class Counting(Scenes):
        seen = 0

        def __getitem__(self, index):
            Counting.seen += 1
            return super().__getitem__(index)

    data = dataset(words, Counting(n=50, size=48))
    assert len(list(load(data, rank_batch=5, steps=103, start_step=101))) == 2
    assert Counting.seen == 10


def test_the_global_random_state_is_left_alone(words):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(load(dataset(words), rank_batch=8, steps=2))
    list(load(dataset(words), rank_batch=8, steps=2, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_and_epoch_enter_a_sample(words):
    data = dataset(words)
    same_record = [data[0, 5], data[1, 5], dataset(words, seed=1)[0, 5]]
    assert len({s.key for s in same_record}) == 1
    assert len({s.pixels.bytes.sum().item() for s in same_record}) == 3
    assert torch.equal(data[0, 5].pixels.bytes, dataset(words)[0, 5].pixels.bytes)


def test_every_caption_of_a_record_gets_its_turn(words):
    data = dataset(words, masking=None)
    captions = set(data.source[3].captions)
    seen = Counter(data[epoch, 3].ids.__str__() for epoch in range(60))
    assert len(captions) >= 2
    assert len(seen) >= len(captions)
    assert min(seen.values()) >= 3


class Halves(list):
    """One picture whose left half is white, with words and targets of its own."""

    def __init__(self, caption, **targets):
        image = Image.new("RGB", (32, 16))
        image.paste((255, 255, 255), (0, 0, 16, 16))
        super().__init__([Record(image=image, captions=(caption,), image_id="x", key="x", targets=targets)])


FLIPPING = TrainTransform(size=(16, 32), scale=(1.0, 1.0), flip=1.0, randaugment=None)


@pytest.mark.parametrize("targets", [{"question": "?"}, {"answers": ["left"]}, {"answer": "left"}])
@pytest.mark.parametrize("transform", [FLIPPING, BlankTrain(FLIPPING)])
def test_a_picture_with_a_question_is_not_mirrored(words, transform, targets):
    text = "the white on the left"
    asked = PairDataset(source=Halves(text, **targets), transform=transform, tokenizer=words, max_tokens=24)[0, 0]
    assert asked.caption == text
    told = PairDataset(source=Halves(text, label=3), transform=transform, tokenizer=words, max_tokens=24)[0, 0]
    assert told.caption == "the white on the right"
    if transform is FLIPPING:
        assert asked.pixels.bytes[0, 0, 0] > asked.pixels.bytes[0, 0, -1]
        assert told.pixels.bytes[0, 0, 0] < told.pixels.bytes[0, 0, -1]


def test_a_transform_without_mirroring_serves_questions_as_it_is(words):
    class Own:
        def __call__(self, image, caption, rng):
            return torch.zeros(3, 4, 4), caption

    own = Own()
    assert still(own) is own
    assert still(replace(FLIPPING, flip=0.0)).flip == 0.0
    assert PairDataset(source=Halves("a", question="?"), transform=own, tokenizer=words, max_tokens=9)[0, 0].ids


def test_equal_texts_are_those_that_the_model_reads_alike(words):
    """As they stand after mirroring; letters, spaces and what is cut make no difference."""

    def number(text, **options):
        data = PairDataset(
            source=Halves(text), transform=options.pop("transform", FLIPPING), tokenizer=words, max_tokens=24, **options
        )
        return data[0, 0].caption_id

    plain = replace(FLIPPING, flip=0.0)
    assert number("a dog on the left") == number("a dog on the right", transform=plain)
    assert number("a dog on the left") != number("a dog on the left", transform=plain)
    assert number("A  Dog") == number("a dog")
    assert number("a dog " * 30) == number("a dog " * 31)
    assert number("a dog") != number("a cat")


# -- who gets what --


def batches(**options):
    return list(StepSampler(100, seed=3, **options))


def test_an_epoch_shows_each_record_once():
    seen = [i for batch in batches(rank_batch=10, steps=10) for _, i in batch]
    assert sorted(seen) == list(range(100))
    assert seen != sorted(seen)
    epochs = [{e for e, _ in batch} for batch in batches(rank_batch=30, steps=7)]
    assert epochs == [{0}, {0}, {0}, {1}, {1}, {1}, {2}]
    orders = [[i for _, i in batch] for batch in batches(rank_batch=100, steps=2)]
    assert orders[0] != orders[1]


def test_ranks_share_a_step_and_accumulation_equals_ranks():
    one = batches(rank_batch=5, steps=6, accumulation=4)
    for world, accumulation in ((4, 1), (2, 2)):
        ranks = [batches(rank_batch=5, steps=6, accumulation=accumulation, world=world, rank=r) for r in range(world)]
        assert [len(r) for r in ranks] == [6 * accumulation] * world
        assert [ranks[r][m] for m in range(6 * accumulation) for r in range(world)] == one


def test_a_step_that_was_passed_is_no_step_and_a_rank_is_one_of_its_world():
    assert len(StepSampler(100, rank_batch=5, steps=3, start_step=5, accumulation=2)) == 0
    for wrong in (dict(rank=2), dict(rank=-1), dict(rank_batch=0), dict(accumulation=0)):
        with pytest.raises(UserError, match=r"of 2: no batch"):
            batches(**{"rank_batch": 5, "steps": 1, "world": 2, **wrong})


def test_too_few_records():
    with pytest.raises(UserError, match=r"100 records are fewer than one step of 128 .*rank_batch 16 x .*4 x 2 ranks"):
        batches(rank_batch=16, steps=1, accumulation=4, world=2)


# -- broken pictures --


def test_a_broken_picture_is_replaced_and_named(pictures, tokenizer):
    for i in (2, 3):
        (pictures / f"{i}.png").write_bytes(b"rubbish")
    data = dataset(tokenizer, JsonLines(pictures / "a.jsonl"))
    sample = data[0, 2]
    assert sample.key.endswith("a.jsonl:5")
    assert len(sample.skipped) == 2
    assert "2.png" in sample.skipped[0]
    assert "3.png" in sample.skipped[1]
    assert torch.equal(sample.pixels.bytes, data[0, 2].pixels.bytes)
    [batch] = load(data, rank_batch=6, steps=1)
    assert len(batch) == 6
    assert len(batch.skipped) == 3
    for workers in (0, 1):
        assert same(load(data, rank_batch=6, steps=1, workers=workers), [batch])


class Further:
    """Targets of which the first record's names a picture that cannot be read."""

    def encode(self, targets, rng):
        if targets["label"] == 0:
            raise BadImage("further.png: not a picture")
        return targets


def test_a_broken_picture_among_the_targets_is_replaced_too(words):
    source = [replace(Halves("a dog", label=label)[0], key=str(label)) for label in range(2)]
    found = dataset(words, source, targets=Further(), masking=None)[0, 0]
    assert (found.key, found.skipped) == ("1", ("further.png: not a picture",))


def test_nothing_but_broken_pictures(pictures, tokenizer, monkeypatch):
    for i in range(6):
        (pictures / f"{i}.png").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"6 pictures in a row cannot be read, the first: .*5.png.*mmkit data check"):
        dataset(tokenizer, JsonLines(pictures / "a.jsonl"))[0, 5]
    monkeypatch.setattr(loader, "MAX_REPLACEMENTS", 4)  # of a large source not all are tried
    with pytest.raises(UserError, match=r"^4 pictures in a row cannot be read"):
        dataset(tokenizer, JsonLines(pictures / "a.jsonl"))[0, 5]


def test_a_record_without_captions(tokenizer):
    record = Record(image=Scenes(n=1)[0].image, captions=(), image_id="x", key="a.jsonl:7")
    with pytest.raises(UserError, match=r"a.jsonl:7: no caption"):
        dataset(tokenizer, [record])[0, 0]


# -- collation --


def sample(ids, masked=None, **options):
    return Sample(pixels=torch.zeros(3, 4, 4), ids=ids, image_id=1, caption_id=2, key="k", masked=masked, **options)


def test_padding_and_masks():
    samples = [
        sample([2, 7, 8, 9], ([2, 4, 8, 4], [1, 3], [7, 9])),
        sample([2, 5], ([2, 5], [], [])),
        sample([2, 6, 5], ([2, 6, 4], [2], [5])),
    ]
    batch = Collator(pad_id=1, max_tokens=10, multiple=1)(samples)
    assert batch.ids.tolist() == [[2, 7, 8, 9], [2, 5, 1, 1], [2, 6, 5, 1]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, False, False], [True, True, True, False]]
    masked = batch.masked
    assert masked.ids.tolist() == [[2, 4, 8, 4], [2, 5, 1, 1], [2, 6, 4, 1]]
    assert masked.positions.tolist() == [[1, 3], [0, 0], [2, 0]]
    assert masked.labels.tolist() == [7, 9, 5]
    assert masked.index.tolist() == [0, 1, 4]
    # the entries that the index picks are the hidden ones
    rows = masked.index // masked.positions.shape[1]
    assert batch.ids[rows, masked.positions.flatten()[masked.index]].tolist() == masked.labels.tolist()


@pytest.mark.parametrize(("longest", "width"), [(3, 8), (8, 8), (9, 10), (10, 10)])
def test_lengths_are_rounded_up_but_not_beyond_the_limit(longest, width):
    hidden = sample([2, 5], ([2, 4], [1], [5]))
    batch = Collator(pad_id=0, max_tokens=10)([sample([2] * longest, ([2] * longest, [], [])), hidden])
    assert batch.masked.ids.shape == (2, width)
    assert batch.masked.positions.shape == (2, 8)
    assert batch.masked.index.tolist() == [8]
    assert batch.ids.shape == (2, width)
    assert batch.mask.sum(1).tolist() == [longest, 2]


def test_nothing_masked_and_no_masking():
    batch = Collator(pad_id=0, max_tokens=5, multiple=1)([sample([2, 7], ([2, 7], [], []))])
    assert batch.masked.positions.shape == (1, 1)
    assert batch.masked.index.shape == batch.masked.labels.shape == (0,)
    assert batch.masked.labels.dtype == torch.int64
    some = [sample([2, 7], ([2, 7], [], [])), sample([2, 7])]  # rows of the masked text are those of the batch
    assert Collator(pad_id=0, max_tokens=5)(some[1:]).masked is Collator(pad_id=0, max_tokens=5)(some).masked is None


def test_texts_are_as_long_as_this_ranks_longest(words):
    for world in (1, 2):
        [batch] = load(dataset(words, Scenes(n=50, max_emoji=1, size=48)), rank_batch=4, steps=1, world=world)
        assert batch.ids.shape[1] == -(-int(batch.mask.sum(1).max()) // 8) * 8 < 24


def test_unequal_pictures_have_one_canvas_on_several_ranks_alone(words):
    data = replace(dataset(words, masking=None), transform=KeepShapeTrain(size=32, longest=64))
    loaders = [load(data, rank_batch=4, steps=1, world=world) for world in (1, 2)]
    assert [loader.collate_fn.canvas for loader in loaders] == [None, data.transform.canvas]
    [batch] = loaders[1]
    assert batch.pixels.shape[2:] == data.transform.canvas


def test_targets():
    out = RawTargets().collate(
        [
            {"label": 1, "weight": 0.5, "box": torch.ones(4), "answers": ["a"]},
            {"label": 2, "weight": 1, "box": torch.zeros(4), "answers": [], "extra": 3},
        ]
    )
    assert out["label"].tolist() == [1, 2]
    assert out["label"].dtype == torch.int64
    assert out["weight"].tolist() == [0.5, 1.0]
    assert out["box"].shape == (2, 4)
    assert out["answers"] == [["a"], []]
    assert out["extra"] == [None, 3]


def test_ids_are_stable_and_equal_for_equal_words(words):
    assert stable_id("\udce9.png") != stable_id("e.png")  # a path that is no text
    assert stable_id("a dog") == 9_151_722_581_430_185_315  # on every machine
    image = Scenes(n=1)[0].image
    records = [Record(image=image, captions=(c,), image_id=i, key=i) for c, i in [("A dog", "1"), ("a dog", "2")]]
    data = dataset(words, records, masking=None)
    one, other = data[0, 0], data[0, 1]
    assert one.caption_id == other.caption_id
    assert one.image_id != other.image_id
