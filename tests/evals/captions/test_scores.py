"""BLEU, ROUGE-L and CIDEr-D equal the published scorers on random words, and say what they refuse."""

from __future__ import annotations

from random import Random

import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from mmkit.errors import UserError
from mmkit.evals.captions.scores import Written, bleu, cider_d, longest_common, rouge_l


def drawn(seed: int) -> list[Written]:
    """Few words, so that they repeat; empty candidates, single references, words that no reference has."""
    rng = Random(seed)
    words = [f"w{i}" for i in range(rng.choice([2, 8, 30]))]

    def text(least: int) -> list[str]:
        return [rng.choice(words) for _ in range(rng.randint(least, 11))]

    pictures = [Written(candidate=text(0), references=[text(1) for _ in range(rng.randint(1, 5))]) for _ in range(12)]
    return [*pictures, Written(candidate=["other", *text(3)], references=[text(6)])]


@pytest.mark.parametrize("seed", range(8))
def test_they_equal_the_published_scorers(seed):
    written = drawn(seed)
    texts = [(" ".join(one.candidate), [" ".join(words) for words in one.references]) for one in written]
    theirs, cider = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    for candidate, references in texts:
        theirs += (candidate, references)
        cider += (candidate, references)
    assert bleu(written) == pytest.approx(theirs.compute_score(option="closest")[0], abs=1e-12, rel=1e-12)
    assert cider_d(written) == pytest.approx(cider.compute_score()[1].tolist(), abs=1e-9)
    rouge = [Rouge().calc_score([candidate], references) for candidate, references in texts]
    assert rouge_l(written) == pytest.approx(rouge, abs=1e-12)


def test_a_whole_copy_has_the_highest_score():
    references = [["a", "red", "canoe", "lies", "there"], ["a", "canoe"]]
    other = Written(candidate=["an", "owl", "looks", "at", "me"], references=[["an", "owl", "looks", "at", "me"]])
    written = [Written(candidate=references[0], references=references[:1]), other]
    assert bleu(written) == pytest.approx((1.0,) * 4)
    assert rouge_l(written) == pytest.approx([1.0, 1.0])
    assert cider_d(written) == pytest.approx([10.0, 10.0])


def test_one_picture_has_no_cider():
    with pytest.raises(UserError, match="one picture"):
        cider_d(drawn(0)[:1])


def test_a_caption_without_a_reference_is_refused():
    with pytest.raises(UserError, match="reference"):
        Written(candidate=["a"], references=[])


def test_the_longest_common_sequence_may_have_gaps():
    assert longest_common(["a", "b", "c", "d", "e"], ["x", "a", "c", "y", "e"]) == 3
    assert longest_common([], ["a"]) == 0
