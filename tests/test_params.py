"""Every mistake in params.yaml is told in three lines: what is wrong, what was written where, how to mend it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pufferfish.base.errors import UserError
from pufferfish.schema.document import Document
from pufferfish.schema.params import Params

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (ROOT / "params.yaml").read_text()
SECTIONS = ("budget", "hardware_probe", "plan", "data", "model", "train", "evaluate", "export")
DURATION = "write a number and a unit, for example 36s, 3m, 1.5h or 1h30m"


def load(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Params.load(path)


def complain(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def with_line(section, line):
    """A whole file in which one section holds one line; the line is the second of its section."""
    return "".join(f"{name}:\n  {line}\n" if name == section else f"{name}: {{}}\n" for name in SECTIONS)


def line_number(section):
    return SECTIONS.index(section) + 2


MISTAKES = [
    # section, line, what, saw, fix
    ("budget", "time: 0", "`budget.time`: not a duration", "budget.time: 0", DURATION),
    ("budget", "time: -5", "`budget.time`: not a duration", "budget.time: -5", DURATION),
    ("budget", "time: abc", "`budget.time`: not a duration", "budget.time: abc", DURATION),
    ("budget", "time:", "`budget.time`: not a duration", "budget.time: (nothing)", DURATION),
    ("budget", "time: ''", "`budget.time`: not a duration", "budget.time: (nothing)", DURATION),
    ("budget", "time: 1h30", "`budget.time`: not a duration", "budget.time: 1h30", DURATION),
    ("budget", "time: 1:30:00", "`budget.time`: not a duration", "budget.time: 1:30:00", DURATION),
    ("budget", "time: 1e-3", "`budget.time`: not a duration", "budget.time: 1e-3", DURATION),
    ("budget", "time: 30m1h", "`budget.time`: not a duration", "budget.time: 30m1h", DURATION),
    ("budget", "time: 0s", "`budget.time`: no time at all", "budget.time: 0s", DURATION),
    ("budget", "time: 0.0001s", "`budget.time`: shorter than a second", "budget.time: 0.0001s", "give at least 1s"),
    ("budget", "time: 9999d", "`budget.time`: longer than a year", "budget.time: 9999d", "give at most 365d"),
    ("budget", "tme: 3m", "`budget.tme` is not a setting", "budget.tme", "did you mean `budget.time`?"),
    ("model", "d_modle: 64", "`model.d_modle` is not a setting", "model.d_modle", "did you mean `model.d_model`?"),
    ("model", "num_layers: four", "`model.num_layers`: not a whole number", "model.num_layers: four", "write a whole number, or auto"),
    ("model", "num_layers: 3.5", "`model.num_layers`: not a whole number", "model.num_layers: 3.5", "write a whole number, or auto"),
    ("model", "num_layers: true", "`model.num_layers`: not a whole number", "model.num_layers: true", "write a whole number, or auto"),
    ("model", "num_layers: '3'", "`model.num_layers`: not a whole number", "model.num_layers: 3", "write a whole number, or auto"),
    ("model", "num_layers: 0", "`model.num_layers`: out of range", "model.num_layers: 0", "give at least 1, or auto"),
    ("model", "is_tied: yes", "`model.is_tied`: neither true nor false", "model.is_tied: yes", "write true or false, or auto"),
    ("model", "is_tied: 1", "`model.is_tied`: neither true nor false", "model.is_tied: 1", "write true or false, or auto"),
    ("model", "lookup: values", "`model.lookup`: not one of the choices", "model.lookup: values", "use one of: none, value, bigram, or auto"),
    ("model", "portable: auto", "`model.portable`: neither true nor false", "model.portable: auto", "write true or false"),
    ("data", "vocab_size: 100", "`data.vocab_size`: out of range", "data.vocab_size: 100", "give at least 260, or auto"),
    ("data", "validation: ''", "`data.validation`: an empty path leads nowhere", "data.validation: (nothing)", "write auto to hold documents back, or a path"),
    ("data", "seed: -1", "`data.seed`: out of range", "data.seed: -1", "give at least 0"),
    ("data", "source: texts", "`data.source`: there is no such source", "data.source: texts", "did you mean `text`?"),
    ("train", "learning_rate: fast", "`train.learning_rate`: not a number", "train.learning_rate: fast", "write a number, or auto"),
    ("train", "learning_rate: .inf", "`train.learning_rate`: not a finite number", "train.learning_rate: .inf", "write a finite number, or auto"),
    ("train", "optimizer: adamm", "`train.optimizer`: there is no such optimizer", "train.optimizer: adamm", "did you mean `adamw`?"),
    ("train", "dtype: fp16", "`train.dtype`: not one of the choices", "train.dtype: fp16", "use one of: float32, bfloat16, float16, or auto"),
    ("plan", "strategy: tabel", "`plan.strategy`: there is no such strategy", "plan.strategy: tabel", "did you mean `table`?"),
    ("plan", "pilots: true", "`plan.pilots`: short trainings cannot be forced", "plan.pilots: true", "write false for none, or auto"),
    ("plan", "pilots: yes", "`plan.pilots`: neither auto nor false", "plan.pilots: yes", "write false for none, or auto"),
    ("plan", "pilots: 0", "`plan.pilots`: neither auto nor false", "plan.pilots: 0", "write false for none, or auto"),
    ("plan", "pilots:", "`plan.pilots`: neither auto nor false", "plan.pilots: (nothing)", "write false for none, or auto"),
    ("plan", "strategy: 7", "`plan.strategy`: not text", "plan.strategy: 7", "write text, in quotes if it looks like a number"),
    ("hardware_probe", "device: gpu", "`hardware_probe.device`: not one of the choices", "hardware_probe.device: gpu", "use one of: auto, cpu, cuda"),
    (
        "hardware_probe",
        "memory: 1e9",
        "`hardware_probe.memory`: not a size",
        "hardware_probe.memory: 1e9",
        "write a number and a unit, for example 4GB or 512MiB, or auto",
    ),
    ("evaluate", "prompts: hello", "`evaluate.prompts`: not a list", "evaluate.prompts: hello", "write a list, for example [a, b], or auto"),
    ("evaluate", "prompts: [a, 1]", "`evaluate.prompts.1`: not text", "evaluate.prompts.1: 1", "write text, in quotes if it looks like a number, or auto"),
    ("export", "formats: []", "`export.formats`: too short", "export.formats: []", "give at least 1"),
    (
        "export",
        "formats: [gguf]",
        "`export.formats.0`: GGUF is not written here, and has no place for the tables of models that are not portable",
        "export.formats.0: gguf",
        "use one of: hf",
    ),
    (
        "train",
        "teacher_share: 0.95",
        "`train.teacher_share`: out of range",
        "train.teacher_share: 0.95",
        "give at most 0.9, or auto",
    ),
]


@pytest.mark.parametrize(("section", "line", "what", "saw", "fix"), MISTAKES, ids=[f"{row[0]}: {row[1]}" for row in MISTAKES])
def test_a_mistake_is_told_in_three_lines_with_its_place(tmp_path, section, line, what, saw, fix):
    where = f"(params.yaml, line {line_number(section)})"
    assert complain(tmp_path, with_line(section, line)).splitlines() == [what, f"  saw:  {saw}      {where}", f"  fix:  {fix}"]


SHAPES = [
    ("d_model: 96\n  num_heads: 5", "the nearest legal number of heads for d_model 96 is 4; or give `head_dim`"),
    ("d_model: 7\n  num_heads: 2", "the nearest legal d_model are 6 and 8"),
    ("num_heads: 6\n  num_kv_heads: 4", "the nearest legal num_kv_heads for 6 heads is 3"),
    ("num_heads: 6\n  num_kv_heads: 12", "the nearest legal num_kv_heads for 6 heads is 6"),
    ("d_model: 64\n  head_dim: 7", "the nearest legal head_dim are 6 and 8"),
]


@pytest.mark.parametrize(("lines", "fix"), SHAPES)
def test_an_illegal_shape_names_the_nearest_legal_one(tmp_path, lines, fix):
    told = complain(tmp_path, with_line("model", lines)).splitlines()
    assert told[2] == f"  fix:  {fix}"
    assert told[1].startswith(f"  saw:  model: {lines.replace(chr(10) + '  ', ', ')}")


@pytest.mark.parametrize("lookup", ["value", "bigram"])
@pytest.mark.parametrize("portable", ["", "portable: true\n  "])
def test_a_lookup_that_should_be_portable_is_refused(tmp_path, lookup, portable):
    what, saw, fix = complain(tmp_path, with_line("model", f"{portable}lookup: {lookup}")).splitlines()
    assert what == "`model`: no stock architecture looks anything up"
    assert f"lookup: {lookup}" in saw
    assert fix == "  fix:  set `portable: false`, or `lookup: auto`"


@pytest.mark.parametrize("lines", ["lookup: none", "portable: false\n  lookup: value", "portable: false\n  lookup: bigram", "portable: false"])
def test_a_lookup_that_fits_is_accepted(tmp_path, lines):
    model = load(tmp_path, with_line("model", lines)).model
    assert model.pins == ({"lookup": model.lookup} if "lookup" in lines else {})


def test_a_shape_that_divides_is_accepted_as_it_stands(tmp_path):
    model = load(tmp_path, with_line("model", "d_model: 96\n  num_heads: 6\n  num_kv_heads: 3")).model
    assert (model.d_model, model.num_heads, model.num_kv_heads) == (96, 6, 3)


def test_warm_up_and_cooldown_must_fit_into_the_schedule(tmp_path):
    assert "longer than the schedule" in complain(tmp_path, with_line("train", "warmup_share: 0.7\n  cooldown_share: 0.4"))


@pytest.mark.parametrize("line", ["source: text", "path: some/folder"])
def test_a_path_goes_with_the_source_text_and_only_with_it(tmp_path, line):
    assert "path and source do not fit" in complain(tmp_path, with_line("data", line))


NOT_YAML = [
    ("budget: {time: 3m", "line 1, column 18"),
    ("budget:\n\ttime: 3m\n", "line 2, column 1"),
    ("budget:\n  time: 3m\n plan: {}\n", "line 3, column 2"),
    ("budget: *never\n", "line 1, column 9"),
    ("train: {seed: !!python/object:os.system 1}\n", "line 1, column 15"),
]


@pytest.mark.parametrize(("text", "place"), NOT_YAML)
def test_broken_yaml_is_told_with_file_line_and_column(tmp_path, text, place):
    told = complain(tmp_path, text).splitlines()
    assert told[0] == "params.yaml is not valid YAML"
    assert told[1].endswith(f"(params.yaml, {place})")
    assert len(told) == 3


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"budget: {time: 3\xff}", "is not UTF-8 text"),
        (b"budget: {time: 3m}\x07", "is not valid YAML"),
        (b"- budget\n- plan\n", "holds no settings"),
        (b"", "sections are missing"),
        (b"#" * 1_000_001, "is too large for a settings file"),
        (b"budget: {}\nplan: {}\nbudget: {}\n", "gives `budget` twice"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path, text, what):
    told = complain(tmp_path, text).splitlines()
    assert what in told[0]
    assert len(told) == 3


def test_a_missing_file_and_a_folder_in_its_place_are_told(tmp_path):
    with pytest.raises(UserError, match=r"params\.yaml is missing"):
        Params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        Params.load(tmp_path / "params.yaml")


def test_an_alias_that_holds_itself_is_an_error_and_no_endless_loop(tmp_path):
    assert len(complain(tmp_path, with_line("evaluate", "prompts: &again [*again]")).splitlines()) == 3


def test_sections_that_dvc_watches_may_not_be_left_out(tmp_path):
    told = complain(tmp_path, with_line("budget", "time: 3m").replace("train: {}\n", "").replace("export: {}\n", ""))
    assert told.splitlines()[1].startswith("  saw:  no train, no export ")


def test_all_mistakes_are_told_at_once(tmp_path):
    text = with_line("budget", "time: soon").replace("model: {}", "model: {d_modle: 3}").replace("train: {}", "train: {seed: a}")
    assert [line for line in complain(tmp_path, text).splitlines() if not line.startswith("  ")] == [
        "`budget.time`: not a duration",
        "`model.d_modle` is not a setting",
        "`train.seed`: not a whole number",
    ]


def test_the_shipped_settings_are_right_and_are_the_defaults(tmp_path):
    assert load(tmp_path, SHIPPED) == Params()


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    assert load(tmp_path, with_line("train", "learning_rate: 1e-3")).train.learning_rate == 0.001
    assert load(tmp_path, with_line("train", "learning_rate: 1")).train.learning_rate == 1.0


TRICKY = """
    1e-3 1e3 1.5e+3 1E5 -1e-3 1e 1e+ e3 12e03 .5 5. -.5 +.5 5.e3 .5e3 . .e3 0.1 -0 0 007 +5 -7 0o14 0o 0o8 -0o7 0x1F 0x 0x1_F +0x1 0b11 1_000 1_0.5 _1 1,000
    0b12 12:30 1:30:00 190:20:30.15 on off yes no y n On YES true True TRUE tRUE false False FALSE null Null NULL ~ nULL
    .inf -.inf +.inf .Inf .INF .nan .NaN .NAN inf nan auto 3m 1h30 1h30m 2026-11-21 'on' '1' "1e-3"
