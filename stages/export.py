"""export: the model in the formats of others, each loaded again and compared before it counts.

reads   params.yaml   artifacts/subset/   artifacts/model/   artifacts/evaluation.json   artifacts/samples.md
writes  artifacts/export/
"""

from pufferfish.base import paths, registry
from pufferfish.base.runtime import ensure_runtime
from pufferfish.base.stage import stage
from pufferfish.base.timing import read_timing, timing_so_far
from pufferfish.schema.params import Params
from pufferfish.schema.plan import TrainedPlan
from pufferfish.schema.reports import Evaluation, Outcome
from pufferfish.schema.reserve import remember


@stage("export")
def main() -> None:
    params, evaluation = Params.load(paths.PARAMS).export, Evaluation.load(paths.EVALUATION)
    plan, outcome = TrainedPlan.load(paths.MODEL / "plan.json"), Outcome.load(paths.MODEL / "outcome.json")
    ensure_runtime(plan.train.num_threads)

    from pufferfish.track.training import track_result

    samples = paths.SAMPLES.read_text("utf-8")
    with track_result(plan, run_key=outcome.run_key) as tracker:
        for name in params.formats:
            export = registry.load("export", name)  # torch and transformers arrive here
            report = export(paths.MODEL, paths.SUBSET, paths.EXPORT / name, name=params.name, evaluation=evaluation, samples=samples)
            report.save(paths.EXPORT / f"{name}.json")
            tracker.metrics(
                {f"export/{name}/num_bytes": report.num_bytes, f"export/{name}/max_logit_difference": report.max_logit_difference}, outcome.num_steps
            )
            tracker.artifact(paths.EXPORT / name, "export")
            print(f"export: {report.folder} ({report.architecture}) equals the model: logits within {report.max_logit_difference:.1e}")
    remember(plan, outcome.run_key, read_timing(paths.timing("evaluate")), timing_so_far())


if __name__ == "__main__":
    main()
