"""What only the last words of these ranks say."""

from muai_core import ExitEvidence, ExitRule, Failure, failure_from, general_failure

_RULES = (
    ExitRule(
        "bad_argument",
        r"muai_deepspeed: refused: --layers .*",
        "see the layers of each stage in muai plan, and whether the model has changed since",
    ),
    ExitRule(
        "model_files", r"muai_deepspeed: refused: .*", "use the shape it names, or another engine"
    ),
    ExitRule(
        "model_files", r"^--model .*", "see whether the model's folder is complete and readable"
    ),
    ExitRule(
        "out_of_memory_host",
        r"muai_deepspeed: rank \d+ could not be started.*"
        r"|memory allocation of \d+ bytes failed"
        r"|std::bad_alloc"
        r"|unable to mmap \d+ bytes from file.*"
        r"|Resource temporarily unavailable",
        "give the node or its cgroup more memory and processes, or run fewer replicas on it",
    ),
    ExitRule(
        "timed_out",
        r"muai_deepspeed: lost .*: silent for .*",
        "that process was stopped (kill -STOP, a debugger), or the node is overloaded: then raise "
        "engine_options.rank_timeout_s",
    ),
)
#: What serving takes beyond the weights is the cache and the pass itself.
_WHILE_SERVING = ExitRule(
    "out_of_memory_kv_cache",
    r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
    "lower max_model_len or engine_options.max_num_seqs, or raise the parallel sizes",
)
#: These follow from something else that the log may tell.
_LAST = (
    ExitRule(
        "rank_died",
        r"muai_deepspeed: rank \d+ was killed by SIGKILL.*",
        "somebody killed it, or the kernel did because memory ran out: see dmesg",
    ),
    ExitRule(
        "rank_died",
        r"muai_deepspeed: rank \d+ was killed by SIGBUS.*",
        "a file of the model was shortened while it was read, or /dev/shm is full",
    ),
    ExitRule(
        "timed_out",
        r"Timed out waiting \d+ms for (?:recv|send) operation.*"
        r"|Watchdog caught collective operation timeout.*",
        "a rank kept others waiting: look at the node, or raise engine_options.rank_timeout_s",
    ),
    ExitRule(
        "rank_died",
        r"muai_deepspeed: (?:rank \d+ (?:was killed|ended)|lost ).*",
        "look further up in the replica's log for the first error",
    ),
)


def failure_of(evidence: ExitEvidence) -> Failure | None:
    """Why the replica ended, from its log; None: nothing in it tells."""
    rules = (*_RULES, _WHILE_SERVING) if evidence.stage == "serving" else _RULES
    return (
        failure_from(rules, evidence) or general_failure(evidence) or failure_from(_LAST, evidence)
    )
