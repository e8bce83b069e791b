"""Where the parts live now that a file of an earlier version names by another module: one table for all readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODULES = {
    "config": "config.experiment", "data.text_ops": "data.texts.cleaning", "data.image_io": "data.images.opening",
    "embed_files": "inference.embed_files", "export": "inference.export", "hub_pretrained": "hub.pretrained",
    "predictor": "inference.predictor", "data.centre_crop": "data.images.centre_crop",
    "data.easy_vqa": "data.sources.easy_vqa", "data.image_ops": "data.images.transforms",
    "data.karpathy": "data.sources.published.karpathy", "data.masking": "data.texts.masking",
    "data.openmoji": "data.openmoji.scenes", "data.openmoji_hypotheses": "data.openmoji.hypotheses",
    "data.openmoji_pairs": "data.openmoji.pairs", "data.openmoji_questions": "data.openmoji.questions",
    "data.randaugment": "data.images.randaugment", "data.refcoco": "data.sources.published.refcoco",
    "data.variable_size": "data.images.variable_size", "data.vqa_files": "data.sources.published.vqa",
    "evals.classify": "evals.classification", "heads.answer_classifier": "heads.answers.classifier",
    "heads.answer_decoder": "heads.answers.decoder", "models.sizes": "models.sizes.albef",
    "models.sizes_dual": "models.sizes.dual", "models.sizes_vilt": "models.sizes.vilt",
}  # fmt: skip
_NAMES = {
    "data.hf_tokenizer:HuggingFaceTokenizer": "data.texts.huggingface.tokenizer:HuggingFaceTokenizer",
    "data.importing:CocoCaptions": "data.sources.published.coco_captions:CocoCaptions",
    "data.importing:Table": "data.sources.table:Table",
    "data.sources:ClassFolder": "data.sources.class_folder:ClassFolder",
    "data.sources:ClassTable": "data.sources.table:ClassTable", "data.sources:Folder": "data.sources.folder:Folder",
    "data.sources:HuggingFace": "data.sources.hugging_face:HuggingFace",
    "data.tokenizer:Framing": "data.texts.protocol:Framing",
    "data.tokenizer:SentencePieceTokenizer": "data.texts.pieces:SentencePieceTokenizer",
    "data.tokenizer:huggingface": "data.texts.tokenizers:from_hub",
    "data.tokenizer:saved": "data.texts.tokenizers:reuse",
    "data.tokenizer:sentencepiece": "data.texts.tokenizers:train_sentencepiece",
    "data.vqa_files:Joined": "data.sources.joined:Joined", "nn.vocabulary:Vocabulary": "nn.vocabulary:VocabularyHead",
}  # fmt: skip
_ARGUMENTS: dict[str, dict[str, str | None]] = {
    "mmkit.config.experiment:Experiment": {"folder": "subfolder"},
    "mmkit.config.experiment:Run": {"product": "float32_matmul"},
    "mmkit.evals.zeroshot:ZeroShot": {"seed": None},
}
"""Of a part by its present name, what its arguments are called now; None = it has none of that meaning any more."""
_SINCE: dict[str, dict[str, Any]] = {"mmkit.config.experiment:Rule": {"muon": False}}
"""Settings that came later, with what was done before: a run that was begun without them goes on."""
FORMS = ("target", "dataclass", "reference")
"""The keys under which JSON names a part."""


def present(name: str) -> str:
    """The present ``module:qualname`` of a part of mmkit; any other name as it is."""
    of_mmkit, own, rest = name.partition("mmkit.")
    if of_mmkit or not own:
        return name
    module, _, part = rest.partition(":")
    return f"mmkit.{_NAMES.get(rest) or f'{_MODULES.get(module, module)}:{part}'}"


def with_present_names(data: Any) -> Any:
    """JSON-able values in which each part (``mmkit/config/as_json.py``) and its arguments have their present names."""
    if isinstance(data, list):
        return [with_present_names(value) for value in data]
    if not isinstance(data, Mapping):
        return data
    found = {
        key: present(value) if key in FORMS and isinstance(value, str) else with_present_names(value)
        for key, value in data.items()
    }
    arguments = found.get("args")
    if found.get("dataclass") == "mmkit.config.experiment:Run" and isinstance(arguments, dict):
        found["args"] = _with_trackers(arguments)
    if isinstance(arguments, dict) and found.get("dataclass") in _SINCE:
        found["args"] = _SINCE[found["dataclass"]] | arguments
    renamed = next((_ARGUMENTS[name] for form, name in found.items() if form in FORMS and name in _ARGUMENTS), {})
    if renamed and isinstance(arguments := found.get("args"), dict):
        found["args"] = {renamed.get(k, k): v for k, v in arguments.items() if renamed.get(k, k) is not None}
    return found


def _with_trackers(args: dict[str, Any]) -> dict[str, Any]:
    """A run once said whether it wrote for TensorBoard, and of no other tracker."""
    if "tensorboard" not in args or "trackers" in args:
        return args
    now = {"tuple": ["tensorboard"] if args["tensorboard"] else []}
    return {name: value for name, value in args.items() if name != "tensorboard"} | {"trackers": now}


def where_now(module: str | None) -> str:
    """The end of a message about a module that cannot be imported: its present name, where an earlier one is known."""
    name = (module or "").removeprefix("mmkit.")
    new = _MODULES.get(name) or ("data.texts.tokenizers" if name == "data.tokenizer" else None)
    return "" if new is None else f"; it is mmkit.{new} now"
