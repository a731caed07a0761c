"""The whole set: complete, deterministic, and told from every other by its fingerprint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.parse import parse
from sidecar.errors import SettingsError
from sidecar.generate import Deployment, Generated, generate
from sidecar.generate.cache import ResultCache
from sidecar.inputs.machine import placeholder_values
from sidecar.inputs.profiles import SHIPPED, load_profile
from sidecar.model.artifacts import NAMES
from sidecar.model.index import Event, Index, Region, Studio, User

IAD, SYD = Region("iad", "Ashburn", 39.0, -77.5), Region("syd", "Sydney", -33.9, 151.2)
BOSTON = Studio("boston", "Boston", 42.4, -71.1, "iad", None, None)
SYDNEY = Studio("sydney", "Sydney", -33.9, 151.2, None, "en_AU", "s.png")
NOWHERE = Studio("york", "York", None, None, None, None, None)
USERS = (
    User("user1", "user1:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="),
    User("user2", "user2:$apr1$$HqJZimcKQFAMYayBlzkrA/"),
)
EVENTS = (
    Event(2026, "showcase", "Showcase", "boston", "2026-05-01"),
    Event(2026, "ball", "Ball", "sydney", None),
    Event(2026, "gala", "Gala", "sydney", None),
    Event(2025, "showcase", "Showcase", "york", None),
)
INDEX = Index(USERS, (BOSTON, SYDNEY, NOWHERE), EVENTS, (IAD, SYD))
EMPTY = Index((), (), (), ())

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "fly": {"FLY_APP_NAME": "smooth", "FLY_REGION": "iad"},
    "kamal": {"KAMAL_CONTAINER_NAME": "showcase"},
    "local": {},
}


@cache
def deployment(name: str = "fly") -> Deployment:
    """A machine with a shipped profile and nothing that depends on the host."""
    document = {
        "machine": {"pool_size": 8},
        "paths": {"cgi": "/opt/sidecar-cgi", "command": "/opt/sidecar", "databases": "/data/db"},
    }
    chosen = parse(document, ENVIRONMENTS[name])
    assert chosen.profile == name
    return Deployment(
        profile=load_profile(name).data,
        values=placeholder_values(chosen, Path("/state/markers")),
        region=chosen.machine.region or None,
        databases=chosen.paths.databases,
        key=b"key",
    )


def with_profile(change: Callable[[dict[str, Any]], object]) -> Deployment:
    """The machine with its profile changed."""
    made = deployment()
    profile = copy.deepcopy(dict(made.profile))
    change(profile)
    return Deployment(profile, made.values, made.region, made.databases, made.key)


def contents(generated: Generated) -> dict[str, bytes]:
    return {artifact.name: artifact.content for artifact in generated.artifacts}


def yaml_of(generated: Generated, name: str = "navigator.yml") -> Any:
    return yaml.load(generated[name], yaml.CSafeLoader)


@pytest.mark.parametrize(
    "index", [INDEX, EMPTY, Index(USERS, (NOWHERE,), (), (IAD,))], ids=["some", "none", "no events"]
)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_profiles_generate(name: str, index: Index) -> None:
    """Every shipped profile makes a whole set of sound files, also of an index that is still empty."""
    generated = generate(index, deployment(name), ResultCache())
    assert tuple(contents(generated)) == NAMES
    for artifact in generated.artifacts:
        assert b"{{" not in artifact.content
        if artifact.name.endswith(".yml"):
            assert isinstance(yaml_of(generated, artifact.name), dict)


@pytest.mark.parametrize(
    ("name", "scopes", "databases"),
    [
        ("fly", ["2026/boston", "2025/york"], ["index", "demo", "2026-boston", "2025-york"]),
        (
            "kamal",
            ["2026/boston", "2026/sydney/ball", "2026/sydney/gala", "2025/york"],
            ["index", "demo", "2026-boston", "2026-sydney-ball", "2026-sydney-gala", "2025-york"],
        ),
        (
            "local",
            ["2026/boston", "2026/sydney/ball", "2026/sydney/gala", "2025/york"],
            ["index", "2026-boston", "2026-sydney-ball", "2026-sydney-gala", "2025-york"],
        ),
    ],
)
def test_tenants_of_a_machine(name: str, scopes: list[str], databases: list[str]) -> None:
    """On Fly the events of this region and of none, elsewhere all; tenants.list names the fixed ones too."""
    generated = generate(INDEX, deployment(name), ResultCache())
    found = yaml_of(generated)["applications"]["tenants"]
    assert [tenant.scope for tenant in generated.tenants] == scopes
    assert [tenant["var"]["database"] for tenant in found] == databases == list(generated.databases)
    assert [tenant["path"] for tenant in found] == list(generated.paths)
    assert generated["tenants.list"].decode().split() == [f"/data/db/{one}.sqlite3" for one in databases]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_expression_is_collected(name: str) -> None:
    """Whatever navigator.yml holds by way of expressions is there to be checked."""
    generated = generate(INDEX, deployment(name), ResultCache())
    document = yaml_of(generated)
    routes = document["routes"]
    assert sorted(generated.expressions) == sorted(
        [one["pattern"] for one in document["auth"]["auth_patterns"]]
        + [one["from"] for one in routes["redirects"] + routes["rewrites"]]
        + [one["path"] for one in routes["reverse_proxies"] + routes["fly"]["replay"]]
    )
    assert generated.expressions


@pytest.mark.parametrize("name", SHIPPED)
def test_the_fingerprint_is_the_first_thing_the_ready_hook_leaves(name: str) -> None:
    """The first ready command touches a marker named after this set, so no other's failure prevents it."""
    generated = generate(INDEX, deployment(name), ResultCache())
    first = yaml_of(generated)["hooks"]["server"]["ready"][0]
    assert (first["command"], first["args"]) == ("touch", [f"/state/markers/{generated.fingerprint}"])
    assert generated["navigator.yml"].count(b"fingerprint-") == 1
    assert generated.fingerprint != f"fingerprint-{'0' * 32}"


