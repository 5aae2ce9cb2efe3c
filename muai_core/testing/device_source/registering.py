"""Clauses on a device source before it is opened."""

from muai_core.testing import registration
from muai_core.testing.clauses import clause
from muai_core.testing.device_source.subject import DeviceSourceSubject


@clause("D01", kind="device source", title="its name is one word in lower case")
def _(subject: DeviceSourceSubject) -> None:
    registration.check_name(subject.source)


@clause("D02", kind="device source", title="the options reject unknown keys by their name")
def _(subject: DeviceSourceSubject) -> None:
    registration.check_options(subject.source, subject.given_options)


@clause("D03", kind="device source", title="importing the plugin is light")
def _(subject: DeviceSourceSubject) -> None:
    registration.check_import(subject.plugin_module, subject.limits.import_s)


@clause(
    "D04", kind="device source", title="the plugin's hooks register the source and do not raise"
)
def _(subject: DeviceSourceSubject) -> None:
    registration.check_hooks(subject.source, "device source", subject.plugin_module)
