"""Runs that build on one another: what is handed on, folders, resuming, and what is refused."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from mmkit.config import Rule, dump, load_experiment, mmkit_rules, override, rebuild, validate
from mmkit.data.targets import AnswerScores
from mmkit.data.texts.tokenizers import load_tokenizer, reuse, train_sentencepiece
from mmkit.errors import UserError
from mmkit.evals.vqa import VQA
from mmkit.files import write_text
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.hub import folder as hub
from mmkit.models.sizes.albef import albef
from mmkit.train import stages
from mmkit.train.folder import STARTING
from mmkit.train.stages import train_stages
from tests.train.fakes import COLOURS, Report, Squares, change, tiny

WIDER = partial(
    albef, image_size=32, max_tokens=16, patch=8, image_depth=2, image_width=48, image_heads=2, text_depth=2,
    fusion_depth=2, text_width=32, text_heads=2, embed_dim=16,
)  # fmt: skip
UNUSED = Rule(pattern=r"^model\.(image_proj|text_proj|temperature)\.", freeze=True)


class Asked(Squares):
    """What colour is it?"""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        colour = COLOURS[index % len(COLOURS)]
        targets = {"answers": [colour], "question_id": index, "answer_type": "dark" if index % 2 else "light"}
        return replace(record, captions=("a square in",), targets=targets)


def two_stages(**changes):
    """A tiny pre-training, then a tiny classifier of answers that starts from it."""
    first = change(tiny(run=dict(steps=3)), subfolder="before")
    last = change(
        tiny(data=dict(train=partial(Asked, 40), targets=partial(AnswerScores, answers=COLOURS), masking=None)),
        heads={"answer": partial(AnswerClassifier, answers=COLOURS)}, tokenizer=None, first=first, teacher=None,
        evals={"vqa": partial(VQA, source=partial(Asked, 7))}, name="asked",
    )  # fmt: skip
    last = change(last, run=dict(steps=4, **changes), optim=dict(rules=(UNUSED, *mmkit_rules())))
    return last


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("stages") / "run"
    return out, train_stages(two_stages(), out, save_model=hub.save)


def test_the_second_starts_from_the_first(run):
    out, _ = run
    plan = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert "before" in json.dumps(plan)
    before, after = hub.load(out / "before"), hub.load(out)
    assert set(before.heads) == {"itm", "mlm"}
    assert set(after.heads) == {"answer"}
    torch.testing.assert_close(  # frozen, so it is what the first learned
        before.model.image_proj.weight, after.model.image_proj.weight, rtol=0, atol=0
    )
    assert not torch.equal(before.model.image.cls, after.model.image.cls)
    assert load_tokenizer(out / "tokenizer").vocab_size == load_tokenizer(out / "before" / "tokenizer").vocab_size


def test_numbers_of_both(run):
    _, numbers = run
    assert numbers["n"] == numbers["vqa.n"] == 7
    assert numbers["by_type.dark"] == numbers["vqa.by_type.dark"]
    assert numbers["before.step"] == 3
    assert "before.losses.itc" in numbers


def test_a_run_alone_is_in_the_folder_itself(tmp_path):
    numbers = train_stages(two_stages().first, tmp_path / "run", save_model=hub.save)
    assert numbers["step"] == 3
    assert set(hub.load(tmp_path / "run").heads) == {"itm", "mlm"}


def test_resume_does_what_is_missing(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_stages(two_stages(), whole, save_model=hub.save)
    train_stages(two_stages(stop_after_steps=2), parts, save_model=hub.save)
    assert not (parts / "numbers.json").exists()
    calls = []
    real = stages.train
    monkeypatch.setattr(stages, "train", lambda exp, *a, **k: calls.append(exp.name) or real(exp, *a, **k))
    train_stages(two_stages(), parts, resume=True, save_model=hub.save)
    assert calls == ["asked"]
    one, other = (hub.load(folder).model.state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_whole_is_resumed_by_any_spelling_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_stages(two_stages(stop_after_steps=2), "st", save_model=hub.save)
    (tmp_path / "st").rename(tmp_path / "moved")
    numbers = train_stages(two_stages(), tmp_path / "moved", resume=True, save_model=hub.save)
    assert numbers["step"] == 4
    assert train_stages(two_stages(), "./moved", resume=True, save_model=hub.save)["step"] == 4
    other = change(two_stages(), init={"text": "x"})
    with pytest.raises(UserError, match=r"init\.text: absent -> x"):
        train_stages(other, "moved", resume=True, save_model=hub.save)


@pytest.mark.parametrize(
    ("changes", "words"),
    [(dict(run=dict(steps=9)), r"run\.steps: 3 -> 9"), (dict(optim=dict(lr=2e-3)), r"optim\.lr: 0\.001 -> 0\.002")],
)
def test_a_finished_run_is_not_resumed_as_another(tmp_path, changes, words):
    exp = tiny(run=dict(steps=3))
    train_stages(exp, tmp_path / "run", save_model=hub.save)
    with pytest.raises(UserError, match=rf"{words}.*finished.*--set init\.model={tmp_path / 'run'}$"):
        train_stages(change(exp, **changes), tmp_path / "run", resume=True, save_model=hub.save)
    on = change(exp, **changes, init={"model": str(tmp_path / "run")})
    assert train_stages(on, tmp_path / "on", save_model=hub.save)["step"] == (9 if "run" in changes else 3)


def test_a_finished_stage_is_not_resumed_as_another(run):
    out, _ = run
    other = two_stages()
    other = replace(other, first=change(other.first, optim=dict(lr=2e-3)))
    with pytest.raises(UserError, match=r"before: cannot resume.*optim\.lr: 0\.001 -> 0\.002"):
        train_stages(other, out, resume=True, save_model=hub.save)


def test_a_finished_run_says_what_has_no_effect(run, caplog):
    out, numbers = run
    exp = change(two_stages(), evals={"vqa": partial(VQA, source=partial(Asked, 5))}, report=partial(Report))
    assert train_stages(exp, out, resume=True, save_model=hub.save)["vqa.n"] == numbers["vqa.n"]
    assert "changed since it ended, and without effect: evals.vqa.source" in caplog.text
    assert ", report" in caplog.text


def test_the_run_s_own_numbers_keep_their_names():
    numbers = {"step": 4.0, "vqa.step": 9.0, "vqa.accuracy": 0.5}
    assert stages._short(two_stages(), numbers) == numbers | {"accuracy": 0.5}
    for evals in ({}, {"vqa": partial(VQA), "other": partial(VQA)}):  # of which alone would the accuracy be?
        assert stages._short(change(two_stages(), evals=evals), numbers) == numbers


def test_a_stage_that_stops_ends_the_whole(tmp_path):
    exp = two_stages()
    exp = replace(exp, first=change(exp.first, run=dict(stop_after_steps=1)))
    numbers = train_stages(exp, tmp_path, save_model=hub.save)
    assert numbers["before.step"] == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_with_a_run_is_kept(run):
    with pytest.raises(UserError, match="--resume"):
        train_stages(two_stages(), run[0], save_model=hub.save)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(heads={"answer": partial(AnswerClassifier, answers=[])}), "asked: AnswerClassifier: 0 answers"),
        (dict(model=WIDER), r"asked: init\.model = .*choose a model of its size"),
        (dict(data=dict(train=partial(Asked, 3))), "asked: data: the source has 3 records"),
        (dict(evals={"vqa": partial(VQA, source=partial(Asked, 7), generate=True)}), r"asked: evals\.vqa: .*no head"),
        (dict(run=dict(best="vqa.acc")), r"asked: run\.best = 'vqa\.acc': evals\.vqa compares .*best=vqa\.accuracy$"),
        (
            dict(heads={"answer": partial(AnswerClassifier, answers=["mauve", "teal"])}),
            "asked: .*as class 0 'mauve' there, 'red' here",
        ),
    ],
)
def test_what_stops_a_later_stage_is_said_before_the_first(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train_stages(change(two_stages(), **changes), tmp_path / "run", save_model=hub.save)
    assert not (tmp_path / "run").exists()


def test_a_rehearsal_uses_nothing_of_one_that_was_killed_and_leaves_nothing(tmp_path):
    write_text(tmp_path / "x" / "0" / "tokenizer" / "sentencepiece.model", "of another run")
    stages.rehearse(two_stages().stages(), tmp_path / "x", hub.save)
    assert list(tmp_path.iterdir()) == []


MADE: list[str] = []


def noted(*, captions, folder, vocab_size):
    """A tokenizer, and a note that it was made."""
    MADE.append(str(folder))
    return train_sentencepiece(captions=captions, folder=folder, vocab_size=vocab_size)


def test_the_tokenizer_of_the_rehearsal_is_that_of_the_run(tmp_path):
    """It is made once; a run that is begun by itself makes its own, the same."""
    exp = two_stages(stop_after_steps=1)
    first = change(exp.first, tokenizer=partial(noted, vocab_size=100))
    MADE.clear()
    train_stages(change(exp, first=first), tmp_path / "run", save_model=hub.save)
    [where] = MADE
    assert STARTING in where
    train_stages(first, tmp_path / "alone", save_model=hub.save)
    assert len(MADE) == 2
    folders = (tmp_path / "run" / "before", tmp_path / "run", tmp_path / "alone" / "before", tmp_path / "alone")
    one, *others = [
        {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
        for folder in folders if (folder / "tokenizer").is_dir()
    ]  # fmt: skip
    assert len(others) == 2
    assert all(other == one for other in others)
    assert load_tokenizer(tmp_path / "run" / "tokenizer").vocab_size <= 100


def test_what_leads_to_other_stages_is_named_from_each_ones_folder():
    first, last = two_stages().stages()
    deep = replace(first, subfolder="before/deep")
    found = [stages._apart(stage, [deep, first, last]) for stage in (deep, first, last)]
    assert found == [set(), {"deep"}, {"before"}]


@pytest.mark.parametrize("exp", [two_stages(), two_stages().first])
def test_a_file_is_no_folder_for_a_run(tmp_path, exp):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*: no folder can be made there"):
        train_stages(exp, tmp_path / "file", save_model=hub.save)


def test_a_path_reaches_into_the_first():
    assert override(two_stages(), ["first.run.steps=2", "data.blank_images=true"]).first.run.steps == 2


def test_dump_and_rebuild():
    exp = load_experiment("configs/finetune/easy_vqa.py:decoder")
    assert dump(rebuild(dump(exp))) == dump(exp)
    assert rebuild(dump(exp)).first.subfolder == "pretrain"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(first=None), "tokenizer"),
        (dict(subfolder="before"), "'before'"),
        (dict(subfolder="../out"), "inside"),
        (dict(subfolder="a/../../../x"), "inside"),
        (dict(subfolder="a/.."), "inside"),
        (dict(subfolder="/a"), "inside"),
        (dict(subfolder="a//b"), "inside"),
        (dict(subfolder="..\\x"), "inside"),
        (dict(subfolder="C:x"), "inside"),
        (dict(subfolder="~/x"), "inside"),
        (dict(subfolder="checkpoints/x"), "'checkpoints'"),
        (dict(subfolder="a/Checkpoints"), "'Checkpoints'"),
        (dict(subfolder="best"), "'best'"),
        (dict(subfolder="x/.mmkit-starting"), "'.mmkit-starting'"),
        (dict(subfolder="BEFORE"), "several write to"),
        (dict(subfolder="./before"), "several write to"),
        (dict(subfolder="before/."), "several write to"),
        (dict(init={"model": "x"}), "init.model"),
    ],
)
def test_what_does_not_fit_together(changes, message):
    with pytest.raises(UserError, match=message):
        validate(change(two_stages(), **changes))


def test_blank_pictures_blind_training_and_evaluation(tmp_path):
    exp = change(two_stages(), data=dict(blank_images=True))
    train_stages(exp, tmp_path, save_model=hub.save)
    predictor = hub.load(tmp_path)
    red, blue = (Squares()[i].image for i in (0, 2))
    torch.testing.assert_close(*(predictor.encode_image([image]) for image in (red, blue)), rtol=0, atol=0)


def test_a_decoder_starts_from_the_fusion_layers(tmp_path):
    train_stages(change(two_stages().first, subfolder=""), tmp_path / "run", save_model=hub.save)
    from mmkit.data.targets import AnswerTokens

    exp = change(
        two_stages(), first=None, init={"model": str(tmp_path / "run")},
        tokenizer=partial(reuse, path=str(tmp_path / "run" / "tokenizer")),
        heads={"answer": partial(AnswerDecoder, answers=COLOURS, depth=1, heads=2)},
        data=dict(targets=partial(AnswerTokens)), run=dict(steps=1),
        optim=dict(lr=1e-12, min_lr=0.0, warmup_steps=None),
    )  # fmt: skip
    train_stages(exp, tmp_path / "fine", save_model=hub.save)
    before, after = hub.load(tmp_path / "run"), hub.load(tmp_path / "fine")
    torch.testing.assert_close(
        after.heads["answer"].decoder.blocks[0].cross.kv.weight, before.model.fusion.blocks[0].cross.kv.weight
    )
    torch.testing.assert_close(after.heads["answer"].vocabulary.dense.weight, before.heads["mlm"].dense.weight)
