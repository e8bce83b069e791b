"""The protocols of video-text retrieval by name: how many clips and sentences each compares.

A number says nothing without them: a gallery of a thousand is easier than one of three thousand. Sizes are those that
the papers print; where the data have others, it is said with the number.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """clips, texts: how many the test has; None = not fixed. note: for people."""

    name: str
    clips: int | None
    texts: int | None
    note: str

    def told(self, clips: int, texts: int) -> str:
        """The name, with what is other in these data."""
        other = [
            f"{found:,} {what} in place of {wanted:,}"
            for found, wanted, what in ((clips, self.clips, "clips"), (texts, self.texts, "sentences"))
            if wanted is not None and found != wanted
        ]
        return self.name if not other else f"{self.name} ({', '.join(other)}: not comparable)"


PROTOCOLS = {
    one.name: one for one in (
        Protocol(name="msrvtt_1ka", clips=1000, texts=1000, note="MSR-VTT 1k-A (JSFusion): one sentence a clip"),
        Protocol(name="msrvtt_full", clips=2990, texts=59_800, note="MSR-VTT: 20 sentences a clip"),
        Protocol(name="msvd", clips=670, texts=None, note="MSVD: about 40 sentences a clip; a clip's best one counts"),
        Protocol(name="didemo", clips=None, texts=None, note="DiDeMo: all sentences of a clip as one paragraph"),
    )
}  # fmt: skip


def protocol_named(name: str) -> Protocol:
    """UserError for a name that is none."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol {name}: there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
