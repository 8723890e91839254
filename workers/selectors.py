"""Second networks of a spec, where a run has no service to look them up: from files."""

from __future__ import annotations

from collections.abc import Sequence

from certify import Model
from certify.errors import InputError, Problem
from certify.facts import misfits
from certify.spec import InstanceSmoothingSpec, Spec, other_models
from certify.specs.instance import ModelSelector
from workers.agreement import check_agreement
from workers.command import read_file, wrong


def given_selectors(spec: Spec, paths: Sequence[str], model: Model) -> dict[str, Model]:
    """The networks that a spec names, by the SHA-256 of their files, each checked like the classifier itself.

    Args:
        spec: of the run.
        paths: of the files, in any order.
        model: the classifier.

    Raises:
        InputError: a file is missing, is named nowhere or does not fit.
        ModelRejected: our reading of it is not onnxruntime's.
    """
    found: dict[str, Model] = {}
    named = {digest for certifier in spec.certifiers for digest in other_models(certifier)}
    for path in paths:
        data = read_file(path, "selector")
        network = Model.from_onnx(data, model.value_range)
        if network.digest not in named:
            raise wrong("selector", f"{path} has SHA-256 {network.digest}, which the spec does not name", "write it as selector.model")
        check_agreement(network, data)
        found[network.digest] = network
    if problems := _problems(spec, model, found):
        raise InputError(*problems)
    return found


def _problems(spec: Spec, model: Model, found: dict[str, Model]) -> list[Problem]:
    problems = []
    for index, certifier in enumerate(spec.certifiers):
        if isinstance(certifier, InstanceSmoothingSpec) and isinstance(selector := certifier.selector, ModelSelector):
            field = f"certifiers.{index}.selector.model"
            problems += misfits(field, selector, len(certifier.sigmas), model.input_shape, found.get(selector.model))
    return problems
