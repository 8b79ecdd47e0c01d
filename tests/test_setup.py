"""The set-up decides the PyTorch build by pure functions; the script is loaded by its path, as it runs before anything is installed."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "pufferfish" / "cli" / "bootstrap.py"
STAMPED = ("pyproject.toml", "constraints.txt", "pufferfish/cli/bootstrap.py")
CPU_WHEEL = "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"


def load_script():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    return module


bootstrap = load_script()


def machine(system="Linux", architecture="x86_64", python=(3, 12), capability=None, driver=0):
    return bootstrap.Machine(system, architecture, python, capability, driver)


def choose(wish="", *, wheels=(), on=None, answers=True):
    return bootstrap.which_torch(wish, wheels=list(wheels), machine=on or machine(), index_answers=lambda url: answers)


def index(name):
    return ("--index-url", bootstrap.TORCH_INDEX + name)


def test_a_local_wheel_comes_before_everything_but_a_wish():
    assert choose(wheels=[CPU_WHEEL]).arguments == ("torch==2.13.0+cpu",)
    assert choose(wheels=[CPU_WHEEL], on=machine(capability=9.0, driver=590)).arguments == ("torch==2.13.0+cpu",)
    assert "no CUDA" in choose(wheels=[CPU_WHEEL], on=machine(capability=9.0, driver=590)).reason
    assert choose("cu126", wheels=[CPU_WHEEL]).arguments[:2] == index("cu126")
    assert choose("cpu", wheels=[CPU_WHEEL]).arguments == ("torch==2.13.0+cpu",)


@pytest.mark.parametrize(
    "wheel",
    [
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",  # another Python
        "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_aarch64.whl",  # another processor
        "torch-2.13.0-cp312-none-macosx_11_0_arm64.whl",  # another system
        "torch-2.10.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",  # too old
        "torch-2.15.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",  # too new
        "torchvision-0.28.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
    ],
)
def test_a_wheel_that_does_not_fit_is_passed_over(wheel):
    assert bootstrap.newest_wheel([wheel], machine()) is None


def test_the_newest_fitting_wheel_is_taken_by_number_and_not_by_letter():
    wheels = [CPU_WHEEL, CPU_WHEEL.replace("2.13.0", "2.13.10"), CPU_WHEEL.replace("2.13.0", "2.13.9")]
    assert bootstrap.newest_wheel(wheels, machine()) == "2.13.10+cpu"


def test_without_a_device_the_small_build_is_taken_where_it_can_be_reached():
    small = choose()
    assert small.arguments == (*index("cpu"), f"torch=={bootstrap.TORCH_VERSION}")
    assert small.size == "small"
    large = choose(answers=False)
    assert large.arguments == (f"torch=={bootstrap.TORCH_VERSION}",)
    assert "3 GB" in large.reason
    assert large.size == "large"


@pytest.mark.parametrize(
    ("capability", "driver", "is_old"), [(9.0, 590, False), (7.5, 580, False), (7.0, 580, True), (6.1, 535, True), (8.9, 550, True), (12.0, 575, False)]
)
def test_an_old_device_or_driver_gets_the_older_cuda(capability, driver, is_old):
    arguments = choose(on=machine(capability=capability, driver=driver)).arguments
    assert (arguments[:2] == index("cu126")) == is_old


@pytest.mark.parametrize("wish", ["cu126", "cu128", "cu130"])
def test_a_wished_cuda_build_comes_from_its_own_index(wish):
    assert choose(wish).arguments[:2] == index(wish)


@pytest.mark.parametrize(("wish", "requirement"), [("2.12.1", "torch==2.12.1"), ("==2.12.1", "torch==2.12.1"), (">=2.12,<2.14", "torch>=2.12,<2.14")])
def test_a_wished_version_is_asked_for_as_it_stands(wish, requirement):
    assert choose(wish, wheels=[CPU_WHEEL]).arguments == (requirement,)


def test_skip_installs_no_torch():
    assert choose("skip", wheels=[CPU_WHEEL]).arguments == ()


def test_a_wish_that_is_none_is_refused_with_what_saw_and_fix():
    with pytest.raises(bootstrap.SetupError) as caught:
        choose("gpu please")
    assert [line[:7] for line in str(caught.value).splitlines()] == ["set-up:", "  saw: ", "  fix: "]


def test_a_mac_takes_the_only_build_there_is_and_an_intel_mac_is_told_so():
    assert choose(on=machine("Darwin", "arm64"), answers=False).arguments == (f"torch=={bootstrap.TORCH_VERSION}",)
    with pytest.raises(bootstrap.SetupError, match="Intel"):
        choose(on=machine("Darwin", "x86_64"))


def test_the_folders_of_wheels_are_read_from_the_configuration_of_pip():
    config = ":env:.find-links='/wheels file:///more/wheels'\nglobal.extra-index-url='file:///mirror/simple'\nglobal.find-links='\\n/wheels\\nhttps://example.org/page'\n"
    assert bootstrap.find_links(config) == ["/wheels", "/more/wheels"]


def write_what_the_stamp_depends_on(root):
    for name in STAMPED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_the_stamp_changes_with_the_wish_the_place_and_every_file_it_depends_on(tmp_path):
    for root in (tmp_path, tmp_path / "elsewhere"):
        write_what_the_stamp_depends_on(root)
    before = bootstrap.stamp_of(tmp_path, "")
    assert bootstrap.stamp_of(tmp_path, "") == before
    assert bootstrap.stamp_of(tmp_path, "cpu") != before
    assert bootstrap.stamp_of(tmp_path / "elsewhere", "") != before
    for name in STAMPED:
        (tmp_path / name).write_text(name + "!")
        assert bootstrap.stamp_of(tmp_path, "")["made_from"] != before["made_from"]
        (tmp_path / name).write_text(name)


def test_an_environment_is_made_anew_only_where_it_is_missing_broken_or_moved(tmp_path):
    stamp = {"place": str(tmp_path), "made_from": "abc"}
    folder = tmp_path / ".venv"
    assert bootstrap.needs_new_environment(folder, stamp)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    assert not bootstrap.needs_new_environment(folder, stamp)
    (folder / ".stamp").write_text('{"place": "/elsewhere", "made_from": "abc"}')
    assert bootstrap.needs_new_environment(folder, stamp)


@pytest.mark.parametrize("content", [None, b"", b'{"place": "/here", "wi', b"\xff\xfe", b"null", b"[1]"])
def test_a_stamp_that_is_missing_or_torn_reads_as_none(content, tmp_path):
    folder = tmp_path / ".venv"
    assert bootstrap.read_stamp(folder) == {}
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    if content is not None:
        (folder / ".stamp").write_bytes(content)
    assert bootstrap.read_stamp(folder) == {}
    assert not bootstrap.needs_new_environment(folder, {"place": str(tmp_path), "made_from": "abc"})


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A set-up that installs nothing: `house.call(wish)` gives the arguments for pip, or None where pip was not asked."""
    write_what_the_stamp_depends_on(tmp_path)
    asked, environments = [], []

    def make_environment(folder, *, with_system_packages):
        environments.append(with_system_packages)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(bootstrap, "make_environment", make_environment)
    monkeypatch.setattr(bootstrap, "install", lambda root, folder, torch, links: asked.append(torch.arguments))
    monkeypatch.setattr(bootstrap, "try_imports", lambda folder, root: None)
    monkeypatch.setattr(bootstrap, "prepare_dvc", lambda root, folder: None)
    monkeypatch.setattr(bootstrap, "look_at_machine", machine)
    monkeypatch.setattr(bootstrap, "page_answers", lambda url: True)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**12))
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda command, **_: SimpleNamespace(stdout="global.timeout='60'\n"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "elsewhere")

    def call(wish=None):
        if wish is None:
            monkeypatch.delenv("PUFFERFISH_TORCH", raising=False)
        else:
            monkeypatch.setenv("PUFFERFISH_TORCH", wish)
        asked.clear()
        bootstrap.set_up(tmp_path)
        return asked[0] if asked else None

    return SimpleNamespace(call=call, root=tmp_path, stamp=tmp_path / ".venv" / ".stamp", environments=environments)


