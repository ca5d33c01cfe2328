"""Pin requirements: turn each `*.in` file into a `*.txt` file with versions and hashes.

Run by `make lock`. The result names no index, no folder and no machine, so that it holds
everywhere; it is compiled for the oldest Python that pyproject.toml allows. Nothing is written
unless the whole result passes that check.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("requirements", "requirements-host")
PYTHON_VERSION = "3.11"
HEADER = "# Made by `make lock` from {name}.in. Do not edit.\n"
FORBIDDEN = re.compile(r"://|^\s*-|--index|--find-links|--trusted-host|/(home|root|tmp|work|opt)/")
TIMEOUT_S = 600


def compiled(name: str) -> str:
    """The pinned text for one `.in` file."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{name}.txt"
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade"),
                *("--generate-hashes", "--no-header", "--no-emit-index-url"),
                *("--no-emit-find-links", "--python-version", PYTHON_VERSION),
                *(f"{name}.in", "--output-file", str(output)),
            ],
            cwd=ROOT,
            check=True,
            timeout=TIMEOUT_S,
        )
        return output.read_text()


def main() -> None:
    """Compile all, check all, then write all."""
    texts = {name: compiled(name) for name in NAMES}
    for name, text in texts.items():
        for line in text.splitlines():
            if FORBIDDEN.search(line) and not line.startswith("    --hash=sha256:"):
                sys.exit(f"lock.py: {name}.txt would name a place: {line}")
    for name, text in texts.items():
        (ROOT / f"{name}.txt").write_text(HEADER.format(name=name) + text)


if __name__ == "__main__":
    main()
