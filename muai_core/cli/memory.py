"""`muai memory`: what a model needs of its devices' memory, without config, devices or engine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from muai_core.cli.output import json_option, note, print_json
from muai_core.cli.state_directory import state_dir_option
from muai_core.model.cards import CARDS, CardName
from muai_core.model.device import Platform

if TYPE_CHECKING:
    from muai_core.model.architecture import ModelDescription
    from muai_core.model.deployment import Deployment
    from muai_core.planning.calibration import Calibration
    from muai_core.plugin.engine import Engine
    from muai_core.plugin.memory import MemoryProfile
    from muai_core.runtime.memory_report import MemoryQuestion

EXIT_WRONG = 2

DEFAULT_ENGINE = "vllm"
DTYPES = ("auto", "float32", "bfloat16", "float16")
#: As in a config.
_TOKENS_MAX = 2**31 - 1
_SEQUENCES_MAX = 1_000_000
#: Of one parallel size; how many devices a shape may have is checked with both.
_SIZE_MAX = 4096


@click.command("memory")
@click.argument("model")
@click.option(
    "--engine",
    metavar="NAME",
    default=DEFAULT_ENGINE,
    show_default=True,
    help="The engine that lays the model out. It need not be installed.",
)
@click.option(
    "--platform",
    type=click.Choice(get_args(Platform)),
    metavar="NAME",
    help=f"The kind of device: {', '.join(get_args(Platform))}. Default: the one that the engine "
    "runs on best.",
)
@click.option(
    "--tensor-parallel",
    "tensor_parallel_sizes",
    type=click.IntRange(1, _SIZE_MAX),
    multiple=True,
    metavar="N",
    help="Devices that share every layer. Repeatable. Default: all possible up to 8.",
)
@click.option(
    "--pipeline-parallel",
    "pipeline_parallel_sizes",
    type=click.IntRange(1, _SIZE_MAX),
    multiple=True,
    metavar="N",
    help="Stages that the layers are cut into. Repeatable. Default: 1, 2 and 4.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="auto",
    show_default=True,
    metavar="NAME",
    help=f"Format of the weights that are not quantised, and of activations: {', '.join(DTYPES)}.",
)
@click.option(
    "--kv-cache-dtype",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Format of keys and values, as in fp8.",
)
@click.option(
    "--max-model-len",
    "max_model_lens",
    type=click.IntRange(1, _TOKENS_MAX),
    multiple=True,
    metavar="N",
    help="Longest prompt plus answer, in tokens. Repeatable. Default: some up to the model's own.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, _SEQUENCES_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Sequences of that length whose keys and values must fit at once.",
)
@click.option("--card", metavar="NAME", help="Say what fits on this GPU, as in H100-80GB.")
@state_dir_option
@json_option
def command(model: str, engine: str, as_json: bool, **options: Any) -> None:
    """Estimate what MODEL needs of each GPU, for every shape and context.

    MODEL is a Hugging Face folder, its config.json alone, a .gguf file, or package:PACKAGE/FILE.
    Nothing is started, and no weight is read: headers say all. Starts that a controller has
    measured on the state directory correct the estimate. Exits with status 2 when the files cannot
    be understood or no shape that is asked for is possible.
    """
    from muai_core.model.architecture import ModelError
    from muai_core.runtime.memory_report import ShapeRefused, memory_view

    try:
        question = _question(model, engine, options)
        view = memory_view(question)
    except _Wrong as error:
        _exit(model, error.field, str(error), as_json)
    except ShapeRefused as error:
        _exit(model, error.field, str(error), as_json)
    except ModelError as error:
        # Files that cannot be understood, or a format that the engine does not offer.
        _exit(model, "", str(error), as_json)
    if as_json:
        print_json(view)
    else:
        from muai_core.cli.memory_table import print_memory

        for remark in _remarks(question):
            note(remark)
        print_memory(view)


class _Wrong(Exception):
    """A mistake in the arguments: the field, as in `models.<name>`, and one line."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _exit(model: str, field: str, message: str, as_json: bool) -> NoReturn:
    """One line on stderr, or the object that `muai check --json` prints; then status 2."""
    from muai_core.config.errors import Origin, Problem, printable

    if as_json:
        from muai_core.cli.configured import outcome_json

        print_json(outcome_json(model, [Problem(Origin("file", model), field, message)]))
    else:
        # What is told of a file names it already.
        place = f"{model}: {field}: " if field else "" if model in message else f"{model}: "
        click.echo(printable(place + message), err=True)
    sys.exit(EXIT_WRONG)


