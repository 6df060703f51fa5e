"""The stage mechanism over all stages: one signature, every face."""

import inspect
import json

import pytest

from mlworkbench import stages
from mlworkbench.core.errors import InputError
from mlworkbench.core.stages import json_schema, parameters_cell

DEFINITIONS = [getattr(stages, name).stage for name in stages.STAGES]


def library_function(name: str):
    import mlworkbench as mlw

    return getattr(mlw, {"bundle": "build_bundle"}.get(name, name))


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_a_stage_and_its_library_function_share_their_options(definition):
    own = inspect.signature(definition.function).parameters
    library = inspect.signature(library_function(definition.name)).parameters
    options = {n: p.default for n, p in own.items() if p.kind is p.KEYWORD_ONLY}
    shared = {n: p.default for n, p in library.items() if p.kind is p.KEYWORD_ONLY and n in options}
    assert options and set(options) == set(shared)
    ends = {n: options[n] for n in options if library[n].default is not inspect.Parameter.empty}
    assert ends == {n: shared[n] for n in ends}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_every_parameter_of_a_stage_is_plain_and_told(definition):
    for p in definition.parameters:
        assert p.kind in ("str", "int", "float", "bool", "list", "dict")
        assert len(p.help) > 10 and "#" not in repr(p.default)
        assert not p.setting or p.default is None


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_the_parameters_cell_runs_and_gives_the_defaults(definition):
    namespace = {}
    exec(parameters_cell(definition), namespace)
    assert {p.name: namespace[p.name] for p in definition.parameters} == definition.defaults()
    assert definition.coerce({n: namespace[n] for n in definition.defaults()}) == definition.defaults()


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_the_schema_of_a_stage_is_json_and_closed(definition):
    schema = json.loads(json.dumps(json_schema(definition)))
    assert schema["additionalProperties"] is False
    assert {p.name for p in definition.parameters} <= set(schema["properties"])


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_a_misspelt_parameter_is_refused_with_the_closest_match(definition):
    name = definition.parameters[0].name
    with pytest.raises(InputError, match=f"Did you mean '{name}'"):
        definition.function(**{name + "s": "x"})


@pytest.mark.parametrize(("text", "value"), [("false", False), ("true", True), (False, False), ("0", False)])
def test_a_flag_means_what_its_text_says_under_any_engine(text, value):
    assert stages.evaluate.stage.coerce({"trust": text})["trust"] is value


def test_a_release_schema_accepts_the_demo_and_refuses_a_misspelt_stage():
    from jsonschema import Draft202012Validator

    from mlworkbench.app.demo import demo_release
    from mlworkbench.app.release import release_schema

    validator = Draft202012Validator(release_schema())
    assert not list(validator.iter_errors(demo_release()))
    assert list(validator.iter_errors({"evalute": {}}))


@pytest.mark.parametrize(("stage", "options", "values"), [
    ("evaluate", ["--costs", "fp=1", "--costs", "fn = 5"], {"costs": {"fp": 1.0, "fn": 5.0}}),
    ("evaluate", ["--costs", "{fp: 1, fn: 5}"], {"costs": {"fp": 1.0, "fn": 5.0}}),
    ("bundle", ["--policy", "age=reject", "--policy", "a = b=coerce"], {"policy": {"age": "reject", "a": "b=coerce"}}),
])
def test_pairs_on_the_command_line_are_a_dictionary(monkeypatch, stage, options, values):
    from mlworkbench.app import headless
    from mlworkbench.app.cli import cli

    given = {}
    keep = lambda definition, values, **_: given.update(definition.coerce(values)) or 1 / 0  # noqa: E731
    monkeypatch.setattr(headless, "run_notebook", keep)
    with pytest.raises(ZeroDivisionError):
        cli.main([stage, *options], standalone_mode=False)
    assert {name: given[name] for name in values} == values


def test_pairs_that_are_none_are_refused_with_how_to_write_them():
    for wrong in ("fp", ["fp=1", "fn"], ["fp=1", "fp=2"], "fp: 1"):
        with pytest.raises(InputError, match="evaluate: costs: .* Write name=value"):
            stages.evaluate.stage.coerce({"costs": wrong})
