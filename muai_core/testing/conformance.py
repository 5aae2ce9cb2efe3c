"""The pytest face of the kits: a class per kind, one test per clause."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from muai_core.testing.clauses import Clause, Kind, clauses_of, run_clause


class Conformance:
    """Base of the classes from which a plugin's author derives.

    All clauses of a class are tried on one subject, in the order of their numbers. A clause that is
    not applicable is a skipped test.
    """

    kind: ClassVar[Kind]

    def make_subject(self, tmp_path: Path) -> Any:
        """What the clauses of this kind are tried on. Its `close()` is called at the end."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "clause" in metafunc.fixturenames:
            metafunc.parametrize("clause", clauses_of(self.kind), ids=_name)

    @pytest.fixture
    def subject(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Any:
        """One for all tests of the class, whatever fixtures of the author's it is made of."""
        owner = request.cls
        if "_subject" not in vars(owner):
            owner._subject = self.make_subject(tmp_path_factory.mktemp("conformance"))
            suite = request.node.getparent(pytest.Class)
            suite.addfinalizer(lambda: _close(owner))
        return owner._subject

    def test_clause(self, clause: Clause, subject: Any) -> None:
        result = run_clause(clause, subject)
        if result.outcome == "failed":
            pytest.fail(f"{result.number} {result.title}: {result.reason}", pytrace=False)
        if result.outcome == "not_applicable":
            pytest.skip(f"not applicable: {result.reason}")


def _close(owner: Any) -> None:
    subject = owner._subject
    del owner._subject
    subject.close()


def _name(clause: Clause) -> str:
    return f"{clause.number}-{clause.title.replace(' ', '-')}"
