"""The house stands: floors, late heavy imports, stages as DVC knows them. Syntax trees are walked, so imports inside functions count."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from pufferfish.base.registry import MENU
from pufferfish.schema.params import Params

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pufferfish"
FLOORS = {
    "base": 0,
    "schema": 1,
    "probe": 2,
    "plan": 2,
    "model": 3,
    "data": 3,
    "train": 4,
    "generate": 4,
    "evaluate": 5,
    "export": 5,
    "track": 5,
    "ui": 5,
    "experiments": 6,
    "cli": 7,
    "stages": 7,
}
HEAVY = {"torch", "numpy", "mlflow", "transformers", "tokenizers", "datasets", "pandas", "sklearn", "scipy", "dvc", "pyarrow"}
AT_TOP = {  # heavy libraries that a room may import at the top of its files
    "data": {"numpy", "tokenizers"},
    "model": {"torch", "numpy"},
    "train": {"torch", "numpy"},
    "generate": {"torch", "numpy", "tokenizers"},
    "evaluate": {"torch", "numpy"},
    "export": {"torch", "numpy"},
    "experiments": {"torch"},
    "track": {"mlflow"},
}
LEAVES_THE_HOUSE = PACKAGE / "export" / "modeling_pufferfish.py"  # is put beside exported models and imported by nobody here
COLD = {"base", "schema", "probe", "plan", "ui", "cli", "stages"}  # importing them brings nothing heavy with them
STAGE_SECTION = {  # the section of params.yaml that carries a stage's name; data has its own, because models and tokenizers need the word too
    "hardware-probe": "hardware_probe",
    "plan": "plan",
    "prepare-subset": "data",
    "train": "train",
    "evaluate": "evaluate",
    "export": "export",
}
OTHER_SECTIONS = {"budget", "model"}
ONLY_TALK = {"track", "ui"}  # they change no result, so no stage runs again for them
RUNS_SOMETHING = {"open", "print", "input", "exec", "eval", "getenv"}
RUNS_SOMETHING_ON = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "exists", "is_dir", "cwd", "getcwd", "glob"),
    *("run", "Popen", "check_call", "check_output", "which", "device_count", "is_available", "set_num_threads", "manual_seed"),
    *("basicConfig", "simplefilter", "filterwarnings", "signal", "register", "set_start_method"),
}

SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "stages").glob("*.py"))
EVERYTHING = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def label(path):
    return path.relative_to(ROOT).as_posix()


each_source = pytest.mark.parametrize("path", SOURCES, ids=label)
each_stage = pytest.mark.parametrize("name", PIPELINE)


@cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return "stages" if parts[0] == "stages" else parts[1] if len(parts) > 2 else None


def module_path(name):
    """The file of a module of this house, None for a name inside a module or of others."""
    base = ROOT / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported(nodes, path):
    """Full names that imports among these nodes mention."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}:{node.lineno} imports relatively: write the whole name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(path):
    return set(imported(ast.walk(tree_of(path)), path))


def at_import(path):
    """Every node that runs when the file is imported: all but the bodies of functions and of the main block."""
    waiting = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += [*getattr(node, "decorator_list", []), *node.args.defaults, *[each for each in node.args.kw_defaults if each]]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")):
            waiting += ast.iter_child_nodes(node)


def rooms_named(path):
    return {name.split(".")[1] for name in all_imports(path) if name.startswith("pufferfish.") and name.split(".")[1] in FLOORS}


