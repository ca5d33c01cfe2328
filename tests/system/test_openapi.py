"""schemathesis against the whole API: no server error, and no answer that is not documented."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.workspace import Workspace
from tests.system.product import Product

pytestmark = pytest.mark.timeout(600)
EXAMPLES_MAX = 10
REQUEST_TIMEOUT_S = 130
"""Longer than `Prefer: wait` may ask for, and now and then does."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance,unsupported_method,ignored_auth"
)


@pytest.fixture(scope="module")
def product(workspace: Workspace) -> Iterator[Product]:
    """A product whose API may be asked anything."""
    product = Product(workspace, "openapi", "", hosts=1)
    product.start()
    try:
        yield product
    finally:
        product.stop()


def test_the_api_answers_what_it_documents(product: Product, tmp_path: Path) -> None:
    name = f"fuzzed-{secrets.token_hex(2)}"  # new at each try
    vm = product.post(
        "/v1/vms", {"name": name, "cluster": product.cluster(), "delete_protected": True}
    )["id"]
    token = product.folder.admin_token.read_text().strip()
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        f'headers = {{ Authorization = "Bearer {token}" }}\n'
        f'tls-verify = "{product.folder.authority / "trust.crt"}"\n'
        "[[operations]]\n"
        'include-path-regex = "^/v1/vms/"\n'
        f'parameters = {{ "path.id" = "{vm}" }}\n'
    )
    configuration.chmod(0o600)
    ended = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file"),
            *(str(configuration), "run", f"{product.url}/v1/openapi.json"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES_MAX)),
            *("--request-timeout", str(REQUEST_TIMEOUT_S)),
            *("--checks", CHECKS, "--seed", "20261121", "--exclude-path", "/v1/stream"),
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-12_000:] + ended.stderr[-2_000:]