@pytest.mark.parametrize("path", ["update_config", "index_update"])
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("file", ["navigator.yml", "navigator-maintenance.yml"])
def test_the_forwarder_is_named(name: str, path: str, file: str) -> None:
    """Under its path and, for now, the old one: POST only, with a reload afterwards."""
    document = yaml_of(generate(INDEX, deployment(name), ResultCache()), file)
    root = document["server"].get("root_path", "")
    (script,) = (one for one in document["server"]["cgi_scripts"] if one["path"] == f"{root}/{path}")
    assert script["script"] == "/opt/sidecar-cgi"
    assert script["method"] == "POST"
    assert script["reload_config"] == "config/navigator.yml"
    assert "user" not in script


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("file", ["navigator.yml", "navigator-maintenance.yml"])
def test_the_state_is_served_without_a_login(name: str, file: str) -> None:
    """GET update_status reaches the forwarder, is open to all, and never causes a reload."""
    document = yaml_of(generate(INDEX, deployment(name), ResultCache()), file)
    path = f"{document['server'].get('root_path', '')}/update_status"
    (script,) = (one for one in document["server"]["cgi_scripts"] if one["path"] == path)
    assert (script["script"], script["method"]) == ("/opt/sidecar-cgi", "GET")
    assert "reload_config" not in script
    assert path in document.get("auth", {}).get("public_paths", [path])


def changed_studio(**fields: Any) -> Index:
    return msgspec.structs.replace(
        INDEX, studios=(BOSTON, SYDNEY, msgspec.structs.replace(NOWHERE, **fields))
    )


def index_with(**parts: Any) -> Index:
    return msgspec.structs.replace(INDEX, **parts)


ELSEWHERE = Deployment(deployment().profile, deployment().values, "iad", "/other", b"key")
DATED = (*EVENTS[:3], Event(2025, "showcase", "Showcase", "york", "May"))
ONE_MORE = (*INDEX.studios, Studio("z", "Z", None, None, None, None, None))
CHANGES: list[tuple[str, Index, Deployment]] = [
    ("htpasswd", index_with(users=USERS[:1]), deployment()),
    ("map.yml", changed_studio(longitude=1.0), deployment()),
    ("showcases.yml", index_with(events=DATED), deployment()),
    ("tenants.list", INDEX, ELSEWHERE),
    ("prerender.txt", index_with(studios=ONE_MORE), deployment()),
    ("navigator-maintenance.yml", INDEX, with_profile(lambda profile: profile["maintenance"].update(x=1))),
    ("navigator.yml", INDEX, with_profile(lambda profile: profile["navigator"].update(x=1))),
]


