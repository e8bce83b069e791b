"""configs/finetune/retrieval.py: the recipes as published, and the small one from nothing and from a model."""

import json
from pathlib import Path

from safetensors.torch import load_file

from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.hub import folder as hub
from mmkit.train.loop import train

FILE = Path(__file__).parents[3] / "configs" / "finetune" / "retrieval.py"
SMALL = [
    "data.global_batch=4", "run.steps=2", "run.trackers=[]", "data.train.n=12", "evals.retrieval.source.n=6",
]  # fmt: skip


def test_the_recipes_are_those_of_the_paper():
    for name, epochs, top in (("coco", 5, 256), ("flickr30k", 10, 128)):
        exp = validate(load_experiment(f"{FILE}:{name}(start='runs/x', folder='data')"), world=8)
        assert dump(rebuild(json.loads(json.dumps(dump(exp))))) == dump(exp)
        assert exp.heads["itc"].keywords == {"queue_size": 65_536, "positives": "image"}
        assert exp.heads["itm"].keywords == {"avoid": "image"}
        assert (exp.run.epochs, exp.data.image_size, exp.data.batch_plan(8).rank_batch) == (epochs, 384, 32)
        assert (exp.optim.lr, exp.optim.min_lr, exp.teacher.alpha) == (1e-5, 1e-6, 0.4)
        evaluation = exp.evals["val"].keywords
        assert evaluation["rerank_top"] == top
        assert evaluation["source"].keywords["split"] == "val"
        assert exp.data.train.keywords["per"] == "caption"


def test_the_small_one_starts_from_a_model_of_another_resolution(tmp_path):
    first = override(load_experiment(f"{FILE}:mini(start=None, size=48, kinds=8)"), SMALL)
    assert train(first, tmp_path / "a", save_model=hub.save)["retrieval.texts"] == 24
    second = load_experiment(f"{FILE}:mini(start='{tmp_path}/a', size=60, kinds=8)")
    second = override(second, [*SMALL, "optim.lr=1e-9", "optim.min_lr=0"])
    assert 0 <= train(second, tmp_path / "b", save_model=hub.save)["retrieval.rerank.t2i_r1"] <= 1
    before, after = ((tmp_path / run / "tokenizer" / "sentencepiece.model").read_bytes() for run in "ab")
    assert before == after
    start, end = (weights(tmp_path / run) for run in "ab")
    for name in ("model.text_proj.weight", "heads.itm.classify.weight", "model.image.blocks.0.attn.qkv.weight"):
        assert abs(start[name] - end[name]).max() < 1e-5


def weights(folder):
    return load_file(folder / "model.safetensors")
