"""What a terminal is shown: data as they are, and nothing that would steer it."""

from __future__ import annotations

import pytest

from syndb_cli.output import errors_as_lines, note, show_table


@pytest.mark.parametrize("value", ["AVA [class a]", "x[/y]", "[red]x[/red]", ":worm:", r"\[b]"])
def test_brackets_in_data_are_data(capsys: pytest.CaptureFixture[str], value: str) -> None:
    show_table([value], [[value], ["other"]], title=value)
    assert capsys.readouterr().out.count(value) == 3
    note(value)
    assert capsys.readouterr().err == f"{value}\n"


@pytest.mark.parametrize("sequence", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x7f", "\x00"])
def test_no_control_character_of_data_or_errors_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str], sequence: str
) -> None:
    from syndb_common.errors import NotFound

    show_table([f"na{sequence}me"], [[f"va{sequence}lue"]])
    with pytest.raises(BaseException), errors_as_lines():  # noqa: B017 - typer's way to leave
        raise NotFound(f"no {sequence}node", hint=f"look {sequence}elsewhere")
    shown = capsys.readouterr()
    assert not any(sign in shown.out + shown.err for sign in "\x1b\x07\x9b\x7f\x00")
    assert "va" in shown.out
    assert "error: no " in shown.err


def test_a_line_break_in_a_value_makes_no_second_row(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["name"], [["one\ntwo"]])
    assert "one two" in capsys.readouterr().out
