"""The HTTP application: routes of commands and reads, joined, with their one OpenAPI document."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import orjson

from commands.api import openapi
from commands.api.app import Api
from commands.api.application import Application
from commands.api.page import page
from projections.reads.openapi import openapi_components, openapi_paths
from projections.reads.routes import ReadApi


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the whole API."""
    version = importlib.metadata.version("chronovisor")
    return openapi.document(version, paths=openapi_paths(), components=openapi_components())


def join_routes(api: Api, reads: ReadApi) -> Application:
    """Return the application that serves both sides."""
    described = document()
    text, policy = page(described)
    return Application([*api.routes(orjson.dumps(described), text, policy), *reads.routes()])
