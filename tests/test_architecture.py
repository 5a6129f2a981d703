"""The house as it was drawn: who may import whom; and every program starts."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "lightning_convviz"
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
PROGRAMS = sorted([*ROOT.parent.glob("examples/*.py"), *ROOT.parent.glob("tests/benchmarks/*.py")])

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


def test_a_module_looks_only_where_its_arrows_point():
    wrong = []
    for file, path in FILES.items():
        room = file.split("/")[0]
        if room == "__init__":
            continue  # the door, where all names are listed
        if room not in ARROWS:
            wrong.append(f"{file} is a new room: give it a row in ARROWS")
        else:
            wrong += [f"{file} imports {other}" for other in sorted(rooms(path) - {room} - ARROWS[room])]
    assert wrong == []


def test_lightning_comes_in_by_one_door():
    found = {file: {name.split(".")[0] for name in imports(path)} & LIGHTNING for file, path in FILES.items()}
    assert {file: names for file, names in found.items() if names and file != "_lightning"} == {}


def test_only_sinks_and_the_export_know_loggers():
    loggers = ("tensorboard", "torch.utils.tensorboard")
    others = {file: path for file, path in FILES.items() if not file.startswith(("sinks/", "export/"))}
    found = {file: [name for name in imports(path) if name.startswith(loggers)] for file, path in others.items()}
    assert {file: names for file, names in found.items() if names} == {}


def test_programs_import_names_that_are_there():
    """Also inside functions, which no start of a program reaches."""
    absent = []
    for path in PROGRAMS:
        ours = [name for name in imports(path) if name.startswith("lightning_convviz.")]
        absent += [f"{path.name}: {name}" for name in ours if not exists(name)]
    assert absent == []


def exists(name):
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ImportError:
        return False


def test_programs_start():
    """All in one process, which imports torch once."""
    start = f"""
import contextlib, io, runpy, sys, traceback
wrong, path = [], list(sys.path)
for program in {[str(path) for path in PROGRAMS]}:
    sys.argv = [program, '--help']
    sys.path[:] = [program.rpartition('/')[0], *path]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(program, run_name='__main__')
    except SystemExit as end:
        if end.code:
            wrong.append(f'{{program}} ends with {{end.code}}')
    except Exception:
        wrong.append(traceback.format_exc())
sys.exit('\\n'.join(wrong) or None)
"""
    done = subprocess.run([sys.executable, "-c", start], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
