"""How the commands speak: tables and lines for people on stdout, JSON for programs, complaints on stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import common_pb2, match_pb2
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 10_000
"""A table is as wide as what is in it."""
_HIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_STYLES: Final = {"HIGH": "bold red", "MEDIUM": "yellow", "LOW": "cyan", "SERVING": "green"}


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"poi: {visible(' '.join(text.split()))}", file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Text that somebody else wrote, without what would move the cursor, or turn other text around, in a terminal."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def print_json(message: Message, *, one_line: bool = False) -> None:
    """A message as protobuf JSON; on one line where messages follow each other."""
    print(MessageToJson(message, indent=None if one_line else 2), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str) -> None:
    """A table, or one line that says that there is nothing. A pipe gets whole cells, a terminal what fits."""
    table = Table(box=None, pad_edge=False, header_style="bold", row_styles=None)
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = _console()
    console.print(table if table.row_count else Text(nothing, style="dim"))


def print_line(*parts: object) -> None:
    """Parts of a line, two blanks between."""
    _console().print(Text("  ").join(_cell(part) for part in parts), soft_wrap=True)


def print_more(page: Any, limit: int) -> None:
    """Says on stderr that a list goes on, where it does."""
    if page.next_page_token:
        complain(f"there are more than {limit}: raise --limit")


def short(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2]


def clock(moment: Timestamp) -> str:
    """Local date and time to the millisecond; "" for none."""
    if not moment.seconds:
        return ""
    return moment.ToDatetime(tzinfo=UTC).astimezone().isoformat(" ", "milliseconds")[:23]


def seconds(duration: Duration) -> str:
    """For example `73.5 s`."""
    return f"{duration.ToNanoseconds() / 1e9:.1f} s"


def severity(value: common_pb2.Severity.ValueType) -> str:
    """HIGH, MEDIUM, LOW; "" when not said."""
    return common_pb2.Severity.Name(value).removeprefix("SEVERITY_") if value else ""


def closeness(match: match_pb2.Match) -> str:
    """How similar, and which threshold that passed."""
    return f"{match.similarity:.2f} >= {match.threshold:.2f}"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _cell(value: object) -> Text:
    text = visible(str(value))
    return Text(text, style=_STYLES.get(text, ""))
