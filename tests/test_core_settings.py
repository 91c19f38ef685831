import json
import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwp_edu.methods import METHODS
from rwp_edu.problems import PROBLEMS
from rwp_edu.training.settings import LIVE, PINNABLE, Entrant, Settings, parameters

PARAMETERS = parameters()

NUMBERS = [name for name, row in PARAMETERS.items() if not row.choices]


def value_of(name):
    row = PARAMETERS[name]
    if row.choices:
        return st.sampled_from(row.choices)
    if row.type is int:
        return st.integers(int(row.low), 10**9 if row.high == math.inf else int(row.high))
    return st.floats(row.low, None if row.high == math.inf else row.high, allow_nan=False, allow_infinity=False)


@st.composite
def entrants(draw):
    row = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    pinned = draw(st.lists(st.sampled_from((*row.parameters, *PINNABLE)), unique=True, max_size=3))
    return Entrant(row.name, tuple((name, draw(value_of(name))) for name in pinned))


@st.composite
def settings(draw):
    values = draw(st.fixed_dictionaries({}, optional={name: value_of(name) for name in PARAMETERS}))
    values["train"] = max(values.get("train", Settings().train), values.get("batch", Settings().batch))
    names = draw(st.lists(entrants().map(str), min_size=1, max_size=4))
    return Settings(methods=tuple(names), **values)


@given(settings())
def test_settings_go_through_json_unchanged(one):
    assert Settings.from_json(one.to_json()) == one
    assert Settings(**json.loads(one.to_json())) == one
    assert Settings(**one.changed()) == one
    assert hash(Settings.from_json(one.to_json())) == hash(one)


@given(entrants())
def test_an_entrant_is_written_and_read_unchanged(entrant):
    assert Entrant.parse(str(entrant)) == entrant
    (name,) = Settings(methods=(str(entrant),)).methods
    assert Entrant.parse(name) == entrant


def test_every_parameter_is_a_setting_with_its_default():
    default = Settings()
    assert set(Settings().to_dict()) == {"problem", "methods", *PARAMETERS}
    assert all(getattr(default, name) == row.default for name, row in PARAMETERS.items())
    assert default.changed() == {}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_says_what_it_is(name):
    row = PARAMETERS[name]
    assert row.name == name and row.meaning
    if row.choices:
        assert row.default in row.choices
    else:
        assert row.low <= row.slider[0] < row.slider[1] <= row.high and row.slider[0] <= row.default <= row.slider[1]
        assert row.parse(row.low) == row.low


def impossible(name):
    row = PARAMETERS[name]
    if row.choices:
        return ["nonsense", None, 1]
    beyond = [] if row.high == math.inf else [row.high * 2 + 1, 10**400]
    return [
        row.low - 1,
        math.nan,
        math.inf,
        -math.inf,
        "nonsense",
        "",
        None,
        True,
        [],
        *beyond,
        *([1.5] if row.type is int else []),
    ]


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name in PARAMETERS for bad in impossible(name)], ids=lambda v: str(v)[:20]
)
def test_an_impossible_value_names_what_is_allowed(name, bad):
    row = PARAMETERS[name]
    for attempt in (lambda: Settings(**{name: bad}), lambda: Settings().replace(**{name: bad})):
        with pytest.raises(ValueError) as error:
            attempt()
        assert str(error.value).startswith(f"{name} must be {row.allowed}, got ")


def test_a_range_is_in_words():
    assert PARAMETERS["lam"].allowed == "a finite number from 0 to 1"
    assert PARAMETERS["sigma"].allowed == "a finite number >= 0"
    assert PARAMETERS["k"].allowed == "a whole number from 1 to 64"
    assert PARAMETERS["law"].allowed.startswith("one of gaussian, ")


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_may_come_as_text(name):
    row = PARAMETERS[name]
    value = row.parse(str(row.slider[1]))
    assert value == row.slider[1] and type(value) is type(row.default)


