import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import rwp_edu

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOP_LEVEL = {"README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "LICENSE", "notebooks", "rwp_edu", "data", "tests", "binder"}
NOT_IN_THE_CORE = ("plotly", "ipywidgets", "anywidget", "torchvision", "IPython", "ipykernel", "jupyter", "traitlets")


def python(code, *path, cwd=None):
    """What a fresh process prints."""
    folders = filter(None, (*map(str, path), os.environ.get("PYTHONPATH")))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder with the contents of a freshly built wheel."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_package_the_data_and_the_notebooks(wheel):
    for source, inside in (("data", "_data"), ("notebooks", "_notebooks")):
        files = [path for path in (ROOT / source).iterdir() if path.is_file()]
        assert files
        for path in files:
            assert (wheel / "rwp_edu" / inside / path.name).read_bytes() == path.read_bytes()
    for path in (ROOT / "rwp_edu").rglob("*.py"):
        assert (wheel / path.relative_to(ROOT)).is_file()


def test_the_wheel_holds_nothing_else(wheel):
    (info,) = wheel.glob("*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"rwp_edu", info.name}
    assert not [path for path in wheel.rglob("*") if path.name.startswith("test_") or path.name == "conftest.py"]
    assert "rwp-edu = rwp_edu.cli:main" in (info / "entry_points.txt").read_text()


@pytest.mark.slow
def test_the_digits_are_found_in_the_wheel(wheel, tmp_path):
    code = "import rwp_edu; from rwp_edu.problems.digits import read; print(rwp_edu.__file__, *read()[0].shape)"
    file, *shape = python(code, wheel, cwd=tmp_path).split()
    assert Path(file).is_relative_to(wheel) and shape == ["1797", "64"]


def test_the_notebooks_are_found_in_the_wheel(wheel, tmp_path):
    code = "from rwp_edu.cli.lab import notebooks_folder; print(notebooks_folder(None).resolve())"
    folder = Path(python(code, wheel, cwd=tmp_path).strip())
    assert folder == tmp_path / "rwp_edu_notebooks"
    assert {path.name for path in folder.iterdir()} == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


# ------------------------------------------------------------------------------------------------- imports and the layout


@pytest.mark.slow
def test_the_numerical_core_imports_no_front_end():
    code = "import sys, rwp_edu, rwp_edu.optim, rwp_edu.training, rwp_edu.cli; print(*sys.modules)"
    loaded = python(code).split()
    assert "torch" in loaded
    assert not [name for name in loaded if name.startswith(NOT_IN_THE_CORE)]


def test_the_command_line_starts_without_torch():
    assert "torch" not in python("import sys, rwp_edu.cli; print(*sys.modules)").split()


def test_top_level_of_the_repository():
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    listed = subprocess.run(["git", "ls-files"], check=False, cwd=ROOT, capture_output=True, text=True)
    if not listed.stdout:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_the_readme_has_the_test_command_that_ci_runs():
    command = re.search(r"<!-- tests -->\n```bash\n(.+)\n```", (ROOT / "README.md").read_text())
    assert command, "README.md needs its test command in a ```bash block right after a line <!-- tests -->"
    for part in ("python3 -m venv .venv", "pip install -e '.[test]'", "pytest"):
        assert part in command[1]


# ---------------------------------------------------------------------------------------------------------------- Binder


@pytest.fixture(scope="module")
def conda():
    """The conda packages of ``binder/environment.yml`` and what is asked of their versions."""
    environment = yaml.safe_load((BINDER / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    return dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in environment["dependencies"])


@pytest.fixture(scope="module")
def post_build():
    return (BINDER / "postBuild").read_text()


def test_binder_pins_a_python_that_the_project_supports(conda):
    pinned = re.fullmatch(r"=(3\.\d+)", conda["python"])
    assert pinned, f"binder/environment.yml must pin python=3.N, got python{conda['python']}"
    assert pinned[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("name, package", [("torch", "pytorch-cpu"), ("torchvision", "torchvision"), ("numpy", "numpy")])
def test_binder_takes_torch_and_what_must_match_it_from_one_place(conda, post_build, name, package):
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]]
    (asked,) = [str(r.specifier) for r in map(Requirement, required) if r.name == name]
    assert conda[package] == asked
    assert f'"{name}"' in post_build, f"binder/postBuild must keep pip from replacing {name}"


def test_binder_installs_every_requirement_of_the_lab(conda, post_build):
    everything = re.search(r"pip install .*--constraint .*'\.\[lab\]'", post_build)
    missing = [r.name for r in map(Requirement, PROJECT["optional-dependencies"]["lab"]) if r.name not in conda]
    assert everything or not missing, f"neither binder/postBuild nor binder/environment.yml installs {missing}"


@pytest.mark.parametrize("script", ["binder/postBuild", ".ci/run"])
def test_scripts_are_executable_bash_that_stops_at_errors(script):
    path = ROOT / script
    if not path.exists() and script.startswith("."):
        pytest.skip(f"{script} is not part of this copy")
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/bin/bash\n")
    assert re.search(r"^set -e", path.read_text(), re.MULTILINE)
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", path], check=True)


def test_binder_uses_only_files_that_exist(post_build):
    for name in re.findall(r"binder/[\w.]+", post_build):
        assert (ROOT / name).is_file()


def test_binder_opens_quietly():
    from rwp_edu.cli.lab import NO_NEWS

    assert yaml.safe_load((BINDER / "overrides.json").read_text()) == NO_NEWS


def test_the_citation_names_this_version():
    assert f"\nversion: {rwp_edu.__version__}\n" in (ROOT / "CITATION.cff").read_text()
