"""evaluate: bits per byte of the whole validation text, what that beats, and samples.

reads   params.yaml   artifacts/subset/   artifacts/model/
writes  artifacts/evaluation.json   artifacts/metrics.json   artifacts/samples.md
"""

from concurrent.futures import ThreadPoolExecutor

from pufferfish.base import atomic, paths
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import stage
from pufferfish.schema.experience import remember
from pufferfish.schema.params import Params
from pufferfish.schema.plan import TrainedPlan
from pufferfish.schema.reports import Outcome


@stage("evaluate")
def main() -> None:
    params = Params.load(paths.PARAMS).evaluate
    plan, outcome = TrainedPlan.load(paths.MODEL / "plan.json"), Outcome.load(paths.MODEL / "outcome.json")
    ensure_runtime(plan.train.num_threads)

    from pufferfish.data.shards import load_subset
    from pufferfish.evaluate.baselines import measure_subset
    from pufferfish.track.training import track_result

    subset = load_subset(paths.SUBSET)
    with track_result(plan, run_key=outcome.run_key) as tracker, ThreadPoolExecutor(1) as beside:
        baselines = beside.submit(measure_subset, subset, paths.SUBSET, say=print)  # on another core, which the import of torch leaves idle
        from pufferfish.evaluate.summary import compared, describe, evaluate_model, tracked_metrics  # torch arrives here

        evaluation, samples = evaluate_model(params, paths.MODEL, subset=subset, subset_folder=paths.SUBSET, baselines=baselines.result, say=print)
        evaluation.save(paths.EVALUATION)
        atomic.write_json(paths.METRICS, compared(plan, outcome, evaluation))
        remember(plan, outcome, evaluation.val_bpb)
        atomic.write_text(paths.SAMPLES, samples)
        tracker.metrics(tracked_metrics(evaluation), outcome.num_steps)
        tracker.artifact(paths.EVALUATION)
        tracker.artifact(paths.SAMPLES)
        print(describe(evaluation))


if __name__ == "__main__":
    main()
