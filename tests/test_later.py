"""Slow imports of others are put off, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from rwp_edu.utils.lazy_import import later


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A package that is slow to import, and says when it is."""
    (tmp_path / "slow_grammar.py").write_text("import sys\nsys.imported_slow_grammar = True\n\ndef conforms(text, kind='x'):\n    return kind + text\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delattr(sys, "imported_slow_grammar", raising=False)
    yield "slow_grammar"
    sys.modules.pop("slow_grammar", None)


def test_it_is_imported_when_it_is_called(slow):
    with later(slow, "conforms"):
        from slow_grammar import conforms
    assert slow not in sys.modules and not hasattr(sys, "imported_slow_grammar")
    assert conforms("y", kind="z") == "zy" and sys.imported_slow_grammar
    assert sys.modules[slow].conforms("y") == "xy"


def test_nothing_is_left_of_it_after_an_error(slow):
    with pytest.raises(ZeroDivisionError), later(slow, "conforms"):
        raise ZeroDivisionError
    assert slow not in sys.modules


def test_what_is_imported_already_stays(slow):
    import slow_grammar

    with later(slow, "conforms"):
        assert sys.modules[slow] is slow_grammar
    assert sys.modules[slow] is slow_grammar


def test_what_is_not_installed_is_not_pretended():
    with later("a_package_that_nobody_has", "conforms"), pytest.raises(ImportError):
        import a_package_that_nobody_has  # noqa: F401


@pytest.mark.slow
@pytest.mark.skipif(find_spec("rfc3987_syntax") is None, reason="jsonschema's format-nongpl extra is not installed")
@pytest.mark.parametrize("opens", ["import rwp_edu; rwp_edu.lab.race(methods='sgd', seeds=1).screen", "from rwp_edu.utils.lazy_import import no_grammar\nwith no_grammar(): import jupyterlab.labapp"])
def test_a_lab_opens_without_the_grammar_and_addresses_are_checked_as_ever(opens):
    program = f"""
import sys
{opens}
assert "rfc3987_syntax" not in sys.modules
from jsonschema import FormatChecker
assert FormatChecker().conforms("https://example.org/ä", "iri") and not FormatChecker().conforms("no address", "iri")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
