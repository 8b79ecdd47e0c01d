"""What this process may use: made-up trees of /proc and /sys, as containers, batch systems and bare machines show them."""

import pytest

from pufferfish.base import processor
from pufferfish.probe import cgroup, cpu
from pufferfish.probe.memory import available_memory_bytes, total_memory_bytes

GIB = 2**30
NO_LIMIT_V1 = "9223372036854771712"
TWO_SOCKETS = "".join(
    f"processor\t: {number}\nmodel name\t: Some  Processor 9000 @ 3.1GHz\nphysical id\t: {socket}\ncore id\t: {core}\nflags\t: fpu avx2 avx512f amx_bf16\n\n"
    for number, (socket, core) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)])
)
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n\nprocessor\t: 1\nFeatures\t: fp asimd bf16 crc32\n"


@pytest.fixture
def tree(tmp_path):
    """Writes files under a made-up root and returns the root."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def v2(own, files):
    return {"proc/self/cgroup": f"0::{own}\n"} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


def v1(memory, cpu_line, files):
    return {"proc/self/cgroup": f"4:memory:{memory}\n1:{cpu_line}\n0::/\n"} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


def test_a_machine_without_control_groups_has_no_limits(tree):
    root = tree({})
    assert cgroup.memory_limit_bytes(root) is None
    assert cgroup.cpu_quota(root) is None
    assert total_memory_bytes(root, physical=5 * GIB) == 5 * GIB


def test_the_smallest_limit_on_the_way_to_the_root_counts(tree):
    root = tree(
        v2("/slice/job", {"slice/memory.max": str(3 * GIB), "slice/job/memory.max": "max", "slice/cpu.max": "350000 100000", "slice/job/cpu.max": "max 100000"})
    )
    assert cgroup.memory_limit_bytes(root) == 3 * GIB
    assert cgroup.cpu_quota(root) == 3.5


def test_a_container_sees_its_limit_at_the_root_of_its_tree(tree):
    root = tree(v2("/../docker/abc", {"memory.max": str(2 * GIB), "cpu.max": "150000 100000"}))
    assert total_memory_bytes(root, physical=64 * GIB) == 2 * GIB
    assert cpu.usable_cores(root, allowed=set(range(8))) == 2


def test_version_one_has_a_tree_for_each_controller(tree):
    files = {"memory/pod/memory.limit_in_bytes": str(6 * GIB), "cpu,cpuacct/pod/cpu.cfs_quota_us": "240000", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"}
    root = tree(v1("/pod", "cpu,cpuacct:/pod", files))
    assert cgroup.memory_limit_bytes(root) == 6 * GIB
    assert cgroup.cpu_quota(root) == 2.4


def test_version_one_without_limits_leaves_the_machine(tree):
    files = {"memory/memory.limit_in_bytes": NO_LIMIT_V1, "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    root = tree(v1("/", "cpu:/", files))
    assert total_memory_bytes(root, physical=7 * GIB) == 7 * GIB
    assert cpu.usable_cores(root, allowed={0, 3, 5}) == 3


def test_the_total_does_not_change_with_a_few_mebibytes_of_the_kernel(tree):
    root = tree({})
    assert total_memory_bytes(root, physical=8 * GIB - 70_000_000) == total_memory_bytes(root, physical=8 * GIB - 75_000_000)


def test_available_memory_is_what_the_group_has_left_without_its_file_cache(tree):
    files = {"job/memory.max": str(3 * GIB), "job/memory.current": str(2 * GIB), "job/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"}
    root = tree(v2("/job", files))
    assert available_memory_bytes(root, available=50 * GIB) == 3 * GIB - 2 * GIB + GIB // 2
    assert available_memory_bytes(root, available=GIB) == GIB


def test_a_quota_below_one_core_still_gives_one(tree):
    root = tree(v2("/", {"cpu.max": "20000 100000"}))
    assert cpu.usable_cores(root, allowed=set(range(4))) == 1


def test_threads_are_physical_cores_within_affinity_and_quota(tree):
    root = tree({"proc/cpuinfo": TWO_SOCKETS})
    assert cpu.usable_threads(root, allowed=set(range(8)), system="Linux") == 4
    assert cpu.usable_threads(root, allowed={0, 4, 1}, system="Linux") == 2
    root = tree(v2("/", {"cpu.max": "300000 100000"}))
    assert cpu.usable_threads(root, allowed=set(range(8)), system="Linux") == 3


def test_the_processor_is_named_and_only_flags_that_matter_are_kept_in_order(tree):
    root = tree({"proc/cpuinfo": TWO_SOCKETS})
    assert processor.cpu_name(root, system="Linux") == "Some Processor 9000 @ 3.1GHz"
    assert processor.cpu_flags(root) == ["amx_bf16", "avx2", "avx512f"]


def test_processors_without_a_name_or_topology_are_told_apart_too(tree):
    root = tree({"proc/cpuinfo": ARM})
    assert processor.cpu_name(root, system="Linux").endswith("implementer 0x41 part 0xd4f")
    assert processor.cpu_flags(root) == ["asimd", "bf16"]
    assert cpu.usable_threads(root, allowed={0, 1}, system="Linux") == 2
