"""What may import what, and that the model mirrors the hardware folder by folder."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "speckv_model": ROOT / "sim" / "speckv_model",
    "speckv_sim": ROOT / "sim" / "speckv_sim",
    "speckv_hw": ROOT / "hw" / "speckv_hw",
    "speckv": ROOT / "host" / "speckv",
}
FORBIDDEN = {
    "speckv_hw": {"speckv", "speckv_sim"},
    "speckv_sim": {"speckv"},
    "speckv": {"speckv_hw", "amaranth"},
}
BOXES = {"cxl", "csr", "cache", "mover", "codec", "table", "pool", "prefetch", "mem"}

TWINS = ["cxl/endpoint.py", "cache/page_cache.py", "cache/slot_table.py", "mover/fetcher.py",
         "mover/opener.py", "mover/sealer.py", "pool/pool_allocator.py", "prefetch/prefetcher.py"]
"""Files that both have, each with a class of the file's name."""


def imports(path):
    """Top names of the packages that the Python file at `path` imports."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def imported_by(package):
    """(file, package that it imports), for each import in `package`."""
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    return {(str(path.relative_to(ROOT)), name) for path in files for name in imports(path)}


def test_the_model_needs_only_numpy():
    allowed = {"numpy", "ml_dtypes", "speckv_model"} | set(sys.stdlib_module_names)
    assert {found for found in imported_by("speckv_model") if found[1] not in allowed} == set()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers(package):
    assert {found for found in imported_by(package) if found[1] in FORBIDDEN[package]} == set()


@pytest.mark.parametrize("package", ["speckv_model", "speckv_hw"])
def test_every_box_has_its_twin(package):
    folders = {path.parent.name for path in PACKAGES[package].glob("*/__init__.py")}
    assert BOXES <= folders


@pytest.mark.parametrize("path", TWINS)
def test_components_have_the_same_names(path):
    def classes(package):
        tree = ast.parse((PACKAGES[package] / path).read_text())
        return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}

    component = "".join(word.capitalize() for word in Path(path).stem.split("_"))
    assert component in classes("speckv_model") & classes("speckv_hw")
