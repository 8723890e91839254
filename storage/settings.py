"""Where things are and how the parts find each other: environment variables that begin with ASSAY_, each with a default that works."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from certify.errors import InputError, Problem, problems_of
from storage.records import GIB, Quota

SECRET_BYTES = 32


def _under_home(form: str) -> Callable[[dict[str, Any]], str]:
    # When `home` itself was refused there is nothing to build on, and only that refusal is reported.
    return lambda fields: form.format(home=fields["home"]) if "home" in fields else ""


class Settings(BaseSettings):
    """The settings of API and workers, read from the environment once and then immutable.

    `webhook_private` lets webhooks lead into private networks. Use `Settings.load()`: it reports wrong values by the name of their
    variable.
    """

    model_config = SettingsConfigDict(env_prefix="ASSAY_", frozen=True, env_ignore_empty=True)

    home: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default=Path("~/.local/share/assay"), validate_default=True
    )
    database_url: str = Field(default_factory=_under_home("sqlite:///{home}/assay.db"))
    artifacts: str = Field(default_factory=_under_home("{home}/artifacts"))
    secret_hex: SecretStr | None = Field(default=None, validation_alias="ASSAY_SECRET")
    executor: Literal["ray", "local"] = "ray"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    url: str = "http://127.0.0.1:8000"
    key: SecretStr | None = None
    webhook_private: bool = False
    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 * 2**30
    # Of each tenant, unless its own row says otherwise (assay tenant set).
    max_queued_jobs: Annotated[int, Field(ge=0)] = Quota.max_queued_jobs
    max_stored_gib: Annotated[float, Field(ge=0, le=2**20)] = Quota.max_stored_bytes / GIB
    # Of each key, and of failed attempts from each address, in each API process.
    rate_per_minute: Annotated[int, Field(ge=1)] = 1200
    failures_per_minute: Annotated[int, Field(ge=1)] = 60

    @field_validator("secret_hex")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _secret_from_hex(value.get_secret_value())
        return value

    @classmethod
    def load(cls) -> Self:
        """The settings of this process.

        Raises:
            InputError: names every variable that is wrong and its mend.
        """
        try:
            return cls()
        except ValidationError as error:
            raise InputError(*map(_as_variable, problems_of(error))) from None

    @property
    def quota(self) -> Quota:
        """What a tenant may have when nothing else was set for it."""
        return Quota(max_queued_jobs=self.max_queued_jobs, max_stored_bytes=int(self.max_stored_gib * GIB))

    @cached_property
    def secret(self) -> bytes:
        """The server's secret, from which noise keys are drawn: ASSAY_SECRET, or made once and kept in `home`/secret (mode 0600).

        Raises:
            InputError: the kept file does not hold a secret.
        """
        if self.secret_hex is not None:
            return _secret_from_hex(self.secret_hex.get_secret_value())
        return _kept_secret(self.home / "secret")


def _secret_from_hex(text: str) -> bytes:
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        raise ValueError("is not hexadecimal; use the output of `openssl rand -hex 32`") from None
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"has {len(secret)} bytes, fewer than {SECRET_BYTES}; use the output of `openssl rand -hex 32`")
    return secret


def _kept_secret(path: Path) -> bytes:
    if not path.exists():
        _create_secret(path)
    try:
        return _secret_from_hex(path.read_text(encoding="ascii"))
    except (ValueError, UnicodeDecodeError) as error:
        mend = "restore the file from a backup; a new secret changes the noise of later jobs"
        raise InputError(Problem(field=str(path), detail=f"holds no secret ({error})", mend=mend)) from None


def _create_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails when the name is taken, so of two processes that start together one wins and no one reads half a secret.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _as_variable(problem: Problem) -> Problem:
    name = problem.field.upper()
    return Problem(field=name if name.startswith("ASSAY_") else f"ASSAY_{name}", detail=problem.detail, mend=problem.mend)
