"""Which device is used: NVML is played by an object that answers, refuses or fails as drivers do."""

from types import SimpleNamespace

import pytest

from pufferfish.base.errors import UserError
from pufferfish.probe import fingerprint, health, nvidia
from pufferfish.probe.torch_build import TorchBuild, how_to_support, read_build, why_unsupported
from pufferfish.schema.hardware import Gpu
from pufferfish.schema.params import HardwareProbeParams

CPU_BUILD, CUDA_13, CUDA_126 = TorchBuild("2.13.0+cpu", ""), TorchBuild("2.13.0+cu130", "13.0"), TorchBuild("2.13.0+cu126", "12.6")


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


def card(name, capability, gigabytes, uuid, **more):
    return SimpleNamespace(name=name, capability=capability, total=gigabytes * 10**9, uuid=uuid, **{"instances": [], "processes": [], "refuses": (), **more})


class FakeNvml:
    """The few functions of pynvml that are used; a card's `refuses` names what its driver does not support."""

    NVMLError, NVMLError_NotSupported = NVMLError, NotSupported

    def __init__(self, *cards, driver="590.44.01", trouble=""):
        self.cards, self.driver, self.trouble, self.is_open = cards, driver, trouble, False

    def nvmlInit(self):
        if self.trouble:
            raise NVMLError(self.trouble)
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        assert self.is_open
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        if "all" in self.cards[index].refuses:
            raise NVMLError("Insufficient Permissions")
        return self.cards[index]

    def nvmlSystemGetDriverVersion(self):
        return self.driver

    def nvmlDeviceGetName(self, card):
        if "name" in card.refuses:
            raise NVMLError("Insufficient Permissions")
        return card.name

    def nvmlDeviceGetUUID(self, card):
        if "uuid" in card.refuses:
            raise NVMLError("Insufficient Permissions")
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card):
        return card.capability

    def nvmlDeviceGetMigMode(self, card):
        if "mig" in card.refuses:
            raise NotSupported("Not Supported")
        return [int(bool(card.instances))] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):
        if index >= len(card.instances):
            raise NVMLError("Not Found")
        return card.instances[index]

    def nvmlDeviceGetMemoryInfo(self, card):
        if "memory" in card.refuses:
            raise NotSupported("Not Supported")
        if "secret memory" in card.refuses:
            raise NVMLError("Insufficient Permissions")
        return SimpleNamespace(total=card.total, free=card.total // 3)

    def nvmlDeviceGetComputeRunningProcesses(self, card):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.processes]

    def nvmlDeviceGetUtilizationRates(self, card):
        if card.uuid.startswith("MIG"):
            raise NotSupported("Not Supported")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetPowerUsage(self, card):
        raise NotSupported("Not Supported")


OLD = card("Old Card", (6, 1), 8, "GPU-aaa1")
SMALL = card("Small Card", (8, 6), 12, "GPU-bbb2", refuses=("mig",), processes=[(4242, 3 * 10**9)])
LARGE = card("Large Card", (9, 0), 141, "GPU-ccc3")


def names(nvml, **environment):
    return [gpu.name for gpu in nvidia.find_gpus(nvml, environment, shared_bytes=5)[0]]


def test_without_a_driver_there_are_no_devices_and_nothing_is_wrong():
    assert nvidia.find_gpus(None, {}, shared_bytes=5) == ([], "")


def test_devices_are_read_and_the_session_is_closed():
    nvml = FakeNvml(SMALL)
    assert nvidia.find_gpus(nvml, {}, shared_bytes=5) == ([Gpu(name="Small Card", compute_capability="8.6", memory_bytes=12 * 10**9, driver="590.44.01")], "")
    assert not nvml.is_open


def test_a_driver_that_does_not_answer_is_told():
    gpus, trouble = nvidia.find_gpus(FakeNvml(LARGE, trouble="Driver/library version mismatch"), {}, shared_bytes=5)
    assert gpus == []
    assert "version mismatch" in trouble


@pytest.mark.parametrize(
    ("wish", "seen"),
    [
        ("", []),
        ("-1", []),
        ("1", ["Small Card"]),
        ("2,0", ["Old Card", "Large Card"]),
        ("0,9,1", ["Large Card"]),
        ("GPU-bb", ["Small Card"]),
        ("1,1", ["Small Card"]),
    ],
)
def test_cuda_visible_devices_is_honoured_as_cuda_does(wish, seen):
    assert names(FakeNvml(OLD, SMALL, LARGE), CUDA_VISIBLE_DEVICES=wish) == seen


