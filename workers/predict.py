"""Smoothed predictions in one process, without service, Ray or database: `python -m workers.predict ...`, behind `assay predict`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from certify.certificate import Certificate
from certify.curves import report
from certify.errors import InputError
from certify.exit_codes import exit_code
from certify.question import in_own_words, prediction_spec
from certify.rounding import show_share
from certify.spec import Precision, PredictSpec, Spec
from certify.verdict import UNANSWERED, Verdict
from workers.command import Parser, answered
from workers.local import add_inputs, add_outputs, answer

_FIELDS = PredictSpec.model_fields


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return answered(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> int:
    spec = _spec(options)
    try:
        findings, runtime = answer(spec, options)
    except InputError as error:
        raise in_own_words(error) from None
    for sentence in report(findings, spec, runtime=runtime).runtime:
        sys.stderr.write(f"\n{sentence}\n")
    _summary(options, [finding for finding in findings if isinstance(finding, Certificate)])
    return exit_code(spec, findings)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="assay predict", description="What the smoothed classifier answers at each input itself; no radius is claimed.")
    add_inputs(parser)
    parser.add_argument("--sigma", required=True, type=float, help="standard deviation of the noise, raw-input units")
    parser.add_argument("--n", type=int, default=_FIELDS["n"].default, help="votes for each example (%(default)s)")
    parser.add_argument("--alpha", type=float, default=_FIELDS["alpha"].default, help="error level of each answer (%(default)s)")
    parser.add_argument("--noise", choices=get_args(_FIELDS["noise"].annotation), default=_FIELDS["noise"].default)
    parser.add_argument("--precision", choices=get_args(Precision), default=_FIELDS["precision"].default, help="in which the network runs")
    parser.add_argument("--seed", type=int, default=0, help="public: whoever knows it can repeat the noise (%(default)s)")
    parser.add_argument("--start", type=int, default=0, help="first example (%(default)s)")
    parser.add_argument("--stop", type=int, help="the example to stop before")
    parser.add_argument("--step", type=int, default=1, help="every how many examples (%(default)s)")
    add_outputs(parser, "predictions.jsonl")
    return parser


def _spec(options: argparse.Namespace) -> Spec:
    examples = {"start": options.start, "stop": options.stop, "step": options.step}
    settings = {"sigma": options.sigma, "n": options.n, "alpha": options.alpha, "noise": options.noise}
    settings["precision"] = options.precision
    return prediction_spec(examples=examples, seed=options.seed, **settings).with_noise_key("public-seed")


def _summary(options: argparse.Namespace, certificates: Sequence[Certificate]) -> None:
    count, correct = len(certificates), sum(c.correct for c in certificates)
    answered = sum(c.verdict not in UNANSWERED for c in certificates)
    errors = f"; {count - answered} without an answer" if answered < count else ""
    abstained = sum(c.verdict is Verdict.ABSTAINED for c in certificates)
    sys.stderr.write(
        f"\npredict ({options.noise}, sigma {options.sigma:g}), statement {certificates[0].statement}: {count} examples,"
        f" each answer at alpha {options.alpha:g}\n"
        f"  smoothed accuracy {show_share(correct / max(1, answered))} ({correct} of {answered}{errors})\n"
        f"  abstained {show_share(abstained / count)} ({abstained} of {count})\n"
        "  no radius is claimed\n"
    )


if __name__ == "__main__":
    sys.exit(main())
