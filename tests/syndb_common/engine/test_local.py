"""What is left of a scratch engine."""

# ruff: noqa: ASYNC240 - tmp_path is local

from pathlib import Path

import pyarrow as pa
import pytest
import trio

from syndb_common.engine.local import LocalEngine


async def test_a_scratch_engine_leaves_nothing_behind(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = LocalEngine(None)
    async with trio.open_nursery() as inner:
        await inner.start(scratch.run)
        answer = await scratch.merge("SELECT sum(n) AS s FROM partials", pa.table({"n": [1, 2]}))
        assert answer.table.to_pylist() == [{"s": 3}]
        assert len(list(tmp_path.iterdir())) == 1
        inner.cancel_scope.cancel()
    assert list(tmp_path.iterdir()) == []