@pytest.mark.parametrize(("name", "index", "machine"), CHANGES, ids=[name for name, _, _ in CHANGES])
def test_a_change_in_any_artifact_is_another_set(name: str, index: Index, machine: Deployment) -> None:
    """Each file has its part in the fingerprint, and with it navigator.yml changes."""
    before, after = generate(INDEX, deployment(), ResultCache()), generate(index, machine, ResultCache())
    assert before[name] != after[name]
    assert before.fingerprint != after.fingerprint
    assert before["navigator.yml"] != after["navigator.yml"]


def test_a_name_that_looks_like_a_fingerprint() -> None:
    """Whatever an index says, it is text: nobody can write what the fingerprint is put in for."""
    name = f"fingerprint-{'0' * 32}"
    events = tuple(msgspec.structs.replace(event, name=name) for event in EVENTS)
    studio = msgspec.structs.replace(BOSTON, name=name)
    made = generate(Index(USERS, (studio, SYDNEY, NOWHERE), events, (IAD, SYD)), deployment(), ResultCache())
    assert made["showcases.yml"].count(name.encode()) == 3
    assert yaml_of(made, "map.yml")["studios"]["boston"]["name"] == name
    assert made["navigator.yml"].count(made.fingerprint.encode()) == 1
    assert made["navigator.yml"].count(name.encode()) == 1  # the owner of Boston's event


def test_the_machine_s_secret_is_no_part_of_the_fingerprint() -> None:
    """The same set has the same fingerprint, whatever stood for it meanwhile."""
    machine = deployment()
    other = Deployment(machine.profile, machine.values, machine.region, machine.databases, b"another key")
    assert (
        generate(INDEX, machine, ResultCache()).artifacts == generate(INDEX, other, ResultCache()).artifacts
    )


def test_a_change_in_htpasswd_alone_changes_only_the_fingerprint() -> None:
    """navigator.yml differs by the marker's name, all other files are the same."""
    before = generate(INDEX, deployment(), ResultCache())
    after = generate(index_with(users=USERS[:1]), deployment(), ResultCache())
    old, new = contents(before), contents(after)
    assert {name for name in NAMES if old[name] != new[name]} == {"htpasswd", "navigator.yml"}
    marker = after.fingerprint.encode(), before.fingerprint.encode()
    assert new["navigator.yml"].replace(*marker) == old["navigator.yml"]


@pytest.mark.parametrize("name", SHIPPED)
def test_generation_is_deterministic(name: str) -> None:
    """The same index and machine give the same bytes, with a memo that is used or new."""
    memo = ResultCache()
    first = generate(INDEX, deployment(name), memo)
    memo.rotate()
    assert (
        generate(INDEX, deployment(name), memo) == first == generate(INDEX, deployment(name), ResultCache())
    )


def test_the_previous_htpasswd_keeps_lines_and_nothing_else() -> None:
    """With or without it the set is the same: the line of a plain password stays."""
    index = index_with(users=(User("user3", "user3:secret"), *USERS))
    first = generate(index, deployment(), ResultCache())
    assert generate(index, deployment(), ResultCache(), first["htpasswd"]) == first
    assert generate(INDEX, deployment(), ResultCache(), first["htpasswd"]) == generate(
        INDEX, deployment(), ResultCache()
    )


def test_rows_left_out_are_reported() -> None:
    """A warning for each bad row of htpasswd, and the set is made all the same."""
    index = index_with(users=(*USERS, User("user3", "no colon")))
    generated = generate(index, deployment(), ResultCache())
    assert len(generated.skipped) == 1
    assert generated["htpasswd"] == generate(INDEX, deployment(), ResultCache())["htpasswd"]


