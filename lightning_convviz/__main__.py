"""The command line: `python -m lightning_convviz export LOGDIR --out DIR`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

SOON = 0.5  # seconds after which a person at a terminal sees a progress bar
LATE = 10.0  # likewise, in a log file; and how far apart its lines are


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """The arguments."""
    top = Parser("python -m lightning_convviz", description="Work with the pictures that a run has logged.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    text = "take every picture out of event files: PNG folders, animations, one page with an epoch slider"
    command = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("logdir", metavar="LOGDIR", help="a folder with event files below it, or one such file")
    command.add_argument(
        "--out", required=True, metavar="DIR", help="a folder to write to; if it exists, it is updated"
    )
    command.add_argument(
        "--tag", action="append", default=[], metavar="GLOB", help="only tags like this, 'gradcam/*' say; repeatable"
    )
    command.add_argument("--gif", action="store_true", help="also an animation of each tag")
    command.add_argument("--html", action="store_true", help="also index.html, which opens from disk")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if it went well, 2 for a bad argument, 1 where writing failed."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.command is None:
        arguments.print_help()
        return 0
    try:
        return _export(args)
    except KeyboardInterrupt:
        _tell("stopped; what was written so far is whole")
        return 130


def _export(args: argparse.Namespace) -> int:
    from lightning_convviz.export import ExportError, export

    try:
        with _progress(Path(args.logdir)) as bar:
            report = export(
                args.logdir, args.out, tags=args.tag, gif=args.gif, html=args.html,
                warn=lambda message: bar.write(f"warning: {message}", file=sys.stderr), progress=bar.update,
            )  # fmt: skip
    except ExportError as error:
        _tell(f"error: {error}")
        return 2
    except OSError as error:
        _tell(f"error: {error}")
        return 1
    animations = f", {_count(len(report.animations), 'animation')}" if args.gif else ""
    page = f"; page: {report.page} ({report.page.stat().st_size / 1e6:.1f} MB)" if report.page else ""
    runs = f" in {len(report.runs)} runs" if len(report.runs) > 1 else ""
    pictures = f"{_count(report.pictures, 'picture')} of {_count(report.tags, 'tag')}"
    print(f"{pictures}{runs}{animations}: {args.out}{page}")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _tell(message: str) -> None:
    print(f"python -m lightning_convviz export: {message}", file=sys.stderr)


@contextmanager
def _progress(log: Path) -> Iterator[Any]:
    """A bar over the bytes of the log; at a terminal soon, elsewhere only if it takes long."""
    from tqdm import tqdm

    from lightning_convviz.export.run import ExportError, event_files

    try:
        size = sum(path.stat().st_size for paths in event_files(log).values() for path in paths)
    except (ExportError, OSError):
        size = 0
    wait = SOON if sys.stderr.isatty() else LATE
    with tqdm(
        total=size, unit="B", unit_scale=True, desc="reading", delay=wait, file=sys.stderr, leave=False,
        mininterval=0.1 if wait == SOON else LATE,
    ) as bar:  # fmt: skip
        yield bar


if __name__ == "__main__":
    sys.exit(main())
