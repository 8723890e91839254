"""What can become of one example, and a sentence that tells the user what it means and what to change."""

from collections.abc import Mapping
from enum import StrEnum


class Verdict(StrEnum):
    CERTIFIED = "certified"
    ABSTAINED = "abstained"
    REFUTED = "refuted"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


# No answer was given: neither a right one nor a wrong one.
UNANSWERED = (Verdict.TIMEOUT, Verdict.ERROR)
_SENTENCES = {
    Verdict.CERTIFIED: "The answer provably stays the same inside the radius.",
    Verdict.ABSTAINED: "The votes do not single out one class at this alpha; more samples or another sigma may decide it.",
    Verdict.REFUTED: "The claim is false: an input in the ball gets another answer.",
    Verdict.UNKNOWN: "The method could neither prove nor refute the claim; a tighter method or a smaller radius may.",
    Verdict.TIMEOUT: "The wall-clock limit ended the work before an answer; raise the limit or choose a cheaper method.",
    Verdict.ERROR: "No answer could be computed; the reason says why.",
}


def verdict_words(counts: Mapping[str, int]) -> str:
    """What became of rows, as an addition to their number: " (117 certified, 283 abstained)"; empty when nothing is counted."""
    order = [str(verdict) for verdict in Verdict]
    ranked = sorted(counts, key=lambda name: order.index(name) if name in order else len(order))
    listed = ", ".join(f"{counts[name]} {name}" for name in ranked if counts[name])
    return f" ({listed})" if listed else ""
