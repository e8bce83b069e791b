"""Models on the Hugging Face hub: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``, with a filled-in card.

    Pretrained.from_pretrained("runs/mine").push_to_hub("me/mine")
    predictor = Pretrained.from_pretrained("me/mine").predictor

What lies on the hub is the folder that ``mmkit.load`` reads: safetensors and JSON, no pickle, no code. The card says
what ``mmkit info`` says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from mmkit import hub
from mmkit.errors import UserError
from mmkit.hub_info import describe_folder
from mmkit.predictor import Predictor

FILES = (hub.CONFIG, hub.WEIGHTS, hub.PREPROCESSING, f"{hub.TOKENIZER}/*", "conversion.json", "data.json")

CARD = """
# {title}

A model made with [mmkit](https://github.com/mmkit/mmkit): {model}, heads: {heads}.

## Use

```python
from mmkit.hub_pretrained import Pretrained

predictor = Pretrained.from_pretrained("{repository}").predictor
images = predictor.encode_image(["photo.jpg"])  # (n, E), L2-normalised: compare by images @ texts.T
texts = predictor.encode_text(["a caption"])
```

## Facts

| | |
|---|---|
{rows}

## Licence

{licence}
"""


class Pretrained(ModelHubMixin, library_name="mmkit", tags=["mmkit", "vision-language"]):
    """A predictor and the folder that it came from. ``facts``: what ``mmkit info`` says of it."""

    def __init__(self, predictor: Predictor, source: Path) -> None:
        self.predictor = predictor
        self.source = source
        self.facts = describe_folder(source)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = json.loads((self.source / hub.CONFIG).read_text(encoding="utf-8"))
        hub.save(save_directory, self.predictor, config["experiment"])
        for name in FILES[4:]:
            if (self.source / name).is_file() and save_directory.resolve() != self.source.resolve():
                shutil.copyfile(self.source / name, save_directory / name)

    @classmethod
    def _from_pretrained(  # type: ignore[override]  # further names are refused, not swallowed
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, device: str = "cpu",
        precision: Literal["float32", "bf16"] = "float32",
    ) -> Pretrained:  # fmt: skip
        folder = Path(model_id)
        if not folder.is_dir():
            try:
                folder = Path(
                    snapshot_download(
                        model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                        local_files_only=local_files_only, token=token, allow_patterns=list(FILES),
                    )
                )  # fmt: skip
            except (HfHubHTTPError, OSError, ValueError) as error:
                raise UserError(
                    f"{model_id}: neither a folder here, nor to be had from the Hugging Face hub "
                    f"({str(error).strip().splitlines()[0]}). Where there is a network, fetch "
                    f"https://huggingface.co/{model_id} whole, and give the folder's path"
                ) from error
        return cls(hub.load(folder, device=device, precision=precision), folder)

    def generate_model_card(self, *, repository: str = "OWNER/NAME") -> ModelCard:
        """The card; ``repository`` is the name in its example."""
        return card(self.facts, repository)


def card(facts: Mapping[str, Any], repository: str) -> ModelCard:
    """A model card from the facts of ``mmkit info``."""
    data = ModelCardData(
        library_name="mmkit", tags=["mmkit", "vision-language"], pipeline_tag="zero-shot-image-classification",
        license="other", license_name="see-below",
    )  # fmt: skip
    title = repository.split("/")[-1] if repository != "OWNER/NAME" else facts["model"].split(":")[-1]
    rows = "\n".join(f"| {name} | {_shown(value)} |" for name, value in facts.items() if name != "licence")
    text = CARD.format(
        title=title, model=facts["model"].split(":")[-1], heads=facts["heads"], repository=repository, rows=rows,
        licence=facts["licence"],
    )  # fmt: skip
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
