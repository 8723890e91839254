"""Logs of every process of the service: one line an event, stable `action` names, plain tracebacks."""

import structlog


def configure() -> None:
    """Set up structlog. The default renderer prints local variables of every frame, which would put secrets and keys into the log."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
