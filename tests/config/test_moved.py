"""One table of moved names: whatever a file of 0.1.0 may name has its place in this version, under its present name."""

import importlib
from functools import partial

import pytest

from mmkit.config import dump, muon_rules, rebuild
from mmkit.config.allowed import ANYTHING
from mmkit.config.moved import present, where_now, with_present_names
from mmkit.config.runs import rebuild as of_a_run
from mmkit.errors import UserError
from mmkit.evals.zeroshot import ZeroShot
from tests.train.fakes import Squares, tiny

OF_0_1_0 = {
    "config": "Ramp Teacher Data Rule Optim Run Experiment",
    "data.centre_crop": "CentreCrop",
    "data.easy_vqa": "EasyVQA EasyVQAPairs",
    "data.hf_tokenizer": "HuggingFaceTokenizer",
    "data.image_ops": "EvalTransform TrainTransform Blank BlankTrain",
    "data.importing": "CocoCaptions Table",
    "data.karpathy": "Karpathy",
    "data.masking": "Masking",
    "data.openmoji": "Scenes Singles Unseen",
    "data.openmoji_hypotheses": "Hypotheses",
    "data.openmoji_pairs": "Pairs",
    "data.openmoji_questions": "Questions",
    "data.randaugment": "RandAugment",
    "data.records": "JsonLines",
    "data.refcoco": "RefCoco",
    "data.sources": "Folder ClassFolder ClassTable HuggingFace",
    "data.targets": "AnswerTokens AnswerScores",
    "data.tokenizer": "Framing SentencePieceTokenizer sentencepiece huggingface saved",
    "data.variable_size": "KeepShape KeepShapeTrain",
    "data.vqa_files": "VQALines VQAFiles VisualGenomeQA AnswerLists Joined",
    "encoders.decoder": "TextDecoder",
    "encoders.joint": "JointViT",
    "encoders.prenorm_text": "PreNormText",
    "encoders.text": "TextEmbeddings TextEncoder FusionEncoder",
    "encoders.vit": "ViT",
    "evals.classify": "Classification",
    "evals.grounding": "Grounding",
    "evals.retrieval": "Retrieval",
    "evals.vqa": "VQA",
    "evals.zeroshot": "ZeroShot",
    "heads.answer_classifier": "AnswerClassifier",
    "heads.answer_decoder": "AnswerDecoder",
    "heads.classify": "Classify",
    "heads.itc": "ITC",
    "heads.itm": "gumbel_choice ITM",
    "heads.mlm": "MLM",
    "heads.sigmoid": "Sigmoid",
    "heads.wpa": "WPA",
    "models.sizes": "albef albef_base albef_small albef_mini",
    "models.sizes_dual": "clip siglip lit clip_base siglip_base lit_base dual_mini siglip_mini",
    "models.sizes_vilt": "vilt vilt_base vilt_mini",
    "nn.pool": "FirstToken LastToken AttentionPool",
    "nn.vocabulary": "Vocabulary",
    "report.answers": "AnswersReport",
    "report.make": "Report",
}  # fmt: skip
"""Module -> its public parts that a config of 0.1.0 could be made of."""
UNLISTED = {
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "RandAugment",
    "VocabularyHead",
}
"""They stand in own code alone."""


@pytest.mark.parametrize("module", OF_0_1_0)
def test_each_part_is_where_the_table_says_and_may_be_named(module):
    for name in OF_0_1_0[module].split():
        now = present(f"mmkit.{module}:{name}")
        place, _, part = now.partition(":")
        found = getattr(importlib.import_module(place), part)
        assert f"{found.__module__}:{found.__qualname__}" == now  # what is written of it today is the same name
        assert now in ANYTHING or part in UNLISTED
        assert present(now) == now


def test_names_of_others_stay():
    for name in (
        "mine.mmkit.config:Run",
        "mmkit_extra:Run",
        "projects.nlvr2.model:pair_mini",
        "torch.nn:GELU",
        "mmkit",
    ):
        assert present(name) == name
    data = {"target": "mmkit.data.masking:Masking", "args": {"x": [{"reference": "mmkit.config:Run"}], "target": 3,
            "words": "mmkit.data.masking:Masking"}}  # fmt: skip
    wanted = {"target": "mmkit.data.texts.masking:Masking",
              "args": {"x": [{"reference": "mmkit.config.experiment:Run"}], "target": 3,
                       "words": "mmkit.data.masking:Masking"}}  # fmt: skip
    assert with_present_names(data) == wanted
    assert with_present_names("mmkit.data.masking:Masking") == "mmkit.data.masking:Masking"  # a text, not a part


def test_arguments_that_have_other_names_now():
    new = dump(tiny(evals={"zeroshot": partial(ZeroShot, source=partial(Squares, 3))}))
    old = {**new, "dataclass": "mmkit.config:Experiment", "args": dict(new["args"])}
    old["args"]["folder"] = old["args"].pop("subfolder")
    run = dict(new["args"]["run"]["args"])
    run["product"] = run.pop("float32_matmul")
    old["args"]["run"] = {"dataclass": "mmkit.config:Run", "args": run}
    zeroshot = new["args"]["evals"]["zeroshot"]
    old["args"]["evals"] = {"zeroshot": {**zeroshot, "args": {**zeroshot["args"], "seed": 0}}}
    assert with_present_names(old) == new
    assert rebuild(old, allow="tests").run.float32_matmul == "highest"
    assert with_present_names({"target": "mmkit.config:Run", "args": "damaged"})["args"] == "damaged"


def test_an_import_by_an_old_name_is_told_the_new_one():
    assert where_now("mmkit.data.image_ops") == "; it is mmkit.data.images.transforms now"
    assert where_now("mmkit.predictor") == "; it is mmkit.inference.predictor now"
    assert where_now("mmkit.data.tokenizer") == "; it is mmkit.data.texts.tokenizers now"
    assert where_now("mmkit.nothing") == where_now(None) == ""


@pytest.mark.parametrize(("old", "now"), [(True, ("tensorboard",)), (False, ())])
def test_a_run_that_named_tensorboard_alone_has_trackers(old, now):
    dumped = dump(tiny(run=dict(trackers=("wandb",))))
    arguments = dumped["args"]["run"]["args"]
    del arguments["trackers"]
    arguments["tensorboard"] = old
    assert of_a_run(dumped, "tests").run.trackers == now
    dumped["args"]["run"]["args"] |= {"trackers": {"tuple": ["wandb"]}}
    with pytest.raises(UserError, match="tensorboard"):
        of_a_run(dumped, "tests")


def test_a_run_whose_rules_knew_no_muon_is_the_same_run():
    made = dump(tiny())

    def before(value):
        if isinstance(value, dict):
            return {name: before(part) for name, part in value.items() if name != "muon"}
        return [before(part) for part in value] if isinstance(value, list) else value

    assert before(made) != made
    assert with_present_names(before(made)) == made
    taken = dump(tiny(optim=dict(rules=muon_rules(2.0))))
    assert with_present_names(taken) == taken  # what a rule says stays