def _question(source: str, engine: str, options: dict[str, Any]) -> "MemoryQuestion":
    from muai_core import builtin
    from muai_core.config.sources import SourceError, resolve_source
    from muai_core.model_files import describe_model
    from muai_core.planning.engine_profiles import engine_profile, profiled_engines
    from muai_core.runtime.memory_report import MemoryQuestion

    installed = builtin.load().engines
    platform = _platform(options["platform"], installed.get(engine))
    # What a plugin says of itself counts more than what MuAI knows of it.
    usable = [name for name, one in installed.items() if platform in one.platforms]
    known = sorted({*usable, *profiled_engines(platform)})
    if engine not in known:
        message = f"{engine!r} is not known on {platform}; there are: {', '.join(known)}"
        raise _Wrong("engine", message)
    card = None if options["card"] is None else _card(options["card"])
    try:
        path = resolve_source(source, Path.cwd()).path
    except SourceError as error:
        raise _Wrong("", str(error)) from None
    model = describe_model(path)
    deployment = _deployment(engine, platform, path, options)
    own = _plugin_profile(installed.get(engine), deployment, model)
    profile = engine_profile(engine, platform) if own is None else own
    if profile is None:
        message = f"{engine} does not say how it lays a model out on {platform}"
        raise _Wrong("engine", message)
    calibration = _calibration(options["state_dir"], deployment, model, profile)
    assert not isinstance(calibration.profile, int | None)
    return MemoryQuestion(
        source=source,
        model=model,
        engine=engine,
        profile_origin="built-in" if own is None else "plugin",
        profile=calibration.profile,
        platform=platform,
        dtype=options["dtype"],
        kv_cache_dtype=options["kv_cache_dtype"],
        concurrency=options["concurrency"],
        tensor_parallel_sizes=options["tensor_parallel_sizes"] or None,
        pipeline_parallel_sizes=options["pipeline_parallel_sizes"] or None,
        max_model_lens=options["max_model_lens"] or None,
        card=card,
        calibration=calibration.notes,
    )


def _platform(wanted: Platform | None, engine: "Engine | None") -> Platform:
    if wanted is not None:
        return wanted
    return "cuda" if engine is None else engine.platforms[0]


def _card(name: str) -> Any:
    from muai_core.runtime.memory_report import Card

    known: tuple[CardName, ...] = get_args(CardName)
    found = next((one for one in known if one.casefold() == name.casefold()), None)
    if found is None:
        raise _Wrong("card", f"{name!r} is not known; there are: {', '.join(known)}")
    return Card(found, CARDS[found].memory_usable_bytes)


def _deployment(
    engine: str, platform: Platform, path: Path, options: dict[str, Any]
) -> "Deployment":
    """The model as a config would name it, without engine options."""
    from muai_core.model.deployment import Deployment

    lengths = options["max_model_lens"]
    return Deployment(
        name="model",
        source=str(path),
        engine=engine,
        platforms=(platform,),
        max_model_len=max(lengths) if lengths else None,
        dtype=options["dtype"],
        kv_cache_dtype=options["kv_cache_dtype"],
        concurrency=options["concurrency"],
    )


def _plugin_profile(
    engine: "Engine | None", deployment: "Deployment", model: "ModelDescription"
) -> "MemoryProfile | None":
    """What an installed engine says of itself; None: nothing that could be cut into ranks."""
    from muai_core.planning.wording import described
    from muai_core.plugin.memory import MemoryProfile

    if engine is None or deployment.platforms[0] not in engine.platforms:
        return None
    try:
        answer = engine.memory(deployment, model)
    except Exception as error:  # noqa: BLE001 - an engine may raise anything at all
        message = f"{engine.name} cannot estimate its memory: {described(error)}"
        raise _Wrong("engine", message) from None
    return answer if isinstance(answer, MemoryProfile) else None


def _calibration(
    state_dir: Path, deployment: "Deployment", model: "ModelDescription", profile: "MemoryProfile"
) -> "Calibration":
    """The profile, corrected by what a controller measured of this very model."""
    from muai_core.runtime.measured_starts import MeasuredStarts

    measured = MeasuredStarts.load(state_dir, note, keep_broken=False)
    return measured.calibrator()(deployment, model, profile)


def _remarks(question: "MemoryQuestion") -> list[str]:
    own = question.model.architecture.context_tokens
    longest = max(question.max_model_lens or (0,))
    if own is None or longest <= own:
        return []
    return [f"{question.source}: the model is made for {own} tokens, fewer than {longest}"]
