"""A page that shows the OpenAPI document: plain HTML, made once, without any script."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

import msgspec

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; text-transform: capitalize }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: 0 .8rem }
summary { cursor: pointer; padding: .5rem 0; overflow-wrap: anywhere }
code, pre { font: .875rem/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .4rem }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left;
  vertical-align: top }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600 }
"""
_METHODS = ("get", "post", "put", "patch", "delete")
_PREFIX = "#/components/schemas/"


def page(document: dict[str, Any]) -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, which lets nothing in but its own style."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    info = document["info"]
    title = f"{html.escape(info['title'])} {html.escape(info['version'])}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}: API</title><style>{STYLE}</style></head><body>",
        f'<h1>{title}</h1><p><a href="openapi.json">openapi.json</a></p>',
        *(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n")),
        *_operations(document),
        "<h2>Schemas</h2>",
        *(
            _details(f'<code id="{_anchor(name)}">{html.escape(name)}</code>', _json(schema))
            for name, schema in sorted(document["components"]["schemas"].items())
        ),
        "</body></html>",
    ]
    return "".join(parts), policy


def _operations(document: dict[str, Any]) -> list[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                tag = operation.get("tags", ["others"])[0]
                by_tag.setdefault(tag, []).append(_operation(document, method, path, operation))
    return [
        part
        for tag, operations in sorted(by_tag.items())
        for part in (f"<h2>{html.escape(tag.replace('_', ' '))}</h2>", *operations)
    ]


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    head = (
        f'<span class="method">{method.upper()}</span> <code>{html.escape(path)}</code> '
        f"{_text(operation.get('summary', ''))}"
    )
    body = [f"<p>{_text(part)}</p>" for part in operation.get("description", "").split("\n\n")]
    parameters = [_resolved(document, each) for each in operation.get("parameters", ())]
    if parameters:
        rows = [
            (
                f"<code>{html.escape(each['name'])}</code> in {each['in']}",
                _text(each.get("description", "")),
            )
            for each in parameters
        ]
        body.append(_table("Parameters", rows))
    if "requestBody" in operation:
        rows = [
            (f"<code>{html.escape(kind)}</code>", _schema(content["schema"]))
            for kind, content in operation["requestBody"]["content"].items()
        ]
        body.append(_table("Body", rows))
    body.append(_table("Answers", [_answer(*each) for each in operation["responses"].items()]))
    return _details(head, "".join(body))


def _answer(status: str, response: dict[str, Any]) -> tuple[str, str]:
    schemas = [_schema(content["schema"]) for content in response.get("content", {}).values()]
    return f"<b>{status}</b>", " ".join([_text(response["description"]), *schemas])


def _schema(schema: dict[str, Any]) -> str:
    """Links to the schemas that are named, or nothing."""
    named = [schema, *schema.get("anyOf", ())]
    names = [each["$ref"].removeprefix(_PREFIX) for each in named if "$ref" in each]
    return " ".join(
        f'<a href="#{_anchor(name)}"><code>{html.escape(name)}</code></a>' for name in names
    )


def _resolved(document: dict[str, Any], parameter: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in parameter:
        return parameter
    name = parameter["$ref"].rpartition("/")[2]
    found: dict[str, Any] = document["components"]["parameters"][name]
    return found


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{left}</td><td>{right}</td></tr>" for left, right in rows)
    return f'<table><tr><th colspan="2">{title}</th></tr>{cells}</table>'


def _details(head: str, body: str) -> str:
    return f"<details><summary>{head}</summary>{body}</details>"


def _json(value: object) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(value)).decode())}</pre>"


def _anchor(name: str) -> str:
    return f"schema-{html.escape(name, quote=True)}"


def _text(text: str) -> str:
    """Text with `code` in backquotes."""
    pieces = html.escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces)
    )
