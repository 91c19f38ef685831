import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from rwp_edu import __version__, training
from rwp_edu.cli import COMMANDS, lab, main
from rwp_edu.cli.lab import free, jupyter_arguments, notebooks_folder
from rwp_edu.methods import METHODS, NOISE_PARAMETERS, PARAMETERS
from rwp_edu.training import Record
from rwp_edu.training.settings import Settings

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = ["train", "digits", "--seeds", "2", "--steps", "20"]
KEYS = [
    "method",
    "seeds",
    "updates",
    "gradient_evaluations",
    "seconds",
    "train_loss_mean",
    "test_accuracy_mean",
    "test_accuracy_se",
]


def strict_json(text):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def call(capsys):
    """Run the command line: exit status, standard output, standard error."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def results(call):
    """The results of a small training, as ``--json`` prints them."""

    def results(*arguments):
        status, out, _ = call(*SMALL, "--json", *arguments)
        assert status == 0
        return strict_json(out)["results"]

    return results


# --------------------------------------------------------------------------------------------------------------- methods


def test_methods_as_text(call):
    status, out, err = call("methods")
    assert status == 0 and not err
    for row in METHODS.values():
        assert (
            row.formula in out
            and row.source in out
            and re.search(rf"^{row.name} +{row.label} +{row.symbolic('points')} ", out, re.MULTILINE)
            and all(f"{name}={row.default(name)}" in out for name in row.parameters if name not in NOISE_PARAMETERS)
            and re.search(rf"^{row.name} .* {row.history} +{row.copies[0]} \({row.copies[1]}\) ", out, re.MULTILINE)
        )
    for parameter in PARAMETERS.values():
        assert parameter.allowed in out and parameter.meaning in out
    assert max(map(len, out.splitlines())) <= 120
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_methods_as_json(call):
    status, out, err = call("methods", "--json")
    assert status == 0 and not err
    table = strict_json(out)
    assert list(table) == ["methods"] and [row["name"] for row in table["methods"]] == list(METHODS)
    nso = table["methods"][list(METHODS).index("nso")]
    assert (nso["label"], nso["points"], nso["rounds"], nso["batches"]) == ("NSO", "2k", 1, 1)
    assert nso["formula"].startswith("g = ") and nso["source"] == "arXiv:2306.08553"
    assert nso["state"] == 0 and nso["extra_copies_of_the_weights"] == {"peak": 3, "while_a_closure_runs": 2}
    assert [(p["name"], p["default"]) for p in nso["parameters"]] == [
        ("sigma", 0.1),
        ("kind", "published"),
        ("law", "gaussian"),
        ("perturb", "all"),
        ("k", 1),
        ("signs", "two-point"),
        ("clean", 0.0),
    ]
    assert all(p["allowed"] for p in nso["parameters"])


# ----------------------------------------------------------------------------------------------------------------- train


def test_train_as_json_alone_on_stdout(call):
    status, out, err = call(*SMALL, "--methods", "sgd,sam,nso:k=2", "--json")
    assert status == 0 and not err
    told = strict_json(out)
    assert told["version"] == __version__ and told["device"] in ("cpu", "cuda") and told["interrupted"] is False
    assert told["settings"]["methods"] == ["sgd", "sam", "nso:k=2"] and told["settings"]["steps"] == 20
    assert [row["method"] for row in told["results"]] == ["sgd", "sam", "nso:k=2"]
    assert [row["gradient_evaluations"] for row in told["results"]] == [20, 40, 80]
    for row in told["results"]:
        assert set(KEYS) <= set(row)
        assert row["seeds"] == 2 and row["updates"] == 20 and row["seconds"] > 0
        assert 0 < row["test_accuracy_mean"] < 1 and row["test_accuracy_se"] >= 0 and row["train_loss_mean"] > 0


def test_train_is_the_run_of_the_same_settings(results):
    run = training.Run(Settings(methods="sgd,rwp", seeds=2, steps=20, sigma=0.05, law="uniform"))
    run.advance(20)
    found = results("--methods", "sgd,rwp", "--set", "sigma=0.05", "--set", "law=uniform", "--device", "cpu")
    untimed = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in (found, run.record.results())]
    assert untimed[0] == untimed[1]


def test_one_seed_has_no_standard_error(call):
    status, out, _ = call("train", "digits", "--seeds", 1, "--steps", 5, "--methods", "sgd", "--json")
    assert status == 0 and strict_json(out)["results"][0]["test_accuracy_se"] is None


def test_set_reaches_the_training(results):
    zero, plain = results("--methods", "rwp:sigma=0,sgd")
    some, _ = results("--methods", "rwp,sgd", "--set", "sigma=0.3")
    assert zero["test_accuracy_mean"] == plain["test_accuracy_mean"] != some["test_accuracy_mean"]


@pytest.mark.parametrize(
    "setting, value", [("label_noise", 0.0), ("width", 8), ("record_every", 7), ("seed", 3), ("schedule", "constant")]
)
def test_every_kind_of_setting_can_be_set(call, setting, value):
    status, out, _ = call(*SMALL, "--methods", "sgd", "--set", f"{setting}={value}", "--json")
    assert status == 0 and strict_json(out)["settings"][setting] == value


def test_table(call):
    status, out, err = call(*SMALL, "--methods", "sgd,m-rwp:sigma=0.15")
    assert status == 0
    title, explained, _, head, sgd, pinned = out.splitlines()
    assert "training images 300" in title and "20 updates" in title and "2 seeds" in explained
    heads = ["method", "test accuracy", "minus sgd", "training loss", "wrong labels learnt", "gradients", "seconds"]
    assert re.split(r"  +", head) == heads
    tail = r" +\d\.\d{3} +\d+ % +{} +\d+\.\d\d"
    assert re.fullmatch(r"sgd +\d+\.\d ± \d+\.\d % +-" + tail.replace("{}", "20"), sgd)
    assert re.fullmatch(r"m-rwp:sigma=0.15 +\d+\.\d ± \d+\.\d % +[+-]\d+\.\d ± \d+\.\d %" + tail.replace("{}", "40"), pinned)
    assert "20/20" in err


def test_differences_are_those_of_the_means(call, tmp_path):
    _, out, _ = call(*SMALL, "--methods", "sgd,rwp", "--out", tmp_path)
    accuracy = Record.load(tmp_path / "record.json").test_accuracy[-1]
    difference = accuracy[1] - accuracy[0]
    shown = f"{100 * difference.mean():+.1f} ± {100 * abs(difference[0] - difference[1]) / 2:.1f}"
    assert shown in out.splitlines()[-1]


def test_a_run_that_diverges_is_told_and_is_no_nan(call, tmp_path):
    arguments = (*SMALL, "--methods", "sgd,rwp:lr=1e30")
    status, out, _ = call(*arguments, "--out", tmp_path)
    assert status == 0 and "nan" not in out and "diverged" in out and out.splitlines()[-1].endswith("2 of 2")
    status, out, _ = call(*arguments, "--json")
    assert status == 0 and [row["diverged"] for row in strict_json(out)["results"]] == [0, 2]
    assert "nan" not in (tmp_path / "results.csv").read_text()
    strict_json((tmp_path / "record.json").read_text())


def test_out(call, tmp_path):
    folder = tmp_path / "deep" / "down"
    status, out, _ = call(*SMALL, "--methods", "sgd,rwp", "--json", "--out", folder)
    assert status == 0 and sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt",
        "record.csv",
        "record.json",
        "results.csv",
    ]
    record, told = Record.load(folder / "record.json"), strict_json(out)
    assert record.updates.tolist() == [0, 10, 20] and record.settings == Settings.from_json(json.dumps(told["settings"]))
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert [row["method"] for row in rows] == ["sgd", "rwp"]
    for row, result in zip(rows, told["results"], strict=True):
        assert float(row["test_accuracy_mean"]) == result["test_accuracy_mean"] and row.keys() == result.keys()


@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_keeps_what_there_is(call, tmp_path, monkeypatch, as_json):
    step = training.Run.step

    def interrupted(run):
        if run.updates == 13:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(training.Run, "step", interrupted)
    status, out, err = call(*SMALL, "--methods", "sgd,rwp", "--out", tmp_path, *(["--json"] if as_json else []))
    assert status == 130 and "interrupted; the results are those of update 13 of 20" in err
    if as_json:
        told = strict_json(out)
        assert told["interrupted"] is True and [row["updates"] for row in told["results"]] == [13, 13]
    else:
        assert "13 updates" in out and re.search(r"^rwp ", out, re.MULTILINE)
    assert Record.load(tmp_path / "record.json").updates.tolist() == [0, 10, 13]
    assert (tmp_path / "results.csv").read_text().count("\n") == 3


def hears_ctrl_c():
    """A shell starts what runs in its background deaf to Ctrl-C, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_a_real_ctrl_c(tmp_path):
    command = [
        sys.executable,
        "-m",
        "rwp_edu",
        "train",
        "digits",
        "--steps",
        "100000",
        "--methods",
        "sgd",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c) as process:
        shown = ""
        while not re.search(r"[1-9]\d*/100000", shown):
            shown += process.stderr.read(1) or pytest.fail(shown)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err.splitlines()[-1].startswith("rwp-edu: interrupted; the results")
    assert re.search(r"^sgd ", out, re.MULTILINE) and Record.load(tmp_path / "record.json").updates[-1] > 0


