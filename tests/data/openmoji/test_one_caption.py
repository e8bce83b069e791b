"""Records with the caption alone that training reads are the whole ones but for what nobody asks them for."""

import pickle

import pytest
import torch

from mmkit.data.boxes import IN_PICTURE
from mmkit.data.images.planes import to_planes
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.openmoji.crowded import Crowded
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.openmoji.hypotheses import Hypotheses
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.openmoji.questions import Questions
from mmkit.data.openmoji.scenes import Scenes, Singles, Unseen
from mmkit.data.phrases import Phrases
from mmkit.data.records import Record, by_one_caption
from mmkit.data.targets import Given
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.pieces import SentencePieceTokenizer

SEVERAL = {"language": ("en", "en", "zh", "de"), "size": 32}


class Hidden:
    """The records of a source, as one that knows nothing of single captions gives them."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]


@pytest.fixture(scope="module")
def words():
    return SentencePieceTokenizer.train([*Scenes(n=200).captions(), *Questions(n=50).captions()], vocab_size=300)


@pytest.mark.parametrize("source", [
    Scenes(n=30, plain=True, paraphrases=2, **SEVERAL), Scenes(n=30, **SEVERAL), Singles(plain=True, **SEVERAL),
    Unseen(**SEVERAL), Questions(n=9, size=32), Pairs(n=9, size=32), Hypotheses(n=9, size=32), Crowded(n=9, size=96),
    Expressions(n=9, size=32),
], ids=lambda source: type(source).__name__)  # fmt: skip
def test_it_is_the_record_with_the_caption_that_was_chosen(source):
    for index in range(9):
        whole, asked = source[index], []
        one = source.with_one_caption(index, lambda count, of=asked, at=index: of.append(count) or at % count)
        assert asked == [len(whole.captions)]
        assert one.captions == (whole.captions[index % len(whole.captions)],)
        assert (one.key, one.image_id) == (whole.key, whole.image_id)
        assert one.image.tobytes() == whole.image.tobytes()
        for key in whole.targets.keys() - IN_PICTURE - {"second"}:
            assert one.targets[key] == whole.targets[key]
        assert whole.targets.keys() - IN_PICTURE <= one.targets.keys() <= whole.targets.keys()
    for beyond in (-1, len(source)):
        with pytest.raises(IndexError):
            source.with_one_caption(beyond, lambda count: 0)


def batches(words, source, **options):
    data = PairDataset(
        source=source, tokenizer=words, max_tokens=16, masking=Masking(probability=0.3, whole_word=True),
        **{"transform": TrainTransform(size=32, scale=(1.0, 1.0), randaugment=None), **options},
    )  # fmt: skip
    return list(make_loader(data, StepSampler(len(data), rank_batch=5, steps=5)))


@pytest.mark.parametrize("source", [
    Scenes(n=12, plain=True, **SEVERAL), Scenes(n=12, **SEVERAL), Questions(n=12, plain=True, size=32),
], ids=["plain", "coloured", "questions"])  # fmt: skip
def test_batches_are_the_same_by_whole_records(words, source):
    assert by_one_caption(source) is not None
    assert by_one_caption(Hidden(source)) is None
    for one, whole in zip(batches(words, source), batches(words, Hidden(source)), strict=True):
        for name in ("pixels", "ids", "caption_id", "image_id"):
            assert torch.equal(getattr(one, name), getattr(whole, name))
        assert torch.equal(one.masked.ids, whole.masked.ids)
        assert one.keys == whole.keys
        assert str(one.targets) == str(whole.targets) != "{}"


def test_who_reads_boxes_and_phrases_gets_them(words):
    source = Scenes(n=12, plain=True, **SEVERAL)
    targets = Phrases(Given(tokenizer=words, source=source), max_tokens=16)
    for one, whole in zip(
        batches(words, source, targets=targets), batches(words, Hidden(source), targets=targets), strict=True
    ):
        assert torch.equal(one.targets["boxes"], whole.targets["boxes"])
        assert one.targets["phrases"] == whole.targets["phrases"] != []
    as_they_are = batches(words, source, transform=lambda image, caption, rng: (to_planes(image).float(), caption))
    assert all(len(batch.targets["boxes"]) == 5 for batch in as_they_are)  # of a transform that may crop nothing


def test_a_class_that_changes_records_alone_is_asked_for_these(words):
    class Told(Scenes):
        def __getitem__(self, index):
            whole = super().__getitem__(index)
            return Record(image=whole.image, captions=("a cat",), image_id="1", key="told")

    source = Told(n=12, plain=True, size=32)
    assert by_one_caption(source) is None
    assert all(set(batch.keys) == {"told"} for batch in batches(words, source))


def test_a_data_set_that_was_read_travels_to_a_worker(words):
    data = PairDataset(source=Scenes(n=5, size=32), transform=TrainTransform(size=32), tokenizer=words, max_tokens=9)
    first = data[0, 3]
    again = pickle.loads(pickle.dumps(data))[0, 3]
    assert torch.equal(first.pixels.bytes, again.pixels.bytes)
    assert first.ids == again.ids
