"""`tradewind`: the entry point. Heavy imports happen inside the command that needs them."""

import argparse
import sys
from collections.abc import Sequence

from tradewind import __version__
from tradewind.base.errors import ConfigError, TradewindError
from tradewind.cli.options import Parser, add_sampling, add_settings

ENGINE_PARTS = ("model", "cache", "scheduler", "runner", "engine")
BENCHES = ("serve", "offline", "startup", "host", "step", "kernels", "quality", "soak", "schemas", "gpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (0 well, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, commands = build_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands[known.command].refuse(unknown[0])
    try:
        return run_command(known)
    except ConfigError as error:
        print(f"tradewind {known.command}: {error.message}", file=sys.stderr)
        return 2
    except TradewindError as error:
        print(f"tradewind {known.command}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run_command(arguments: argparse.Namespace) -> int:
    """Import the command's module, and run it."""
    if arguments.command == "serve":
        from tradewind.cli import serve

        return serve.run(arguments)
    if arguments.command == "generate":
        from tradewind.cli import generate

        return generate.run(arguments)
    if arguments.command == "chat":
        from tradewind.cli import chat

        return chat.run(arguments)
    if arguments.command == "doctor":
        from tradewind.cli import doctor

        return doctor.run(arguments)
    if arguments.command == "top":
        from tradewind.cli import top

        return top.run(arguments)
    if arguments.command == "keys":
        from tradewind.cli import keys

        return keys.run(arguments)
    from tradewind.cli import bench

    return bench.run(arguments)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and each command's own one."""
    parser = Parser(prog="tradewind", description="Serve and run language models.")
    parser.add_argument("--version", action="version", version=f"tradewind {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands = {
        "serve": _add_serve(subparsers),
        "generate": _add_generate(subparsers),
        "chat": _add_chat(subparsers),
        "top": _add_top(subparsers),
        "doctor": _add_doctor(subparsers),
        "keys": _add_keys(subparsers),
        "bench": _add_bench(subparsers),
    }
    return parser, commands


def _add_command(subparsers: "argparse._SubParsersAction[Parser]", name: str, text: str, usage: str) -> Parser:
    description = text[0].upper() + text[1:] + "."
    return subparsers.add_parser(name, help=text, description=description, usage=f"tradewind {name} {usage}")


def _add_model(parser: Parser) -> None:
    text = "a local directory, a Hugging Face repository id, or 'demo' (the built-in model, the default)"
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL", help=text)


def _add_serve(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(subparsers, "serve", "serve a model over HTTP, as OpenAI's API", "[MODEL] [options]")
    _add_model(parser)
    add_settings(parser, (*ENGINE_PARTS, "server"))
    return parser


def _add_generate(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(subparsers, "generate", "continue prompts, without a server", "[PROMPT ...] [options]")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="text to continue (none: one per line of stdin)")
    parser.add_argument("--model", default="demo", metavar="MODEL", help="directory, repository id, or 'demo'")
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt, with token ids")
    add_sampling(parser)
    add_settings(parser, ENGINE_PARTS)
    return parser


def _add_chat(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(subparsers, "chat", "talk with a model in the terminal", "[MODEL] [options]")
    _add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_sampling(parser)
    add_settings(parser, ENGINE_PARTS)
    return parser


def _add_top(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(subparsers, "top", "show what a server's engine does, live", "[URL] [options]")
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", metavar="URL", help="of the server (default: %(default)s)"
    )
    parser.add_argument("--api-key", metavar="TEXT", help="the server's key")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="print one picture and end, for scripts")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be between 0.05 and 3600 seconds, not {text}")
    return seconds


def _add_doctor(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    text = "show the machine, what each op would use and why, and what memory allows"
    parser = _add_command(subparsers, "doctor", text, "[MODEL] [options]")
    _add_model(parser)
    add_settings(parser, ENGINE_PARTS)
    gpus = "a100, l40s, h100, h200 or b200"
    parser.add_argument("--gpu", metavar="NAME", help=f"say what a GPU that is not here would do: {gpus}")
    return parser


def _add_keys(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(
        subparsers, "keys", "make and list the API keys of a file", "new NAME --file FILE | list --file FILE"
    )
    parser.add_argument(
        "what", choices=("new", "list"), help="make a key and print it, once; or list whose keys there are"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="whose key it will be; a name may have several")
    parser.add_argument("--file", required=True, metavar="FILE", help="as for `tradewind serve --api-key-file`")
    limits = {"requests-per-minute": "requests", "tokens-per-minute": "tokens of prompts and answers"}
    for option, text in {**limits, "concurrency": "requests at once"}.items():
        parser.add_argument(f"--{option}", type=_count, metavar="N", help=f"most {text} (default: no limit)")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def _add_bench(subparsers: "argparse._SubParsersAction[Parser]") -> Parser:
    parser = _add_command(subparsers, "bench", f"measure: {', '.join(BENCHES)}", "WHAT [options]")
    parser.add_argument("what", choices=BENCHES, help="what to measure")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options; try `tradewind bench serve --help`")
    return parser


if __name__ == "__main__":
    sys.exit(main())
