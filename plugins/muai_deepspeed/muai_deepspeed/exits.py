"""What only the last words of these ranks say."""

from muai_core import ExitEvidence, ExitRule, Failure, failure_from, general_failure

_RULES = (
    ExitRule(
        "model_files", r"muai_deepspeed: refused: .*", "use the shape it names, or another engine"
    ),
    ExitRule(
        "model_files", r"^--model .*", "see whether the model's folder is complete and readable"
    ),
)
#: These follow from something else that the log may tell.
_LAST = (
    ExitRule(
        "rank_died",
        r"muai_deepspeed: (?:rank \d+ (?:was killed|ended)|lost ).*",
        "look further up in the replica's log for the first error",
    ),
)


def failure_of(evidence: ExitEvidence) -> Failure | None:
    """Why the replica ended, from its log; None: nothing in it tells."""
    return (
        failure_from(_RULES, evidence) or general_failure(evidence) or failure_from(_LAST, evidence)
    )
