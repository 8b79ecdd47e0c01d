"""prepare-subset: split the text, train the tokenizer, and encode what the plan needs.

reads   artifacts/plan.json, the text that it names
writes  artifacts/subset/
"""

from pufferfish.base import paths
from pufferfish.base.stage import stage
from pufferfish.schema.plan import Plan


@stage("prepare-subset")
def main() -> None:
    plan = Plan.load(paths.PLAN)

    from pufferfish.data.prepare import prepare_subset  # numpy and tokenizers arrive here
    from pufferfish.track.spool import spool_stage

    subset = prepare_subset(plan.data, paths.SUBSET, report=print)
    spool_stage("prepare-subset", params=plan.data.model_dump(), metrics={"bytes_per_token": subset.bytes_per_token, "train_tokens": subset.train.num_tokens})


if __name__ == "__main__":
    main()
