"""What a file may name: the lists, written out a second time; what is on them does nothing but build; own code."""

import colorsys
import contextlib
import importlib
import inspect
import itertools
import os
import pkgutil
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import mmkit
from mmkit.config import allowed as config_allowed
from mmkit.config import projects
from mmkit.config.allowed import COMPARING, EXPERIMENT, HEAD, KINDS, MODEL, TRANSFORM, checked, find
from mmkit.config.as_json import rebuild
from mmkit.errors import UserError
from mmkit.heads.base import Head
from mmkit.types import ModelSpec
from tests.watch import watched

MODELS = """
models.sizes.albef:albef models.sizes.albef:albef_base models.sizes.albef:albef_small models.sizes.albef:albef_mini
models.sizes.dual:clip models.sizes.dual:siglip models.sizes.dual:lit models.sizes.dual:clip_base
models.sizes.dual:siglip_base models.sizes.dual:lit_base models.sizes.dual:dual_mini models.sizes.dual:siglip_mini
models.sizes.vilt:vilt models.sizes.vilt:vilt_base models.sizes.vilt:vilt_mini
models.sizes.vision:vision models.sizes.vision:vision_base models.sizes.vision:vision_small
models.sizes.vision:vision_mini models.sizes.video:video models.sizes.video:video_mini models.sizes.video:albef_video
models.sizes.video:albef_video_mini models.sizes.video:clip_video models.sizes.video:clip_frames
models.sizes.video:dual_video_mini models.sizes.video:dual_frames_mini
"""
HEADS = """
heads.itc:ITC heads.itm:ITM heads.mlm:MLM heads.wpa:WPA heads.sigmoid:Sigmoid heads.classify:Classify
heads.answers.classifier:AnswerClassifier heads.answers.decoder:AnswerDecoder heads.image_classify:ImageClassify
heads.captioning:Captioner heads.captioning:PrefixCaptioner
"""
TRANSFORMS = """
data.images.transforms:EvalTransform data.images.transforms:Blank data.images.centre_crop:CentreCrop
data.images.variable_size:KeepShape data.video.transforms:ClipTransform data.video.samplers:Sampler
"""
BLOCKS = """
encoders.vit:ViT encoders.text:TextEncoder encoders.text:TextEmbeddings encoders.text:FusionEncoder
encoders.prenorm_text:PreNormText encoders.joint:JointViT encoders.decoder:TextDecoder nn.pool:FirstToken
nn.pool:LastToken nn.pool:AttentionPool
"""
SOURCES = """
data.openmoji.scenes:Scenes data.openmoji.scenes:Singles data.openmoji.scenes:Unseen data.openmoji.questions:Questions
data.openmoji.pairs:Pairs data.openmoji.hypotheses:Hypotheses data.sources.easy_vqa:EasyVQA
data.sources.easy_vqa:EasyVQAPairs data.records:JsonLines data.sources.folder:Folder
data.sources.class_folder:ClassFolder data.sources.table:ClassTable data.sources.hugging_face:HuggingFace
data.sources.published.coco_captions:CocoCaptions
    data.sources.published.karpathy:Karpathy data.sources.published.refcoco:RefCoco data.sources.published.vqa:VQALines
data.sources.published.vqa:VQAFiles data.sources.published.vqa:VisualGenomeQA data.sources.published.vqa:AnswerLists
data.sources.published.vqa:GQAQuestions
data.sources.table:Table data.sources.joined:Joined data.sources.questions:Asked data.sources.open:open_records
data.sources.open:open_source data.openmoji.moving:Moving data.openmoji.moving:MovingQuestions
data.openmoji.crowded:Crowded data.openmoji.expressions:Expressions
"""
SETTINGS = """
config.experiment:Experiment config.experiment:Data config.experiment:Run config.experiment:Optim
config.experiment:Rule config.experiment:Teacher config.experiment:Ramp data.texts.protocol:Framing
data.texts.tokenizers:train_sentencepiece data.texts.tokenizers:from_hub data.texts.tokenizers:reuse
data.images.transforms:TrainTransform data.images.transforms:BlankTrain data.images.variable_size:KeepShapeTrain
data.video.transforms:ClipTrain
data.texts.masking:Masking data.targets:AnswerTokens data.targets:AnswerScores evals.classification:Classification
evals.grounding:Grounding evals.retrieval:Retrieval evals.vqa:VQA evals.zeroshot:ZeroShot report.make:Report
report.answers:AnswersReport data.targets:ClassLabels evals.image_classes:ImageClasses
data.targets:CaptionTokens evals.captions.evaluate:WrittenCaptions encoders.decoding:Decoding train.mixing:Mixing
evals.detection.evaluate:Detection evals.detection.phrases:Phrases data.objects:Objects
"""
WRITTEN = {
    ("model", False): MODELS, ("model", True): BLOCKS,
    ("head", False): HEADS, ("head", True): f"{BLOCKS} heads.itm:gumbel_choice",
    ("transform", False): TRANSFORMS, ("transform", True): TRANSFORMS,
    ("experiment", False): "".join((MODELS, HEADS, TRANSFORMS, BLOCKS, SOURCES, SETTINGS, " heads.itm:gumbel_choice")),
    ("experiment", True): "".join((MODELS, HEADS, TRANSFORMS, BLOCKS, SOURCES, SETTINGS, " heads.itm:gumbel_choice")),
}  # fmt: skip


