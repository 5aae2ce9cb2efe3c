"""An engine that breaks E01 and E09, and nothing else that can be seen without a model."""

import muai_core


class Broken(muai_core.Engine):
    name = "broken"
    platforms = ("cpu",)
    capabilities = ("streaming", "telepathy")

    def options_model(self):
        from pydantic import BaseModel

        class Options(BaseModel):
            anything: int = 1

        return Options

    def suits(self, deployment):
        return muai_core.Suitability(False, "it suits nothing")

    def launch(self, request):
        raise NotImplementedError


@muai_core.hookimpl
def muai_engines():
    print("printed by the plugin")
    return [Broken()]
