"""Names that would steer a terminal or turn the direction of text: refused where they are sent, replaced wherever they are shown."""

from __future__ import annotations

import io
from typing import Any

import pytest
import structlog
from pydantic import ValidationError

from api.cli import console
from api.pages.render import _environment
from api.schemas import NewJob, NewPrediction
from api.schemas_schedules import NewTemplate
from storage.logs import configure

ODD = "nightly\x1b]0;title\x07\u202egnp\x9b31m"
BAD = ("\x1b", "\x07", "\u202e", "\x9b")
SPEC = {"certifiers": [{"kind": "smoothing", "sigma": 0.25}]}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (NewJob, {"model": "mdl_x", "dataset": "dat_x", "spec": SPEC}),
        (NewTemplate, {"model": "mdl_x", "dataset": "dat_x", "spec": SPEC}),
        (NewPrediction, {"model": "mdl_x", "dataset": "dat_x", "sigma": 0.25}),
    ],
)
@pytest.mark.parametrize("bad", BAD)
def test_names_are_refused_where_they_are_sent(kind: Any, body: dict[str, Any], bad: str) -> None:
    assert kind(**body, name="Größe 猫 (2), nightly").name == "Größe 猫 (2), nightly"
    with pytest.raises(ValidationError, match="control characters") as caught:
        kind(**body, name=f"a{bad}b")
    assert caught.value.errors()[0]["loc"] == ("name",)


def none_of_it(text: str) -> None:
    assert "nightly?" in text
    assert not any(bad in text for bad in BAD), ascii(text)


def test_the_command_line_shows_none_of_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    console.show_table(("name",), [(ODD,)], ODD)
    none_of_it(capsys.readouterr().out)
    console.say({}, ODD, False)
    console.out.print(ODD, markup=False)
    none_of_it(capsys.readouterr().out)
    console.show_json({"name": ODD})
    assert not any(bad in capsys.readouterr().out for bad in BAD)


def test_logs_show_none_of_it() -> None:
    configure()
    stream = io.StringIO()
    log = structlog.wrap_logger(structlog.PrintLogger(stream))
    try:
        raise ValueError(ODD)
    except ValueError:
        log.exception("failed " + ODD, name=ODD)
    none_of_it(stream.getvalue())
    assert "Traceback" in stream.getvalue()


def test_a_page_shows_none_of_it() -> None:
    none_of_it(_environment.from_string("<p>{{ name }}</p>").render(name=ODD))