def everything(package) -> set[str]:
    """Each class and function, also those that a module merely imported, of a package, as MODULE:NAME."""
    found = set()
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        with contextlib.suppress(ImportError):  # extras that are not installed
            if info.name.endswith("__main__"):
                continue
            for name, value in vars(importlib.import_module(info.name)).items():
                if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
                    found.add(f"{info.name}:{name}")
                if inspect.isclass(value):
                    found |= {f"{info.name}:{name}.{inner}" for inner in vars(value)}
    return found


@pytest.fixture(scope="module")
def whole():
    return everything(mmkit)


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Without the search for a similar name, which takes milliseconds for each of thousands."""
    if "message" not in request.node.name:
        monkeypatch.setattr(config_allowed, "nearest", lambda name, known: "")


def takes(name, kind, inner) -> bool:
    try:
        find(name, kind, (), inner)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "inner"), list(itertools.product(KINDS, (False, True))), ids=lambda v: getattr(v, "name", str(v))
)
def test_nothing_of_mmkit_may_be_named_but_these(kind, inner, whole):
    """A new function does not become loadable by being written: it is put on a list, here and there."""
    assert len(whole) > 2000
    wanted = {f"mmkit.{name}" for name in WRITTEN[kind.name, inner].split()}
    assert {name for name in whole if takes(name, kind, inner)} == wanted


def test_of_torch_only_some_modules_may_be_named_and_by_the_arguments_of_own_code(whole):
    torch_names = everything(importlib.import_module("torch.nn")) | {"torch:load", "torch.hub:load", "torch.nn:Module"}
    wanted = {f"torch.nn.modules.activation:{name}" for name in ("GELU", "ReLU", "SiLU", "Tanh")}
    wanted.add("torch.nn.modules.normalization:LayerNorm")
    assert {name for name in torch_names if takes(name, MODEL, True)} == wanted
    assert not any(takes(name, MODEL, False) or takes(name, TRANSFORM, True) for name in torch_names)


def test_of_the_projects_only_what_they_list():
    names = everything(importlib.import_module("projects"))
    wanted = {
        ("model", False): "nlvr2.model:pair_albef nlvr2.model:pair_base nlvr2.model:pair_mini mim.model:sight "
        "mim.model:sight_base mim.model:sight_mini mim.model:sight_large mim.model:sight_huge "
        "mim.relative:relative_sight grounding.model:towers grounding.model:towers_mini",
        ("head", False): "nlvr2.head:PairClassify nlvr2.head:TextAssignment mim.mae:MAE mim.simmim:SimMIM "
        "mim.beit:BEiT grounding.head:GroundingDINO grounding.glip:GLIP "
        "detection.head:DETR detection.two_stage:FasterRCNN detection.ssd:SSD",
        ("head", True): "nlvr2.head:assign",
        ("model", True): "", ("transform", False): "", ("transform", True): "",
    }  # fmt: skip
    for (kind_name, inner), listed in wanted.items():
        kind = next(kind for kind in KINDS if kind.name == kind_name)
        assert {name for name in names if takes(name, kind, inner)} == {f"projects.{one}" for one in listed.split()}
    runs = {name for name in names if takes(name, EXPERIMENT, True)}
    sources = (
        "nlvr2.data:NLVR2 nlvr2.data:PairTargets visual_entailment.data:SNLIVE detection.data:Few "
        "grounding.targets:Asking grounding.referring:Referring grounding.telling:Telling"
    )
    assert runs == {f"projects.{one}" for group in (*wanted.values(), sources) for one in group.split()}


def test_a_project_lists_what_it_defines_and_nothing_that_it_imported(monkeypatch):
    imported = ("albef", "cast", "KeyValues", "torch.load")
    listed = [f"model:{name}" for name in ("pair_mini", *imported)]
    monkeypatch.setattr(importlib.import_module("projects.nlvr2"), "LOADABLE", {"model": listed})
    assert find("projects.nlvr2.model:pair_mini", MODEL)
    for name in imported:
        with pytest.raises(UserError, match="not a class or function defined there"):
            find(f"projects.nlvr2.model:{name}", MODEL)


def test_the_heads_that_compare_are_those_that_say_so():
    found = {name for name in HEAD.parts if find(name, HEAD).compares}
    assert found == COMPARING
    assert all(issubclass(find(name, HEAD), Head) for name in HEAD.parts)


# ---- what is on the lists only builds ----------------------------------------------------------------------------


def test_the_watch_sees(tmp_path):
    import socket
    import subprocess

    with watched() as found:
        (tmp_path / "x").write_text("x")
        subprocess.run(["true"], check=True)
        socket.socket().close()
        with contextlib.suppress(ImportError):
            importlib.import_module("this_module_is_not")
    assert {event.split(".")[0] for event, *_ in found} >= {"open", "subprocess", "socket", "import"}


def hostile(folder: Path) -> list:
    """Values that name things: files, programs, models of hubs, modules; and wrong types, none, huge, empty."""
    (folder / "there.json").write_text("{}")
    return [
        str(folder / "there.json"), str(folder / "new"), "../../etc/passwd", "hf-hub:owner/name", "timm:resnet18",
        "hf:bert-base-uncased", "https://example.org/x", "local-dir:..", "os:system", "os.system", "bert-base-uncased",
        "__import__('os').system('true')", "file:///etc/passwd", "", {}, {"a": {"path": "x"}}, [], ["a", "b"], None,
        -1, 0, 10**12, True, 1.5, {"tuple": [8, 8]}, {"tuple": ["a"]}, {"path": str(folder)}, {"float": "nan"},
        {"reference": "mmkit.heads.itm:gumbel_choice"}, {"target": "mmkit.data.importing:write_records", "args": {}},
        {"target": "mmkit.encoders.vit:ViT", "args": {"image_size": [8, 8], "patch": [8, 8]}},
    ]  # fmt: skip


SPEC = ModelSpec(image_width=8, text_width=8, fused_width=8, embed_dim=8, vocab_size=20, fuses=True)
GOOD = {"image_size": 32, "max_tokens": 8, "answers": ["a", "b"], "classes": ["a", "b"], "size": 32, "patch": 8}
SMALL = {"width": 16, "depth": 1, "heads": 2}


def good(target) -> dict:
    """Small arguments that fit."""
    found = {}
    for name in inspect.signature(target).parameters:
        size = next((value for end, value in SMALL.items() if name == end or name.endswith(f"_{end}")), None)
        if name in GOOD or size is not None:
            found[name] = GOOD.get(name, size)
    return found


def use(part, kind):
    """As ``load`` does: without numbers, on the meta device."""
    with torch.device("meta"):
        if kind is MODEL:
            part = partial(part, vocab_size=20) if "vocab_size" in inspect.signature(part.func).parameters else part
            return part()
        return part(SPEC) if kind is HEAD else part


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in (MODEL, HEAD, TRANSFORM) for name in sorted(kind.parts)],
    ids=lambda v: getattr(v, "name", str(v)),
)  # fmt: skip
def test_what_may_be_named_builds_and_does_nothing_else_whatever_it_is_given(kind, name, tmp_path):
    target, form = find(name, kind), kind.form
    fine = good(target) | ({"transform": None} if name.endswith(":Blank") else {})
    if name.endswith(":ClipTransform"):
        frame, sampler = ("mmkit.data.images.transforms:EvalTransform", "mmkit.data.video.samplers:Sampler")
        fine |= {"frame": {"dataclass": frame, "args": {"size": 8}}, "sampler": {"dataclass": sampler, "args": {}}}
    wanted = target if kind is TRANSFORM else nn.Module
    assert isinstance(use(rebuild({form: name, "args": fine}, kind), kind), wanted)
    values, built = hostile(tmp_path), 0
    warnings.simplefilter("ignore")  # of layers of no width
    with watched() as found:
        for argument in [*inspect.signature(target).parameters, "pretrained", "checkpoint_path", "path"]:
            for value in values:
                with contextlib.suppress(Exception):
                    use(rebuild({form: name, "args": fine | {argument: value}}, kind), kind)
                    built += 1
    assert not found
    assert built
    assert not (tmp_path / "new").exists()


def test_what_stands_in_a_whole_experiment_is_named_and_not_built(tmp_path):
    """Its dataclasses are values; its parts are partials, which nothing here calls."""
    values = hostile(tmp_path)
    modules = sorted(EXPERIMENT.parts)
    targets = {name: find(name, EXPERIMENT) for name in modules}
    with watched() as found:
        for name, target in targets.items():
            for form, value in itertools.product(("target", "dataclass", "reference"), values):
                for argument in list(inspect.signature(target).parameters)[:6]:
                    with contextlib.suppress(Exception):
                        rebuild({form: name, "args": {argument: value}}, EXPERIMENT)
    assert not found


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"path": "x"}, "may not stand as a path in a model"), ({"float": "nan"}, "nan among the numbers of a model"),
        ({"float": "-inf"}, "-inf is beyond what a model may hold"), ({"float": "1.5"}, "may not stand as a float"),
        (-1_000_001, "is beyond what a model may hold"), ({"a": 1_000_001}, "is beyond"), ([[1e9]], "is beyond"),
        ({"tuple": [1_000_001]}, "is beyond"), ({"tuple": 3}, "may not stand as a tuple"),
        ({"mapping": {"tuple": 1e9}}, "is beyond"), ({"mapping": [1]}, "may not stand as a mapping"),
    ],
)  # fmt: skip
def test_values_that_no_part_of_a_strangers_has(value, says, own):
    data = {"target": "mmkit.models.sizes.albef:albef_mini", "args": {"image_size": value}}
    with pytest.raises(UserError, match=says):
        rebuild(data, MODEL)
    for args in ({}, {"args": None}, {"args": [1]}, {"args": "x"}):
        with pytest.raises(UserError, match="albef_mini lacks its args"):
            rebuild({"target": data["target"]} | args, MODEL)
    if "beyond" in says or "path" in says or "nan" in says:  # own code judges its numbers
        rebuild({"target": f"{own}.deep.part:make", "args": {"x": value}}, MODEL, own)


def test_a_part_has_its_form_and_arguments_that_fit():
    name = "mmkit.models.sizes.albef:albef_mini"
    for form in ("reference", "dataclass"):
        with pytest.raises(UserError, match="is no model: expected"):
            rebuild({form: name, "args": {}}, MODEL)
    for args, says in (({"max_tokens": "x"}, "max_tokens = 'x': must be int"), ({"tokens": 3}, "no such argument")):
        with pytest.raises(UserError, match=says):
            rebuild({"target": name, "args": args}, MODEL)


@pytest.mark.parametrize(
    ("kind", "name", "argument", "most"),
    [
        (MODEL, "models.sizes.albef:albef_mini", "max_tokens", 1_000_000),
        (HEAD, "heads.itc:ITC", "queue_size", 1_000_000),
        (TRANSFORM, "data.images.transforms:EvalTransform", "size", 8192),
    ],
)  # fmt: skip
def test_the_largest_number_of_each_kind(kind, name, argument, most):
    data = {kind.form: f"mmkit.{name}", "args": {argument: most}}
    assert rebuild(data, kind)
    for beyond in (most + 1, -most - 1):
        with pytest.raises(UserError, match=f"{beyond} is beyond what a {kind.name} may hold, {most:,}"):
            rebuild(data | {"args": {argument: beyond}}, kind)


@pytest.mark.parametrize("inner", [lambda value: [value], lambda value: {"a": value}, lambda value: {"tuple": [value]}])
def test_what_is_nested_too_deeply_is_damaged(inner):
    value = 1
    for _ in range(20_000):
        value = inner(value)
    with pytest.raises(UserError, match="config: nested too deeply; it is damaged"):
        rebuild({"target": "mmkit.models.sizes.albef:albef_mini", "args": {"image_size": value}}, MODEL)


# ---- own code ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package and a file of the user's in the current folder, which leave a mark when they are imported."""
    name = f"own_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    mark = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    code = f"{mark}from torch import nn\nclass Mine(nn.Module):\n    pass\ndef make(x=1):\n    return Mine()\n"
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "deep" / "__init__.py").write_text("")
    (tmp_path / name / "deep" / "part.py").write_text(code)
    (tmp_path / f"{name}_file.py").write_text(code)
    (tmp_path / f"{name}x.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    monkeypatch.undo()
    assert [place for place in sys.path if place != str(tmp_path)] == [p for p in before if p != str(tmp_path)]
    sys.path[:] = before
    for module in [module for module in sys.modules if module.startswith((name, f"mmkit_config_file_{name}"))]:
        del sys.modules[module]


@pytest.mark.parametrize("above", ["", ".deep", ".deep.part"])
def test_own_code_loads_where_its_module_or_one_above_it_is_named(own, above, tmp_path):
    name = f"{own}.deep.part:Mine"
    with pytest.raises(UserError, match=rf"--allow {own}\.deep\.part, or allow=\('{own}\.deep\.part',\) in Python"):
        find(name, MODEL)
    assert not (tmp_path / "ran").exists()
    assert find(name, MODEL, (f"{own}{above}",)).__name__ == "Mine"
    assert (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="no part of mmkit"):  # it is not remembered
        find(name, MODEL)


@pytest.mark.parametrize("near", ["x", "_file", ".deeper", ".deep.part.Mine", ".dee"])
def test_a_name_that_only_begins_alike_is_not_allowed(own, near):
    with pytest.raises(UserError, match="no part of mmkit"):
        find(f"{own}.deep.part:Mine", MODEL, (f"{own}{near}",))


def test_a_name_leads_to_no_file_beside_what_is_allowed(own, tmp_path):
    (tmp_path / "beside.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Mine: pass\n")
    for name in (f"{own}.deep/../../beside:Mine", f"{own}./../beside:Mine", f"{own}.deep.part:", f"{own}.deep.part"):
        with pytest.raises(UserError, match="expected MODULE:NAME"):
            find(name, MODEL, (own,))
    assert not (tmp_path / "ran").exists()


def test_what_own_code_merely_imported_is_not_its_own(own):
    for taken in ("nn.Linear", "Path", "nn", "Mine.__init__", "Mine.forward", "nothing"):
        with pytest.raises(UserError, match=r"may not be rebuilt|there is no"):
            find(f"{own}.deep.part:{taken}", MODEL, (own,))


def test_an_installed_module_comes_before_that_of_the_current_folder(own, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{own}_file.py").write_text("class Mine: installed = True\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert find(f"{own}_file:Mine", MODEL, (f"{own}_file",)).installed


def test_the_import_path_stays_as_it_was_and_a_file_that_came_just_now_is_found(own, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before, name = list(sys.path), f"{own}_late"
    with pytest.raises(UserError, match="cannot import"):
        find(f"{name}:Mine", MODEL, (name,))
    times = tmp_path.stat()
    shutil.copy(tmp_path / f"{own}_file.py", tmp_path / f"{name}.py")
    os.utime(tmp_path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as on a file system with coarse times
    assert find(f"{name}:Mine", MODEL, (name,)).__module__ == name
    assert sys.path == before


def test_what_cannot_be_imported_says_where_it_was_looked_for(own, tmp_path):
    with pytest.raises(UserError, match=rf"cannot import 'missing_{own}'.*in the current folder \({tmp_path}\)"):
        find(f"missing_{own}:X", MODEL, (f"missing_{own}",))
    (tmp_path / f"{own}_file.py").write_text("class Mine(:\n")
    with pytest.raises(UserError, match="cannot import"):
        find(f"{own}_file:Mine", MODEL, (f"{own}_file",))


def test_a_file_may_be_allowed_and_runs_once(own, tmp_path):
    (tmp_path / f"{own}_file.py").write_text("with open('ran', 'a') as file:\n    file.write('x')\nclass Mine: pass\n")
    name = f"mmkit_config_file_{own}_file:Mine"
    said = rf"as a model: it was defined in a config file; where you trust that file, --allow {own}_file\.py, with the"
    with pytest.raises(UserError, match=said):
        find(name, MODEL)
    modules = checked(str(tmp_path / f"{own}_file.py"))
    assert find(name, MODEL, modules) is find(name, MODEL, checked(modules))
    assert (tmp_path / "ran").read_text() == "x"


def test_a_file_stands_for_the_module_of_its_name_where_import_takes_that_very_file(own, tmp_path, monkeypatch):
    name, (here, there) = f"{own}_alone", (tmp_path / "here", tmp_path / "there")
    for folder in (here, there):
        folder.mkdir()
        shutil.copy(tmp_path / f"{own}_file.py", folder / f"{name}.py")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert checked(str(here / f"{name}.py")) == (f"mmkit_config_file_{name}", name)
    assert checked(str(there / f"{name}.py")) == (f"mmkit_config_file_{name}",)  # import takes the one above
    assert "colorsys" not in checked(colorsys.__file__)  # Python's own is for nobody to allow


@pytest.mark.parametrize(
    "entry", ["mmkit", "mmkit.data", "torch", "torch.nn", "os", "subprocess", "builtins", "", ".", "a b", "a:b", "../x",
              "a.", ".a", "1a", "missing.py", 3, None],
)  # fmt: skip
def test_allow_is_for_modules_of_ones_own(entry):
    with pytest.raises(UserError, match="allow "):
        checked((entry,))
    with pytest.raises(UserError):
        rebuild({"target": "os:getcwd", "args": {}}, MODEL, (entry,))


def test_allow_takes_one_name_as_text():
    assert checked("mine.models") == ("mine.models",)
    assert checked(["a", "b.c_1"]) == ("a", "b.c_1")


def test_arguments_of_own_code_are_under_the_lists_too(own):
    part = f"{own}.deep.part:make"
    fine = {"target": part, "args": {"x": {"reference": "mmkit.encoders.vit:ViT"}}}
    assert rebuild(fine, MODEL, own).keywords["x"].__name__ == "ViT"
    for inner in ("mmkit.data.importing:write_records", "mmkit.models.sizes.albef:albef", "os:system", "torch:load"):
        for form in ({"target": inner, "args": {}}, {"dataclass": inner, "args": {}}, {"reference": inner}):
            for value in (form, [form], {"a": form}, {"tuple": [form]}, {"mapping": {"tuple": form}}):
                with pytest.raises(UserError, match="in the arguments of a model"):
                    rebuild({"target": part, "args": {"x": value}}, MODEL, own)
    with pytest.raises(UserError, match="in the arguments of an experiment"):
        rebuild({"target": part, "args": {"x": {"reference": "os:system"}}}, EXPERIMENT, own)
    assert rebuild({"target": part, "args": {"x": 10**12}}, MODEL, own).keywords == {"x": 10**12}
    assert rebuild({"target": part, "args": {"x": {"path": "a"}}}, MODEL, own).keywords == {"x": Path("a")}


# ---- projects ----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder ``projects`` of somebody else, first on the import path and in the current folder."""
    mark = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "projects" / "nlvr2").mkdir(parents=True)
    for file in ("projects/__init__.py", "projects/nlvr2/__init__.py", "projects/nlvr2/model.py", "projects/evil.py"):
        (tmp_path / file).write_text(
            f"{mark}LOADABLE = {{'model': ('model:pair_mini',)}}\ndef pair_mini(**given):\n    return 1\n"
        )
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "projects"}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "projects"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_projects_are_those_beside_mmkit_whatever_folder_one_stands_in(elsewhere):
    found = find("projects.nlvr2.model:pair_mini", MODEL)
    assert Path(inspect.getfile(found)).parents[2] == Path(mmkit.__file__).parents[1]
    for name in ("projects.evil:pair_mini", "projects.nope:x", "projects.nlvr2.nope:x", "projects:x", "projects.:x"):
        with pytest.raises(UserError, match="may not be rebuilt"):
            find(name, MODEL)
    assert not (elsewhere / "ran").exists()


@pytest.mark.parametrize("name", ["projects", "projects.nlvr2", "projects.nlvr2.model"])
def test_other_projects_that_are_imported_already_are_refused(name, elsewhere):
    ours = find("projects.nlvr2.model:pair_mini", MODEL)
    for module in [module for module in sys.modules if module.split(".")[0] == "projects"]:
        if module.startswith(name):
            del sys.modules[module]
    spec = importlib.util.spec_from_file_location(
        name, elsewhere / name.replace(".", "/") / "__init__.py" if not name.endswith("model") else
        elsewhere / "projects/nlvr2/model.py",
    )  # fmt: skip
    sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.modules[name].LOADABLE = {"model": ("model:pair_mini",)}
    with pytest.raises(UserError, match=rf"Python has another '{name}' .*in its place: refused"):
        find("projects.nlvr2.model:pair_mini", MODEL)
    assert ours is not None


def test_without_a_clone_it_says_where_to_get_one(elsewhere, monkeypatch):
    monkeypatch.setattr(projects, "ROOT", elsewhere)  # beside a folder `projects`
    with pytest.raises(UserError, match=r"installed without them: get https://github\.com/mmkit/mmkit and run"):
        find("projects.nlvr2.model:pair_mini", MODEL)
    assert not (elsewhere / "ran").exists()
    assert find("projects.nlvr2.model:pair_mini", MODEL, ("projects",))() == 1  # own code of that name, if it is named
    assert (elsewhere / "ran").exists()


def test_the_message_for_an_unlisted_part_names_the_list():
    with pytest.raises(UserError, match=r"LOADABLE in projects/nlvr2/__init__\.py"):
        find("projects.nlvr2.model:PairALBEF", MODEL)
    with pytest.raises(UserError, match=r"not on mmkit's list \(did you mean 'mmkit\.models\.sizes\.albef:albef_mini'"):
        find("mmkit.models.sizes.albef:albef_minni", MODEL)
    assert config_allowed.KINDS[0] is MODEL
