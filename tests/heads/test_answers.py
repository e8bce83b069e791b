"""The two heads that answer questions: losses by hand, ranking, writing, and what they take from pre-training."""

import math
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch

from mmkit.data.records import Record
from mmkit.data.targets import AnswerScores, AnswerTokens, Given, answer_ids, make_targets
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.answers import decoder
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.inference.answering import Answering, candidates_of
from mmkit.nn.attention import SelfAttention
from mmkit.task import Task
from mmkit.train.checks import check_classes
from mmkit.train.loop import train
from mmkit.types import Batch, Fused, Tokens
from tests.sizes import albef_tiny
from tests.train.fakes import Squares, change, tiny

WORDS = ["red", "blue", "big dogs", "yes", "no", "red ball"]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(["what colour is the ball", *WORDS] * 3, 64)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return albef_tiny(tokenizer.vocab_size)


def batch_of(tokenizer, targets):
    size = 3
    ids = torch.randint(5, tokenizer.vocab_size, (size, 6))
    mask = torch.ones(size, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return Batch(
        pixels=torch.randn(size, 3, 32, 32), ids=ids, mask=mask, image_id=torch.arange(size),
        caption_id=torch.arange(size), targets=targets,
    )  # fmt: skip


def encoded(encoder, answers):
    return encoder.collate([encoder.encode({"answers": a, "question_id": 1}, Random(0)) for a in answers])


ANSWERS = [["red", "red", "blue", "red"], ["big dogs"], ["yes", "no"]]


def fused_of(model, size=3):
    torch.manual_seed(1)
    mask = torch.ones(size, 5, dtype=torch.bool)
    mask[0, 3:] = False
    return Fused(Tokens(torch.randn(size, 5, model.spec.fused_width), mask))


def test_answer_tokens_are_weighted_by_annotators(tokenizer):
    made = encoded(AnswerTokens(Given(tokenizer=tokenizer)), ANSWERS)
    assert made["answer_of"].tolist() == [0, 0, 1, 2, 2]
    assert made["answer_weight"].tolist() == pytest.approx([0.75, 0.25, 1, 0.5, 0.5])
    rows = [answer_ids(tokenizer, a, 16) for a in ("red", "blue", "big dogs", "yes", "no")]
    assert made["answer_labels"].tolist() == [i for row in rows for i in row[1:]]
    inputs = made["answer_ids"].flatten()[made["answer_index"]].tolist()
    assert inputs == [i for row in rows for i in row[:-1]]
    assert all(row[0] == tokenizer.cls_id and row[-1] == tokenizer.sep_id for row in rows)


def test_weight_of_a_record(tokenizer):
    encoder = AnswerTokens(Given(tokenizer=tokenizer))
    assert encoder.encode({"answers": ["red"], "weight": 0.5}, Random(0))["weights"] == [0.5]


def test_answer_scores_follow_the_annotators():
    many = ["red"] * 4 + ["blue"] * 2 + ["green"] * 3 + ["odd"]
    made = encoded(AnswerScores(Given(), ["red", "blue", "green"]), [many, ["blue"], ["odd"]])
    expected = torch.tensor([[1.0, 0.6, 0.9], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(made["answer_scores"], expected)


@pytest.mark.parametrize("answers", [[], None, "", [""], [3]])
def test_answers_that_are_none(tokenizer, answers):
    with pytest.raises(UserError, match='"answers" must be a list'):
        AnswerTokens(Given(tokenizer=tokenizer)).encode({"answers": answers}, Random(0))


def test_make_targets_gives_what_is_accepted(tokenizer):
    assert make_targets(partial(AnswerTokens, max_tokens=4), Given(tokenizer=tokenizer)).tokenizer is tokenizer
    assert make_targets(partial(AnswerScores, answers=["a"]), Given(tokenizer=tokenizer)).number == {"a": 0}


def test_answers_that_the_training_data_never_have_are_refused_before_training(tokenizer):
    questions = [
        Record(image=b"", captions=("what?",), image_id="1", key=str(i), targets={"answers": [WORDS[i % 2]]})
        for i in range(50)
    ]
    with pytest.raises(UserError, match=r"0\.0% of 50 questions; missing, for example: 'red' \(25\)"):
        make_targets(partial(AnswerScores, answers=["cat", "dog"]), Given(tokenizer=tokenizer, source=questions))
    make_targets(partial(AnswerScores, answers=WORDS), Given(tokenizer=tokenizer, source=questions))


def test_decoder_loss_is_that_of_each_answer_alone(tokenizer, model):
    torch.manual_seed(2)
    head = AnswerDecoder(model.spec, depth=2, heads=2, dropout=0.0)
    batch = batch_of(tokenizer, encoded(AnswerTokens(Given(tokenizer=tokenizer)), ANSWERS))
    f = Features(model, batch)
    loss = head(f).loss
    fused, total = f.fused, 0.0
    for row, answers in enumerate([{"red": 0.75, "blue": 0.25}, {"big dogs": 1.0}, {"yes": 0.5, "no": 0.5}]):
        for answer, weight in answers.items():
            ids = torch.tensor([answer_ids(tokenizer, answer, 16)])
            one = Fused(Tokens(fused.text.x[row : row + 1], fused.text.full_mask()[row : row + 1]))
            states = head.decoder(ids[:, :-1], head.decoder.context(one.text))
            logits = head.vocabulary.logits(states, head.decoder.word_embeddings)[0]
            total += weight * torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    torch.testing.assert_close(loss, total / 3)


def test_rank_is_the_probability_of_the_whole_answer(tokenizer, model):
    torch.manual_seed(3)
    head = AnswerDecoder(model.spec, WORDS, depth=2, heads=2).eval()
    fused = fused_of(model)
    candidates = candidates_of(head, tokenizer, head.answers)
    numbers, values = head.rank(fused, candidates, top=6)
    assert values.sum(1).tolist() == pytest.approx([1, 1, 1])
    for row in range(3):
        scores = []
        for answer in WORDS:
            ids = torch.tensor([answer_ids(tokenizer, answer, 16)])
            one = Fused(Tokens(fused.text.x[row : row + 1], fused.text.mask[row : row + 1]))
            logits = head.vocabulary.logits(
                head.decoder(ids[:, :-1], head.decoder.context(one.text)), head.decoder.word_embeddings
            )
            scores.append(logits[0].log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
        expected = torch.stack(scores).softmax(0)
        assert numbers[row].tolist() == expected.argsort(descending=True).tolist()
        torch.testing.assert_close(values[row], expected.sort(descending=True).values)


def test_rank_reads_only_the_likeliest_first_tokens(tokenizer, model):
    torch.manual_seed(4)
    head = AnswerDecoder(model.spec, WORDS, depth=1, heads=2, top=2).eval()
    fused, candidates = fused_of(model), candidates_of(head, tokenizer, head.answers)
    numbers, values = head.rank(fused, candidates, top=2)
    assert numbers.shape == (3, 2)
    assert values.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert head.rank(fused, candidates, top=6)[0].shape == (3, 6)  # as many as are asked for


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("sharp", [0.0, 3.0])
def test_the_leading_answer_is_ranks_and_needs_fewer_candidates(tokenizer, model, monkeypatch, twice, sharp):
    monkeypatch.setattr(decoder, "FEW", 2)
    monkeypatch.setattr(decoder, "AT_ONCE", 2)
    texts = [*WORDS, "big red", "red dogs", "blue dogs", WORDS[0]]  # the first stands there twice, and is as good
    fused, firsts, ties, read = fused_of(model), set(), 0, []
    for seed in range(12):
        torch.manual_seed(seed)
        head = AnswerDecoder(model.spec, texts, depth=1, heads=2, first_token_twice=twice, top=len(texts)).eval()
        with torch.no_grad():  # words that are far likelier than others, after which an answer ends; or none of it
            head.vocabulary.bias.normal_(0, sharp)
            head.vocabulary.bias[tokenizer.sep_id] = 10 * sharp
        candidates = candidates_of(head, tokenizer, texts)
        numbers, values = head.rank(fused, candidates, len(texts))
        whole = head._log_probability
        monkeypatch.setattr(
            head, "_log_probability", lambda *given, w=whole: read.append(given[1][..., 0].numel()) or w(*given)
        )
        chosen, sure = head.leading(fused, candidates)
        assert chosen.shape == sure.shape == (3, 2)
        for row in range(3):
            best = {
                i
                for i, value in zip(numbers[row].tolist(), values[row].tolist(), strict=True)
                if value == values[row, 0]
            }
            assert chosen[row, 0].item() in best
            assert (sure[row, 0] == sure[row, 1]).item() == (len(best) > 1)
            firsts.add(min(best))
            ties += len(best) > 1
    assert len(firsts) > 2
    assert ties
    share = sum(read) / (12 * 3 * len(texts))
    assert share < 0.5 if sharp else share > 0.8


def test_first_token_twice_is_the_official_score(tokenizer, model):
    torch.manual_seed(5)
    head = AnswerDecoder(model.spec, WORDS, depth=1, heads=2).eval()
    fused, candidates = fused_of(model), candidates_of(head, tokenizer, head.answers)
    plain = torch.empty(3, len(WORDS)).scatter_(1, *head.rank(fused, candidates, 6))
    head.first_token_twice = True
    twice = torch.empty(3, len(WORDS)).scatter_(1, *head.rank(fused, candidates, 6))
    start = head.decoder(candidates.ids[:1, :1].expand(3, 1), head.decoder.context(fused.text))[:, 0]
    first = head.vocabulary.logits(start, head.decoder.word_embeddings).softmax(-1)[:, candidates.ids[:, 1]]
    expected = plain * first
    torch.testing.assert_close(twice, expected / expected.sum(1, keepdim=True))


def test_steps_with_a_cache_equal_the_whole(tokenizer, model):
    torch.manual_seed(6)
    head = AnswerDecoder(model.spec, depth=2, heads=2).eval()
    context = head.decoder.context(fused_of(model).text)
    ids = torch.randint(5, tokenizer.vocab_size, (3, 7))
    whole, past, steps = head.decoder(ids, context), None, []
    for part in (ids[:, :3], ids[:, 3:4], ids[:, 4:6], ids[:, 6:]):
        states, past = head.decoder.read(part, past, context)
        steps.append(states)
    torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_generate_writes_the_likeliest(tokenizer, model):
    torch.manual_seed(7)
    head = AnswerDecoder(model.spec, depth=2, heads=2, max_tokens=6).eval()
    fused = fused_of(model)
    written, probabilities = head.generate(fused, tokenizer.cls_id, tokenizer.sep_id)
    answering = Answering(head=head, tokenizer=tokenizer)
    texts = [answer for ((answer, _),) in answering.best(fused, 1)]
    assert written.shape == (3, written.shape[1])
    for row in range(3):
        one = head.decoder.context(Tokens(fused.text.x[row : row + 1], fused.text.mask[row : row + 1]))
        ids, log = [tokenizer.cls_id], 0.0
        while len(ids) < 6:
            states = head.decoder(torch.tensor([ids]), one)[:, -1]
            best = head.vocabulary.logits(states, head.decoder.word_embeddings)[0].log_softmax(-1).max(0)
            log += best.values.item()
            ids.append(best.indices.item())
            if ids[-1] == tokenizer.sep_id:
                break
        assert texts[row] == tokenizer.decode([i for i in ids[1:] if i != tokenizer.sep_id])
        assert probabilities[row].item() == pytest.approx(math.exp(log), rel=1e-4)


def test_the_decoder_inherits_the_fusion_stack(model):
    from mmkit.heads.mlm import MLM

    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    state |= {f"heads.mlm.{k}": v for k, v in MLM(model.spec).state_dict().items()}
    head = AnswerDecoder(model.spec, depth=2, heads=2, max_tokens=8)
    found = head.inherit(state)
    fresh = {name for name, _ in head.named_parameters()} - found.keys()
    assert fresh
    assert all(name.startswith("decoder.blocks.1.") for name in fresh)  # the model has one fusion layer
    torch.testing.assert_close(found["decoder.blocks.0.cross.q.weight"], state["model.fusion.blocks.0.cross.q.weight"])
    torch.testing.assert_close(found["vocabulary.bias"], state["heads.mlm.bias"])
    assert len(found["decoder.embeddings.positions.weight"]) == 8


def test_the_classifier_inherits_the_pooler_of_the_matching_head(model):
    from mmkit.heads.itm import ITM

    state = {f"heads.itm.{k}": v for k, v in ITM(model.spec, pooler=True).state_dict().items()}
    head = AnswerClassifier(model.spec, ["red", "blue"], pooler=True)
    found = head.inherit(state)
    assert found.keys() == {"pool.weight", "pool.bias"}
    assert found["pool.weight"] is state["heads.itm.pool.weight"]
    assert head.inherit({}) == AnswerClassifier(model.spec, ["red", "blue"]).inherit(state) == {}


def test_classifier_loss_leaves_out_unknown_answers(tokenizer, model):
    torch.manual_seed(8)
    head = AnswerClassifier(model.spec, ["red", "blue"])
    batch = batch_of(tokenizer, encoded(AnswerScores(Given(), ["red", "blue"]), [["red"], ["odd"], ["blue"]]))
    f = Features(model, batch)
    out = head(f)
    logits = head.logits(f.fused)
    rows = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([[1.0, 0], [0, 0], [0, 1]]), reduction="none"
    ).sum(1)
    torch.testing.assert_close(out.loss, (rows[0] + rows[2]) / 2)
    assert float(out.count) == 2


@pytest.mark.parametrize("answers", [["two", "2", "yes"], ["T-shirt", "t shirt"], ["red", "the red"], ["red", "red"]])
def test_answers_that_are_one_when_normalised_are_no_two_classes(model, answers):
    for make in (partial(AnswerScores, Given()), partial(AnswerClassifier, model.spec)):
        with pytest.raises(UserError, match=r"same answer|stands there twice"):
            make(answers)


def test_targets_of_another_list_are_refused(tokenizer, model):
    head = AnswerClassifier(model.spec, ["red", "blue"])
    targets = encoded(AnswerScores(Given(), ["red", "blue", "two"]), [["red"], ["blue"], ["two"]])
    with pytest.raises(UserError, match="score 3 answers, and the classifier has 2"):
        head(Features(model, batch_of(tokenizer, targets)))
    head = AnswerClassifier(model.spec, ["Red", "two", "blue"])
    check_classes({"answer": head}, AnswerScores(Given(), ["red", "2", "the blue"]))
    for other, says in (
        (["red", "blue", "two"], "as class 1 'two' there, 'blue' here"), (["red", "two"], "3 and 2 answers"),
        (["red", "two", "blue", "no"], "3 and 4 answers"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"heads\.answer and data\.targets have other lists.*{says}"):
            check_classes({"answer": head}, AnswerScores(Given(), other))


def test_a_run_with_two_lists_is_refused_before_it_begins(tmp_path):
    exp = tiny(heads={"answer": partial(AnswerClassifier, answers=("red", "blue"))})
    exp = change(exp, data=dict(train=partial(Asked), targets=partial(AnswerScores, answers=("blue", "red"))))
    with pytest.raises(UserError, match="as class 0 'red' there, 'blue' here"):
        train(exp, tmp_path / "run")


class Asked(Squares):
    """Squares with an answer each."""

    def __getitem__(self, index):
        return replace(super().__getitem__(index), targets={"answers": [("red", "blue")[index % 2]]})


def test_classifier_ranks_only_what_it_knows(tokenizer, model):
    head = AnswerClassifier(model.spec, ["red", "blue", "green"])
    with pytest.raises(UserError, match="'pink'"):
        candidates_of(head, tokenizer, ["red", "pink"])
    chosen = candidates_of(head, tokenizer, ["green", "red"])
    numbers, values = head.rank(fused_of(model), chosen, top=5)
    logits = head.logits(fused_of(model))[:, [2, 0]]
    torch.testing.assert_close(values, logits.sigmoid().sort(dim=1, descending=True).values)
    assert numbers.shape == (3, 2)


def test_a_classifier_with_a_pooler_reads_a_pooled_state(tokenizer, model):
    torch.manual_seed(3)
    plain = AnswerClassifier(model.spec, WORDS)
    pooled = AnswerClassifier(model.spec, WORDS, pooler=True)
    names = {name for name, _ in plain.named_parameters()}
    assert {name for name, _ in pooled.named_parameters()} - names == {"pool.weight", "pool.bias"}
    assert pooled.pool.bias.count_nonzero() == 0
    assert pooled.pool.weight.std() > 0.01
    torch.nn.init.normal_(pooled.pool.bias)
    fused = fused_of(model)
    plain.load_state_dict({name: value for name, value in pooled.state_dict().items() if not name.startswith("pool.")})
    states = torch.tanh(fused.text.x @ pooled.pool.weight.T + pooled.pool.bias)
    torch.testing.assert_close(pooled.logits(fused), plain.logits(Fused(Tokens(states, fused.text.mask))))
    assert not torch.allclose(pooled.logits(fused), plain.logits(fused), atol=1e-3)
    answers = encoded(AnswerScores(Given(), WORDS), [["red"], ["big dogs"], ["no"]])
    pooled(Features(model, batch_of(tokenizer, answers))).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in pooled.parameters())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["decoder", "classifier", "classes"])
def test_a_task_with_a_teacher_learns_its_samples(tokenizer, kind, seed):
    torch.manual_seed(seed)
    model = albef_tiny(tokenizer.vocab_size)
    answers = [["red"], ["big dogs"], ["no"]]
    if kind == "decoder":
        head, targets = (
            AnswerDecoder(model.spec, WORDS, depth=1, heads=2),
            encoded(AnswerTokens(Given(tokenizer=tokenizer)), answers),
        )
    elif kind == "classifier":
        head, targets = AnswerClassifier(model.spec, WORDS), encoded(AnswerScores(Given(), WORDS), answers)
    else:
        head, targets = Classify(model.spec, 3), {"label": torch.tensor([2, 0, 1])}
    task = Task(model, {"answer": head}, momentum=0.5, alpha=0.2)
    batch = batch_of(tokenizer, targets)
    used = [p for n, p in task.named_parameters() if p.requires_grad and "_proj" not in n and "temperature" not in n]
    optimizer = torch.optim.Adam(used, 3e-3)
    for _ in range(60):
        out = task(batch, 0)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        task.after_step([out.carry])
    assert all(p.grad is not None for p in used)
    task.eval()
    fused = task.features(batch, 0).fused
    if kind == "classes":
        assert head.predict(task.features(batch, 0)).argmax(1).tolist() == [2, 0, 1]
    else:
        candidates = candidates_of(head, tokenizer, head.answers)
        best = head.rank(fused, candidates)[0][:, 0].tolist()
        assert [[WORDS[i]] for i in best] == answers


def test_heads_that_need_fusion_say_so(model):
    lone = replace(model.spec, fuses=False)
    for make in (lambda: AnswerDecoder(lone), lambda: AnswerClassifier(lone, WORDS), lambda: Classify(lone, 2)):
        with pytest.raises(UserError, match="no fuse"):
            make()


def test_a_missing_target_is_named(tokenizer, model):
    f = Features(model, batch_of(tokenizer, {"label": torch.zeros(3, dtype=torch.int64)}))
    with pytest.raises(UserError, match=r"'answer_scores'.*label"):
        AnswerClassifier(model.spec, WORDS)(f)


def test_causal_attention_sees_no_later_token():
    torch.manual_seed(10)
    attention = SelfAttention(8, 2, causal=True)
    x = torch.randn(1, 4, 8)
    changed = x.clone()
    changed[:, 3] += 1
    torch.testing.assert_close(attention(x)[:, :3], attention(changed)[:, :3])