# ---------------------------------------------------------------------------------------------------------------- errors

ALL_METHODS = ", ".join(METHODS)
ERRORS = [
    ([], "lab, methods, train, sweep, reproduce, bench"),
    (["--json", "methods"], "options come after the command: rwp-edu methods --json"),
    (["trian"], "did you mean 'train'? (there is: lab, methods, train, sweep, reproduce, bench)"),
    (["train"], "(there is: digits, fine-tuning, sensing, images, cifar10, cifar100, fashion-mnist, folder:PATH"),
    (["train", "mnist"], "unknown problem 'mnist' (there is: digits, fine-tuning, sensing, images, cifar10, cifar100, fashion-mnist, folder:PATH"),
    ([*SMALL, "--methods", "sgd,msgd"], f"unknown method 'msgd'; did you mean 'sgd'? (there is: {ALL_METHODS})"),
    ([*SMALL, "--methods", ""], f"(there is: {ALL_METHODS})"),
    ([*SMALL, "--methods", "m-rwp:sgma=1"], "unknown parameter of m-rwp 'sgma'; did you mean 'sigma'? (there is: sigma, kind"),
    ([*SMALL, "--methods", "m-rwp:sigma=-1"], "sigma must be a finite number >= 0, got '-1'"),
    ([*SMALL, "--set", "sgma=1"], "unknown setting 'sgma'; did you mean 'sigma'? (there is: sigma, rho"),
    ([*SMALL, "--set", "methods=sgd"], "unknown setting 'methods'"),
    ([*SMALL, "--set", "sigma"], "write --set sigma=VALUE, where sigma is a finite number >= 0; got --set sigma"),
    ([*SMALL, "--set", "sigma=much"], "sigma must be a finite number >= 0, got 'much'"),
    ([*SMALL, "--set", "law=cauchy"], "one of gaussian, uniform, laplace, rademacher"),
    ([*SMALL, "--set", "batch=301"], "batch must not exceed train, got batch=301, train=300"),
    ([*SMALL, "--set", "seeds=3"], "seeds is given twice, as 2 and as 3"),
    (["train", "digits", "--seeds", "0"], "seeds must be a whole number from 1 to 256, got '0'"),
    (["train", "digits", "--steps", "many"], "steps must be a whole number from 1 to "),
    ([*SMALL, "--device", "tpu"], "(there is: auto, cpu, cuda)"),
    ([*SMALL, "--seed", "3"], "unknown argument of train '--seed'; did you mean '--seeds'? (there is: problem, --methods"),
    ([*SMALL, "--methods"], "argument --methods: expected one argument (see rwp-edu train --help)"),
    (["methods", "more"], "unknown argument of methods 'more' (there is: --json)"),
    (["bench", "--fast"], "(there is: --quick, --json)"),
    (["lab", "--port", "http"], "port must be a whole number from 1 to 65535, got 'http'"),
    (["lab", "--port", "0"], "port must be a whole number from 1 to 65535, got '0'"),
]


