"""What each statement proves, in words for the reader of a report."""

from __future__ import annotations

STATEMENTS = {
    "S0-fixed": (
        "With probability at least 1 - alpha over the sampled noise, the smoothed classifier (the majority answer under noise of"
        " this kind and sigma) gives the same answer everywhere in the open ball. It says nothing about the model without noise."
    ),
    "S0-fixed-latent": (
        "With probability at least 1 - alpha over the sampled noise, the latent smoothed classifier (the majority answer of the"
        " head when noise of this sigma is added to what the encoder makes of an input) gives the same answer everywhere in the"
        " open ball around the raw input. The votes prove a ball behind the encoder; it is carried back by an upper bound of what"
        " the encoder stretches distances by. It says nothing about the model without noise."
    ),
    "S1-frozen": (
        "With probability at least 1 - alpha over the sampled noise, the smoothed classifier whose noise level is held at the one"
        " found for this input gives the same answer everywhere in the open ball. Another input would be given another level, so"
        " that this is no claim about the rule that searches a level for every input: an attacker's input may be answered"
        " differently inside the ball."
    ),
    "S2-memory": (
        "The classifier that remembers: an input inside a region of the ledger is answered with that region's class, so that"
        " whoever asks it gets one answer throughout this open ball. Regions of different classes never overlap; each was proved"
        " with probability at least 1 - alpha for the noise level found for its centre. It depends on the order in which inputs"
        " came, and says nothing about a deployment without this ledger."
    ),
    "S1-frozen-prediction": (
        "With probability at least 1 - alpha over the sampled noise, this is the answer, at the input itself, of the smoothed"
        " classifier whose noise level is held at the one found for it. The ledger was not asked. No radius is claimed."
    ),
    "S2-memory-prediction": (
        "The answer of the classifier that remembers, at the input itself: that of the region of the ledger in which it lies;"
        " outside all regions, with probability at least 1 - alpha over the sampled noise, the answer under the noise level found"
        " for it. The reason of each row says which. No radius is claimed."
    ),
    "S3-corrected": (
        "With probability at least 1 - alpha over the sampled noise, the rule that takes its noise level from the user's own"
        " function of the input gives the same answer everywhere in the open ball, if that function is as steep as was declared,"
        " and no steeper. The declaration was not checked."
    ),
    "S4-dual": (
        "With probability at least 1 - alpha over the sampled noise, the two-stage classifier gives the same answer everywhere in"
        " the open ball: a smoothed selector picks the same noise level throughout it, and the smoothed classifier of that level"
        " the same class. It holds for every input in the ball as it is deployed, and says nothing about the model without noise."
    ),
    "S4-dual-prediction": (
        "With probability at least 1 - alpha over the sampled noise, this is the two-stage classifier's answer at the input itself: the"
        " level that its smoothed selector gives there, and the class under noise of that level. It says nothing about other inputs: no"
        " radius is claimed."
    ),
    "S0-prediction-latent": (
        "With probability at least 1 - alpha over the sampled noise, this is the latent smoothed classifier's answer at the input"
        " itself. It says nothing about other inputs: no radius is claimed."
    ),
    "S0-exact-grid": (
        "No 8-bit input in the closed l1 ball gets another answer from the smoothed classifier (the majority answer over all"
        " offsets of the splitting noise of this sigma). Deterministic: every copy was counted, there is no error level. It says"
        " nothing about the model without noise, nor about inputs off the 1/255 grid."
    ),
    "S0-prediction": (
        "With probability at least 1 - alpha over the sampled noise, this is the smoothed classifier's answer at the input"
        " itself. It says nothing about other inputs: no radius is claimed."
    ),
    "float32-runtime": (
        "No input in the closed ball gets another answer in real arithmetic, nor from a float32 runtime that computes sums of"
        " products in IEEE arithmetic, in any order: the margin exceeds all rounding errors, bounded beforehand. Deterministic."
    ),
    "real-arithmetic": (
        "No input in the closed ball gets another answer from the network with the uploaded weights, computed in real arithmetic."
        " Deterministic: there is no error level. A runtime that rounds differently is outside the claim."
    ),
}
# What the end of a name adds to the statement before it, in the order in which they stand in a name.
SUFFIXES = {
    "-transductive": (
        "Transductive: the selector was fitted to inputs that are certified here, so that these figures say nothing about new inputs."
    ),
    "-grid": (
        "The classifier that is smoothed rounds its input to multiples of 1/255 first, and the noise is drawn as integers: no"
        " rounding of floating-point sums is left out."
    ),
    "-from-l1": "The ball was proved in l1; this one lies inside it, by an inequality between the norms.",
    "-from-l2": "The ball was proved in l2; this one lies inside it, by an inequality between the norms.",
    "-exploratory": (
        "Exploratory: recomputed from stored votes with an alpha, bound or error rate that was chosen after the votes were there."
        " It would hold for a choice made before; nothing covers the choosing."
    ),
}


def explained(statement: str) -> str:
    """A statement in words, one sentence more for each suffix; a name with any part that is not known stays a bare name."""
    name, more = statement, ""
    for suffix, sentence in reversed(SUFFIXES.items()):
        if name not in STATEMENTS and name.endswith(suffix):
            name, more = name.removesuffix(suffix), f" {sentence}{more}"
    return f"{STATEMENTS[name]}{more}" if name in STATEMENTS else statement
