"""plan: turn a time budget and a measured machine into one fully resolved training plan.

reads   params.yaml (budget, plan, data, model, train), artifacts/hardware.json, artifacts/corpus.json
writes  artifacts/plan.json
"""

from pufferfish.base import clock, paths
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import stage
from pufferfish.base.timing import read_timing, timing_so_far
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params


@stage("plan")
def main() -> None:
    own, probe = timing_so_far(), read_timing(paths.timing("hardware-probe"))
    params, hardware, corpus = Params.load(paths.PARAMS), Hardware.load(paths.HARDWARE), Corpus.load(paths.CORPUS)
    ensure_runtime(hardware.fingerprint.num_threads)

    from pufferfish.train.beside import measuring

    with measuring(hardware) as steps:  # the user's part is known to be right: torch arrives in a process beside this one, and numpy here
        from pufferfish.track.spool import spool_stage
        from pufferfish.train.planning import plan_here
        from pufferfish.train.share import taken_just_now_s
        from pufferfish.ui.tables import plan_text

        probed_s = taken_just_now_s(probe, own, total_s=params.budget.time_s)
        plan = plan_here(params, hardware, corpus, steps=steps, spent_s=lambda: clock.now_s() - own.start_s, probed_s=probed_s)
    plan.save(paths.PLAN)
    print(plan_text(plan, hardware))
    files, tags = [paths.PLAN, paths.HARDWARE], {"hardware": hardware.identity}
    spool_stage("plan", params=params.model_dump(), metrics=plan.forecast.model_dump(), artifacts=files, tags=tags)


if __name__ == "__main__":
    main()
