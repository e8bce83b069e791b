"""Groups of queries in training, and what captions tell of that nobody boxed, for Grounding DINO."""

from dataclasses import replace

import torch

from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.truth import Truth, truth_of
from projects.grounding.layers import Decoder, Found, Map, Selected, Words
from projects.grounding.losses import focal, guesses_of, matches_of, sums
from projects.grounding.test_head import batch, prompts, task


def decoded(groups, training, real=None):
    torch.manual_seed(0)
    decoder = Decoder(3, 2, 16, 2, 16, 0.0, groups=groups).train(training)
    torch.nn.init.normal_(decoder.box.layers[-1].weight)
    seen = Map(torch.randn(2, 6, 16), torch.randn(1, 6, 16), ((2, 3),), None)
    prompt = prompts([["cat", "dog"], ["dog"]])
    words = Words(torch.randn(*prompt.ids.shape, 16), prompt.mask, prompt.reads, prompt.positions)
    start = Selected(torch.rand(2, 3, 4) * 0.4 + 0.2, torch.zeros(2, 3, prompt.ids.shape[1]), real)
    return decoder, decoder(start, seen, words), (start, seen, words)


def test_groups_of_queries_do_not_read_each_other_and_the_first_serves():
    decoder, found, given = decoded(2, True)
    assert found.logits.shape[:3] == (4, 2, 3)  # layer by layer, the groups of each after one another
    served = decoder.eval()(*given)
    torch.testing.assert_close(found.boxes[[0, 2]], served.boxes)
    torch.testing.assert_close(found.logits[[0, 2]], served.logits)
    assert (found.boxes[1] - found.boxes[0]).abs().max() > 1e-3
    with torch.no_grad():
        decoder.content.weight[3:] += 1.0  # the second group's
    again = decoder.train()(*given)
    torch.testing.assert_close(again.boxes[[0, 2]], found.boxes[[0, 2]])
    assert (again.boxes[3] - found.boxes[3]).abs().max() > 1e-3


def test_queries_that_are_not_there_are_read_by_none_of_any_group():
    real = torch.tensor([[True, True, False], [True, True, True]])
    decoder, found, (start, seen, words) = decoded(2, True, real)
    with torch.no_grad():
        decoder.content.weight[2] += 5.0
        decoder.content.weight[5] += 5.0
    again = decoder(start, seen, words)
    torch.testing.assert_close(again.boxes[:, 0, :2], found.boxes[:, 0, :2])
    assert (again.boxes[2:, 1, :2] - found.boxes[2:, 1, :2]).abs().max() > 1e-3


def test_groups_of_one_content_teach_what_one_group_teaches():
    made = batch([["cat", "dog"], ["st. bernard"]], [[2, 3, 20, 17], [25, 8, 45, 30]], [1, 0], [0, 0])
    one, two = task(), task(groups=2)
    state = one.state_dict()
    content = "heads.ground.decoder.content.weight"
    two.load_state_dict({name: torch.cat([v, v]) if name == content else v for name, v in state.items()})
    expected, found = one(made, 0), two(made, 0)
    for name, value in expected.losses.items():
        torch.testing.assert_close(found.losses[name], value)


def told_of(logits, boxes, told, **more):
    """What answers for "cat" and "dog" of one picture, in which a dog is boxed, when these phrases are told."""
    prompt = prompts([["cat", "dog"]])
    size = prompt.ids.shape[1]
    said = torch.full((1, 1, len(logits), size), -5.0)
    for query, (cat, dog) in enumerate(logits):
        said[0, 0, query, prompt.phrase[0] == 0], said[0, 0, query, prompt.phrase[0] == 1] = cat, dog
    found = Found(said, torch.tensor(boxes)[None, None], more.get("real"))
    padded = torch.tensor([[[0.25, 0.25, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]]])
    truth = Truth(padded, torch.tensor([[1, 0]]), torch.tensor([1]), torch.tensor([0]))
    matches = matches_of(found, prompt, truth, Costs(label=2.0))
    told = torch.tensor(told, dtype=torch.int64).view(-1, 2)
    return prompt, found, truth, matches, guesses_of(found, prompt, truth, matches, told), told


