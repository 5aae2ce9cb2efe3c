"""muai memory: the estimate alone, for people and as JSON."""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment

MODELS = Path(__file__).parents[2] / "examples" / "models"
LLAMA = str(MODELS / "llama-3.1-8b.json")

#: Llama 3.1 8B in bfloat16: its parameters are 8,030,261,248.
STORED_BYTES = 2 * 8_030_261_248
#: Two norms in each of 32 layers and a last one, 4096 values each: whole on every rank.
NORM_BYTES = 2 * 4096 * (2 * 32 + 1)
#: Sine and cosine of 131,072 positions, 128 values in bfloat16: vLLM keeps them on every rank.
ROTARY_BYTES = 131_072 * 128 * 2
EMBEDDING_BYTES = 2 * 128_256 * 4096
#: Keys and values: 32 layers, 8 heads, 128 values each.
KV_BYTES_PER_TOKEN = 2 * 32 * 8 * 128 * 2

ONE_SHAPE = ("--tensor-parallel", "2", "--pipeline-parallel", "1", "--max-model-len", "8192")


def test_one_shape_gives_its_ranks(muai_json: Any) -> None:
    told = muai_json("memory", LLAMA, "--engine", "vllm", "--dtype", "bfloat16", *ONE_SHAPE)
    assert [rank["rank"] for rank in told["ranks"]] == [0, 1]
    for rank in told["ranks"]:
        whole = NORM_BYTES + ROTARY_BYTES
        assert rank["weights_bytes"] == (STORED_BYTES - NORM_BYTES) // 2 + whole
        assert rank["kv_bytes_per_token"] == KV_BYTES_PER_TOKEN // 2
        assert rank["kv_cache_bytes"] == 8192 * rank["kv_bytes_per_token"]
        assert rank["layers"] == [0, 32]
        assert rank["activation_bytes"] > 0
        assert rank["overhead_bytes"] > 0
        kinds = ("weights", "kv_cache", "activation", "overhead")
        assert rank["total_bytes"] == sum(rank[f"{kind}_bytes"] for kind in kinds)
    (shape,) = told["shapes"]
    assert shape["ranks"] == told["ranks"]


def test_ranks_are_numbered_stage_by_stage(muai_json: Any) -> None:
    shape = ("--tensor-parallel", "2", "--pipeline-parallel", "3")
    told = muai_json("memory", LLAMA, *shape)
    places = [(one["rank"], one["stage"], one["tensor_parallel_rank"]) for one in told["ranks"]]
    assert places == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0), (5, 2, 1)]
    assert sum(told["shapes"][0]["layers"]) == 32
    spans = [one["layers"] for one in told["ranks"][::2]]
    assert spans[0][0] == 0
    assert spans[-1][1] == 32
    assert [span[1] for span in spans[:-1]] == [span[0] for span in spans[1:]]


def test_all_ranks_together_hold_the_model(muai_json: Any) -> None:
    told = muai_json("memory", LLAMA, "--tensor-parallel", "2", "--pipeline-parallel", "2")
    held = sum(one["weights_bytes"] for one in told["ranks"])
    assert held == STORED_BYTES + NORM_BYTES + 4 * ROTARY_BYTES


def test_the_model_is_told(muai_json: Any) -> None:
    model = muai_json("memory", LLAMA)["model"]
    assert model["origin"] == "config"
    assert model["parameters"] == 8_030_261_248
    assert model["stored_bytes"] == STORED_BYTES
    assert model["stored_dtypes"] == {"BF16": STORED_BYTES}
    assert (model["attention"], model["attention_heads"], model["kv_heads"]) == ("GQA", 32, 8)
    assert model["layer_kinds"] == {"full": 32}
    assert model["kv_bytes_per_token"] == KV_BYTES_PER_TOKEN
    assert model["quantization"] is None


def test_all_usual_shapes_and_contexts_by_default(muai_json: Any) -> None:
    told = muai_json("memory", LLAMA)
    shapes = [
        (one["tensor_parallel_size"], one["pipeline_parallel_size"]) for one in told["shapes"]
    ]
    assert shapes == [(size, stages) for stages in (1, 2, 4) for size in (1, 2, 4, 8)]
    for one in told["shapes"]:
        assert [context["max_model_len"] for context in one["contexts"]] == [4096, 32768, 131072]
    assert told["max_model_len"] == 131072
    assert "ranks" not in told


