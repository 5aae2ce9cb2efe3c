"""A policy that keeps its contract."""

import muai_core


class Patient(muai_core.RecoveryPolicy):
    name = "patient"

    def decide(self, loss, backoff_initial_s, backoff_max_s):
        return muai_core.RestartAfter(backoff_initial_s * (1 - loss.jitter / 2), "again")


@muai_core.hookimpl
def muai_recovery_policies():
    return [Patient()]
