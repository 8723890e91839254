"""Settings: defaults that work, one secret however many processes start, errors by the name of the variable."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from certify.errors import InputError
from storage.database import Database
from storage.ids import new_id
from storage.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "ARTIFACTS", "SECRET", "EXECUTOR", "HOST", "PORT", "URL", "KEY"):
        monkeypatch.delenv(f"ASSAY_{name}", raising=False)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "new" / "home"))
    return tmp_path / "new" / "home"


def test_everything_lies_under_home_and_works_at_once(home: Path) -> None:
    settings = Settings.load()
    assert settings.database_url == f"sqlite:///{home}/assay.db"
    assert settings.artifacts == f"{home}/artifacts"
    assert (settings.executor, settings.host, settings.port) == ("ray", "127.0.0.1", 8000)
    db = Database(settings.database_url)
    db.migrate()
    db.close()


def test_the_secret_is_made_once_and_kept_private(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: Settings.load().secret, range(16)))
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32
    assert stat.S_IMODE((home / "secret").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret"]


def test_a_given_secret_is_used_and_nothing_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SECRET", "ab" * 32)
    assert Settings.load().secret == b"\xab" * 32
    assert not home.exists()
    assert "ab" * 32 not in repr(Settings.load())


def test_a_broken_secret_file_is_not_replaced(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "secret").write_text("oops")
    with pytest.raises(InputError, match="secret"):
        _ = Settings.load().secret
    assert (home / "secret").read_text() == "oops"


@pytest.mark.parametrize(
    ("name", "value"), [("ASSAY_PORT", "high"), ("ASSAY_EXECUTOR", "celery"), ("ASSAY_SECRET", "12"), ("ASSAY_SECRET", "zz")]
)
def test_a_wrong_value_names_its_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        Settings.load()
    assert [problem.field for problem in caught.value.problems] == [name]


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id("job") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(job) == 30 and job.startswith("job_") for job in ids)
    assert [job[:14] for job in ids] == sorted(job[:14] for job in ids)
