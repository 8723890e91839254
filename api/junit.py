"""Outcomes of gates as JUnit XML, which every CI shows: a test suite for each gate, a test case for each check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from certify.gates import Check, Judgement
from certify.rounding import show_given
from certify.text import printable
from storage.records_gates import Outcome

# What XML 1.0 cannot carry, escaped or not.
_IMPOSSIBLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(job_id: str, outcomes: Sequence[Outcome]) -> str:
    """One document; a failed check is a failure, an inconclusive one is skipped, each with its sentence."""
    cases = [(outcome, _checks(outcome)) for outcome in outcomes]
    root = ET.Element("testsuites", {"name": f"assay {job_id}", **_counts([check for _, checks in cases for check in checks])})
    for outcome, checks in cases:
        suite = ET.SubElement(root, "testsuite", {"name": _clean(outcome.gate_name), **_counts(checks)})
        suite.set("timestamp", outcome.created_at.strftime("%Y-%m-%dT%H:%M:%S"))
        for check in checks:
            _case(suite, outcome, check)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _checks(outcome: Outcome) -> tuple[Check, ...]:
    """The checks of an outcome; one that stands for all of them where it broke before the first."""
    whole = Check(rule=0, kind="gate", certifier=None, judgement=outcome.judgement, sentence=outcome.sentence, numbers={})
    return outcome.checks or (whole,)


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    judgements = [check.judgement for check in checks]
    failures, skipped = judgements.count(Judgement.FAIL), judgements.count(Judgement.INCONCLUSIVE)
    return {"tests": str(len(checks)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}


def _case(suite: ET.Element, outcome: Outcome, check: Check) -> None:
    radius, certifier = check.numbers.get("radius"), "" if check.certifier is None else f", certifier {check.certifier}"
    name = f"rule {check.rule}: {check.kind}" + ("" if radius is None else f" at radius {show_given(float(radius))}") + certifier
    case = ET.SubElement(suite, "testcase", {"classname": f"assay.{_clean(outcome.gate_name)}", "name": name, "time": "0"})
    sentence = _clean(check.sentence)
    if check.judgement is Judgement.FAIL:
        ET.SubElement(case, "failure", {"type": check.kind, "message": sentence}).text = sentence
    elif check.judgement is Judgement.INCONCLUSIVE:
        ET.SubElement(case, "skipped", {"message": sentence})
    else:
        ET.SubElement(case, "system-out").text = sentence


def _clean(text: str) -> str:
    return printable(_IMPOSSIBLE.sub("\ufffd", text))
