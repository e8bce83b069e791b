"""What a checkpoint is. A model folder tells all of itself; of a foreign file the layout is guessed.

Facts by dotted name, plain values: for ``mmkit info`` and for the model card.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkit.errors import UserError

LICENCES = {"mmkit.data.openmoji": "trained on OpenMoji pictures (CC BY-SA 4.0, openmoji.org)"}


def describe(path: str) -> dict[str, Any]:
    """The facts of a model folder, or of a file of others (a path, "timm:NAME" or "hf:OWNER/NAME")."""
    folder = Path(path)
    if (folder / "config.json").is_file() and (folder / "preprocessing.json").is_file():
        return describe_folder(folder)
    return describe_file(path)


def describe_folder(folder: Path) -> dict[str, Any]:
    """A model that mmkit saved: model, parameters by part, preprocessing, tokenizer, training, licence."""
    config = _json(folder / "config.json")
    preprocessing = _json(folder / "preprocessing.json")
    facts: dict[str, Any] = {
        "kind": "a model of mmkit",
        "model": config["model"]["target"],
        "heads": ", ".join(config["heads"]) or "none",
        "mmkit": config["mmkit"],
    }
    facts |= _parameters(folder / "model.safetensors")
    facts |= _preprocessing(preprocessing)
    facts |= {"vocab_size": config["resolved"]["vocab_size"], "tokenizer": _tokenizer(folder / "tokenizer")}
    return facts | _training(folder, config) | _origin(folder, config)


def _parameters(weights: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    try:
        with safe_open(weights, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                counts[".".join(name.split(".")[:2])] += size
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: damaged or missing ({error})") from error
    return {"parameters": sum(counts.values())} | {f"parameters.{part}": size for part, size in sorted(counts.items())}


def _preprocessing(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"max_tokens": preprocessing["max_tokens"]}
    image = preprocessing["image"].get("args", {})
    for name, value in image.items():
        values = value.get("tuple", value) if isinstance(value, Mapping) else value
        shown = ", ".join(map(str, values)) if isinstance(values, list) else str(values)
        facts["image_size" if name == "size" else f"preprocessing.{name}"] = shown
    return facts


def _tokenizer(folder: Path) -> str:
    if (folder / "sentencepiece.model").is_file():
        return "sentencepiece, trained on its captions"
    config = folder / "tokenizer_config.json"
    name = _json(config).get("tokenizer_class", "of transformers") if config.is_file() else "of an unknown kind"
    return str(name)


def _training(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run: its data, steps, and last metrics."""
    arguments = config["experiment"]["args"]
    if "data" not in arguments:
        return {}
    source = arguments["data"]["args"]["train"]
    facts: dict[str, Any] = {"training.data": source["target"]}
    if (folder / "data.json").is_file():
        facts |= {f"training.{name}": value for name, value in _json(folder / "data.json").items()}
    steps = [json.loads(line)["step"] for line in _lines(folder / "metrics.jsonl")]
    facts["training.steps"] = max(steps, default="unknown")
    facts["training.init"] = ", ".join(f"{k} = {v}" for k, v in arguments.get("init", {}).items()) or "at random"
    return facts


def _origin(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    if (folder / "conversion.json").is_file():
        record = _json(folder / "conversion.json")
        beside = {f"origin.{key}": value for key, value in record["beside"].items()}
        return {"origin": f"{record['what']}, from {record['file']}", "licence": record["licence"]} | beside
    arguments = config["experiment"]["args"]
    source = arguments["data"]["args"]["train"]["target"] if "data" in arguments else ""
    licence = LICENCES.get(source.split(":")[0], "that of its training data and of what it started from; not stated")
    return {"licence": licence}


def describe_file(source: str) -> dict[str, Any]:
    """A file of others: its guessed layout, its size, what stands around the weights, and how to use it."""
    from mmkit.convert.layouts import guess
    from mmkit.convert.locate import locate
    from mmkit.convert.read_file import read_checkpoint

    file = read_checkpoint(locate(source))
    layout = guess(file.state)
    counts: Counter[str] = Counter()
    for name, value in file.state.items():
        counts[name.split(".")[0]] += value.numel()
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in file.state.values()})
    facts: dict[str, Any] = {
        "kind": "a file of others",
        "file": str(file.path),
        "layout": layout.name if layout else "unknown",
        "what": layout.what if layout else f"keys like {', '.join(list(file.state)[:4])}",
        "use": layout.use.format(path=source) if layout else "mmkit has no table for it",
        "licence": layout.licence if layout else "not stated in the file",
        "tensors": len(file.state),
        "dtypes": ", ".join(kinds),
        "parameters": sum(counts.values()),
    }
    facts |= {f"parameters.{part}": size for part, size in counts.most_common(12)}
    plain = {key: value for key, value in file.beside.items() if isinstance(value, int | float | str)}
    return facts | {f"beside.{key}": value for key, value in plain.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or missing ({error})") from error


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