def test_a_shape_that_is_impossible_is_listed_beside_those_that_are_not(muai_json: Any) -> None:
    told = muai_json("memory", LLAMA, "--tensor-parallel", "3", "--tensor-parallel", "4")
    by_size = {one["tensor_parallel_size"]: one for one in told["shapes"]}
    assert by_size[4]["possible"]
    assert by_size[4]["reason"] is None
    refused = by_size[3]
    assert not refused["possible"]
    assert "32 attention heads" in refused["reason"]
    assert refused["ranks"] == refused["contexts"] == refused["layers"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tensor-parallel", "3"), "tensor_parallel_size: 3 is not possible"),
        (("--tensor-parallel", "3"), "1, 2, 4, 8"),
        (("--pipeline-parallel", "33"), "pipeline_parallel_size: 33 is not possible"),
        (("--pipeline-parallel", "33"), "at most 32"),
        (("--tensor-parallel", "4096", "--pipeline-parallel", "32"), "4096 are possible at most"),
        (("--engine", "transformers", "--tensor-parallel", "2"), "the engine takes at most 1"),
        (("--engine", "nobody"), "there are: deepspeed, transformers, vllm"),
        (("--engine", "transformers", "--kv-cache-dtype", "fp8"), "kv_cache_dtype fp8"),
        (("--kv-cache-dtype", "poetry"), "kv_cache_dtype poetry"),
        (("--card", "H100"), "there are: "),
    ],
)
def test_what_cannot_be_is_one_line(options: tuple[str, ...], words: str, muai: Any) -> None:
    done = muai("memory", LLAMA, *options)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert words in done.err
    as_json = muai("memory", LLAMA, *options, "--json")
    assert (as_json.status, as_json.err) == (2, "")
    (problem,) = json.loads(as_json.out)["problems"]
    assert problem["message"] in done.err