WHOLE = [0.5, 0.5, 1.0, 1.0]
HERE, BESIDE, THERE, FAR = [0.25, 0.25, 0.2, 0.2], [0.26, 0.25, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.8, 0.2, 0.1, 0.1]


def test_what_is_told_is_looked_for_where_it_is_said_most_and_nothing_is_boxed():
    logits = [(0.0, 3.0), (2.0, 0.0), (1.0, -2.0), (-1.0, -2.0)]
    *_, matches, guesses, _ = told_of(logits, [HERE, BESIDE, THERE, FAR], [[0, 0]])
    assert matches.query.tolist() == [0]
    assert guesses.query.tolist() == [2]  # 1 says it more, and is about the boxed dog
    real = torch.tensor([[True, True, False, True]])
    *_, guesses, _ = told_of(logits, [HERE, BESIDE, THERE, FAR], [[0, 0]], real=real)
    assert guesses.query.tolist() == [3]
    *_, guesses, _ = told_of(logits[:2], [HERE, BESIDE], [[0, 0]])
    assert len(guesses.query) == 0  # nobody is left
    *_, guesses, _ = told_of(logits, [HERE, BESIDE, THERE, FAR], [])
    assert len(guesses.query) == 0
    *_, guesses, _ = told_of(logits, [HERE, BESIDE, WHOLE, FAR], [[0, 0]])
    assert guesses.query.tolist() == [2]  # padding is no box that it could be about


def test_a_query_that_is_not_there_answers_for_nothing_and_is_not_asked():
    logits, boxes = [(0.0, 3.0), (2.0, 0.0), (1.0, -2.0)], [HERE, BESIDE, THERE]
    real = torch.tensor([[False, True, True]])
    prompt, found, truth, matches, *_ = told_of(logits, boxes, [], real=real)
    assert matches.query.tolist() == [1]
    total, _ = sums(found, prompt, truth, matches)
    true = torch.zeros_like(found.logits)
    true[0, 0, 1] = (prompt.phrase[0] == 1).float()
    torch.testing.assert_close(total.label, focal(found.logits, true)[0, 0, 1:].sum())


def test_the_overlap_that_is_told_is_that_of_the_last_layer():
    t, made = task(groups=2), batch([["cat", "dog"]], [[2, 3, 20, 17], [25, 8, 45, 30]], [1, 0], [0, 0])
    head, f = t.heads["ground"], t.features(made, 0)
    found, _ = head.find(f, made.targets["prompt"])
    last, truth = Found(found.logits[-2:], found.boxes[-2:], None), truth_of(f)
    _, iou = sums(last, made.targets["prompt"], truth, matches_of(last, made.targets["prompt"], truth, head.costs))
    told, count = head(f).logs["iou"]
    assert (count, len(iou)) == (4, 4)
    torch.testing.assert_close(told, iou.mean())


def test_what_is_told_counts_as_a_box_does_in_the_loss_of_words_and_in_no_other():
    made = told_of([(0.0, 3.0), (2.0, 0.0), (1.0, -2.0)], [HERE, BESIDE, THERE], [[0, 0]])
    prompt, found, truth, matches, guesses, told = made
    plain, _ = sums(found, prompt, truth, matches)
    total, _ = sums(found, prompt, truth, matches, guesses, told)
    own = found.logits[0, 0, 2, prompt.phrase[0] == 0]
    wanted = focal(own, torch.ones_like(own)).sum() - focal(own, torch.zeros_like(own)).sum()
    torch.testing.assert_close(total.label - plain.label, wanted)
    assert (total.box, total.giou) == (plain.box, plain.giou)
    t = task(told=True)
    images = batch([["cat", "dog"], ["st. bernard"]], [[2, 3, 20, 17]], [1], [0])
    images = replace(images, targets={**images.targets, "told": torch.tensor([[0, 0], [1, 0]])})
    counts = t.count([images], 0, torch.device("cpu")).totals
    assert (counts["ground.label"], counts["ground.box"]) == (3, 1)  # a box, and two that are told
