"""`pufferfish generate` refuses what it cannot do before anything heavy is loaded."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from pufferfish.base.errors import UserError
from pufferfish.cli import generate

ROOT = Path(__file__).resolve().parents[1]


def parsed(*words):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(words)


def test_without_a_model_it_says_how_to_get_one(workplace):
    with pytest.raises(UserError) as caught:
        generate.run(parsed("def "))
    assert "make repro" in caught.value.fix


@pytest.mark.parametrize(("words", "saw"), [(["--max-tokens", "0"], "--max-tokens 0"), (["--seed", "-1"], "--seed -1"), (["--seed", str(2**63)], "--seed")])
def test_impossible_numbers_are_refused(workplace, words, saw):
    with pytest.raises(UserError) as caught:
        generate.run(parsed("x", *words))
    assert saw in caught.value.saw


def test_a_folder_that_is_no_model_is_refused(workplace):
    (workplace / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        generate.run(parsed("x", "--model", "empty"))
    assert "no plan.json and no outcome.json" in caught.value.saw
    assert "artifacts/model" in caught.value.fix
    assert "transformers" not in caught.value.fix


def test_an_export_is_told_from_a_training_and_not_mended_by_another_one(workplace):
    export = workplace / "artifacts" / "export" / "hf"
    export.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (export / name).touch()
    with pytest.raises(UserError) as caught:
        generate.run(parsed("x", "--model", "artifacts/export/hf"))
    assert caught.value.what == "this is not the folder of a training"
    assert "artifacts/model" in caught.value.fix
    assert "AutoModelForCausalLM.from_pretrained('artifacts/export/hf')" in caught.value.fix
    assert "dvc repro" not in caught.value.fix


def test_a_folder_of_artifacts_is_not_that_of_a_training(workplace):
    (workplace / "artifacts" / "model").mkdir(parents=True)
    (workplace / "artifacts" / "plan.json").touch()
    with pytest.raises(UserError, match="not the folder of a training"):
        generate.run(parsed("x", "--model", "artifacts"))
    with pytest.raises(UserError, match=r"plan\.json is missing") as caught:
        generate.run(parsed("x"))
    assert caught.value.fix == "run `dvc repro train`"


def test_its_mistakes_are_told_without_torch():
    code = "import sys\nfrom pufferfish.cli.main import main\nprint(main(['generate', 'x', '--model', 'nowhere']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.splitlines()) == 3