@pytest.mark.parametrize(
    "options",
    [
        ("--tensor-parallel", "0"),
        ("--tensor-parallel", "-1"),
        ("--tensor-parallel", "9" * 5000),
        ("--pipeline-parallel", "many"),
        ("--max-model-len", str(10**30)),
        ("--concurrency", "0"),
        ("--dtype", "float7"),
        ("--platform", "toaster"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(options: tuple[str, str], muai: Any) -> None:
    done = muai("memory", LLAMA, *options)
    assert (done.status, done.out) == (2, "")
    assert options[0] in done.err
    assert "Traceback" not in done.err


def _first_rank(muai_json: Any, *options: str) -> Any:
    return muai_json("memory", LLAMA, *ONE_SHAPE, *options)["ranks"][0]


def test_the_format_of_weights_and_of_keys_and_values_counts(muai_json: Any) -> None:
    usual = _first_rank(muai_json)
    wide = _first_rank(muai_json, "--dtype", "float32")
    assert wide["weights_bytes"] == 2 * usual["weights_bytes"]
    assert wide["kv_bytes_per_token"] == 2 * usual["kv_bytes_per_token"]
    narrow = _first_rank(muai_json, "--kv-cache-dtype", "fp8")
    assert narrow["weights_bytes"] == usual["weights_bytes"]
    assert 2 * narrow["kv_bytes_per_token"] == usual["kv_bytes_per_token"]


def test_concurrency_multiplies_the_cache(muai_json: Any) -> None:
    one, ten = _first_rank(muai_json), _first_rank(muai_json, "--concurrency", "10")
    assert ten["kv_cache_bytes"] == 10 * one["kv_cache_bytes"]
    assert ten["weights_bytes"] == one["weights_bytes"]


def test_engines_cut_differently(muai_json: Any) -> None:
    vllm = _first_rank(muai_json)
    deepspeed = _first_rank(muai_json, "--engine", "deepspeed")
    # The embeddings stay whole on each of the two ranks; there is no table of positions.
    more = EMBEDDING_BYTES // 2 - ROTARY_BYTES
    assert deepspeed["weights_bytes"] - vllm["weights_bytes"] == more


def test_keys_and_values_are_repeated_beyond_the_number_of_kv_heads(muai_json: Any) -> None:
    told = muai_json("memory", LLAMA, "--tensor-parallel", "16", "--pipeline-parallel", "1")
    assert told["ranks"][0]["kv_bytes_per_token"] == KV_BYTES_PER_TOKEN // 8


def test_a_card_says_what_fits(muai: Any, muai_json: Any) -> None:
    options = ("--card", "l4-24gb", "--pipeline-parallel", "1")
    told = muai_json("memory", LLAMA, *options)
    assert told["card"]["name"] == "L4-24GB"
    for shape in told["shapes"]:
        for context in shape["contexts"]:
            total = context["largest_rank"]["total_bytes"]
            assert context["fits"] == (total <= told["card"]["usable_bytes"])
    whole = told["shapes"][0]["contexts"]
    assert (whole[0]["fits"], whole[-1]["fits"]) == (True, False)
    text = muai("memory", LLAMA, *options).out
    assert "ON L4-24GB" in text
    assert "too much" in text


def test_the_table_says_what_figures_are_worth(muai: Any) -> None:
    done = muai("memory", LLAMA, "--tensor-parallel", "2", "--tensor-parallel", "3")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "LlamaForCausalLM (llama), 8.03 billion parameters in 291 tensors"
    assert any(line.startswith("SHAPE") for line in lines)
    assert sum(line.startswith("TP 2 x PP ") for line in lines) == 9
    (impossible,) = [line for line in lines if line.startswith("impossible: ")]
    assert "TP 3 x PP 1, TP 3 x PP 2, TP 3 x PP 4" in impossible
    assert any(line.startswith("weights") and "no weights at hand" in line for line in lines)
    assert any(line.startswith("overhead") and "estimated" in line for line in lines)


def test_one_shape_is_told_stage_by_stage(muai: Any) -> None:
    out = muai("memory", LLAMA, "--tensor-parallel", "2", "--pipeline-parallel", "2").out
    assert "EACH RANK" in out
    assert any(line.split()[:3] == ["1", "2-3", "16-31"] for line in out.splitlines())


def test_a_context_beyond_the_models_own_is_remarked(muai: Any) -> None:
    done = muai("memory", LLAMA, "--max-model-len", "200000", "--tensor-parallel", "1")
    assert done.status == 0
    assert done.err == f"{LLAMA}: the model is made for 131072 tokens, fewer than 200000\n"


def test_an_installed_engine_is_asked_itself(muai: Any, environ: dict[str, str]) -> None:
    others = environ["MUAI_DISABLE_PLUGINS"].split(",")
    allowed = ",".join(name for name in others if name != "simulated")
    done = muai("memory", LLAMA, "--engine", "simulated", "--json", MUAI_DISABLE_PLUGINS=allowed)
    assert (done.status, done.err) == (0, "")
    assert "from its plugin" in json.loads(done.out)["terms"]["overhead"]


def _tensors(path: str) -> ModelDescription:
    from muai_core.model_files import describe_model

    return describe_model(Path(path))


def test_headers_of_weights_are_read_where_there_are_weights(
    muai_json: Any, tmp_path: Path
) -> None:
    config = json.loads(Path(LLAMA).read_text())
    config.update(num_hidden_layers=2, hidden_size=256, intermediate_size=512, head_dim=8)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    told = muai_json("memory", "m")["model"]
    assert told["origin"] == "config"

    place, entries = 0, {}
    for tensor in _tensors(str(tmp_path / "m")).tensors:
        end = place + tensor.size_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [place, end],
        }
        place = end
    header = json.dumps(entries).encode()
    with (tmp_path / "m" / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + place)
    stored = muai_json("memory", "m")["model"]
    assert stored == {**told, "origin": "safetensors"}


def test_measured_starts_correct_the_estimate(muai: Any, muai_json: Any, state_dir: Path) -> None:
    from muai_core.model.memory import RankMemory
    from muai_core.planning.engine_profiles import engine_profile
    from muai_core.planning.measured import MeasuredRank, MeasuredStart, StartKind, fingerprint

    before = muai_json("memory", LLAMA, *ONE_SHAPE)
    rank = before["ranks"][0]
    deployment = Deployment(
        name="any", source=LLAMA, engine="vllm", platforms=("cuda",), max_model_len=8192
    )
    profile = engine_profile("vllm", "cuda")
    assert profile is not None
    start = MeasuredStart(
        kind=StartKind(
            engine="vllm",
            platform="cuda",
            device="NVIDIA H100 80GB HBM3",
            model=fingerprint(deployment, _tensors(LLAMA)),
            tensor_parallel=True,
        ),
        measured_at_s=1.0,
        overhead=profile.overhead,
        ranks=(
            MeasuredRank(
                claimed_bytes=rank["total_bytes"],
                predicted=RankMemory(
                    weights_bytes=rank["weights_bytes"],
                    kv_cache_bytes=rank["kv_cache_bytes"],
                    activation_bytes=rank["activation_bytes"],
                    overhead_bytes=rank["overhead_bytes"],
                ),
                held_bytes=rank["total_bytes"] + 3 * 2**30,
                device_bytes=80 * 2**30,
            ),
        )
        * 2,
    )
    state_dir.mkdir()
    document = {"format": "muai-measured-starts-1", "starts": [msgspec.to_builtins(start)]}
    (state_dir / "measured-starts.json").write_text(json.dumps(document))
    after = muai_json("memory", LLAMA, *ONE_SHAPE)
    assert after["ranks"][0]["total_bytes"] >= rank["total_bytes"] + 3 * 2**30
    assert after["ranks"][0]["weights_bytes"] == rank["weights_bytes"]
    assert "corrected by measured starts" in after["terms"]["overhead"]
    (state_dir / "measured-starts.json").write_text("poetry")
    done = muai("memory", LLAMA, *ONE_SHAPE)
    assert done.status == 0
    assert "is not used" in done.err
