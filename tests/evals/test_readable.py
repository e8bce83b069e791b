"""``--max-bad``: the pictures that cannot be read are left out, all else of the source stays."""

import pytest

from mmkit.errors import UserError
from mmkit.evals.classes import with_classes
from mmkit.evals.common import EVERY_PICTURE
from mmkit.evals.readable import readable
from mmkit.evals.retrieval import Pairs, Retrieval
from mmkit.evals.zeroshot import ZeroShot
from tests.evals.parts import COLOURS, Pictures, predictor


def silent(what, done, total):
    pass


def test_what_can_be_read_stays():
    source, told = Pictures(9, broken=4), []
    kept, bad = readable(source, 0.2, lambda *args: told.append(args))
    assert [message.partition(";")[0] for message in bad] == ["picture 4: not a picture in a known format"]
    assert [record.key for record in map(kept.__getitem__, range(len(kept)))] == [
        f"picture {i}" for i in range(9) if i != 4
    ]
    assert told[-1] == ("looking for bad pictures", 9, 9)
    assert kept.class_names == COLOURS
    assert list(kept.target("label")) == [COLOURS[i] for i in range(9) if i != 4]
    assert Pairs.read(kept).texts == [text for i in range(9) if i != 4 for text in source[i].captions]
    relabelled, names = with_classes(kept, None)
    assert (len(relabelled), len(names)) == (8, 11)
    model = predictor()
    assert ZeroShot(source=kept)(model)["n"] == 8
    assert Retrieval(source=kept)(model)["images"] == 8


def test_a_good_source_stays_itself():
    source = Pictures(5)
    assert readable(source, 0.0, silent) == (source, [])


def test_too_many_are_an_error():
    with pytest.raises(
        UserError, match=r"1 of 9 pictures cannot be read, more than the 10 % that may be left out:\n  picture 4: not"
    ):
        readable(Pictures(9, broken=4), 0.1, silent)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="give a share"):
            readable(Pictures(9), share, silent)


@pytest.mark.parametrize("evaluator", [ZeroShot, Retrieval])
def test_without_it_the_first_bad_picture_says_what_to_do(evaluator):
    with pytest.raises(UserError, match=r"^picture 4: not a picture in a known format.*\. An evaluation reads every"):
        evaluator(source=Pictures(9, broken=4))(predictor())
    assert "--max-bad" in EVERY_PICTURE


def test_what_is_kept_knows_the_splits_of_its_source():
    class Split(Pictures):
        splits = ("val", "test")

    assert readable(Split(9, broken=4), 0.2, silent)[0].splits == ("val", "test")
    assert readable(Pictures(9, broken=4), 0.2, silent)[0].splits == ()
