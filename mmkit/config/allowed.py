"""Which classes and functions a file may name: closed lists by kind of part, and the ways of the user's own code.

A file of somebody else (``config.json`` of a model) is rebuilt from JSON. Whatever it may name is written down here,
one by one: what takes plain numbers and texts and makes a module or a transform of them, and nothing that opens a file,
starts a program, imports by an argument or talks to the network. Code of the user's own loads where ``allow`` names its
module. Parts of ``projects`` load from the folder beside the mmkit that runs, if their project lists them.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mmkit.config.load import OF_FILES, import_file
from mmkit.config.override import nearest
from mmkit.config.projects import clone, project_module
from mmkit.errors import UserError


def _named(*parts: str) -> frozenset[str]:
    """Of mmkit's own, each written as ``module:names``."""
    modules = (part.partition(":") for part in parts)
    return frozenset(f"mmkit.{module}:{name}" for module, _, names in modules for name in names.split())


MODELS = _named(
    "models.sizes.albef:albef albef_base albef_small albef_mini",
    "models.sizes.dual:clip siglip lit clip_base siglip_base lit_base dual_mini siglip_mini",
    "models.sizes.vilt:vilt vilt_base vilt_mini",
    "models.sizes.vision:vision vision_base vision_small vision_mini",
    "models.sizes.video:video video_mini albef_video albef_video_mini clip_video clip_frames dual_video_mini "
    "dual_frames_mini",
)
COMPARING = _named("heads.itc:ITC", "heads.sigmoid:Sigmoid")
"""Heads that make the joint space one in which embeddings compare (``Head.compares``)."""
HEADS = COMPARING | _named(
    "heads.itm:ITM", "heads.mlm:MLM", "heads.wpa:WPA", "heads.classify:Classify", "heads.image_classify:ImageClassify",
    "heads.answers.classifier:AnswerClassifier", "heads.answers.decoder:AnswerDecoder",
    "heads.captioning:Captioner", "heads.captioning:PrefixCaptioner",
)  # fmt: skip
DRAWS = _named("heads.itm:gumbel_choice")
"""Functions that stand in the arguments of heads."""
BLOCKS = _named(
    "encoders.vit:ViT", "encoders.text:TextEncoder TextEmbeddings FusionEncoder", "encoders.prenorm_text:PreNormText",
    "encoders.joint:JointViT", "encoders.decoder:TextDecoder", "nn.pool:FirstToken LastToken AttentionPool",
) | frozenset(f"torch.nn.modules.{name}" for name in (
    "activation:GELU", "activation:ReLU", "activation:SiLU", "activation:Tanh", "normalization:LayerNorm",
))  # fmt: skip
"""Modules that stand in the arguments of models and heads of the user's own; those of mmkit take numbers."""
TRANSFORMS = _named(
    "data.images.transforms:EvalTransform Blank", "data.images.centre_crop:CentreCrop",
    "data.images.variable_size:KeepShape", "data.video.transforms:ClipTransform", "data.video.samplers:Sampler",
)  # fmt: skip
SOURCES = _named(
    "data.openmoji.scenes:Scenes Singles Unseen", "data.openmoji.questions:Questions", "data.openmoji.pairs:Pairs",
    "data.openmoji.hypotheses:Hypotheses", "data.openmoji.moving:Moving MovingQuestions",
    "data.openmoji.crowded:Crowded", "data.openmoji.expressions:Expressions",
    "data.records:JsonLines", "data.sources.class_folder:ClassFolder",
    "data.sources.easy_vqa:EasyVQA EasyVQAPairs", "data.sources.folder:Folder", "data.sources.hugging_face:HuggingFace",
    "data.sources.joined:Joined", "data.sources.open:open_records open_source", "data.sources.questions:Asked",
    "data.sources.table:Table ClassTable", "data.sources.published.coco_captions:CocoCaptions",
    "data.sources.published.karpathy:Karpathy", "data.sources.published.refcoco:RefCoco",
    "data.sources.published.vqa:VQALines VQAFiles VisualGenomeQA AnswerLists GQAQuestions",
)  # fmt: skip
"""What reads data: in the config of a whole run alone, where it is named and not built."""
VALUES = TRANSFORMS | _named(
    "config.experiment:Experiment Data Run Optim Rule Teacher Ramp", "data.images.transforms:TrainTransform BlankTrain",
    "data.images.variable_size:KeepShapeTrain", "data.video.transforms:ClipTrain", "data.texts.masking:Masking",
    "data.texts.protocol:Framing", "encoders.decoding:Decoding", "train.mixing:Mixing",
)  # fmt: skip
"""Dataclasses that are built as they are read: they hold numbers and check them."""
SETTINGS = VALUES | _named(
    "data.texts.tokenizers:train_sentencepiece from_hub reuse",
    "data.targets:AnswerTokens AnswerScores CaptionTokens ClassLabels",
    "data.objects:Objects", "evals.captions.evaluate:WrittenCaptions", "evals.detection.evaluate:Detection",
    "evals.detection.phrases:Phrases",
    "evals.classification:Classification", "evals.grounding:Grounding", "evals.image_classes:ImageClasses",
    "evals.retrieval:Retrieval", "evals.vqa:VQA", "evals.zeroshot:ZeroShot", "report.make:Report",
    "report.answers:AnswersReport",
)  # fmt: skip
"""What else the config of a run is made of."""
FOREIGN = ("mmkit", "torch", *sys.stdlib_module_names)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of part. name: as messages call it, and projects list it.

    parts: what it may be. inner: what may stand in its arguments beside plain values. Of both, only those of ``VALUES``
    are built as they are read. form: how it is written, None
    for any. largest: the bound of whole numbers in its arguments, None = none.
    """

    name: str
    parts: frozenset[str]
    inner: frozenset[str] = frozenset()
    form: str | None = None
    largest: int | None = None


MODEL = Kind(name="model", parts=MODELS, inner=BLOCKS, form="target", largest=1_000_000)
HEAD = Kind(name="head", parts=HEADS, inner=DRAWS | BLOCKS, form="target", largest=1_000_000)
TRANSFORM = Kind(name="transform", parts=TRANSFORMS, inner=TRANSFORMS, form="dataclass", largest=8192)
ANYTHING = SOURCES | SETTINGS | MODELS | HEADS | DRAWS | BLOCKS
EXPERIMENT = Kind(name="experiment", parts=ANYTHING, inner=ANYTHING)
KINDS = (MODEL, HEAD, TRANSFORM, EXPERIMENT)


def checked(allow: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that ``allow`` names; UserError for what is no module of the user's own.

    FILE.py is imported here, and stands for the module of its name too, where ``import`` would take that very file.
    """
    modules = []
    for entry in (allow,) if isinstance(allow, str) else allow:
        if isinstance(entry, str) and entry.endswith(".py"):
            if not Path(entry).is_file():
                raise UserError(f"allow {entry}: no such file")
            modules.append(import_file(Path(entry)).__name__)
            stem = Path(entry).stem
            spec = importlib.util.find_spec(stem) if stem.isidentifier() and stem not in FOREIGN else None
            if spec is not None and spec.origin and Path(spec.origin).resolve() == Path(entry).resolve():
                modules.append(stem)
            continue
        if not isinstance(entry, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", entry):
            raise UserError(f"allow {entry!r}: give the name of a module, as after `import`, or FILE.py")
        if entry.split(".")[0] in FOREIGN:
            raise UserError(f"allow {entry}: is for code of your own; of {entry.split('.')[0]} only listed parts load")
        modules.append(entry)
    return tuple(modules)


def is_own(name: str, allow: Sequence[str]) -> bool:
    """Whether ``allow`` names the module of ``module:qualname``, or one above it."""
    module = name.partition(":")[0]
    return any(module == own or module.startswith(f"{own}.") for own in allow)


def find(name: Any, kind: Kind, allow: Sequence[str] = (), inner: bool = False) -> Any:
    """The class or function that ``module:qualname`` names; UserError unless it may be one of this kind.

    inner: it stands in the arguments of such a part. Nothing is imported before the name is found on a list.
    """
    module_name, _, qualname = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not all(step.isidentifier() for step in (*module_name.split("."), *qualname.split("."))):
        raise UserError(f"config: {str(name)[:80]!r} may not be rebuilt: expected MODULE:NAME")
    if is_own(name, allow):
        return _defined(name, _own(module_name), lambda module: is_own(module, allow))
    of_project = module_name.startswith("projects.")
    listed = _of_project(name, kind, inner) if of_project else kind.inner if inner else kind.parts
    if name not in listed:
        raise UserError(_refusal(name, kind, listed, inner))
    module = project_module(module_name) if of_project else importlib.import_module(module_name)
    return _defined(name, module, lambda module: module.split(".")[0] == module_name.split(".")[0])


def _refusal(name: str, kind: Kind, listed: frozenset[str], inner: bool) -> str:
    one = f"{'an' if kind is EXPERIMENT else 'a'} {kind.name}"
    place = f"in the arguments of {one}" if inner else f"as {one}"
    module = name.partition(":")[0]
    if module.split(".")[0] in FOREIGN:
        return f"config: {name!r} may not be rebuilt {place}: it is not on mmkit's list{nearest(name, listed)}"
    if module.startswith("projects."):
        project = ".".join(module.split(".")[:2])
        file = f"{project.replace('.', '/')}/__init__.py"
        return f"config: {name!r} may not be rebuilt {place}: it is not among those that LOADABLE in {file} lists"
    if module.startswith(OF_FILES):
        file = f"{module.removeprefix(OF_FILES)}.py"
        return (
            f"config: {name!r} may not be rebuilt {place}: it was defined in a config file; where you trust that file, "
            f"--allow {file}, with the folder that it lies in, or allow=({file!r},) in Python"
        )
    return (
        f"config: {name!r} may not be rebuilt {place}: it is no part of mmkit. Where it is code of yours, or of "
        f"somebody whom you trust: --allow {module}, or allow=({module!r},) in Python"
    )


def _defined(name: str, module: ModuleType, belongs: Callable[[str], bool]) -> Any:
    found: Any = module
    for step in name.partition(":")[2].split("."):
        if step.startswith("__") or not hasattr(found, step):
            raise UserError(f"config: there is no {name!r}; was it written by another version?")
        found = getattr(found, step)
    if not (isinstance(found, type) or inspect.isfunction(found)) or not belongs(found.__module__):
        raise UserError(f"config: {name!r} may not be rebuilt: it is not a class or function defined there")
    return found


def _own(module_name: str) -> ModuleType:
    """A module of the user's: installed, on PYTHONPATH, or in the current folder, which is looked in last."""
    here = os.getcwd()
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise UserError(
            f"config: cannot import {module_name!r} ({error}); it must be installed, in the current folder ({here}), "
            "or in one that PYTHONPATH names"
        ) from error
    finally:
        if here in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


def _of_project(name: str, kind: Kind, inner: bool) -> frozenset[str]:
    """What the project that ``name`` is of lists for a kind: ``LOADABLE`` in its ``__init__.py``."""
    project = ".".join(name.partition(":")[0].split(".")[:2])
    root = clone()
    if root is not None and not (root / project.replace(".", "/") / "__init__.py").is_file():
        raise UserError(f"config: {name!r} may not be rebuilt: there is no {project} in {root / 'projects'}")
    listed: Mapping[str, Sequence[str]] = getattr(project_module(project), "LOADABLE", {})
    kinds = tuple(listed) if kind is EXPERIMENT else (f"{kind.name} argument" if inner else kind.name,)
    return frozenset(f"{project}.{part}" for one in kinds if one in listed for part in listed[one])
