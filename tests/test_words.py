"""What labs and lessons say: calls that cannot be meant, plurals, punctuation, numbers, names of buttons."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import pytest

from rwp_edu import lab
from rwp_edu.experiments.claims.registry import CLAIMS
from rwp_edu.lab import PRESETS
from rwp_edu.lab.base.explorer import Explorer
from rwp_edu.lab.explorers.landscape import HERE
from rwp_edu.lab.race import summary

LESSONS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
OPEN = {"race": lab.race, "update": lab.update, "workers": lab.workers, "distances": lab.distances, "scatter": lab.scatter,
        "smoothing": lab.smoothing, "landscape": lab.landscape, "trial": lab.trial, "two_points": lab.two_points}  # fmt: skip
FIRST = {"race": "problem", "update": "method", "workers": "method", "scatter": "measure", "landscape": "surface", "trial": "claim", "two_points": "function"}

# The call


@pytest.mark.parametrize(
    "name, value",
    [("race", "digits"), ("race", "sensing"), ("update", "rwp"), ("workers", "sam"), ("scatter", "rise"), ("landscape", "himmelblau"), ("trial", "naive-noise-digits"), ("two_points", "quartic")],
)
def test_the_first_argument_may_be_what_a_lab_is_about(name, value):
    assert OPEN[name](value).state == OPEN[name](**{FIRST[name]: value}).state
    assert OPEN[name](OPEN[name](value).state).state == OPEN[name](value).state


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("given", [(3,), (["sgd"],), ({"sigma": 0.1},), ("digits", "sgd")])
def test_what_a_lab_does_not_take_is_said_in_one_line(name, given):
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes .*settings by name: {name}\(\w+=.*; got .+") as error:
        OPEN[name](*given)
    assert "\n" not in str(error.value) and "positional" not in str(error.value)


@pytest.mark.parametrize("name", OPEN)
def test_a_first_argument_that_does_not_exist_names_what_does(name):
    kind = ValueError if name in FIRST else TypeError
    with pytest.raises(kind, match="'nothing'" if name in FIRST else "settings by name") as error:
        OPEN[name]("nothing")
    assert "\n" not in str(error.value)


def test_twice_is_once_too_often():
    with pytest.raises(TypeError, match="got problem twice"):
        lab.race("digits", problem="sensing")


def test_around_takes_an_entrant():
    race = lab.race(methods="sgd,rwp", seeds=1)
    assert race.around("rwp").state == race.around(entrant="rwp").state
    with pytest.raises(TypeError, match=r"around\(\) takes an entrant such as 'sgd'"):
        race.around(2)


# The texts


def texts():
    """What labs say in many states, without what takes long."""
    for surface in HERE:
        for methods in ("sgd", "sgd,rwp"):
            view = lab.landscape(surface, methods=methods, steps=20, sigma=0.2)
            view.finish()
            yield view.text, *(text for t in view.traces() for text in t.get("text") or ()), *(a["text"] for a in view.layout()["annotations"])
    for method in lab.update().rows["method"].choices:
        yield lab.update(method).text, lab.workers(method).text
        yield lab.update(method, k=3).text, lab.workers(method, workers=3, k=2).text
    for sigma in (0.0, 0.05, 0.2, 1.0):
        yield (lab.smoothing(sigma=sigma).text,)
    for function in ("quadratic", "quartic"):
        for k in (1, 2):
            view = lab.two_points(function, k=k)
            view.finish()
            for sigma in (0.000316, 0.01, 0.316):
                view.set(sigma=sigma)
                yield view.text, *(t["name"] for t in view.traces())
    for problem in ("digits", "sensing", "fine-tuning"):
        race = lab.race(problem, seeds=2, steps=20)
        for steps in (0, 1, 9):
            race.run(steps)
            yield race.summary, race.around().text
        view = race.around(along="solutions")
        view.finish()
        view.set(x=view.rows["x"].grid[-1])
        yield view.text, *(a["text"] for a in view.layout()["annotations"])
    race = lab.race(methods="sgd:lr=1e+06,rwp", seeds=1, steps=20)
    race.run()
    view = race.around("sgd:lr=1e+06")
    view.finish()
    yield race.summary, view.text
    for claim in CLAIMS.values():
        yield lab.trial(claim.name).text, *([f"To keep in mind: {claim.note}."] if claim.note else [])
    for preset in PRESETS.values():
        yield f"{preset.heading} {preset.question}", preset.question


WRONG = {
    "doubled punctuation": r"[?!.:;,]\s?[.,;:](?!\.)(?![\d)])|(?<!\.)\.\.(?!\.)",
    "a plural of one": r"(?<![\d.,])1 (updates|gradients|seeds|runs|points|draws|pairs|rounds|minima|weights|workers|measurements|others)\b",
    "an exponent where digits do": r"\de\+0[1-5]\b",
    "Python's own words": r"Ellipsis|\bNone\b|\bTrue\b|\bFalse\b|\{'|\[\]|\bnan\b|\binf\b|np\.|tensor\(",
}


@pytest.fixture(scope="module")
def said():
    return [text for some in texts() for text in some if text]


@pytest.mark.parametrize("wrong", WRONG)
def test_labs_write_plain_english(said, wrong):
    found = {text for text in said if re.search(WRONG[wrong], re.sub(r"w = \([^)]*\)|\(1, \.\.\., 1\)", "", text))}
    assert not found, "\n".join(sorted(found)[:8])
    assert len(said) > 200


@pytest.mark.parametrize("wrong, text", [("doubled punctuation", "Is it the noise?."), ("doubled punctuation", "is done.. Then"), ("a plural of one", "has 1 minima"), ("an exponent where digits do", "tr H = 1.00e+3".replace("+3", "+03")), ("Python's own words", "you said: {'sam': Ellipsis}")])
def test_what_is_wrong_is_found(wrong, text):
    assert re.search(WRONG[wrong], text)


def test_predictions_are_echoed_in_words():
    assert summary.said({"SAM": 0.3, "RWP": ...}) == "you said: SAM 0.3; RWP nothing"
    for empty in ("...", "", ..., None, {"a": ..., "b": "..."}):
        assert summary.said(empty).startswith("you said nothing yet")


# The lessons


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lessons_do_not_print_what_python_calls_things(path):
    code = "\n".join(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code")
    assert not re.search(r"print\([^\n]*(?<!said\()\bmy_prediction(\)|\.get)(?<!said\(my_prediction\))", code.replace("given(my_prediction.get(name))", "")), "unfilled predictions print as Ellipsis"
    assert not re.search(r"\{(changes|settings|given)\}", code), "a dict as a label"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_buttons_that_lessons_name_are_on_the_screen(path):
    text = path.read_text()
    opened = set(re.findall(r"\blab\.(\w+)\(", text)) & set(OPEN)
    again = {lab_of.AGAIN[0] for name in opened - {"race"} if isinstance(lab_of := OPEN[name](), Explorer)}
    named = {label for lab_of in Explorer.__subclasses__() if re.search(rf"\*{(label := lab_of.AGAIN[0])}\*", text)}
    assert named <= again, f"{path.name} names {named - again}; its labs have {again}"
