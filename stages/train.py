"""train: train the planned model until its share of the budget is used, and go on where an interrupted run stopped.

reads   artifacts/plan.json (budget, model, train), artifacts/subset/, artifacts/timing/
writes  artifacts/model/, artifacts/curve.csv; in .pufferfish/work/ unfinished work, and what is finished until DVC has taken it
"""

import sys
from pathlib import Path

from pufferfish.base import clock, paths
from pufferfish.base.events import Warned
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import Interrupted, StopRequest, stage
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Subset


@stage("train")
def main() -> bool:
    plan = Plan.load(paths.PLAN)
    ensure_runtime(plan.train.num_threads)
    stop = StopRequest.install()

    from pufferfish.data.shards import load_subset
    from pufferfish.train.work import is_finished, own, remove_finished, work_folder

    subset = load_subset(paths.SUBSET)
    work = work_folder(plan, subset)
    remove_finished(but=work)
    with own(work):
        if is_finished(work):
            hand_out(plan, work)
            return False
        train(plan, subset, work, stop)
    return True


def hand_out(plan: Plan, work: Path) -> None:
    """What a training left that ended before, and DVC did not take."""
    from pufferfish.track.training import TrackedTraining, track_result
    from pufferfish.train.work import put_in_place, run_key

    put_in_place(work)
    with track_result(plan, run_key=run_key(work)) as tracker:
        TrackedTraining(tracker).model(paths.MODEL, paths.CURVE)
    print("train: this training had ended before, and DVC had not taken its model: here it is, no step was made")


def train(plan: Plan, subset: Subset, work: Path, stop: StopRequest) -> None:
    """From the last checkpoint, or from the start, to the end."""
    from pufferfish.track.training import track_training
    from pufferfish.train.work import finishing, has_checkpoint, put_in_place, run_key, told_others
    from pufferfish.ui.view import open_view

    key = run_key(work)
    with track_training(plan, run_key=key, is_resumed=has_checkpoint(work)) as tracked, open_view(plan, stream=sys.stdout) as view:
        from pufferfish.train.finish import farewell, save_model  # torch arrives here, while a process beside this one opens the tracking store
        from pufferfish.train.start import start_training

        if others := told_others(work):
            view(Warned(0, others))
        training = start_training(plan, subset, work, started_s=clock.process_start_s(), should_stop=stop)
        for event in training.run():
            view(event)
            tracked(event)
        if training.is_interrupted:
            raise Interrupted(farewell(training))
        with finishing(work) as left:
            training.record.save_curve(left / paths.CURVE.name)
            save_model(training, plan, subset, tokenizer=paths.SUBSET / "tokenizer.json", run_key=key, target=left / paths.MODEL.name)
        put_in_place(work)
        tracked.model(paths.MODEL, paths.CURVE)


if __name__ == "__main__":
    main()
