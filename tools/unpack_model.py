"""Writes a GGUF file as an ordinary Hugging Face folder, for engines that load no GGUF.

    python tools/unpack_model.py SOURCE FOLDER [--dtype bfloat16]

SOURCE is as in a config: a file, or `package:PACKAGE/FILE`. Needs plugins/muai_torch. A folder that
exists is left as it is.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    arguments = parser.parse_args()
    if arguments.folder.exists():
        print(f"{arguments.folder} exists already")
        return 0
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed, which warns
    from muai_torch import loading, source

    try:
        found = source.find_source(arguments.source)
    except source.SourceError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder.parent, prefix=".unpack-") as staging:
        # What a worker keeps for its next start is written before it rearranges the weights.
        kept = Path(staging)
        loading.load(loading.LoadOptions(source=found, dtype=arguments.dtype, cache_folder=kept))
        next(kept.iterdir()).rename(arguments.folder)
    print(arguments.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
