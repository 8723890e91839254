"""The application: settings in, routes out. Starts in a second and computes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import openapi, problems
from api.caching import Revalidation
from api.edge import Edge
from api.gatekeeper import Gatekeeper, Rates
from api.idempotency import Idempotency
from api.routes import (
    account,
    blobs,
    datasets,
    events,
    gates,
    health,
    jobs,
    keys,
    ledgers,
    models,
    predictions,
    queries,
    reports,
    schedules,
    webhooks,
)
from storage.artifacts import Artifacts
from storage.database import Database
from storage.guard import guard
from storage.logs import configure
from storage.private import private_service
from storage.settings import Settings

_DESCRIPTION = "Certified robustness as a service. Radii are in raw-input units and rounded down."


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for one set of settings; the environment's when none are given. The database is opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure()
        conf = settings or Settings.load()
        private_service(conf.home)
        app.state.settings, app.state.db, app.state.artifacts = conf, Database(conf.database_url), Artifacts(conf.artifacts)
        app.state.db.migrate()
        guard(app.state.db)
        app.state.rates = Rates(conf)
        yield
        app.state.db.close()

    app = FastAPI(
        title="Assay",
        version="0.1.0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        strict_content_type=False,  # a body without a type is read as JSON; keys come in a header, so no foreign page can forge a request
        generate_unique_id_function=openapi.operation_id,
    )
    problems.install(app)
    openapi.install(app)
    for module in (
        blobs,
        models,
        datasets,
        jobs,
        events,
        predictions,
        queries,
        reports,
        ledgers,
        schedules,
        gates,
        webhooks,
        keys,
        account,
        health,
    ):
        app.include_router(module.router)

    app.add_middleware(Revalidation)
    app.add_middleware(Idempotency)
    app.add_middleware(Gatekeeper)
    app.add_middleware(Edge)  # added last, it is met first
    return app


app = create_app()