degrees = st.none() | st.sampled_from([0.0, 42.4, -33.9, 89.0])
codes = st.sampled_from(["iad", "syd", "lax", None])
nothing = st.none()
studios = st.builds(
    Studio, st.sampled_from("abcde"), st.text(max_size=3), degrees, degrees, codes, nothing, nothing
)
places = st.lists(studios, max_size=4, unique_by=lambda studio: studio.key).map(
    lambda studios: sorted(studios, key=lambda studio: studio.key)
)
held = st.lists(
    st.tuples(
        st.sampled_from([2026, 2025]), st.sampled_from("abcde"), st.sampled_from(["showcase", "x", "y"])
    ),
    max_size=8,
    unique=True,
)


def index_of(studios: list[Studio], held: list[tuple[int, str, str]], regions: tuple[Region, ...]) -> Index:
    keys = {studio.key for studio in studios}
    rows = sorted((row for row in held if row[1] in keys), key=lambda row: (-row[0], row[1]))
    events = tuple(Event(year, key, key.title(), studio, None) for year, studio, key in rows)
    return Index(USERS, tuple(studios), events, regions)


indexes = st.builds(index_of, places, held, st.sampled_from([(), (IAD,), (IAD, SYD), (SYD, IAD)]))


@settings(max_examples=25)
@given(st.lists(indexes.filter(lambda index: bool(index.events)), min_size=2, max_size=3))
def test_what_is_remembered_never_shows(indexes: list[Index]) -> None:
    """After any history of other indexes a set is byte for byte the one that a new process would make."""
    machine, memo = deployment(), ResultCache()
    for index in indexes:
        assert generate(index, machine, memo) == generate(index, machine, ResultCache())
        memo.rotate()


@pytest.mark.parametrize(
    "change",
    [
        lambda profile: profile.update(values=None),
        lambda profile: profile.update(values=["root"]),
        lambda profile: profile.update(maintenance=None),
        lambda profile: profile.update(maintenance="{{port}}"),
        lambda profile: profile.update(navigator=None),
        lambda profile: profile.update(navigator=[]),
        lambda profile: profile["navigator"].pop("applications"),
        lambda profile: profile["navigator"]["applications"].pop("tenants"),
        lambda profile: profile["navigator"]["applications"].update(tenants=["text"]),
        lambda profile: profile["navigator"]["applications"].update(tenants=[{"var": {"database": "x"}}]),
        lambda profile: profile["navigator"].update(auth="on"),
        lambda profile: profile["navigator"].update(routes=["x"]),
        lambda profile: profile["navigator"]["routes"].update(redirects=["^/$"]),
        lambda profile: profile["navigator"]["routes"].update(fly=True),
    ],
    ids=[
        *("values: nothing", "values: a list", "maintenance: nothing", "maintenance: a number"),
        *("navigator: nothing", "navigator: a list", "no applications", "no tenants", "a tenant is text"),
        *("a tenant without path", "auth is text", "routes is a list", "a redirect is text", "fly is true"),
    ],
)
def test_an_unusable_profile_is_said_to_be(change: Callable[[dict[str, Any]], object]) -> None:
    """Whatever an operator's profile lacks: the set is made without it, or the error is a `SettingsError`."""
    said = ""
    names: tuple[str, ...] = NAMES
    try:
        names = tuple(contents(generate(INDEX, with_profile(change), ResultCache())))
    except SettingsError as error:
        said = error.message
    assert not said or "profile" in said
    assert names == NAMES


def test_the_operators_values_win_over_the_profiles() -> None:
    """A value of the machine replaces the profile's own; what builds on it follows."""
    made = deployment()
    generated = generate(
        INDEX,
        Deployment(made.profile, {**made.values, "root": "/dance"}, "iad", "/data/db", b""),
        ResultCache(),
    )
    assert generated.paths[0] == "/dance/"
    assert "/dance/2026/boston/" in generated.paths
    assert yaml_of(generated)["cable"]["path"] == "/dance/regions/iad/cable"


def test_a_name_that_looks_like_a_placeholder_is_data() -> None:
    """A studio called `{{databases}}` is shown as that."""
    index = msgspec.structs.replace(
        INDEX, studios=(msgspec.structs.replace(BOSTON, name="{{databases}}"), SYDNEY, NOWHERE)
    )
    (tenant,) = (
        one
        for one in yaml_of(generate(index, deployment(), ResultCache()))["applications"]["tenants"]
        if one["var"]["database"] == "2026-boston"
    )
    assert tenant["env"]["RAILS_APP_OWNER"] == "{{databases}}"
