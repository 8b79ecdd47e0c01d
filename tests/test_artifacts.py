"""An artifact is loaded as it was saved, or refused with what, saw and fix."""

import json
import os
import runpy
from pathlib import Path
from typing import ClassVar

import pytest
from toys import outcome, whole_plan

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.cli.main import main
from pufferfish.schema.artifact import Artifact
from pufferfish.schema.params import Params
from pufferfish.schema.reports import Evaluation

STAGES = Path(__file__).resolve().parents[1] / "stages"


class Catch(Artifact):
    SCHEMA_VERSION: ClassVar[int] = 3
    MADE_BY: ClassVar[str] = "plan"

    name: str
    num_fish: int
    weight_kg: float


CATCH = Catch(name="puffer", num_fish=7, weight_kg=0.1 + 0.2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "deep" / "catch.json"
    CATCH.save(path)
    return path


def change(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def told(path):
    with pytest.raises(UserError) as caught:
        Catch.load(path)
    assert len(str(caught.value).splitlines()) == 3
    return str(caught.value)


def test_what_was_saved_is_loaded_exactly(file):
    assert Catch.load(file) == CATCH
    assert Catch.load(file).weight_kg == 0.1 + 0.2


def test_the_same_content_leaves_the_file_untouched(file):
    os.utime(file, (1, 1))
    CATCH.save(file)
    assert file.stat().st_mtime == 1
    CATCH.model_copy(update={"num_fish": 8}).save(file)
    assert file.stat().st_mtime > 1


def test_the_identity_names_the_content():
    assert Catch(name="puffer", num_fish=7, weight_kg=0.1 + 0.2).identity == CATCH.identity
    assert CATCH.model_copy(update={"weight_kg": 0.3}).identity != CATCH.identity


def test_a_missing_artifact_names_the_stage_that_makes_it(tmp_path):
    assert "dvc repro plan" in told(tmp_path / "nothing.json")


def test_an_edit_by_hand_is_noticed(file):
    change(file, num_fish=8)
    assert "edited by hand" in told(file)


def test_another_schema_version_is_refused_by_number(file):
    change(file, schema_version=2)
    assert "schema_version 2; this code reads 3" in told(file)


@pytest.mark.parametrize("changes", [{"num_fish": "many"}, {"num_fish": None}, {"num_birds": 3}])
def test_content_that_the_version_does_not_promise_is_refused(file, changes):
    change(file, **changes)
    assert "does not hold what its version promises" in told(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"schema_version": 3}', '{"identity": "x"}'])
def test_what_is_no_artifact_is_refused(file, text):
    file.write_text(text)
    assert "is not an artifact" in told(file)


def test_bytes_that_are_no_text_are_refused(file):
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not an artifact" in told(file)


def test_a_folder_in_the_place_of_an_artifact_is_refused(tmp_path):
    (tmp_path / "catch.json").mkdir()
    assert "cannot be read" in told(tmp_path / "catch.json")


def test_numbers_that_json_cannot_hold_are_never_written():
    with pytest.raises(ValueError, match="finite"):
        Catch(name="puffer", num_fish=7, weight_kg=float("nan"))


def test_an_artifact_does_not_change_after_construction():
    with pytest.raises(ValueError, match="frozen"):
        CATCH.num_fish = 8


def run_stage(name):
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(STAGES / f"{name}.py"), run_name="__main__")
    return ended.value.code


READERS = {
    "evaluate": lambda: run_stage("evaluate"),
    "export": lambda: run_stage("export"),
    "generate": lambda: main(["generate"]),
    "replay": lambda: main(["replay"]),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_plan_beside_the_weights_names_the_stage_that_put_it_there(workplace, capsys, reader):
    paths.PARAMS.write_text("".join(f"{section}: {{}}\n" for section in Params.model_fields))
    numbers = dict.fromkeys(("val_bpb", "val_loss_nats", "perplexity", "num_tokens", "num_bytes", "forecast_bpb", "ngram_tokens"), 1)
    Evaluation(weights_sha256="w0", baselines={}, **numbers).save(paths.EVALUATION)
    outcome(whole_plan()).save(paths.MODEL / "outcome.json")
    whole_plan().save(paths.MODEL / "plan.json")
    change(paths.MODEL / "plan.json", schema_version=0)
    assert READERS[reader]() == 2
    what, _, fix = capsys.readouterr().err.splitlines()
    assert what == f"{reader}: artifacts/model/plan.json was written by another version"
    assert fix == "  fix:  run `dvc repro --force --single-item train`"
