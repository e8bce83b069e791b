import itertools

import pytest
import torch

from mmkit.evals.recall import (
    Relevance,
    chance_at,
    hits_at,
    places,
    recall_of,
    top_k,
)


def reference_rank(scores, relevant):
    """Sort by (score descending, index ascending) and look for the first relevant one."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return next((place for place, i in enumerate(order) if i in relevant), len(scores))


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_those_of_sorting_with_ties_and_many_relevant(seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (40, 17), generator=g).float()
    rows = [[i for i in range(17) if torch.rand((), generator=g) < 0.2] for _ in range(40)]
    relevance = Relevance.of(rows, 17)
    ranks = torch.cat(
        [places(scores[a : a + 7], relevance.mask(range(a, min(40, a + 7))))[:, 0] for a in range(0, 40, 7)]
    )
    wanted = [reference_rank(s, set(r)) for s, r in zip(scores.tolist(), rows, strict=True)]
    assert ranks.tolist() == wanted
    none = places(scores, torch.zeros(40, 17, dtype=torch.bool))
    assert none.tolist() == [[17, 17, 1, 0]] * 40


@pytest.mark.parametrize("k", [1, 4, 17, 30])
def test_top_k_takes_the_lower_index_of_equals(k):
    scores = torch.randint(0, 4, (50, 17), generator=torch.Generator().manual_seed(1)).float()
    wanted = [sorted(sorted(range(17), key=lambda i: (-s[i], i))[:k]) for s in scores.tolist()]
    assert top_k(scores, k).tolist() == wanted


def test_chance_is_the_mean_over_all_orders():
    counts, n = torch.tensor([1, 2, 4]), 5
    for k in (1, 2, 3, 10):
        orders = list(itertools.permutations(range(n)))
        wanted = sum(sum(any(o < r for o in order[:k]) for order in orders) / len(orders) for r in counts.tolist()) / 3
        assert chance_at(counts, n, [k])[k] == pytest.approx(wanted, abs=1e-12)


def test_a_model_that_scores_everything_alike_is_at_chance_not_perfect():
    relevance = Relevance.of([[i] for i in range(50)], 50)
    found = places(torch.zeros(50, 50), relevance.mask(range(50)))
    assert (found[:, 0] < 1).sum() == 1
    assert recall_of(found, [1])[1] == pytest.approx(1 / 50)


def drawn(scores, right, k):
    """The share of all orders, of equal candidates among themselves, with a right one among the first k."""
    orders = [
        order for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]  # fmt: skip
    return sum(any(i in right for i in order[:k]) for order in orders) / len(orders)


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_are_a_draw(seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (12, 6), generator=g).float()
    rows = [[i for i in range(6) if torch.rand((), generator=g) < 0.3] for _ in range(11)] + [[]]
    found = places(scores, Relevance.of(rows, 6).mask(range(12)))
    for k in (1, 2, 5, 6, 9):
        wanted = [drawn(s, set(r), k) for s, r in zip(scores.tolist(), rows, strict=True)]
        assert recall_of(found, [k])[k] == pytest.approx(sum(wanted) / 12, abs=1e-12)
        labels = torch.randint(0, 6, (12,), generator=g)
        hits = [drawn(s, {label}, k) for s, label in zip(scores.tolist(), labels.tolist(), strict=True)]
        assert hits_at(scores, labels, k).tolist() == pytest.approx(hits, abs=1e-12)


def test_without_equal_scores_a_draw_is_the_rank():
    scores = torch.rand(200, 30, generator=torch.Generator().manual_seed(5))
    relevant = torch.rand(200, 30, generator=torch.Generator().manual_seed(6)) < 0.1
    found = places(scores, relevant)
    assert torch.equal(found[:, 0], found[:, 1])
    assert recall_of(found) == {k: (found[:, 0] < k).double().mean().item() for k in (1, 5, 10)}
