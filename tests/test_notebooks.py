import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from waiting import PATIENCE

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted({path.stem for pattern in ("*.py", "*.ipynb") for path in FOLDER.glob(pattern)})
each = pytest.mark.parametrize("name", NAMES)


# ----------------------------------------------------------------------------------------------------------------- pairs


def as_script(path):
    """The cells of a notebook or script as py:percent, without the header."""
    notebook = jupytext.read(path)
    notebook.metadata = nbformat.from_dict({"jupytext": {"notebook_metadata_filter": "-all"}})
    return jupytext.writes(notebook, fmt="py:percent")


def check_pair(folder, name):
    """Both halves exist and say the same."""
    notebook, script = folder / f"{name}.ipynb", folder / f"{name}.py"
    to_notebook = f"jupytext --to ipynb --update {script.name}"
    to_script = f"jupytext --to py:percent {notebook.name}"
    assert script.is_file(), f"{script.name} is missing; in notebooks/: {to_script}"
    assert notebook.is_file(), f"{notebook.name} is missing; in notebooks/: {to_notebook}"
    assert as_script(notebook) == as_script(script), (
        f"{notebook.name} and {script.name} differ; in notebooks/, if the script is right: {to_notebook}, "
        f"if the notebook is right: {to_script}"
    )


def check_clean(path):
    """No outputs, counts or widget state are stored, and any Python 3 kernel opens it."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata, f"{path.name} stores the state of widgets: clear all outputs and save"
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            stored = (
                f"cell {number} of {path.name} stores outputs: clear all outputs and save, or, if you only worked through it, "
                "put the lessons back with `git restore notebooks`"
            )
            assert not cell.outputs and cell.execution_count is None, stored


def test_there_is_a_first_notebook():
    assert NAMES and NAMES[0] == "00_start_here"


@each
def test_pair_is_in_sync(name):
    check_pair(FOLDER, name)


@each
def test_notebook_stores_no_results(name):
    check_clean(FOLDER / f"{name}.ipynb")


@each
def test_notebooks_are_numbered(name):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", name)


def bound(tree) -> set[str]:
    """The names that code gives a meaning to."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {(a.asname or a.name).split(".")[0] for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}


