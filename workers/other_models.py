"""Other networks of a spec, where a run has no service to look them up: from files."""

from __future__ import annotations

from collections.abc import Sequence

from certify import Model
from certify.spec import Spec
from workers.agreement import check_agreement
from workers.command import read_file, wrong
from workers.comparison import Given


def given_models(spec: Spec, paths: Sequence[str], model: Model, device: str) -> dict[str, Given]:
    """The networks that a spec names, by the SHA-256 of their files, each checked like the classifier itself.

    Which of them are missing, and whether they fit, the verb says before the first sample.

    Args:
        spec: of the run.
        paths: of the files, in any order.
        model: the classifier.
        device: where it runs.

    Raises:
        InputError: a file cannot be read, or the spec does not name it.
        ModelRejected: our reading of it is not onnxruntime's.
    """
    found: dict[str, Given] = {}
    named = {other.digest for certifier in spec.certifiers for other in certifier.other_models}
    for path in paths:
        data = read_file(path, "selector")
        network = Model.from_onnx(data, model.value_range)
        if network.digest not in named:
            raise wrong("selector", f"{path} has SHA-256 {network.digest}, which the spec does not name", "write it as selector.model")
        given = Given.of(network, data, device)
        check_agreement(network, data, (), given.session)
        found[network.digest] = given
    return found