def test_the_fastest_comes_first_unless_the_order_of_the_bus_is_wished():
    assert names(FakeNvml(OLD, SMALL, LARGE)) == ["Large Card", "Small Card", "Old Card"]
    assert names(FakeNvml(OLD, SMALL, LARGE), CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES="0") == ["Old Card"]


def test_of_a_split_device_one_instance_is_seen_with_its_own_memory():
    first, second = card("Large Card MIG 1g", (9, 0), 18, "MIG-111"), card("Large Card MIG 2g", (9, 0), 35, "MIG-222")
    nvml = FakeNvml(card("Large Card", (9, 0), 141, "GPU-ccc3", instances=[first, second]))
    assert len(names(nvml)) == 1
    assert names(nvml, CUDA_VISIBLE_DEVICES="MIG-111") == ["Large Card MIG 1g"]
    assert nvidia.find_gpus(nvml, {"CUDA_VISIBLE_DEVICES": "MIG-222"}, shared_bytes=5)[0][0].memory_bytes == 35 * 10**9
    state = nvidia.gpu_states(nvml, {"CUDA_VISIBLE_DEVICES": "MIG-111"})[0]
    assert (state.utilisation_share, state.power_watts) == (0.37, None)


def test_a_device_without_memory_of_its_own_shares_the_machines():
    assert nvidia.find_gpus(FakeNvml(card("Chip", (12, 1), 0, "GPU-d", refuses=("memory", "mig"))), {}, shared_bytes=77)[0][0].memory_bytes == 77


def test_a_device_that_tells_nothing_hides_no_other():
    forbidden = card("Forbidden Card", (9, 0), 80, "GPU-e", refuses=("all",))
    assert names(FakeNvml(forbidden, SMALL)) == ["Small Card"]
    assert names(FakeNvml(SMALL, forbidden)) == ["Small Card"]
    gpus, trouble = nvidia.find_gpus(FakeNvml(forbidden), {}, shared_bytes=5)
    assert gpus == []
    assert "Insufficient Permissions" in trouble


def test_a_device_that_keeps_its_name_to_itself_is_used_all_the_same():
    nameless = card("Secret Card", (8, 9), 24, "GPU-f", refuses=("name", "uuid"))
    [gpu] = nvidia.find_gpus(FakeNvml(nameless), {}, shared_bytes=5)[0]
    assert (gpu.name, gpu.memory_bytes) == ("NVIDIA device", 24 * 10**9)


def test_a_device_whose_memory_is_secret_does_not_get_that_of_the_machine():
    secret = card("Secret Card", (8, 9), 24, "GPU-f", refuses=("secret memory",))
    assert names(FakeNvml(secret, SMALL)) == ["Small Card"]
    assert "Insufficient Permissions" in nvidia.find_gpus(FakeNvml(secret), {}, shared_bytes=5)[1]


def test_an_instance_that_refuses_hides_no_other():
    first = card("Large Card MIG 1g", (9, 0), 18, "MIG-111", refuses=("secret memory",))
    second = card("Large Card MIG 2g", (9, 0), 35, "MIG-222")
    nvml = FakeNvml(card("Large Card", (9, 0), 141, "GPU-ccc3", instances=[first, second]))
    assert names(nvml) == ["Large Card MIG 2g"]


@pytest.mark.parametrize(
    ("library", "is_told"),
    [
        (SimpleNamespace(cuInit=lambda flags: 0), True),
        (SimpleNamespace(cuInit=lambda flags: 100), False),  # CUDA_ERROR_NO_DEVICE
        (OSError("cannot open shared object file"), False),
    ],
)
def test_a_driver_without_nvml_is_told_where_cuda_has_a_device(monkeypatch, library, is_told):
    def load(name):
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(nvidia, "ctypes", SimpleNamespace(CDLL=load))
    notes = identify(build=CUDA_13).notes
    assert [("NVIDIA_DRIVER_CAPABILITIES=compute,utility" in note) for note in notes] == [True] * is_told
    with pytest.raises(UserError) as error:
        identify(build=CUDA_13, device="cuda")
    assert ("NVML" in error.value.saw) == is_told
    assert identify(build=CUDA_13, device="cpu").notes == identify().notes == []


def test_other_processes_on_the_device_are_named():
    assert health.gpu_advice(FakeNvml(SMALL), {}) == ["process 4242 uses 3.0 GB of Small Card"]