def leans_on_solutions(notebook) -> set[str]:
    """Names that only a solution gives a meaning to, and other cells use."""
    cells = [(ast.parse(c.source), "solution" in c.metadata.get("tags", [])) for c in notebook.cells if c.cell_type == "code"]
    own = set().union(*(bound(tree) for tree, solution in cells if not solution))
    solved = set().union(*(bound(tree) for tree, solution in cells if solution))
    used = {node.id for tree, solution in cells if not solution for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return (solved - own) & used


@each
def test_solutions_may_be_taken_out(name):
    assert not leans_on_solutions(jupytext.read(FOLDER / f"{name}.py"))


def test_a_cell_that_leans_on_a_solution_is_caught():
    cells = '# %% tags=["solution"]\nimport math as m\ndef f(x):\n    return m.sqrt(x)\n\n# %%\nprint(f(m.pi))\n'
    assert leans_on_solutions(jupytext.reads(cells, fmt="py:percent")) == {"f", "m"}


PAGES = [*FOLDER.glob("*.py"), *(FOLDER.parent / page for page in ("README.md", "rwp_edu/README.md", "rwp_edu/experiments/claims/README.md", "data/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(FOLDER.parent)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", target.read_text(), re.M)} if heading else set()
        assert not heading or heading in anchors, link


SCRIPT = '# %% [markdown]\n# # A lesson\n\n# %% tags=["exercise"]\nx = 1\n\n# %%\nassert x == 1\n'


def written(folder, script=SCRIPT):
    """A made-up pair."""
    notebook = jupytext.reads(script, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    jupytext.write(notebook, folder / "lesson.ipynb")
    jupytext.write(notebook, folder / "lesson.py", fmt="py:percent")
    return folder / "lesson.ipynb"


def test_a_pair_in_sync_passes(tmp_path):
    check_clean(written(tmp_path))
    check_pair(tmp_path, "lesson")


@pytest.mark.parametrize(
    "old, new", [("x = 1", "x = 2"), ("A lesson", "Another"), ("exercise", "solution"), ("assert x == 1", "")]
)
def test_drift_is_caught(tmp_path, old, new):
    written(tmp_path)
    script = tmp_path / "lesson.py"
    script.write_text(script.read_text().replace(old, new))
    with pytest.raises(AssertionError, match="jupytext --to"):
        check_pair(tmp_path, "lesson")


@pytest.mark.parametrize("suffix", [".py", ".ipynb"])
def test_a_missing_half_is_caught(tmp_path, suffix):
    written(tmp_path).with_suffix(suffix).unlink()
    with pytest.raises(AssertionError, match="is missing"):
        check_pair(tmp_path, "lesson")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda notebook: notebook.cells[1].update(execution_count=1),
        lambda notebook: notebook.cells[1].update(outputs=[nbformat.v4.new_output("stream", text="1")]),
        lambda notebook: notebook.metadata.update(widgets={}),
        lambda notebook: notebook.metadata.kernelspec.update(name="my-kernel"),
    ],
)
def test_stored_results_are_caught(tmp_path, spoil):
    path = written(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    spoil(notebook)
    nbformat.write(notebook, path)
    with pytest.raises(AssertionError):
        check_clean(path)


# --------------------------------------------------------------------------------------------------------------- running


def run(notebook, home, *options):
    """The notebook under nbmake, in a process of its own and with a small budget for its live screens."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbmake",
        f"--nbmake-timeout={PATIENCE}",
        "--override-ini=addopts=",
        "-p",
        "no:cacheprovider",
        "-p",
        "rwp_edu.utils.no_grammar",
    ]
    env = os.environ | {
        "RWP_EDU_HEADLESS_STEPS": "20",
        "OMP_NUM_THREADS": "1",  # as many notebooks as cores run at a time
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    return subprocess.run([*command, *options, str(notebook)], check=False, env=env, cwd=notebook.parent, capture_output=True, text=True)


UNWANTED = {
    "Python's name of what was not filled in": r"Ellipsis",
    "a raw dict": r"^\{'.*\}|: \{'",
    "the value of the last line": r"^(\[\]|None|True|False)$",
    "a plural of one": r"(?<![\d.,])1 (minima|updates|gradients|seeds|runs|points)\b",
    "an exponent where digits do": r"\de\+0[1-5]\b",
    "doubled punctuation": r"[?!;:,]\.(?![.\d])",
}


def check_says(path):
    """No warnings in red, and nothing that a reader has to know Python for."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        for output in cell.get("outputs", ()):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            assert output.get("name") != "stderr", f"cell {number} of {path.name} warns: {text}"
            for what, pattern in UNWANTED.items() if "widget-view" not in str(list(output.get("data", ()))) else ():
                assert not re.search(pattern, text, re.M), f"cell {number} of {path.name} shows {what}: {text}"


@pytest.mark.slow
@each
def test_notebook_runs(name, tmp_path):
    (tmp_path / "lesson").mkdir()
    notebook = Path(shutil.copy(FOLDER / f"{name}.ipynb", tmp_path / "lesson"))
    done = run(notebook, tmp_path, "--overwrite")
    assert done.returncode == 0, done.stdout + done.stderr
    check_says(notebook)


@pytest.mark.parametrize("code", ["import warnings; warnings.warn('so')", "print({'sam': 1})", "[]", "print('you said:', ...)", "print('1 minima')", "print(f'{20700:.3g}')", "print('Is it the noise?.')"])
def test_unwanted_outputs_are_caught(code, tmp_path):
    path = written(tmp_path, f"# %%\n{code}\n")
    assert run(path, tmp_path, "--overwrite").returncode == 0
    with pytest.raises(AssertionError, match=r"cell 0 of lesson\.ipynb (warns|shows)"):
        check_says(path)


@pytest.mark.slow
def test_a_notebook_that_raises_fails(tmp_path):
    done = run(written(tmp_path, SCRIPT.replace("x = 1\n", "x = 2\n")), tmp_path)
    assert done.returncode == 1 and "AssertionError" in done.stdout
