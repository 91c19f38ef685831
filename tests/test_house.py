"""Every import points downwards through the rooms of the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURED = (ROOT / "pyproject.toml").read_text()
CHECK = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"


def check(config: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", CHECK, str(config)], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_rooms_import_only_from_rooms_below_them():
    found = check(ROOT / "pyproject.toml")
    assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_an_arrow_upwards_would_be_found(tmp_path):
    upside_down = CONFIGURED.replace('"benchmarks", "lab"', '"lab", "benchmarks"')
    assert upside_down != CONFIGURED
    (config := tmp_path / "pyproject.toml").write_text(upside_down)
    found = check(config)
    assert found.returncode == 1 and "rwp_edu.benchmarks is not allowed to import rwp_edu.lab" in found.stdout