@pytest.mark.parametrize("wish", ["", "skip", "cpu", "cu130", "2.12.1"])
def test_a_wish_said_once_is_not_undone_by_a_call_without_it(wish, house):
    assert house.call(wish) == choose(wish).arguments
    assert house.call() is None
    assert house.call(wish) is None


@pytest.mark.parametrize("wish", ["skip", "cu130", "2.12.1"])
def test_an_earlier_wish_is_used_and_named_when_something_is_installed_again(wish, house, capsys):
    house.call(wish)
    assert "earlier" not in capsys.readouterr().out
    (house.root / "constraints.txt").write_text("numpy==2.3.4")
    assert house.call() == choose(wish).arguments
    (line,) = capsys.readouterr().out.splitlines()
    assert choose(wish).reason in line
    assert "an earlier wish" in line
    assert house.call() is None
    assert not capsys.readouterr().out


def test_a_later_wish_replaces_an_earlier_one_and_an_empty_one_ends_it(house, capsys):
    house.call("cu130")
    assert house.call("2.12.1") == choose("2.12.1").arguments
    assert house.call() is None
    assert house.call("") == choose("").arguments
    assert house.call() is None
    assert json.loads(house.stamp.read_text())["wish"] == ""
    assert "earlier" not in capsys.readouterr().out


