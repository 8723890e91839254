"""Logs of every process of the service: one line an event, stable `action` names, plain tracebacks."""

from typing import Any

import structlog

from certify.text import printable_lines


def configure() -> None:
    """Set up structlog. The default renderer prints local variables of every frame, which would put secrets and keys into the log."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            _shown,
        ]
    )


def _shown(_logger: Any, _method: str, text: Any) -> str:
    """Names from files and users may not steer the terminal that shows the log; a line end in a value was escaped before."""
    return printable_lines(text)
