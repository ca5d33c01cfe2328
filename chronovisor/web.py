"""The HTTP application: the routes of commands and reads joined, and one OpenAPI document."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import msgspec

from commands.api.app import Api
from commands.api.application import Application
from commands.api.openapi import document
from commands.api.page import page
from projections.reads.openapi import openapi_components, openapi_paths
from projections.reads.routes import ReadApi


def join_routes(api: Api, reads: ReadApi) -> Application:
    """Return the application that serves both sides."""
    described = joined_document()
    shown, policy = page(described)
    encoded = msgspec.json.encode(described)
    return Application([*api.routes(encoded, shown, policy), *reads.routes()])


def joined_document() -> dict[str, Any]:
    """Return the OpenAPI document of both sides."""
    return document(product_version(), paths=openapi_paths(), components=openapi_components())


def product_version() -> str:
    """Return the installed product's version."""
    try:
        return importlib.metadata.version("chronovisor")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0"