def test_a_wish_that_is_refused_leaves_the_earlier_one(house):
    house.call("cu130")
    with pytest.raises(bootstrap.SetupError):
        house.call("gpu please")
    assert house.call() is None


def test_an_interrupted_set_up_goes_on_with_its_wish(house, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            house.call("skip")
    assert house.call() == ()
    assert house.environments == [True]


def test_an_environment_made_anew_keeps_its_wish(house):
    house.call("skip")
    (house.root / ".venv" / "bin" / "python").unlink()
    assert house.call() == ()
    house.stamp.write_text(json.dumps({**json.loads(house.stamp.read_text()), "place": "/elsewhere"}))
    assert house.call() == ()
    assert house.environments == [True, True, True]


@pytest.mark.parametrize("content", ["", '{"place": "/here", "wi', '{"place": "PLACE", "made_from": "abc"}'])
def test_a_set_up_after_a_torn_stamp_or_one_without_a_wish_chooses_for_the_machine(content, house):
    house.call("cu130")
    house.stamp.write_text(content.replace("PLACE", str(house.root)))
    assert house.call() == choose("").arguments
    assert house.environments == [False]
    assert house.call() is None


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError: Network is unreachable\nERROR: No matching distribution found for numpy", "cannot be reached"),
        ("ERROR: Cannot install a and b because of conflicting dependencies", "installing failed"),
    ],
)
def test_a_failed_installation_is_explained(said, what, tmp_path):
    error = str(bootstrap.explained(said.splitlines(), tmp_path / "setup.log"))
    assert what in error
    assert len(error.splitlines()) == 3


def test_the_pinned_versions_are_allowed_by_the_project_and_leave_torch_open():
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    assert "torch" not in pins
    for requirement in map(Requirement, requires("pufferfish")):
        if requirement.name != "torch" and "flash" not in str(requirement.marker):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    allowed = next(r for r in map(Requirement, requires("pufferfish")) if r.name == "torch")
    assert allowed.specifier.contains(bootstrap.TORCH_VERSION)
    low, high = bootstrap.TORCH_RANGE
    assert {str(part) for part in allowed.specifier} == {f">={low[0]}.{low[1]}", f"<{high[0]}.{high[1]}"}


def test_an_old_python_is_named_before_anything_is_tried(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 6))
    monkeypatch.setattr(bootstrap, "newer_python", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        bootstrap.main()
    assert "too old" in capsys.readouterr().err
