"""What of a foreign checkpoint fills which tower of a model: a ViT the image tower, a BERT the text and fusion towers.

Also an official ALBEF or a model that mmkit saved fills one of these, or the model whole. Each reading is strict: the
file's keys are all used, or dropped by a rule that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkit.config.allowed import MODEL
from mmkit.config.as_json import rebuild
from mmkit.config.override import arguments_of
from mmkit.convert.fit import fit
from mmkit.convert.grid import told_size
from mmkit.convert.read_file import Checkpoint
from mmkit.convert.tables import albef, bert, efficientnet, vit
from mmkit.convert.tables.table import Entry, Row, State, about, read, said_of_dropped
from mmkit.data.images.size import height_width
from mmkit.encoders.backbone.tower import Backbone
from mmkit.encoders.text import FusionEncoder, TextEncoder
from mmkit.encoders.vit import ViT
from mmkit.encoders.vivit import FactorisedEncoder
from mmkit.errors import UserError
from mmkit.heads.base import Head

TOWERS = {
    "image": ("model.image.",), "text": ("model.text.", "model.fusion.", "heads.mlm."), "model": ("model.", "heads."),
}  # fmt: skip

COUNTED = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class Filling:
    """Tensors for a model and its heads (names begin with "model." or "heads."), and what was changed or dropped."""

    state: State
    notes: tuple[str, ...]


def fill(model: nn.Module, heads: Mapping[str, nn.Module], tower: str, file: Checkpoint) -> Filling:
    """What a checkpoint gives to a tower ("image", "text" or "model"). UserError where it does not fit."""
    with about(file.path):
        return _fill(model, heads, tower, file)


def _fill(model: nn.Module, heads: Mapping[str, nn.Module], tower: str, file: Checkpoint) -> Filling:
    state = bert.modern(file.state)
    if all(name.startswith(("model.", "heads.", "ema.")) for name in state):  # saved by mmkit
        rows: list[Row] | None = None
        ours, grid = dict(state), _saved_grid(file, model)
    elif "visual_encoder.cls_token" in state:
        (rows, state), grid = _albef_rows(state, tower), None
    elif tower == "image" and isinstance(getattr(model, "image", None), Backbone):
        rows, grid = None, None
        ours = {f"model.image.net.{name}": value for name, value in state.items()}
    elif tower == "image":
        rows, grid = vit.table(state, "model.image", distilled=True), _told_grid(file, state)
    elif tower == "text":
        rows, grid = _bert_rows(model, heads, file, state), None
    else:
        raise UserError(
            f"{file.path}: neither an ALBEF nor a model that mmkit saved; only these fill a whole model. Turn "
            "it into one first: mmkit convert auto IN OUT"
        )
    if rows is not None:
        ours = read(rows, state)
    notes = said_of_dropped(rows or [])
    if tower == "model":
        ours = _inherited(model, heads, ours)
    wanted = {name: value for name, value in ours.items() if name.startswith(TOWERS[tower])}
    wanted = _of_network(model, wanted)
    known = set(_places(model, heads))
    foreign = [name for name in wanted if name.startswith("heads.") and name not in known and "queue" not in name]
    if foreign:
        notes.append(f"heads that this run has not are left: {', '.join(sorted({n.split('.')[1] for n in foreign}))}")
    wanted = _of_pictures(model, wanted)
    wanted = {name: value for name, value in wanted.items() if name in known or name.startswith("model.")}
    if odd := [name for name in wanted if name in known and not wanted[name].is_floating_point()]:
        raise UserError(f"{odd[0]} holds {wanted[odd[0]].dtype}, no plain weights; give them as float32, not quantised")
    wanted, changes = fit(wanted, model, "model.", grid)
    return Filling(state=wanted, notes=(*notes, *changes))


def _of_network(model: nn.Module, state: State) -> State:
    """The state with what it holds for a network of others as that library fits it; how often was counted is left."""
    image, start = getattr(model, "image", None), "model.image.net."
    if not isinstance(image, Backbone):
        return state
    own = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    rest = {name: value for name, value in state.items() if not name.startswith(start)}
    fitted = of_network(image, own) if own else {}
    return rest | {f"{start}{name}": value for name, value in fitted.items() if not name.endswith(COUNTED)}


def of_network(image: Backbone, state: State) -> State:
    """A checkpoint of a network of others, of any picture size, by the names and shapes that it has there."""
    if efficientnet.is_one(state):
        state = efficientnet.renamed(state, image.net.state_dict())
    return image.fitted(state)


def _of_pictures(model: nn.Module, state: State) -> State:
    """The names of a picture's tower as those of an image tower that has it inside (``from_pictures``)."""
    rename = getattr(getattr(model, "image", None), "from_pictures", None)
    if rename is None:
        return state
    start = "model.image."
    tower = {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    return {name: value for name, value in state.items() if not name.startswith(start)} | {
        f"{start}{name}": value for name, value in rename(tower).items()
    }


def _starts_fresh(model: nn.Module, name: str) -> bool:
    """Whether a parameter is of a part that no model of pictures has (``fresh_from_pictures`` of the image tower)."""
    parts: tuple[str, ...] = getattr(getattr(model, "image", None), "fresh_from_pictures", ())
    return any(part in name.removeprefix("model.image.") for part in parts)


def _inherited(model: nn.Module, heads: Mapping[str, nn.Module], state: State) -> State:
    """The state, and what a model or heads of another architecture make of it, where they have ``inherit``."""
    found: State = {}
    for name, head in heads.items():
        if isinstance(head, Head):
            found |= {f"heads.{name}.{key}": value for key, value in head.inherit(state).items()}
    inherit: Callable[[State], State] | None = getattr(model, "inherit", None)
    if inherit is not None:
        own = {f"model.{key}": value for key, value in inherit(state).items()}
        state = {name: value for name, value in state.items() if not name.startswith("model.")} | own
    return found | state


def _places(model: nn.Module, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {f"model.{name}": p for name, p in model.named_parameters()}
    if isinstance(image := getattr(model, "image", None), Backbone):  # the statistics of its batch norms
        state = image.state_dict()
        own |= {f"model.image.{name}": value for name, value in state.items() if not name.endswith(COUNTED)}
    return own | {f"heads.{head}.{name}": p for head, part in heads.items() for name, p in part.named_parameters()}


def copy_into(model: nn.Module, heads: Mapping[str, nn.Module], filling: Filling, tower: str, source: str) -> list[str]:
    """Write the tensors into the parameters, in place; the names written.

    UserError for a tensor without a place or of another shape, and for a part that must be whole and is not.
    """
    places, where = _places(model, heads), f"init.{tower} = {source!r}"
    for name, value in filling.state.items():
        if name not in places:
            raise UserError(f"{where}: {name} has no place in this model, whose parts are of another size")
        if places[name].shape != value.shape:
            raise UserError(f"{where}: {_mismatch(name, value, places[name])}")
    whole = {"image": "model.image.", "text": "model.text.embeddings.", "model": "model."}[tower]
    lacking = (name for name in places if name.startswith(whole) and name not in filling.state)
    if missing := [name for name in lacking if not _starts_fresh(model, name)]:
        raise UserError(f"{where}: nothing in it for {', '.join(missing[:8])}; this tower did not load")
    for name, value in filling.state.items():
        places[name].data.copy_(value)
    return list(filling.state)


def _mismatch(name: str, theirs: Tensor, ours: Tensor) -> str:
    if name.endswith("words.weight") and theirs.shape[1:] == ours.shape[1:]:
        return (
            f"its vocabulary has {len(theirs)} words and the run's tokenizer {len(ours)}; give the run the tokenizer "
            "that belongs to the weights, tokenizer=partial(huggingface, name=...)"
        )
    return f"{name} is {list(theirs.shape)} there and {list(ours.shape)} here; choose a model of its size"


def _albef_rows(state: State, tower: str) -> tuple[list[Row], State]:
    """The rows for a tower of an official ALBEF of any task, and the part of the file that they are for."""
    parts = albef.parts_of(state)
    if tower == "model":
        return albef.table(parts), state
    start = {"image": "visual_encoder.", "text": "text_encoder."}[tower]
    rows: list[Row] = [
        row for row in albef.tower(parts, "", "model", "heads.")
        if isinstance(row, Entry) and row.ours.startswith(TOWERS[tower])
    ]  # fmt: skip
    if tower == "text" and parts.position_ids[0]:
        rows.append(bert.position_ids(f"{start}{parts.bert}embeddings.position_ids", parts.position_ids[0]))
    return rows, {name: value for name, value in state.items() if name.startswith(start)}


def _bert_rows(model: nn.Module, heads: Mapping[str, nn.Module], file: Checkpoint, state: State) -> list[Row]:
    text, fusion = getattr(model, "text", None), getattr(model, "fusion", None)
    if not isinstance(text, TextEncoder):
        raise UserError(f"{file.path}: a BERT fills a BERT-style text tower, and this {type(model).__name__} has none")
    _check_config(file, text)
    upper = len(fusion.blocks) if isinstance(fusion, FusionEncoder) else 0
    tied = "mlm" in heads and getattr(heads["mlm"], "words", None) is None
    return bert.table(
        state, text_depth=len(text.blocks), fusion_depth=upper, text="model.text", fusion="model.fusion",
        mlm="heads.mlm" if tied else None,
    )  # fmt: skip


def _check_config(file: Checkpoint, text: TextEncoder) -> None:
    """What BERT's tensors do not tell, where a config.json lies beside them."""
    wanted: dict[str, object] = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
    if len(text.blocks):
        wanted["num_attention_heads"] = text.blocks[0].get_submodule("attn").heads
    for key, value in wanted.items():
        if key in file.config and file.config[key] != value:
            config = file.path.parent / "config.json"
            raise UserError(f"{config}: {key} is {file.config[key]!r}, and this model has {value!r}")


def _told_grid(file: Checkpoint, state: State) -> tuple[int, ...] | None:
    """The grid of a ViT of others, from the config beside it; None where there is none."""
    if (size := told_size(file.config)) is None:
        return None
    return tuple(side // p for side, p in zip(size, state["patch_embed.proj.weight"].shape[2:], strict=True))


def _saved_grid(file: Checkpoint, model: nn.Module) -> tuple[int, ...] | None:
    """The grid of a model that mmkit saved, from its config; None where it has none."""
    image = getattr(model, "image", None)
    if isinstance(image, FactorisedEncoder):
        image = image.space
    if "model" not in file.config or not isinstance(image, ViT):
        return None
    arguments = _arguments_of(file.config["model"])
    sides = image.patch.patch[-2:]
    grid = tuple(side // p for side, p in zip(height_width(arguments["image_size"]), sides, strict=True))
    return (arguments["frames"] // arguments["tubelet"], *grid) if "tubelet" in arguments else grid


def _arguments_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of a saved model, with the defaults of mmkit's own sizes; of one's own model what is written alone."""
    try:
        return arguments_of(rebuild(part, MODEL))
    except UserError:
        found: dict[str, Any] = dict(part["args"])
        said = found["image_size"]
        return found | ({"image_size": tuple(said["tuple"])} if isinstance(said, Mapping) else {})