"""


@pytest.mark.parametrize("scalar", TRICKY.split())
def test_our_reader_agrees_with_that_of_dvc(tmp_path, scalar):
    path = tmp_path / "params.yaml"
    path.write_text(f"key:    {scalar}\n")
    theirs = YAML(typ="safe", pure=True).load(path.read_text())["key"]
    ours = Document(path).data["key"]
    if not isinstance(theirs, str | int | float | bool | None):
        theirs = scalar  # a date: text to us, and no setting is one
    assert (type(ours), repr(ours)) == (type(theirs), repr(theirs))


@pytest.fixture
def project(tmp_path):
    """A folder with the stages' settings, one of them wrong."""
    (tmp_path / "params.yaml").write_text(SHIPPED.replace("time: 3m ", "time: 3x "))
    return tmp_path


@pytest.mark.parametrize("stage", ["hardware_probe", "plan"])
def test_a_stage_says_its_name_and_three_lines_and_ends_with_status_2(project, stage):
    done = subprocess.run([sys.executable, ROOT / "stages" / f"{stage}.py"], cwd=project, capture_output=True, text=True, check=False)
    line = next(number for number, text in enumerate(SHIPPED.splitlines(), 1) if "time: 3m" in text)
    assert done.stderr.splitlines() == [
        f"{stage.replace('_', '-')}: `budget.time`: not a duration",
        f"  saw:  budget.time: 3x      (params.yaml, line {line})",
        f"  fix:  {DURATION}",
    ]
    assert done.returncode == 2
    assert not (project / "artifacts").exists()


def test_a_mistake_is_told_before_any_heavy_library_is_imported(project):
    probe = ROOT / "stages" / "hardware_probe.py"
    code = f"import runpy, sys\ntry: runpy.run_path({str(probe)!r}, run_name='__main__')\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    assert "not a duration" in done.stderr
    assert not {"torch", "numpy", "mlflow", "transformers", "tokenizers"} & set(done.stdout.split())