def kinds_chosen(path):
    """Kinds of the menu that a file loads variants of: `registry.load("source", ...)`."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)]
    return {call.args[0].value for call in calls if ast.unparse(call.func) in ("registry.load", "load") and call.args[0].value in MENU}


def closure(path):
    """All files of the house that a file brings into its process, now or later."""
    seen, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path is None or path in seen:
            continue
        seen.add(path)
        names = all_imports(path) | {entry.split(":")[0] for kind in kinds_chosen(path) for entry in MENU[kind].values()}
        for name in names:
            if name.split(".")[0] == "pufferfish":
                parts = name.split(".")
                waiting += [module_path(".".join(parts[:end])) for end in range(1, len(parts) + 1)]
    return seen


def test_every_room_has_a_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(FLOORS)


@each_source
def test_imports_come_only_from_floors_below(path):
    room = room_of(path)
    for other in rooms_named(path) - {room}:
        assert FLOORS.get(room, -1) > FLOORS[other], f"{label(path)} (floor {FLOORS.get(room)}) imports {other} (floor {FLOORS[other]})"


@each_source
def test_heavy_libraries_are_imported_late(path):
    at_top = {name.split(".")[0] for name in imported(at_import(path), path)} & HEAVY
    assert at_top <= ({"torch", "transformers"} if path == LEAVES_THE_HOUSE else AT_TOP.get(room_of(path), set()))


def test_what_leaves_the_house_and_the_house_do_not_need_each_other():
    assert {name.split(".")[0] for name in all_imports(LEAVES_THE_HOUSE)} == {"torch", "transformers"}
    assert not [label(path) for path in SOURCES if any(LEAVES_THE_HOUSE.stem in name for name in all_imports(path))]


@each_source
def test_only_the_tracking_room_knows_mlflow(path):
    if room_of(path) != "track":
        assert "mlflow" not in {name.split(".")[0] for name in all_imports(path)} or path.name == "bootstrap.py"


@each_source
def test_importing_a_file_runs_nothing(path):
    for node in at_import(path):
        if isinstance(node, ast.Attribute):
            assert node.attr != "environ", f"{label(path)}:{node.lineno} reads the environment at import"
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            forbidden = RUNS_SOMETHING_ON if isinstance(node.func, ast.Attribute) else RUNS_SOMETHING
            assert called not in forbidden, f"{label(path)}:{node.lineno} calls {called} at import"


@each_source
def test_nothing_is_caught_that_was_not_foreseen(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            is_passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            where = f"{label(path)}:{node.lineno} catches {caught}"
            assert not re.search(r"\bException\b|everything", caught), where
            assert "BaseException" not in caught or is_passed_on, where


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_no_work_is_left_for_later(path):
    assert not re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", path.read_text("utf-8"))


def test_the_set_up_script_needs_the_standard_library_alone():
    names = {name.split(".")[0] for name in all_imports(PACKAGE / "cli" / "bootstrap.py")}
    assert names <= set(sys.stdlib_module_names)


def in_fresh_interpreter(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_cold_rooms_bring_nothing_heavy_with_them():
    cold = [path for path in SOURCES if room_of(path) in COLD]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in cold]
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    assert not HEAVY & set(in_fresh_interpreter(code))


def test_checking_the_settings_brings_nothing_heavy_with_it():
    code = "import sys, pathlib; from pufferfish.schema.params import Params; Params.load(pathlib.Path('params.yaml')); print(*sys.modules)"
    loaded = set(in_fresh_interpreter(code))
    assert "pydantic" in loaded
    assert not HEAVY & loaded


def test_each_stage_is_one_file_and_each_file_one_stage():
    files = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert files == {name.replace("-", "_") for name in PIPELINE}


@each_stage
def test_a_stage_is_called_by_its_name(name):
    file = f"stages/{name.replace('-', '_')}.py"
    tree = tree_of(ROOT / file)
    assert PIPELINE[name]["cmd"] == f"python {file}"
    assert PIPELINE[name]["deps"][0] == file
    assert ast.get_docstring(tree).startswith(f"{name}: ")
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert [ast.unparse(decorator) for decorator in main.decorator_list] == [f"stage('{name}')"]


def test_stages_and_sections_of_the_settings_belong_together():
    assert list(STAGE_SECTION) == list(PIPELINE)
    sections = set(STAGE_SECTION.values()) | OTHER_SECTIONS
    assert set(Params.model_fields) == sections
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == sections


def test_after_the_plan_nobody_reads_wishes_about_data_model_and_training():
    for name in ("prepare-subset", "train"):
        assert all(isinstance(entry, dict) and list(entry) == ["artifacts/plan.json"] for entry in PIPELINE[name]["params"])
    for name in ("evaluate", "export"):
        assert PIPELINE[name]["params"] == [name]


@each_stage
def test_a_stage_declares_every_room_that_it_stands_on(name):
    files = closure(ROOT / "stages" / f"{name.replace('-', '_')}.py")
    used = {f"pufferfish/{room_of(path)}" for path in files if room_of(path) not in (None, "stages", *ONLY_TALK)}
    declared = {dep for dep in PIPELINE[name]["deps"] if dep.startswith("pufferfish")}
    assert declared == used


@each_stage
def test_what_a_stage_reads_is_there_or_made_by_an_earlier_one(name):
    earlier = list(PIPELINE)[: list(PIPELINE).index(name)]
    made = {out for stage in earlier for kind in ("outs", "metrics", "plots") for entry in PIPELINE[stage].get(kind, []) for out in names_in(entry)}
    for dep in PIPELINE[name]["deps"]:
        assert dep in made or (ROOT / dep).exists()
    for entry in PIPELINE[name].get("params", []):
        assert isinstance(entry, str) or set(entry) <= made


def names_in(entry):
    return [entry] if isinstance(entry, str) else list(entry)


@each_stage
def test_a_stage_writes_what_it_cost(name):
    outs = [out for entry in PIPELINE[name]["outs"] for out in names_in(entry)]
    assert f"artifacts/timing/{name}.json" in outs