@pytest.mark.parametrize(
    ("build", "gpu_card", "driver", "word"),
    [
        (CUDA_13, LARGE, "590.1", ""),
        (CUDA_126, OLD, "535.9", ""),
        (CPU_BUILD, LARGE, "590.1", "without CUDA"),
        (CUDA_13, OLD, "590.1", "needs 7.5"),
        (CUDA_13, LARGE, "550.1", "older than 580"),
        (CUDA_126, card("New Card", (12, 0), 32, "GPU-e"), "590.1", "newer than"),
    ],
)
def test_a_build_is_matched_with_the_device_and_its_driver(build, gpu_card, driver, word):
    gpu = nvidia.find_gpus(FakeNvml(gpu_card, driver=driver), {}, shared_bytes=5)[0][0]
    reason = why_unsupported(build, gpu)
    assert (word in reason) if word else reason == ""


@pytest.mark.parametrize(
    ("capability", "driver", "build"),
    [((6, 1), "590.1", "cu126"), ((8, 6), "535.9", "cu126"), ((8, 6), "590.1", "cu130"), ((12, 0), "575.1", "driver 580 or newer")],
)
def test_the_advised_build_has_kernels_for_the_device(capability, driver, build):
    gpu = nvidia.find_gpus(FakeNvml(card("Card", capability, 12, "GPU-e"), driver=driver), {}, shared_bytes=5)[0][0]
    assert build in how_to_support(gpu)


def test_the_build_is_read_from_torchs_files():
    text = "from typing import Optional\n__version__ = '2.14.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    assert read_build(text) == TorchBuild("2.14.0+cu130", "13.0")
    assert read_build("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n") == CPU_BUILD


def choose(wish, *cards, build=CUDA_13, hidden=None, trouble=""):
    gpus = nvidia.find_gpus(FakeNvml(*cards), {}, shared_bytes=5)[0]
    return fingerprint.choose_device(wish, gpus, build=build, trouble=trouble, hidden=hidden)


def test_auto_takes_a_usable_device_and_cpu_takes_the_cpu():
    assert choose("auto", LARGE) == ("cuda", [])
    assert choose("cuda", SMALL) == ("cuda", [])
    assert choose("cpu", LARGE) == ("cpu", [])
    assert choose("auto") == ("cpu", [])


def test_auto_says_why_a_device_that_is_there_is_not_used():
    device, notes = choose("auto", OLD)
    assert device == "cpu"
    assert "6.1" in notes[0]
    assert "PUFFERFISH_TORCH=cu126" in notes[0]
    assert "PUFFERFISH_TORCH=cu130" in choose("auto", LARGE, build=CPU_BUILD)[1][0]
    assert "mismatch" in choose("auto", trouble="NVIDIA's driver does not answer: mismatch")[1][0]


@pytest.mark.parametrize(
    ("cards", "more", "word"),
    [
        ((), {}, "no NVIDIA device or driver"),
        ((), {"hidden": ""}, "CUDA_VISIBLE_DEVICES="),
        ((LARGE,), {"build": CPU_BUILD}, "without CUDA"),
        ((OLD,), {}, "6.1"),
        ((), {"trouble": "does not answer"}, "does not answer"),
    ],
)
def test_a_wished_device_that_cannot_be_had_is_refused_and_never_replaced(cards, more, word):
    with pytest.raises(UserError) as error:
        choose("cuda", *cards, **more)
    assert word in error.value.saw
    assert "device: auto" in error.value.fix


def identify(nvml=None, build=CPU_BUILD, **wishes):
    return fingerprint.identify(HardwareProbeParams(**wishes), nvml=nvml, build=build, environment={})


def test_a_cap_on_memory_is_honoured_on_either_device():
    assert identify(memory="1GB").usable_memory_bytes == 10**9
    assert identify(FakeNvml(SMALL), CUDA_13, memory="4GB").usable_memory_bytes == 4 * 10**9
    assert identify(FakeNvml(SMALL), CUDA_13).usable_memory_bytes == 12 * 10**9


def test_a_cap_above_what_there_is_is_refused():
    with pytest.raises(UserError, match="above what there is") as error:
        identify(FakeNvml(SMALL), CUDA_13, memory="13GB")
    assert "at most `memory: 12000MB`" in error.value.fix
    with pytest.raises(UserError, match="above what there is"):
        identify(memory="900TB")


def test_more_threads_than_cores_are_honoured_and_told():
    identity = identify(threads=1000)
    assert identity.fingerprint.num_threads == 1000
    assert "1000, as wished" in identity.notes[0]


def test_the_cap_does_not_name_another_machine_and_the_device_does():
    assert identify(memory="1GB").fingerprint == identify().fingerprint
    assert identify(FakeNvml(SMALL), CUDA_13, device="cpu").fingerprint != identify(FakeNvml(SMALL), CUDA_13).fingerprint
