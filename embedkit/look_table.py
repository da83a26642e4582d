"""What `embedkit look` prints: a table that fits 80 columns, and the command as a line of its own; or JSON."""

import json

from rich.table import Table

from embedkit.consoles import console, words
from embedkit.look import Look, look
from embedkit.terminal import say, say_json
from embedkit.wording import cut

MOST_LISTED = 40
"""Columns of a source that are listed."""
MOST_VALUES = 8
"""Values of one column that are shown, and notes."""
LONGEST_EXAMPLE = 40
ROLES = {"picture": "the picture", "text": "the text", "label": "the label", "split": "the split", "id": "the row's key"}


def show(source: str, settings: Look, as_json: bool) -> None:
    """Print what a source holds, and the command that loads it."""
    seen = look(source, settings)
    if as_json:
        say_json(json.dumps(seen.model_dump() | {"shell": seen.shell}, indent=1, ensure_ascii=False))
        return
    extent = "all of them" if seen.whole else "the first of them"
    say(f"{seen.source}: {seen.kind}; {seen.rows:,} rows were looked at, {extent}, in {seen.seconds:.1f} s")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("column", overflow="fold", max_width=20)
    table.add_column("type", no_wrap=True)
    table.add_column("missing", justify="right", no_wrap=True)
    table.add_column("taken for", no_wrap=True)
    table.add_column("examples or counts", overflow="fold")
    for column in seen.columns[:MOST_LISTED]:
        share = "" if not column.missing else f"{column.missing:.1%}" if column.missing >= 0.001 else "< 0.1%"
        examples = ", ".join(cut(example, LONGEST_EXAMPLE) for example in column.examples[:MOST_VALUES])
        examples += ", ..." if len(column.examples) > MOST_VALUES else ""
        cells = (column.name, column.type, share, ROLES.get(column.role or "", ""), examples)
        table.add_row(*map(words, cells))
    console().print(table)
    if len(seen.columns) > MOST_LISTED:
        say(f"... and {len(seen.columns) - MOST_LISTED:,} more columns; --json has all of them")
    notes = ["splits: " + ", ".join(f"{split} {count:,}" for split, count in seen.splits.items())] if seen.splits else []
    if seen.passed_over:
        (place, reason), more = seen.passed_over[0], len(seen.passed_over) - 1
        notes.append(f"passed over: {place}: {reason}" + (f", and {more:,} more" if more else ""))
    notes += seen.notes[:MOST_VALUES]
    for note in notes:
        console().print(words(f"- {note}"))
    say(seen.shell)
