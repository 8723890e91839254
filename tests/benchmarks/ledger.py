"""`scripts/bench ledger`: what one more candidate costs a ledger of 1e3, 1e4 and 1e5 regions, with the filter and without it, in one run.

(a) without: every region is handed to the rules, which measure all distances in float64 and the near ones exactly;
(b) with: regions whose shadows are too far apart are left out first (`Memory.near`);
(c) in a database: the index on the first coordinate, then all of them, then the rules (SQLite in a file, one transaction).

Inputs are those of the handwritten digits at 28 x 28, moved about by noise so that there are enough; radii are those of a job on them,
about. Prints processor times for one candidate and their ratios; nothing here gates a test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from certify.memory import Memory, resolve
from certify.projection import shadows
from certify.regions import Candidate, Region, Resolution, region_of
from storage.database import Database
from storage.ledger_rows import near, region_values
from storage.tables import ledgers, regions
from tests.support.shop import Shop

_SIZES, _ASKED, _PART = (1_000, 10_000, 100_000), 20, 5_000
Array = np.ndarray[Any, Any]


def inputs(count: int, seed: int) -> tuple[Array, Array]:
    """Inputs (count, 1, 28, 28) in [0, 1], float32, and their digits."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    rows = rng.integers(0, len(digits.target), count)
    images = np.kron(digits.images[rows] / 16.0, np.ones((1, 4, 4)))[:, 2:30, 2:30]
    moved = np.clip(images * rng.uniform(0.6, 1.0, (count, 1, 1)) + rng.normal(0, 0.05, images.shape), 0, 1)
    return moved[:, None].astype("<f4"), digits.target[rows]


def candidates(count: int, seed: int) -> list[Candidate]:
    x, y = inputs(count, seed)
    radii = np.random.default_rng(seed).uniform(0.2, 1.0, count).tolist()
    return [
        Candidate(
            example=i,
            digest=f"{i:064x}",
            centre=x[i].tobytes(),
            answer=int(y[i]),
            radius=radii[i],
            sigma=0.5 + i,
            alpha=0.001,
            shadow=shadow,
        )
        for i, shadow in enumerate(shadows(x))
    ]


def filled(asked: Sequence[Candidate], first: int) -> list[Region]:
    """As if all had been stored as they are: how they came to be does not matter here."""
    kept = (Resolution(how="stored", answer=one.answer, radius=one.radius) for one in asked)
    return [region_of(one, found, first + i, "", 0) for i, (one, found) in enumerate(zip(asked, kept, strict=True), start=1)]


def seconds(work: Callable[[Candidate], object], asked: Sequence[Candidate]) -> float:
    """The median processor time for one: the machine may have other work."""
    times = []
    for one in asked:
        start = time.process_time()
        work(one)
        times.append(time.process_time() - start)
    return float(np.median(times))


def grow(memory: Memory, db: Database, ledger: dict[str, Any], job: str, size: int) -> None:
    """Fill both up to `size` regions."""
    while len(memory.regions) < size:
        first = len(memory.regions)
        asked = candidates(min(_PART, size - first), 1 + first)
        stored = filled(asked, first)
        memory.load(stored, [one.shadow for one in asked])
        where = {"tenant_id": ledger["tenant_id"], "ledger_id": ledger["id"], "version": 1, "created_at": ledger["created_at"]}
        rows = [
            {**where, **region_values(replace(one, job=job, example=one.number), asks.shadow, asks.shadow.reach(one.radius))}
            for one, asks in zip(stored, asked, strict=True)
        ]
        with db.begin() as connection:
            connection.execute(sa.insert(regions), rows)


def opened(folder: str) -> tuple[Database, dict[str, Any], str]:
    db = Database(f"sqlite:///{Path(folder) / 'assay.db'}")
    db.migrate()
    shop = Shop.open(db, "bench")
    job = shop.submit()
    ledger = {
        "version": 1,
        "id": "ldg_0",
        "tenant_id": shop.tenant,
        "created_at": job.created_at,
        "model_digest": "0" * 64,
        "rule_digest": "0" * 64,
    }
    with db.begin() as connection:
        connection.execute(sa.insert(ledgers).values(**ledger, rule="{}", regions=0, largest_reach=0.0))
    return db, ledger, job.id


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES))
    sizes: list[int] = options.parse_args().sizes
    asked = [replace(one, digest="f" * 64) for one in candidates(_ASKED, 0)]
    largest = max(one.shadow.reach(1.0) for one in asked)
    with tempfile.TemporaryDirectory() as folder:
        db, ledger, job = opened(folder)
        memory = Memory()
        sys.stdout.write("regions  left by the filter  all / filter  all / database  filter now / filter at first size\n")
        base = 0.0
        for size in sizes:
            grow(memory, db, ledger, job, size)
            everything = seconds(lambda one: resolve(one, memory.regions), asked)
            filtered = seconds(lambda one: resolve(one, memory.near(one)), asked)
            with db.begin() as connection:
                stored = seconds(lambda one: resolve(one, near(connection, ledger, one, largest)), asked)
            left = float(np.mean([len(memory.near(one)) for one in asked]))
            base = base or filtered
            sys.stdout.write(
                f"{size:7}  {left:18.1f}  {everything / filtered:12.1f}  {everything / stored:14.1f}  {filtered / base:12.1f}"
                f"   ({everything * 1e3:.1f} ms, {filtered * 1e3:.2f} ms, {stored * 1e3:.2f} ms)\n"
            )
        db.close()


if __name__ == "__main__":
    main()
