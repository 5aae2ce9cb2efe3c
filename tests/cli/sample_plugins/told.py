"""A sink that does not work without an option, and writes about its end."""

import sys

import muai_core


class Told(muai_core.MetricSink):
    name = "told"

    def options_model(self):
        from pydantic import BaseModel

        class Options(BaseModel, extra="forbid"):
            file: str
            depth: int = 1

        return Options

    def open(self, options):
        self.file = options["file"]

    def publish(self, families):
        assert self.file == "here"

    def close(self):
        print("that is all", file=sys.stderr)


@muai_core.hookimpl
def muai_metric_sinks():
    return [Told()]
