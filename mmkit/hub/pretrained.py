"""Models on the Hugging Face hub: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``, with a filled-in card.

    Pretrained.from_pretrained("runs/mine").push_to_hub("me/mine")
    predictor = Pretrained.from_pretrained("me/mine").predictor

What lies on the hub is the folder that ``mmkit.load`` reads: safetensors and JSON, no pickle, no code. The card says
what ``mmkit info`` says.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.hub.card import card, purpose_of
from mmkit.hub.files import CONFIG, CONVERSION, PREPROCESSING, TOKENIZER, WEIGHTS, read_json
from mmkit.hub.info import describe_folder
from mmkit.hub.training import of_folder
from mmkit.inference.predictor import Predictor

FILES = (CONFIG, WEIGHTS, PREPROCESSING, f"{TOKENIZER}/*", CONVERSION)
CLIENT: tuple[Any, ...] = HfHubHTTPError.__bases__  # the base of all errors of the hub's client
FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, EntryNotFoundError, *CLIENT)


class Pretrained(ModelHubMixin, library_name="mmkit", tags=["mmkit", "vision-language"]):
    """A predictor and the folder that it came from.

    facts: what ``mmkit info`` says of it. training: the record of its training, ``mmkit/hub/training.py``.
    """

    def __init__(self, predictor: Predictor, source: Path) -> None:
        self.predictor = predictor
        self.source = source
        self.facts = describe_folder(source)
        config = read_json(source / CONFIG)
        self.experiment: Mapping[str, Any] = config["experiment"]
        self.training = of_folder(source, config)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # further names are refused, not swallowed
        cls, pretrained_model_name_or_path: str | Path, *, force_download: bool = False,
        token: str | bool | None = None, cache_dir: str | Path | None = None, local_files_only: bool = False,
        revision: str | None = None, device: str = "cpu", precision: Literal["float32", "bf16"] = "float32",
        image_size: int | tuple[int, int] | None = None, allow: str | Sequence[str] = (),
    ) -> Pretrained:  # fmt: skip
        """A folder here, or OWNER/NAME on the hub, fetched once. The last four: see ``mmkit.load``.

        UserError where it cannot be had, which names the files to fetch and where to put them, or is damaged.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        is_here = folder.exists() or name.startswith((".", "/", "~"))
        if not is_here:
            try:
                validate_repo_id(name)
                folder = Path(snapshot_download(
                    name, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token, allow_patterns=list(FILES),
                ))  # fmt: skip
            except HFValidationError as error:
                raise UserError(f"{name}: no such folder here, and no name of the hub, which is OWNER/NAME") from error
            except FAILURES as error:
                raise UserError(_unreachable(name, error)) from error
        try:
            return cls(hub.load(folder, device=device, precision=precision, image_size=image_size, allow=allow), folder)
        except UserError as error:
            if is_here:
                raise
            raise UserError(f"{name} (of the Hugging Face hub): {error}") from error

    def save_pretrained(
        self, save_directory: str | Path, *, config: Any = None, repo_id: str | None = None, push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None, **push_to_hub_kwargs: Any,
    ) -> str | None:  # fmt: skip
        """Write the folder, with a card; ``push_to_hub=True`` also uploads it, as ``repo_id``.

        model_card_kwargs: see ``generate_model_card``; the card's example loads this folder unless they say otherwise.
        """
        name = (repo_id or Path(save_directory).name) if push_to_hub else str(save_directory)
        return super().save_pretrained(
            save_directory, config=config, repo_id=repo_id, push_to_hub=push_to_hub,
            model_card_kwargs={"repository": name} | dict(model_card_kwargs or {}), **push_to_hub_kwargs,
        )  # fmt: skip

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None, **options: Any,
    ) -> str:  # fmt: skip
        """Upload it as ``repo_id``, which the card's example names; the address of the commit.

        model_card_kwargs: ``{"licence": "apache-2.0"}`` where the training data tell none. options: those of
        huggingface_hub's own (commit_message, branch, create_pr, ...).
        """
        whole = HfApi(token=token).create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        card_options = dict(model_card_kwargs or {}) | {"repository": whole}
        return super().push_to_hub(whole, private=private, token=token, model_card_kwargs=card_options, **options)

    def generate_model_card(self, *, repository: str | None = None, licence: str | None = None) -> ModelCard:
        """The card of what was saved last. repository: what its example loads; licence: the hub's name of one."""
        purpose = purpose_of(self.predictor, self.experiment)
        return card(self.facts, self.training, purpose, repository or str(self.source), licence)

    def _save_pretrained(self, save_directory: Path) -> None:
        hub.save(save_directory, self.predictor, self.experiment, self.training)
        if (self.source / CONVERSION).is_file() and save_directory.resolve() != self.source.resolve():
            shutil.copyfile(self.source / CONVERSION, save_directory / CONVERSION)
        self.facts = describe_folder(save_directory)


def _unreachable(name: str, error: Exception) -> str:
    why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{name}: no folder here, not in the cache, and not to be had from the Hugging Face hub ({why[:200]}). Where "
        f"there is a network, fetch {CONFIG}, {WEIGHTS}, {PREPROCESSING} and the folder {TOKENIZER}/ "
        f"of https://huggingface.co/{name} (hf download {name} --local-dir FOLDER), put them into one folder "
        f"FOLDER here, and give FOLDER in place of {name!r}"
    )
