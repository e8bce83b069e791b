"""A model's card for the Hugging Face hub, filled in from the model: what it is for, an example that runs, its facts.

The hub's list of tasks has none for matching, retrieval alone, or classes of picture and text; such a model gets a tag
in place of the pipeline's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mmkit.config.allowed import COMPARING
from mmkit.data.labels import some
from mmkit.heads.base import Answers, Classifies, Head, Scores, reads_words
from mmkit.hub.training import UNKNOWN, licence_id
from mmkit.inference.predictor import Predictor

CARD = """
# {title}

{summary} Made with [mmkit](https://github.com/mmkit/mmkit): {parameters:,} parameters, heads: {heads}.

## Use

```python
from mmkit.hub.pretrained import Pretrained

predictor = Pretrained.from_pretrained({repository!r}).predictor
{example}
```

## Training

{training}

## Facts

| | |
|---|---|
{rows}

## Licence

{licence}
"""
ANSWERS = """for answer, probability in predictor.answer(["photo.jpg"], ["what is in the picture?"]{choices})[0]:
    print(answer, probability)"""
SIMILARITIES = """names = ["a cat", "a dog"]
images = predictor.encode_image(["photo.jpg"])  # (n, E), L2-normalised
texts = predictor.encode_text(names)
print(dict(zip(names, (images @ texts.T)[0].tolist())))  # the highest is the best"""
MATCH = """texts = ["a cat", "a dog"]
print(predictor.match(["photo.jpg"] * len(texts), texts))  # the probability of each pair, 0 to 1"""
CLASSES = """import torch

head = predictor.heads[{head!r}]
tokens = next(predictor.image_tokens(["photo.jpg"]))
fused = predictor.fuse(tokens, torch.arange(1), ["somebody is asleep"])
with predictor.inference():
    probabilities = head.logits(fused).softmax(-1)[0]
print(dict(zip(head.classes, probabilities.tolist())))"""
EMBEDDINGS = """images = predictor.encode_image(["photo.jpg"])  # (n, E), L2-normalised
print(images.shape)"""
PICTURES = """for name, probability in predictor.classify(["photo.jpg"])[0]:
    print(name, probability)"""
TOKENS = """images = next(predictor.image_tokens(["photo.jpg"]))  # tokens (n, P, D)
texts = next(predictor.text_tokens(["a caption"]))  # tokens (n, L, D)
print(images.x.shape, texts.x.shape)"""
HIDDEN = ("kind", "use", "licence", "parameters")


@dataclass(frozen=True)
class Purpose:
    """What a model is for. pipeline: the hub's name of the task, or None."""

    summary: str
    pipeline: str | None
    tags: tuple[str, ...]
    example: str


def purpose_of(predictor: Predictor, experiment: Mapping[str, Any]) -> Purpose:
    """By its heads: the first of answering, comparing, matching and classes that it has learned."""
    if predictor.has(Answers):
        choices = "" if predictor.answerer().answers else ', answers=["yes", "no"]'
        example = ANSWERS.format(choices=choices)
        return Purpose("Answers questions about pictures.", "visual-question-answering", (), example)
    retrieval = ("image-text-retrieval",)
    if predictor.model.spec.embed_dim and _contrastive(predictor, experiment):
        more = f"\n{MATCH}" if predictor.can_match() else ""
        summary = "Compares pictures and texts in one space, for search and for classes by their names."
        return Purpose(summary, "zero-shot-image-classification", retrieval, SIMILARITIES + more)
    if predictor.can_match():
        return Purpose("Says how well a picture and a text match.", None, retrieval, MATCH)
    for name, head in predictor.heads.items():
        if isinstance(head, Classifies) and isinstance(head, Scores) and not head.also_reads:
            summary = f"Sorts pairs of a picture and a text into classes: {', '.join(head.classes)}."
            return Purpose(summary, None, ("image-text-classification",), CLASSES.format(head=name))
        if isinstance(head, Classifies) and not reads_words(head):
            return Purpose(
                f"Sorts pictures into classes: {some(head.classes, 20)}.", "image-classification", (), PICTURES
            )
    if not predictor.reads_words:
        return Purpose("Turns pictures into features.", "image-feature-extraction", (), EMBEDDINGS)
    example = SIMILARITIES if predictor.model.spec.embed_dim else TOKENS
    return Purpose("Turns pictures and texts into features.", None, ("feature-extraction",), example)


def card(
    facts: Mapping[str, Any], training: Mapping[str, Any], purpose: Purpose, repository: str, licence: str | None = None
) -> ModelCard:
    """The card.

    repository: name or folder that its example loads. licence: the hub's name of it, in place of what the data tell.
    """
    name = licence or licence_id(training)
    init = training.get("init", {}).values()
    data = ModelCardData(
        library_name="mmkit", tags=["mmkit", "vision-language", *purpose.tags], pipeline_tag=purpose.pipeline,
        license=name, license_name="see-below" if name == "other" else None,
        base_model=[source.removeprefix("hf:") for source in init if source.startswith("hf:")] or None,
    )  # fmt: skip
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in facts.items() if key not in HIDDEN)
    text = CARD.format(
        title=repository.rstrip("/").split("/")[-1], summary=purpose.summary, parameters=facts["parameters"],
        heads=facts.get("training.heads", facts["heads"]), repository=repository, example=purpose.example, rows=rows,
        training=_training(facts), licence=f"{licence} (as its author says)" if licence else _licence(facts["licence"]),
    )  # fmt: skip
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def _contrastive(predictor: Predictor, experiment: Mapping[str, Any]) -> bool:
    """Whether the joint space was trained with the heads; heads without weights are not saved, so by the config too."""
    named = {part["target"] for part in experiment["args"]["heads"].values()}
    return bool(named & COMPARING) or any(isinstance(head, Head) and head.compares for head in predictor.heads.values())


def _training(facts: Mapping[str, Any]) -> str:
    told = {key.removeprefix("training."): value for key, value in facts.items() if key.startswith("training.")}
    said = {"data": "Data", "records": "Records", "steps": "Steps", "heads": "Objectives", "init": "Started from"}
    return "\n".join(f"- {title}: {_cell(told[key])}" for key, title in said.items() if key in told)


def _licence(says: str) -> str:
    if UNKNOWN not in says:
        return says
    return f"{says}\n\nBefore it is published: `push_to_hub(NAME, model_card_kwargs={{'licence': 'apache-2.0'}})`."


def _cell(value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")
