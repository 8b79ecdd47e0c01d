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

    prepare_subset(plan.data, paths.SUBSET, report=print)


if __name__ == "__main__":
    main()
