"""What a terminal is shown: data as they are, and nothing that would steer it."""

from __future__ import annotations

import json

import pytest
import typer

from syndb_cli.federation.connectivity import _check
from syndb_cli.output import errors_as_lines, note, show_table
from syndb_common.errors import NotFound


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


IN_A_GROUP = BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt(), NotFound("x")])])


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), IN_A_GROUP], ids=["alone", "in a group"])
def test_ctrl_c_is_a_word_and_exit_code_130(capsys: pytest.CaptureFixture[str], raised: BaseException) -> None:
    with pytest.raises(typer.Exit) as left, errors_as_lines(as_json=True):
        raise raised
    assert left.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted\n")


async def test_ctrl_c_is_not_taken_for_a_failed_check() -> None:
    async def attempt() -> None:
        raise IN_A_GROUP

    with pytest.raises(BaseExceptionGroup):
        await _check("hub", attempt)


ERRORS = [
    (NotFound("no such node"), "not_found", "no such node", 5),
    (ExceptionGroup("", [NotFound("no such node")]), "not_found", "no such node", 5),
    (OSError(28, "No space left on device"), "internal_error", "[Errno 28] No space left on device", 1),
    (KeyError("x"), "internal_error", "unexpected KeyError: 'x'", 1),
]


@pytest.mark.parametrize(("raised", "code", "message", "exit_code"), ERRORS)
def test_every_error_is_a_line_or_json_and_never_a_traceback(
    capsys: pytest.CaptureFixture[str], raised: Exception, code: str, message: str, exit_code: int
) -> None:
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as left, errors_as_lines(as_json=as_json):
            raise raised
        assert left.value.exit_code == exit_code
    shown = capsys.readouterr()
    body = json.loads(shown.out)
    assert (body["code"], body["error"]) == (code, message)
    assert shown.err.startswith(f"error: {message}\n")
