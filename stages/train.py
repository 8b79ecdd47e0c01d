"""train: train the planned model until its share of the budget is used, and go on where an interrupted run stopped.

reads   artifacts/plan.json (budget, model, train), artifacts/subset/, artifacts/timing/
writes  artifacts/model/, artifacts/curve.csv; unfinished work in .pufferfish/work/
"""

import sys

from pufferfish.base import clock, paths
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import Interrupted, StopRequest, stage
from pufferfish.schema.plan import Plan


@stage("train")
def main() -> None:
    plan = Plan.load(paths.PLAN)
    ensure_runtime(plan.train.num_threads)
    stop = StopRequest.install()

    from pufferfish.data.shards import load_subset
    from pufferfish.track.training import track_training
    from pufferfish.train.checkpoint import has_any
    from pufferfish.train.work import mark_finished, own, remove_finished, run_key, work_folder
    from pufferfish.ui.view import open_view

    subset = load_subset(paths.SUBSET)
    work = work_folder(plan, subset)
    remove_finished(but=work)
    with own(work), track_training(plan, run_key=run_key(work), is_resumed=has_any(work)) as tracked, open_view(plan, stream=sys.stdout) as view:
        from pufferfish.train.finish import farewell, save_model  # torch arrives here, while a process beside this one opens the tracking store
        from pufferfish.train.start import start_training

        training = start_training(plan, subset, work, started_s=clock.process_start_s(), should_stop=stop)
        for event in training.run():
            view(event)
            tracked(event)
        if training.is_interrupted:
            raise Interrupted(farewell(training))
        save_model(training, plan, subset, tokenizer=paths.SUBSET / "tokenizer.json", run_key=run_key(work), target=paths.MODEL)
        training.record.save_curve(paths.CURVE)
        tracked.model(paths.MODEL, paths.CURVE)
        mark_finished(work)


if __name__ == "__main__":
    main()
