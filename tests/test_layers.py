"""The import direction of the house: imports only go downward, packages of one rank do not import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bitfusion"

RANKS = {
    **dict.fromkeys(["errors", "limits", "types", "version", "metrics"], 0),
    "wire": 1,
    "session": 2,
    "transport": 3,
    **dict.fromkeys(["device", "kernels", "pool"], 4),
    **dict.fromkeys(["client", "worker"], 5),
    **dict.fromkeys(["aio", "server", "cuda"], 6),
    "web": 7,
    "daemon": 8,
    "cli": 9,
    **dict.fromkeys(["__main__", "__init__"], 10),
}

WITHIN_A_RANK = {("types", "errors")}
"""``parse_size`` says what is wrong with a size."""

CLIENT_MODULES = ["bitfusion", "bitfusion.client.client", "bitfusion.aio", "bitfusion.cuda"]
HEAVY = ["numba", "llvmlite", "cuda", "pynvml", "rich", "matplotlib", "aiohttp", "torch"]


def imports(path: Path) -> set[str]:
    """The parts of bitfusion a module names in its imports, lazy ones included; those for the type checker alone are not."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "bitfusion" else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("bitfusion.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    if "hook" in path.relative_to(PACKAGE).parts:
        return  # sitecustomize.py runs before there is a package; it finds everything by itself
    here = part(path)
    for there in imports(path) - {here}:
        if (here, there) in WITHIN_A_RANK:
            continue
        assert RANKS[there] < RANKS[here], f"{here} (rank {RANKS[here]}) imports {there} (rank {RANKS[there]})"


@pytest.mark.parametrize("module", CLIENT_MODULES)
def test_the_client_needs_no_compiler_and_no_gpu_library(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    assert module in loaded
