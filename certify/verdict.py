"""What can become of one example, and a sentence that tells the user what it means and what to change."""

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


_SENTENCES = {
    Verdict.CERTIFIED: "The answer provably stays the same inside the radius.",
    Verdict.ABSTAINED: "The votes do not single out one class at this alpha; more samples or another sigma may decide it.",
    Verdict.REFUTED: "The claim is false: an input in the ball gets another answer.",
    Verdict.UNKNOWN: "The method could neither prove nor refute the claim; a tighter method or a smaller radius may.",
    Verdict.TIMEOUT: "The wall-clock limit ended the work before an answer; raise the limit or choose a cheaper method.",
    Verdict.ERROR: "No answer could be computed; the reason says why.",
}
