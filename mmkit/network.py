"""Whether what lies elsewhere can be asked for now."""

from __future__ import annotations


def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached, found out in seconds; its own downloads try for a minute each."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # noqa: BLE001  its kind changes with the library that the hub's client is made of
        return False
    return True