@pytest.mark.parametrize(
    ("attempt", "hint"),
    [
        (lambda: Settings().replace(sigm=0.1), "unknown setting 'sigm'; did you mean 'sigma'?"),
        (lambda: Settings.from_json('{"sead": 1}'), "unknown setting 'sead'; did you mean 'seed"),
        (lambda: Settings(methods="sgd,rpw"), "unknown method 'rpw'; did you mean 'rwp'?"),
        (lambda: Settings(problem="digit"), "unknown problem 'digit'; did you mean 'digits'?"),
        (lambda: Entrant.parse("rwp:sgima=0.1"), "unknown parameter of rwp 'sgima'; did you mean 'sigma'?"),
        (lambda: Entrant.parse("sgd:sigma=0.1"), "unknown parameter of sgd 'sigma'"),
        (lambda: Entrant.parse("rwp:seeds=3"), "unknown parameter of rwp 'seeds'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(attempt, hint):
    with pytest.raises(ValueError) as error:
        attempt()
    assert hint in str(error.value) and "(there is: " in str(error.value)


def test_a_list_of_what_there_is_is_complete():
    with pytest.raises(ValueError) as error:
        Settings(problem="?")
    assert all(name in str(error.value) for name in PROBLEMS)
    with pytest.raises(ValueError) as error:
        Settings(methods="?")
    assert all(name in str(error.value) for name in METHODS)
    with pytest.raises(ValueError) as error:
        Entrant.parse("m-rwp:?=1")
    assert all(name in str(error.value) for name in (*METHODS["m-rwp"].parameters, *PINNABLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rwp:sigma", "write rwp:sigma=VALUE"),
        ("rwp:sigma=-1", "sigma must be a finite number >= 0, got '-1'"),
        ("rwp:law=cauchy", "law must be one of gaussian"),
        ("nso:k=1.5", "k must be a whole number"),
    ],
)
def test_an_entrant_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        Entrant.parse(text)


@pytest.mark.parametrize("bad", [None, 1, ("rwp",)])
def test_an_entrant_that_is_no_text(bad):
    with pytest.raises((TypeError, ValueError), match="as text such as 'm-rwp'"):
        Entrant.parse(bad)


def test_an_entrant_sees_its_own_values_first():
    one = Settings(methods=" rwp , m-rwp:sigma=0.15:lr=0.2 ", sigma=0.05)
    first, second = one.entrants
    assert (one.of(first)["sigma"], one.of(second)["sigma"]) == (0.05, 0.15)
    assert (one.of(first)["lr"], one.of(second)["lr"]) == (one.lr, 0.2)
    assert set(one.of(first)) == set(LIVE)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].pins])
def test_what_a_race_pins_for_a_method_no_common_setting_moves_but_its_own_does(name):
    pins = METHODS[name].pins
    assert set(pins) <= {*METHODS[name].parameters, *PINNABLE}
    other = {key: PARAMETERS[key].slider[0] for key in pins}
    assert all(PARAMETERS[key].parse(value) == value != other[key] or not value for key, value in pins.items())
    for one in (Settings(methods=name), Settings(methods=name, **other)):
        (entrant,) = one.entrants
        assert {key: one.of(entrant)[key] for key in pins} == pins
    own = ":".join([name, *(f"{key}={value}" for key, value in other.items())])
    (entrant,) = Settings(methods=own).entrants
    assert {key: one.of(entrant)[key] for key in pins} == other


def test_a_label_tells_entrants_of_one_method_apart():
    one = Settings(methods="rwp,rwp:sigma=0.2,rwp:law=uniform,rwp:sigma=0.2:law=uniform,nso:k=2")
    labels = [entrant.label for entrant in one.entrants]
    assert len(set(labels)) == 5 and labels[0] == METHODS["rwp"].label
    assert all(METHODS[e.method].label in label for e, label in zip(one.entrants, labels))


@pytest.mark.parametrize("given", ["rwp,sgd,rwp", " rwp, sgd ,rwp", ("rwp", "sgd", "rwp"), ["rwp", "sgd"]])
def test_methods_are_a_list_or_text_and_count_once_in_their_order(given):
    assert Settings(methods=given).methods == ("rwp", "sgd")


def test_the_same_value_written_in_two_ways_counts_once():
    assert Settings(methods="rwp:sigma=0.2,rwp:sigma=0.20,rwp:sigma=2e-1").methods == ("rwp:sigma=0.2",)


@pytest.mark.parametrize("nothing", [(), []])
def test_at_least_one_method(nothing):
    with pytest.raises(ValueError, match="choose at least one method .*sgd"):
        Settings(methods=nothing)


def test_a_batch_is_not_larger_than_the_training_set():
    assert Settings(batch=50, train=50).batch == 50
    with pytest.raises(ValueError, match="batch must not exceed train, got batch=51, train=50"):
        Settings(batch=51, train=50)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().sigma = 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"sigma": 0.1', "not JSON"),
        ("[1, 2]", "a JSON object"),
        ("null", "a JSON object"),
        ('{"sigma": NaN}', "sigma must be a finite number"),
        ('{"sigma": null}', "sigma must be a finite number"),
        ('{"steps": 1e999}', "steps must be a whole number"),
        ('{"methods": null}', "method"),
        ('{"methods": [1]}', "method"),
        ('{"methods": 5}', "method"),
    ],
)
def test_text_that_is_no_settings(text, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_json(text)


def test_methods_in_json_may_be_written_as_text():
    assert Settings.from_json('{"methods": "sgd,rwp"}').methods == ("sgd", "rwp")


def test_changed_holds_what_differs_from_the_defaults():
    assert Settings(sigma=0.2, methods="sgd").changed() == {"sigma": 0.2, "methods": ("sgd",)}
