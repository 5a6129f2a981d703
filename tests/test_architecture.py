"""The house as it was drawn: who may import whom; and every program starts."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "lightning_convviz"
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
PROGRAMS = sorted([*ROOT.parent.glob("examples/*.py"), *ROOT.parent.glob("tests/benchmarks/*.py")])

# What computes: torch alone, without Lightning, loggers or pictures.
COMPUTATION = {
    "ascent",
    "cams",
    "canvas",
    "diagnostics",
    "heatmap_metrics",
    "isolation",
    "layer_stats",
    "layers",
    "mistakes",
    "outputs",
    "pixels",
    "targets",
    "transforms",
}
OUTSIDE = {"_lightning", "batches", "history", "probes", "sinks"}
# For each room the rooms that it may look into, besides itself.
ARROWS: dict[str, set[str]] = {
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
    "pages": {"ascent", "cams", "history", "layer_stats", "layers", "mistakes", "pixels", "probes", "render"},
    "engine": {"cams", "isolation", "layers", "outputs", "pixels", "render", "targets"} | OUTSIDE,
    "callbacks": COMPUTATION | {"engine", "history", "pages", "probes", "render", "_lightning"},
}
# The same inside rooms: a file or folder and what it may look into of its own room, or of the engine. Each may look
# into itself; `*` stands for any one name.
ENGINE = (
    "contract",
    "failures",
    "schedule",
    "processes",
    "picture_queue",
    "logits",
    "probe_store",
    "hooks",
    "participation",
    "participant",
    "probe_forward",
    "checkpoint",
    "coordinator",
)
INNER: dict[str, set[str]] = {
    # From top to bottom: each of the engine's files sees those above it.
    **{f"engine.{name}": {f"engine.{above}" for above in ENGINE[:place]} for place, name in enumerate(ENGINE)},
    "callbacks.options": set(),
    "callbacks.common": set(),
    "callbacks.base": {"callbacks.options", "engine.contract", "engine.coordinator"},
    **{
        f"callbacks.{one}": {"callbacks.base", "callbacks.options", "callbacks.common", "engine.contract"}
        for one in ("activations", "filters", "gradcam")
    },
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


def modules(path):
    """What a file imports of the package, as modules: `from a import b` is `a.b` where that is one, else `a`."""
    known = {module_name(file) for file in FILES}
    for name in imports(path):
        if name.startswith("lightning_convviz."):
            yield name if name in known else name.rpartition(".")[0]


def module_name(file):
    return ".".join(["lightning_convviz", *file.removesuffix("__init__").rstrip("/").split("/")]).rstrip(".")


def test_a_file_looks_only_where_its_room_s_own_arrows_point():
    """What stands in `INNER`: the engine from top to bottom, no callback at another, and at the contract alone."""
    wrong = []
    for file, path in FILES.items():
        own = ".".join(file.split("/")[:2])
        if file.split("/")[0] not in ("engine", "callbacks") or (file.endswith("/__init__") and file.count("/") == 1):
            continue
        if own not in INNER:
            wrong.append(f"{file}: give it a row in INNER")
            continue
        for name in modules(path):
            target = ".".join(name.split(".")[1:3])
            if target.split(".")[0] in ("engine", "callbacks") and target not in INNER[own] | {own}:
                wrong.append(f"{file} imports {name}")
    assert wrong == []


def test_no_cycle_of_imports_anywhere():
    """Inside rooms too; imports for types alone and inside functions count."""
    arrows = {module_name(file): set(modules(path)) for file, path in FILES.items() if file != "__init__"}
    assert len(arrows) > 100
    assert cycles(arrows) == []


def test_a_cycle_would_be_seen():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def cycles(arrows):
    """Groups of modules that need one another."""

    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            for name in arrows.get(waiting.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    reached = {name: reach(name) for name in arrows}
    circles = {name for name in arrows if name in reached[name]}
    groups = {tuple(sorted(other for other in circles & reached[name] if name in reached[other])) for name in circles}
    return sorted(map(list, groups))


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
