"""python -m radixattn: `generate` runs prompts through a Hugging Face model; `info` describes the
library."""

from __future__ import annotations

import argparse
import sys

import radixattn
from radixattn import cli


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 when a request failed, 2 when nothing could run."""
    parser = argparse.ArgumentParser(prog="python -m radixattn")
    parser.add_argument("--version", action="version", version=radixattn.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    help_text = "prompts of a file through a transformers model, answers as lines of JSON"
    cli.add_arguments(commands.add_parser("generate", help=help_text))
    commands.add_parser("info", help="what the library was built with")
    arguments = parser.parse_args(argv)
    if arguments.command == "info":
        print(radixattn.build_info())
        return 0
    try:
        return cli.run(arguments)
    except (ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
