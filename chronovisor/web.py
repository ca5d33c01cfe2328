"""The HTTP application: the routes of commands and reads, joined, with their one OpenAPI document."""

from __future__ import annotations

from commands.api.app import Api
from commands.api.application import Application
from projections.reads.routes import ReadApi


def join_routes(api: Api, reads: ReadApi) -> Application:
    """Return the application that serves both sides."""
    return Application([*api.routes(b"{}", "", "default-src 'none'"), *reads.routes()])
