"""The house as it was drawn: who may import whom, and how large anything may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "lightning_convviz"
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

COMPUTATION = {"layers", "isolation", "outputs", "targets", "cams", "heatmap_metrics", "mistakes", "layer_stats"}
COMPUTATION |= {"canvas", "transforms", "ascent", "pixels", "diagnostics"}
# For each room the rooms that it may look into, besides itself.
ARROWS = {
    "layers": set(),
    "isolation": set(),
    "outputs": set(),
    "targets": set(),
    "cams": {"layers", "isolation", "outputs", "targets"},
    "canvas": set(),
    "transforms": set(),
    "ascent": {"layers", "isolation", "outputs", "canvas", "transforms"},
    "pixels": set(),
    "heatmap_metrics": set(),
    "mistakes": set(),
    "layer_stats": set(),
    "diagnostics": set(),
    "render": set(),
    "history": set(),
    "_lightning": set(),
    "batches": set(),
    "_probing": set(),
    "probes": {"_probing", "batches", "pixels", "isolation", "_lightning"},
    "sinks": {"render", "_lightning"},
    "export": set(),
    "__main__": {"export"},
    "callbacks": COMPUTATION | {"render", "_lightning", "batches", "probes", "sinks", "history"},
}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}


def imports(path):
    """All modules that a file imports, also inside functions and by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively: write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (item.value for item in node.args if isinstance(item, ast.Constant))


def rooms(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("lightning_convviz.")}


@pytest.mark.parametrize("file", FILES)
def test_a_module_looks_only_where_its_arrows_point(file):
    room = file.split("/")[0]
    if room == "__init__":
        return  # the door, where all names are listed
    assert room in ARROWS, f"{file} is a new room: give it a row in ARROWS"
    assert rooms(FILES[file]) - {room} <= ARROWS[room]


@pytest.mark.parametrize("file", FILES)
def test_lightning_comes_in_by_one_door(file):
    if file != "_lightning":
        assert not {name.split(".")[0] for name in imports(FILES[file])} & LIGHTNING


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(("sinks/", "export/"))])
def test_only_sinks_and_the_export_know_loggers(file):
    assert not [name for name in imports(FILES[file]) if name.startswith(("tensorboard", "torch.utils.tensorboard"))]


def test_importing_the_package_imports_neither_torch_nor_lightning():
    check = """
import lightning_convviz, sys
assert 'torch' not in sys.modules
assert not any(name.startswith(('pytorch_lightning', 'lightning.')) for name in sys.modules)
assert {'GradCAMLogger', 'cams'} <= set(dir(lightning_convviz))
"""
    subprocess.run([sys.executable, "-c", check], cwd=ROOT.parent, check=True)


def test_computation_and_pictures_do_without_lightning():
    check = f"""
import importlib, sys
for room in {sorted(COMPUTATION | {"render"})}:
    importlib.import_module('lightning_convviz.' + room)
assert not any(name.startswith(('pytorch_lightning', 'lightning.', 'tensorboard')) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], cwd=ROOT.parent, check=True)


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("file", FILES)
def test_functions_and_files_stay_small(file):
    assert len(FILES[file].read_text().splitlines()) <= 300
    for function in functions(FILES[file]):
        documented = ast.get_docstring(function) is not None
        docstring = function.body[0].end_lineno - function.body[0].lineno + 1 if documented else 0
        lines = function.end_lineno - function.lineno + 1 - docstring
        assert lines <= 40, f"{function.name} has {lines} lines of code"
