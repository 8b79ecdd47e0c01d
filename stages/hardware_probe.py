"""hardware-probe: find out which machine this is, how fast it is, and which text there is. The same machine and text leave the same bytes.

reads   params.yaml, the machine, the text that params.yaml names
writes  artifacts/hardware.json   artifacts/corpus.json
"""

import os

from pufferfish.base import paths
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import stage
from pufferfish.data.corpus import describe_text, inspect_corpus
from pufferfish.probe.describe import describe
from pufferfish.probe.health import advice
from pufferfish.probe.nvidia import load_nvml
from pufferfish.probe.probe import before_measuring, probe
from pufferfish.schema.params import Params


@stage("hardware-probe")
def main() -> bool:
    params = Params.load(paths.PARAMS)
    corpus = inspect_corpus(params.data)
    before_measuring(params.hardware_probe, ensure_runtime)
    hardware, is_measured_anew = probe(params.hardware_probe)

    is_new = hardware.save(paths.HARDWARE), corpus.save(paths.CORPUS)
    print(*describe(hardware), *describe_text(params.data, corpus), sep="\n")
    for sentence in advice(hardware.fingerprint, folder=paths.workspace(), nvml=load_nvml(), environment=os.environ):
        print(f"note       {sentence}")
    return is_measured_anew or any(is_new) or not paths.timing("hardware-probe").exists()


if __name__ == "__main__":
    main()
