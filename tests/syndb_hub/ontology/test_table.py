"""Terms as CSV: what is read, and how what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import ConfigError, DataError, LimitExceeded
from syndb_common.messages import OntologyTerm
from syndb_hub.ontology import table
from syndb_hub.ontology.table import read, read_file

HEAD = "name,vocabulary,parent_name,description\n"


def terms(text: str) -> list[OntologyTerm]:
    return read(text.splitlines(keepends=True))


def fault(text: str) -> DataError:
    with pytest.raises(DataError) as refused:
        terms(text)
    return refused.value


def test_names_of_parents_may_come_before_or_after_them() -> None:
    calyx, body, worm = terms(
        HEAD
        + 'calyx,brain_region,mushroom body,"Input region, dorsal"\n\n'
        + "mushroom body , brain_region,,\nC. elegans,species,,\n"
    )
    assert calyx == OntologyTerm(
        id="brain_region:calyx",
        vocabulary="brain_region",
        label="calyx",
        definition="Input region, dorsal",
        parents=("brain_region:mushroom body",),
    )
    assert (body.label, body.parents, worm.vocabulary) == ("mushroom body", (), "species")


def test_ids_synonyms_several_parents_and_replacements() -> None:
    text = (
        "id,vocabulary,name,synonyms,parents,deprecated_by\n"
        "FBbt:1,brain_region,optic lobe,,,\n"
        "FBbt:2,brain_region,neuropil,,,\n"
        "FBbt:3,brain_region,medulla,ME | outer medulla|ME,FBbt:1|FBbt:2,\n"
        "FBbt:4,brain_region,medulla,,,FBbt:3\n"
    )
    *_, medulla, former = terms(text)
    assert (medulla.synonyms, medulla.parents) == (("ME", "outer medulla"), ("FBbt:1", "FBbt:2"))
    assert former.deprecated_by == "FBbt:3"


def test_a_file_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "terms.csv"
    path.write_bytes("\ufeffName,Vocabulary\r\nKörper,brain_region\r\n".encode())
    assert [term.label for term in read_file(path)] == ["Körper"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1.*lacks name"),
        ("name\n", "line 1.*lacks vocabulary"),
        ("name,vocabulary,synonym\n", "line 1.*'synonym'"),
        ("name,vocabulary,name\n", "line 1.*'name' twice"),
        (HEAD, "no terms"),
        (HEAD + "a,v,\n", "line 2 has 3 cells for 4 columns"),
        (HEAD + "a,v,,\n,v,,\n", "line 3: name is empty"),
        (HEAD + "a,,,\n", "line 2: vocabulary is empty"),
        (HEAD + 'a,v,,"x\ny"\na,v,,\n', "line 4: the term v:a stands in line 3 already"),
        (HEAD + "a,v,b,\nb,w,,\n", "line 2: no terms of the vocabulary v have the name b"),
        ("id,name,vocabulary,parent_name\n1,a,v,\n2,a,v,\n3,b,v,a\n", "line 4: 2 terms of the vocabulary v"),
        ("name,vocabulary,parents\na,v,v:b\n", "line 2: there is no term v:b"),
        ("name,vocabulary,deprecated_by\na,v,v:b\n", "line 2: there is no term v:b"),
        (HEAD + "a,v,a,\n", "line 2: the term v:a is broader than itself"),
        ("name,vocabulary,deprecated_by\na,v,v:b\nb,v,v:a\n", "to be replaced by itself: v:. - v:. - v:."),
        (HEAD + f"{'a' * 501},v,,\n", "line 2: "),
        (HEAD + f"a,v,,{'d' * 4001}\n", "line 2: description: "),
        (HEAD + 'a,v,,"d\n', "no CSV"),
        (HEAD + f"a,v,,{'d' * 200_000}\n", "line 2 is no CSV"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        terms(text)


def test_a_cycle_is_shown() -> None:
    found = fault(HEAD + "a,v,b,\nb,v,c,\nc,v,a,\n")
    assert "is broader than itself" in found.message
    assert all(name in found.message for name in ("v:a", "v:b", "v:c"))


def test_a_long_cycle_is_shown_in_part() -> None:
    lines = "".join(f"n{number},v,n{(number + 1) % 500},\n" for number in range(500))
    assert len(fault(HEAD + lines).message) < 300


def test_no_more_terms_are_read_than_a_federation_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "MAX_TERMS", 2)
    assert len(terms(HEAD + "a,v,,\nb,v,,\n")) == 2
    with pytest.raises(LimitExceeded):
        terms(HEAD + "a,v,,\nb,v,,\nc,v,,\n")
    monkeypatch.setattr(table, "MAX_BYTES", 10)
    (tmp_path / "large.csv").write_text(HEAD)
    with pytest.raises(LimitExceeded, match="large"):
        read_file(tmp_path / "large.csv")


def test_a_file_that_is_none_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        read_file(tmp_path / "none.csv")
    with pytest.raises(ConfigError):
        read_file(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"name,vocabulary\nK\xf6rper,v\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_file(tmp_path / "latin.csv")


@given(st.text(max_size=300))
def test_any_text_is_terms_or_a_refusal(text: str) -> None:
    try:
        found = terms("name,vocabulary\n" + text)
    except (DataError, LimitExceeded):
        return
    assert len({term.id for term in found}) == len(found) > 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10))
def test_parents_are_accepted_exactly_when_no_term_is_above_itself(parents: list[int]) -> None:
    """Term number n has the parent ``parents[n]``, or none where there is no such term."""
    size = len(parents)
    lines = [f"t{n},v,{f't{parent}' if parent < size else ''},\n" for n, parent in enumerate(parents)]

    def ends(term: int) -> bool:
        for _ in range(size + 1):
            term = parents[term]
            if term >= size:
                return True
        return False

    try:
        terms(HEAD + "".join(lines))
    except DataError:
        accepted = False
    else:
        accepted = True
    assert accepted == all(ends(term) for term in range(size))
