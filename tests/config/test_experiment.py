import json
import pickle
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch

from mmkit.config import (
    Data,
    Experiment,
    Optim,
    Ramp,
    Rule,
    Run,
    Teacher,
    dump,
    load_experiment,
    override,
    rebuild,
    validate,
)
from mmkit.config import as_json as config_json
from mmkit.config.allowed import EXPERIMENT, MODEL
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.texts.masking import Masking
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.albef import albef, albef_mini


@dataclass(frozen=True, kw_only=True)
class Source:
    path: Path = Path("a/b")
    split: Literal["train", "val"] = "train"
    limit: int | None = None


@dataclass(frozen=True)
class Square:
    side: int
    area: int = field(init=False, default=0)


def experiment(**changes) -> Experiment:
    base = dict(
        name="x",
        model=partial(albef_mini, image_size=96, max_tokens=32),
        heads={"itc": partial(ITC, queue_size=10), "itm": partial(ITM)},
        tokenizer=partial(train_sentencepiece, vocab_size=100),
        data=Data(train=partial(Source), image_size=96, max_tokens=20, global_batch=8, masking=partial(Masking)),
        run=Run(steps=10),
    )
    return Experiment(**(base | changes))


FILE = """
from functools import partial
from mmkit.config import Data, Experiment, Run
from mmkit.data.texts.tokenizers import train_sentencepiece
from mmkit.heads.itc import ITC
from mmkit.models.sizes.albef import albef_mini

def helper():
    return 1

def small(res: int = 96, lr: float = 1e-3) -> Experiment:
    return Experiment(
        name="small", model=partial(albef_mini, image_size=res, max_tokens=32), heads={"itc": partial(ITC)},
        tokenizer=partial(train_sentencepiece), run=Run(steps=5),
        data=Data(train=partial(list), image_size=res, max_tokens=20, global_batch=4),
    )

def large(width) -> "Experiment":
    return small()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "conf.py"
    path.write_text(FILE)
    return path


def fails(call, *parts):
    with pytest.raises(UserError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# ---- loading ------------------------------------------------------------------------------------------------------


def test_load_calls_the_function_with_its_arguments(file):
    assert load_experiment(f"{file}:small(res=128)").data.image_size == 128
    assert load_experiment(f"{file}:small").data.image_size == 96


def test_load_names_what_exists(file, tmp_path):
    fails(lambda: load_experiment(f"{file}:smal"), "'smal'", "did you mean 'small'", "large")
    fails(lambda: load_experiment(f"{file}:helper"), "write def helper(...) -> Experiment")
    fails(lambda: load_experiment(f"{file}:small(rse=3)"), "no argument 'rse'", "'res'", "lr")
    fails(lambda: load_experiment(f"{file}:small(res='big')"), "res=", "must be int")
    fails(lambda: load_experiment(f"{file}:small(res=open('x'))"), "Python literals")
    fails(lambda: load_experiment(f"{file}:large"), "needs width")
    fails(lambda: load_experiment(str(file)), "several functions", ":small", ":large")
    fails(lambda: load_experiment(str(tmp_path / "none.py")), "no such file")
    fails(lambda: load_experiment("conf.yaml"), "expected FILE.py")


def test_load_says_where_a_file_is_malformed(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("x = 1\ndef f(:\n")
    fails(lambda: load_experiment(str(path)), "bad.py", "line 2")
    (tmp_path / "caller_of_bad.py").write_text("\n\n\nimport bad\n")
    fails(lambda: load_experiment(str(tmp_path / "caller_of_bad.py")), "/bad.py, line 2")


# ---- overriding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "read", "value"),
    [
        ("run.steps=20", lambda e: e.run.steps, 20),
        ("run.epochs=1.5", lambda e: e.run.epochs, 1.5),
        ("run.steps=None", lambda e: e.run.steps, None),
        ("run.epochs=2", lambda e: e.run.epochs, 2.0),
        ("run.precision=bf16", lambda e: e.run.precision, "bf16"),
        ("run.trackers=[]", lambda e: e.run.trackers, ()),
        ("run.trackers=wandb", lambda e: e.run.trackers, ("wandb",)),
        ("run.trackers=[wandb, trackio]", lambda e: e.run.trackers, ("wandb", "trackio")),
        ("name=12", lambda e: e.name, "12"),
        ("optim.lr=1e-5", lambda e: e.optim.lr, 1e-5),
        ("optim.betas=(0.9, 0.98)", lambda e: e.optim.betas, (0.9, 0.98)),
        ("optim.rules.0.lr_scale=0.1", lambda e: e.optim.rules[0].lr_scale, 0.1),
        ("data.image_size=(64, 96)", lambda e: e.data.image_size, (64, 96)),
        ("data.train.split=val", lambda e: e.data.train.keywords["split"], "val"),
        ("data.train.path=/x", lambda e: e.data.train.keywords["path"], Path("/x")),
        ("heads.itc.queue_size=0", lambda e: e.heads["itc"].keywords["queue_size"], 0),
        ("heads.itm=None", lambda e: list(e.heads), ["itc"]),
        ("weights.itc=0.5", lambda e: e.weights["itc"], 0.5),
        ("model.dropout=0.1", lambda e: e.model.keywords["dropout"], 0.1),
    ],
)
def test_override_sets_leaves(change, read, value):
    base = experiment()
    before = dump(base)
    got = read(override(base, [change]))
    assert got == value
    assert type(got) is type(value)
    assert dump(base) == before


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("run.step=5", ["run.step:", "'run.steps'"]),
        ("heads.itc.queue=5", ["heads.itc.queue:", "'heads.itc.queue_size'"]),
        ("heads.itx.queue_size=5", ["heads.itx.queue_size"]),
        ("data.train.seeed=5", ["data.train.seeed"]),
        ("run.steps.more=5", ["run.steps.more"]),
        ("run.steps=many", ["run.steps = many", "int or None"]),
        ("run.steps=1.5", ["run.steps = 1.5", "int"]),
        ("optim.lr=fast", ["optim.lr = fast", "float"]),
        ("run.trackers=[mlflow]", ["run.trackers", "must be one of 'tensorboard'", "or several separated by commas"]),
        ("run.precision=fp8", ["run.precision", "'bf16'"]),
        ("data.train.split=test", ["data.train.split", "'val'"]),
        ("optim.betas=(0.9,)", ["optim.betas", "tuple"]),
        ("model=other", ["model = other", "partial"]),
        ("heads.itc.queue_size=big", ["heads.itc.queue_size", "int"]),
        ("run.steps", ["expected path=value"]),
    ],
)
def test_override_refuses_by_name(change, parts):
    fails(lambda: override(experiment(), [change]), *parts)


# ---- checks -------------------------------------------------------------------------------------------------------


def changed(*changes, **fields):
    return override(experiment(**fields), changes)


def sized(**transform):
    exp = experiment()
    return replace(exp, data=replace(exp.data, transform=partial(TrainTransform, **transform)))


@pytest.mark.parametrize(
    ("exp", "parts"),
    [
        (changed("data.image_size=108", "model.image_size=108"), []),
        (changed("data.image_size=100", "model.image_size=100"), ["data.image_size = 100", "model.patch = 12"]),
        (changed("data.image_size=112"), ["model.image_size = 96", "data.image_size = 112"]),
        (changed("data.max_tokens=40"), ["data.max_tokens = 40", "model.max_tokens = 32"]),
        (changed("data.global_batch=1"), ["heads.itc", "negatives", "data.global_batch"]),
        (changed("run.steps=0"), ["run.steps = 0", "positive"]),
        (changed("run.epochs=2"), ["run", "steps, epochs", "run.epochs=null"]),
        (changed("run.steps=None"), ["run", "exactly one"]),
        (changed("optim.warmup_steps=10"), ["optim.warmup_steps = 10", "shorter"]),
        (changed("optim.warmup_steps=1", "optim.warmup_frac=0.1"), ["at most one", "warmup_frac"]),
        (changed("optim.warmup_frac=1.0"), ["optim.warmup_frac"]),
        (changed("optim.min_lr=1"), ["min_lr <= lr"]),
        *((changed(f"optim.{n}=1e400"), [f"optim.{n} = inf"]) for n in ("lr", "warmup_lr", "weight_decay", "eps")),
        (changed("weights.itc=inf"), ["weights.itc = inf"]),
        (changed("weights.itc=-0.1"), ["weights.itc = -0.1"]),
        (changed("weights.itx=1"), ["weights.itx", "'itc'"]),
        (changed("run.best=retrieval.t2i"), ["run.best", "in evals, and this config has none"]),
        (changed("data.accumulation_steps=3"), ["global_batch = 8"]),
        (changed("data.block=0"), ["data.block = 0", "positive"]),
        (experiment(heads={}), ["at least one objective"]),
        (changed("data.masking=None", heads={"mlm": partial(MLM)}), ["heads.mlm", "data.masking is None"]),
        (experiment(heads={"itc": partial(ITC, queue=4)}), ["heads.itc.queue", "'queue_size'"]),
        (experiment(heads={"itc": partial(ITC, queue_size="4")}), ["heads.itc.queue_size", "must be int"]),
        (experiment(teacher=Teacher(momentum=2)), ["teacher.momentum"]),
        (changed("heads.itc.queue_size=-1"), ["heads.itc.queue_size = -1: must be positive, or 0"]),
        (changed("heads.itc.queue_size=0"), []),
        (experiment(model=partial(albef, image_size=96, max_tokens=32, text_depth=-1)), ["model.text_depth = -1"]),
        (experiment(model=partial(albef, image_size=96, max_tokens=32, image_width=0)), ["image_width = 0: must be"]),
        (experiment(model=partial(albef, image_size=96, max_tokens=32, fusion_depth=0, patch=12)), []),
        (experiment(weights={"itc": -1.0}), ["weights.itc = -1.0: must be positive, or 0"]),
        (changed("run.chunks=0"), ["run.chunks = 0: must be positive"]),
        (changed("run.chunks=5", "data.accumulation_steps=2"), ["run.chunks = 5: more than the 4 samples"]),
        (changed("run.chunks=4", "data.accumulation_steps=2"), []),
        (experiment(weights={"itc": 0.0, "itm": Ramp(start=0.0, end=1.0, steps=0)}), []),
        (experiment(weights={"itm": Ramp(start=0.0, end=-0.1, steps=5)}), ["weights.itm.end = -0.1"]),
        (changed("data.masking.probability=0.0", heads={"mlm": partial(MLM)}), ["heads.mlm", "probability = 0 hides"]),
        (changed("data.masking.probability=0.0"), []),
        (sized(size=48), ["data.transform.size = 48", "data.image_size = 96"]),
        (sized(size=(96, 96)), []),
    ],
)
def test_validate(exp, parts):
    if not parts:
        validate(exp)
        return
    fails(lambda: validate(exp), *parts)


def test_validate_finds_the_patch_that_does_not_divide():
    exp = experiment(model=partial(albef, image_size=100, max_tokens=32, patch=16))
    fails(lambda: validate(override(exp, ["data.image_size=100"])), "data.image_size = 100", "model.patch = 16", "96")


def test_a_batch_of_one_a_process_is_fine_when_processes_share_negatives():
    exp = changed("data.global_batch=2")
    assert validate(exp, world=2).data.batch_plan(2).rank_batch == 1
    fails(lambda: changed("data.global_batch=3").data.batch_plan(2), "3 is not", "1 x 1 x 2")


@pytest.mark.parametrize(
    ("fields", "world", "plan"),
    [
        (dict(global_batch=8), 1, (8, 1, 8)),
        (dict(global_batch=8), 4, (2, 1, 8)),
        (dict(global_batch=8, rank_batch=2), 2, (2, 2, 8)),
        (dict(rank_batch=2), 4, (2, 1, 8)),
        (dict(rank_batch=2, accumulation_steps=3), 2, (2, 3, 12)),
        (dict(global_batch=12, accumulation_steps=3), 2, (2, 3, 12)),
    ],
)
def test_batch_plan(fields, world, plan):
    data = Data(train=partial(Source), image_size=8, max_tokens=4, **fields)
    got = data.batch_plan(world)
    assert (got.rank_batch, got.accumulation_steps, got.global_batch) == plan


# ---- JSON ---------------------------------------------------------------------------------------------------------


def test_dump_and_rebuild():
    exp = experiment(
        weights={"itc": Ramp(start=0, end=1, steps=5)}, teacher=Teacher(),
        optim=Optim(rules=(Rule(pattern="image", lr_scale=0.1), Rule(pattern=""))),
        data=Data(
            train=partial(Source, path=Path("x"), limit=None), image_size=(96, 96), max_tokens=9, rank_batch=4,
            transform=partial(TrainTransform, scale=(0.5, 1.0)),
        ),
    )  # fmt: skip
    data = json.loads(json.dumps(dump(exp)))
    allow = ("tests",)
    back = rebuild(data, allow)
    assert dump(back) == data
    assert back.data.image_size == (96, 96)
    assert back.optim == exp.optim
    assert back.weights == exp.weights
    assert back.data.train().path == Path("x")
    assert back.heads["itc"].func is ITC
    fails(lambda: rebuild(data), "tests.config.test_experiment:Source", "may not")


def test_dump_writes_defaults_out():
    assert dump(experiment())["args"]["model"]["args"]["dropout"] == 0.0


def test_what_a_dataclass_makes_itself_is_not_written():
    data = dump(Square(3))
    assert data == {"dataclass": "tests.config.test_experiment:Square", "args": {"side": 3}}
    assert config_json.rebuild(data, EXPERIMENT, "tests") == Square(3)
    fails(lambda: config_json.rebuild(data | {"args": {"area": 9}}, EXPERIMENT, "tests"), "Square: ", "another version")


def test_rebuild_checks_the_values_of_dataclasses():
    for values, says in (({"steps": "5"}, "steps = '5': must be int"), ({"step": 5}, "'step'; was it written")):
        data = dump(experiment())
        data["args"]["run"]["args"] = values
        fails(lambda data=data: rebuild(data, ("tests",)), "mmkit.config.experiment:Run", says)


def test_dump_refuses_what_cannot_be_found_again():
    fails(lambda: dump(experiment(heads={"itc": partial(lambda spec: None)})), "cannot be written")
    fails(lambda: dump(partial(albef_mini, dropout=object())), "(object) cannot be written")  # nor left out
    fails(lambda: dump({1: "a"}), "{1: 'a'} (dict) cannot be written")  # JSON would make a text of its key


@pytest.mark.parametrize(
    "target",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "torch:load",
        "torch.hub:load",
        "torch.serialization:load",
        "mmkit.config:load_experiment",
        "mmkit.config.load:load_function",
        "mmkit.cli.main:main",
        "mmkit.data.images.transforms:math.sqrt",
        "mmkit.train.folder:shutil.rmtree",
        "mmkit.data.texts.tokenizers:Path",
        "mmkit.config:_override",
        "mmkit.data.texts.pieces:SentencePieceTokenizer.__init__.__globals__",
        "mmkitx:y",
        "mmkit",
        "",
        3,
        None,
        "mmkit.nope:x",
        "mmkit.heads.itc:Nope",
    ],
)
@pytest.mark.parametrize("form", ["target", "dataclass", "reference"])
def test_rebuild_refuses_foreign_code(target, form):
    data = dump(experiment())
    data["args"]["model"] = {form: target, "args": {}}
    with pytest.raises(UserError):
        rebuild(data, ("tests",))


def test_rebuild_takes_torch_modules_and_odd_values():
    data = {"target": "tests.config.test_experiment:Source", "args": {}}
    data["args"] = {"a": {"reference": "torch.nn.modules.activation:GELU"}, "b": {"mapping": {"tuple": 1}}}
    back = config_json.rebuild(data, MODEL, "tests")
    assert back.keywords == {"a": torch.nn.GELU, "b": {"tuple": 1}}
    odd = {"x": float("inf"), "tuple": (1, [2])}
    assert config_json.rebuild(config_json.dump(odd), EXPERIMENT) == odd
    for name in ("inf", "-inf", "nan"):  # which JSON has no numbers for
        assert dump(float(name)) == {"float": name}


# ---- small things -------------------------------------------------------------------------------------------------


def test_ramp():
    ramp = Ramp(start=1, end=3, steps=4)
    assert [ramp(s) for s in (0, 2, 4, 9)] == [1, 2, 3, 3]
    assert Ramp(start=1, end=3, steps=0)(0) == 3
    assert Teacher(alpha=0.4, alpha_ramp_epochs=0.5).alpha_ramp(10) == Ramp(start=0.0, end=0.4, steps=5)


def test_an_experiment_cannot_be_changed_and_pickles():
    exp = experiment()
    with pytest.raises(TypeError):
        exp.heads["x"] = partial(ITC)  # type: ignore[index]
    assert dump(pickle.loads(pickle.dumps(exp))) == dump(exp)


def test_mmkits_own_configs_are_there_from_any_folder(tmp_path, monkeypatch):
    """A file of that name in the current folder comes first."""
    monkeypatch.chdir(tmp_path)
    assert load_experiment("configs/pretrain/albef.py:small").name == "albef-small"
    with pytest.raises(UserError, match=r"configs/pretrain/albeff.py: no such file"):
        load_experiment("configs/pretrain/albeff.py")
    with pytest.raises(UserError, match=r"pretrain/albef.py: no such file"):
        load_experiment("pretrain/albef.py:small")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.py").write_text("def mine() -> 'Experiment':\n    return 1")
    with pytest.raises(UserError, match="returned int"):
        load_experiment("configs/quickstart.py:mine")


def test_nothing_can_be_set_in_what_is_none():
    """As in a model that is taken from init."""
    exp = Experiment(name="a", heads={}, data=Data(train=partial(Masking), image_size=8), run=Run(steps=1))
    with pytest.raises(UserError, match=r"^model.dropout: model is None in this config"):
        override(exp, ["model.dropout=0.1"])
    with pytest.raises(UserError, match=r"^data.masking.probability: data.masking is None in this config"):
        override(exp, ["data.masking.probability=0.1"])
