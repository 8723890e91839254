"""How somebody else repeats a job: the commands, as they are typed, and what they need beside the files."""

from __future__ import annotations

import shlex

from pydantic import BaseModel, Field

from storage.records import Job, Model


class RepeatOut(BaseModel):
    """How to repeat the job, without the service: `commands` write the report with its rows, and check and draw it again."""

    commands: list[str] = Field(description="the files are to be named as here: the model, the dataset, and other networks of the spec")
    value_range: tuple[float, float] | None = Field(description="of the model's inputs, as it was declared")

    @classmethod
    def of(cls, job: Job, model: Model) -> RepeatOut:
        return cls(commands=commands(job), value_range=model.value_range)


def commands(job: Job) -> list[str]:
    """The command lines that repeat a job; other networks are files named by the start of their SHA-256."""
    others = {other.digest: f"{other.digest[:12]}.onnx" for entry in job.spec.certifiers for other in entry.other_models}
    given = [text for file in others.values() for text in ("--selector", file)]
    fetch = ["assay", "report", job.id, "--out", "report.json"]
    check = ["assay", "replay", "report.json", "--model", "model.onnx", "--data", "dataset", *given, "--rows", "20"]
    return [shlex.join(fetch), shlex.join(check)]