@pytest.fixture
def no_work(monkeypatch):
    """Fail if any training or server is started."""
    monkeypatch.setattr(training.Run, "step", lambda run: pytest.fail("training began"))
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)


@pytest.mark.parametrize("arguments, expected", ERRORS, ids=[" ".join(arguments) for arguments, _ in ERRORS])
def test_errors_are_one_line(call, no_work, arguments, expected):
    status, out, err = call(*arguments)
    assert status == 2 and not out
    assert len(err.splitlines()) == 1 and err.startswith("rwp-edu: ") and expected in err


def test_a_missing_gpu_is_told(call, no_work, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = call(*SMALL, "--device", "cuda")
    assert status == 2 and err == "rwp-edu: no CUDA device here; choose cpu or auto\n"


@pytest.mark.parametrize("arguments", [[*SMALL, "--out"], ["lab", "--dir"]], ids=["train", "lab"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_told_first(call, no_work, tmp_path, arguments, place):
    (tmp_path / "file").write_text("mine")
    status, out, err = call(*arguments, tmp_path / place)
    assert status == 2 and not out and len(err.splitlines()) == 1
    assert f"cannot write to {tmp_path / place}" in err and f"give {arguments[-1]} a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_digits_are_one_line(call, monkeypatch, tmp_path):
    from rwp_edu.problems import digits

    digits.standardised.cache_clear()
    monkeypatch.setattr(digits, "FOLDERS", (tmp_path,))
    status, _, err = call(*SMALL)
    assert status == 2 and len(err.splitlines()) == 1 and "the digits are missing" in err and "git checkout data/" in err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_and_version(call, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 0 and capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------------- lab


def test_jupyter_arguments(tmp_path):
    for name in ("01_more.ipynb", "00_start_here.ipynb", "00_start_here.py"):
        (tmp_path / name).touch()
    arguments = jupyter_arguments(tmp_path, "settings", port=None, browser=True, root=False)
    assert f"--ServerApp.root_dir={tmp_path.resolve()}" in arguments
    assert "--LabApp.default_url=/lab/workspaces/rwp_edu/tree/00_start_here.ipynb" in arguments
    assert "--LabApp.news_url=None" in arguments and "--LabApp.app_settings_dir=settings" in arguments
    options = ["root_dir", "default_url", "app_settings_dir", "news_url", "check_for_updates_class"]
    assert [argument.split("=")[0].split(".")[1] for argument in arguments] == options, (
        "neither token nor password, address or port"
    )
    more = jupyter_arguments(tmp_path, "settings", port=9999, browser=False, root=True)
    assert set(more) - set(arguments) == {"--ServerApp.port=9999", "--ServerApp.port_retries=0", "--no-browser", "--allow-root"}


@pytest.fixture
def package(tmp_path):
    """The package as it lies in a clone, beside its notebooks."""
    (tmp_path / "clone" / "notebooks").mkdir(parents=True)
    package = tmp_path / "clone" / "rwp_edu"
    package.mkdir()
    fill(tmp_path / "clone" / "notebooks")
    return package


def fill(folder):
    for name in ("00_start_here.ipynb", "00_start_here.py", "01_more.ipynb"):
        (folder / name).write_text(name)


def test_a_clone_uses_its_own_notebooks(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebooks_folder(None, package) == package.parent / "notebooks"
    assert not (tmp_path / "rwp_edu_notebooks").exists()


def test_a_wheel_copies_its_notebooks_and_never_replaces_one(package, tmp_path, monkeypatch):
    (package / "_notebooks").mkdir()
    fill(package / "_notebooks")
    monkeypatch.chdir(tmp_path)
    folder = notebooks_folder(None, package).resolve()
    assert folder == tmp_path / "rwp_edu_notebooks"
    assert sorted(path.name for path in folder.iterdir()) == ["00_start_here.ipynb", "01_more.ipynb"]
    (folder / "00_start_here.ipynb").write_text("my work")
    (folder / "01_more.ipynb").unlink()
    assert notebooks_folder(None, package).resolve() == folder
    assert (folder / "00_start_here.ipynb").read_text() == "my work" and (
        folder / "01_more.ipynb"
    ).read_text() == "01_more.ipynb"


def test_a_chosen_folder_gets_copies_from_a_clone_too(package, tmp_path):
    assert notebooks_folder(str(tmp_path / "mine"), package) == tmp_path / "mine"
    assert len(list((tmp_path / "mine").iterdir())) == 2


def test_without_jupyterlab(call, monkeypatch):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    status, out, err = call("lab")
    assert status == 2 and not out and len(err.splitlines()) == 1 and "pip install 'rwp_edu[lab]'" in err


def test_a_port_in_use(call, no_work):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = call("lab", "--port", port)
    assert status == 2 and len(err.splitlines()) == 1 and f"cannot use port {port}" in err
    free(port)


def get(url, **headers):
    """Status and body of a page, or None while nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What a ``rwp-edu lab --no-browser --port N`` says of itself: its address, token and root."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {
        "HOME": "",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
    }
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY"))}
    env |= {name: str(home / place) for name, place in places.items()}
    log = home / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "rwp_edu", "lab", "--no-browser", "--port", str(port)]
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT, cwd=home)
        try:
            wait_until(lambda: process.poll() is not None or get(f"http://127.0.0.1:{port}/api"))
            wait_until(lambda: process.poll() is not None or re.search(r"token=\w", log.read_text()))
            assert process.poll() is None, log.read_text()
            (told,) = (home / "runtime").glob("jpserver-*.json")
            yield json.loads(told.read_text()) | {"url": f"http://127.0.0.1:{port}/", "log": log, "asked": port}
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.slow
def test_lab_serves_the_notebooks_to_those_with_the_token(server):
    assert server["port"] == server["asked"] and len(server["token"]) >= 32
    contents = f"{server['url']}api/contents"
    assert get(contents)[0] == 403
    assert get(contents, Authorization="token wrong")[0] == 403
    status, body = get(contents, Authorization=f"token {server['token']}")
    names = {item["name"] for item in json.loads(body)["content"]}
    assert status == 200 and {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= names
    assert "tree/00_start_here.ipynb?token=" in server["log"].read_text()


@pytest.mark.slow
def test_lab_opens_the_first_notebook_and_says_nothing_else(server):
    if not shutil.which("chromium"):
        pytest.skip("chromium is not on the PATH")
    from playwright.sync_api import sync_playwright

    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    first = re.search(rf"http://127\.0\.0\.1:{server['port']}/\S+token=\w+", server["log"].read_text())[0]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(first)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        page.wait_for_timeout(3_000)
        assert page.locator(".Toastify__toast").all_inner_texts() == [] and page.locator(".jp-Dialog").count() == 0
        assert "00_start_here" in page.url
        assert not [url for url in asked if url.startswith(("http", "ws")) and "127.0.0.1" not in url]
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["methods"], ["reproduce"], ["train", "digits", "--steps", "1", "--seeds", "1"]])
def test_whoever_reads_may_leave_early(command):
    """As with ``rwp-edu methods | head -1``: no complaint."""
    process = subprocess.Popen([sys.executable, "-m", "rwp_edu", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    complaints = process.stderr.read()
    assert process.wait() == 0 and "Error" not in complaints and "Broken pipe" not in complaints


@pytest.mark.slow
def test_a_claim_that_fails_leaves_the_others(monkeypatch, capsys):
    from rwp_edu.experiments import claims as evidence

    def broken(names, **options):
        if names == ["two-radii"]:
            raise RuntimeError("no process could be started")
        return evidence.check(evidence.CLAIMS[names[0]], 2, quick=True)

    def reproduce(names, told, **options):
        told(broken(names))

    monkeypatch.setattr(evidence, "reproduce", reproduce)
    assert main(["reproduce", "two-radii", "naive-noise-digits", "--quick", "--json"]) == 1
    out = capsys.readouterr()
    assert [claim["name"] for claim in json.loads(out.out)["claims"]] == ["naive-noise-digits"]
    assert "two-radii failed: no process could be started" in out.err
