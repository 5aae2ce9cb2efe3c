"""Clauses on a metric sink before it is opened."""

from muai_core.testing import registration
from muai_core.testing.clauses import clause
from muai_core.testing.metric_sink.subject import MetricSinkSubject


@clause("S01", kind="metric sink", title="its name is one word in lower case")
def _(subject: MetricSinkSubject) -> None:
    registration.check_name(subject.sink)


@clause("S02", kind="metric sink", title="the options reject unknown keys by their name")
def _(subject: MetricSinkSubject) -> None:
    registration.check_options(subject.sink, subject.given_options)


@clause("S03", kind="metric sink", title="importing the plugin is light")
def _(subject: MetricSinkSubject) -> None:
    registration.check_import(subject.plugin_module, subject.limits.import_s)


@clause("S04", kind="metric sink", title="the plugin's hooks register the sink and do not raise")
def _(subject: MetricSinkSubject) -> None:
    registration.check_hooks(subject.sink, "metric sink", subject.plugin_module)
