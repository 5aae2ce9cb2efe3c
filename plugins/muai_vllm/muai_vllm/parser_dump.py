"""Prints the arguments of the installed vLLM's server as JSON. Run by vLLM's own interpreter.

It is started as a file, so it imports nothing of MuAI.
"""

import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
known = {}
for action in parser._actions:
    for flag in action.option_strings:
        if flag.startswith("--"):
            choices = None if action.choices is None else [str(one) for one in action.choices]
            known[flag[2:].replace("-", "_")] = choices
json.dump(known, sys.stdout)
