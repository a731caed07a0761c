"""The configuration: every key has a default, a variable, and errors that name the place."""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from msgspec.structs import FieldInfo

from sidecar.config.parse import fields, masked, parse, unknown_variables, usable, variable
from sidecar.config.settings import Bytes, Duration, ExtraFile, FleetMachine, Mode, Secret, Settings
from sidecar.errors import SettingsError

HASH = "$2b$10$abcdefghijklmnopqrstuuHZ9PqJmrZy1rZzGg3R3b1mJ1N1xHJHu"
SECRET = "correct-horse-battery-staple"
KEYS = fields()

# Settings with a form of their own: the variable's text, and the value that it makes.
SPECIAL: dict[str, tuple[str, Any]] = {
    "fleet.strategy": ("canary", "canary"),
    "store": ("s3://bucket/prefix", "s3://bucket/prefix"),
    "profile": ("kamal", "kamal"),
    "values": ('{"root": "/x", "n": 1}', {"root": "/x", "n": 1}),
    "administrators": (json.dumps({"admin": HASH}), {"admin": HASH}),
    "trigger.secret": (SECRET, SECRET),
    "trigger.previous_secret": (SECRET, SECRET),
    "update.check_command": ('["/bin/check", "-v"]', ["/bin/check", "-v"]),
    "page.deployment_check": ('["/bin/check", "-v"]', ["/bin/check", "-v"]),
    "navigator.process_names": ('["a", "b"]', ("a", "b")),
    "databases.owns": ("all", "all"),
    "prerender.renderer": ("command", "command"),
    "fleet.machines": (
        '[{"id": "a", "url": "http://10.0.0.1"}]',
        (FleetMachine(id="a", url="http://10.0.0.1"),),
    ),
    "files.extra": ('[{"key": "a/*.html", "path": "a"}]', (ExtraFile(key="a/*.html", path="a"),)),
    "fleet.before": ('[["one", "two"]]', [["one", "two"]]),
    "fleet.after": ('[["one"], ["two"]]', [["one"], ["two"]]),
    "fleet.notify": (f'["https://example.com/{SECRET}"]', [f"https://example.com/{SECRET}"]),
    "fleet.source": ("dns", "dns"),
    "fleet.url": ("https://example.com", "https://example.com"),
    "fleet.api": ("http://_api.internal:4280", "http://_api.internal:4280"),
    "fleet.root": ("/other", "/other"),
    "fleet.timeout": ("90s", 90.0),
    "fleet.send": ("index", "index"),
    "fleet.bus": (f"nats://{SECRET}@127.0.0.1:4222", f"nats://{SECRET}@127.0.0.1:4222"),
    "logging.format": ("json", "json"),
    "logging.level": ("debug", "debug"),
}


def value(settings: Settings, key: str) -> Any:
    """The value of a setting by its dotted name."""
    found: Any = settings
    for step in key.split("."):
        found = getattr(found, step)
    return found


def document(key: str, content: Any) -> dict[str, Any]:
    """A configuration file with one setting."""
    section, _, name = key.rpartition(".")
    return {section: {name: content}} if section else {name: content}


def sample(key: str, field: FieldInfo) -> tuple[str, Any]:
    """A text for a setting's variable, and the value that it must make: never the default."""
    if key in SPECIAL:
        return SPECIAL[key]
    kind = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    if key.startswith(("paths.", "navigator.pid_file")):
        return "/some/where", "/some/where"
    if kind == list[str]:
        return '["one", "two"]', ["one", "two"]
    if get_origin(kind) is tuple:
        return '[{"url": "/up"}]', (msgspec.convert({"url": "/up"}, get_args(kind)[0]),)
    samples: dict[Any, tuple[str, Any]] = {
        Duration: ("3m", 180.0),
        Bytes: ("3MiB", 3 << 20),
        Mode: ("0604", 0o604),
        Secret: (SECRET, SECRET),
        bool: ("false", False) if field.default is True else ("true", True),
        int: ("7", 7),
        float: ("0.25", 0.25),
        str: ("some-text", "some-text"),
    }
    return samples[get_args(kind)[0] if get_origin(kind) is Annotated else kind]


def error(document: Any, environ: dict[str, str] | None = None) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(document, environ or {})
    return caught.value


# Defaults


@pytest.mark.parametrize("document", [None, {}])
def test_every_key_is_optional(document: Any) -> None:
    """An empty file and an empty environment make a whole configuration: a plain host with a folder store."""
    settings = parse(document, {})
    assert settings.profile == "local"
    assert settings.store == "file:///var/lib/sidecar/store"
    assert settings.listen.host == "127.0.0.1"
    assert settings.trigger.secret == ""
    assert settings.administrators == {}


def test_a_variable_replaces_the_whole_setting() -> None:
    """Who is not among the administrators that a variable names may not sign in, whatever the file says."""
    document = {"administrators": {"revoked": HASH, "admin": HASH}, "listen": {"port": 1}}
    environ = {"SIDECAR_ADMINISTRATORS": json.dumps({"admin": HASH}), "SIDECAR_LISTEN_HOST": "::1"}
    settings = parse(document, environ)
    assert settings.administrators == {"admin": HASH}
    assert (settings.listen.host, settings.listen.port) == ("::1", 1)


def test_paths_follow_the_application() -> None:
    """Folders that are not named lie in the application's."""
    paths = parse({"paths": {"application": "/app/", "storage": "/data/storage"}}, {}).paths
    assert (paths.application, paths.databases, paths.storage) == ("/app", "/app/db", "/data/storage")
    assert (paths.configuration, paths.temporary, paths.public) == ("/app/config", "/app/tmp", "/app/public")
    assert (paths.deployed, paths.regions) == ("/app/tmp/deployed.json", "/app/tmp/regions.json")


def test_an_application_at_the_root_folder() -> None:
    """No path has two slashes: what is compared as text must have one form."""
    assert parse({"paths": {"application": "/"}}, {}).paths.databases == "/db"


# The environment


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_has_its_variable(key: str) -> None:
    """Each key is set by its own variable, and that changes nothing but what follows from it."""
    text, expected = sample(key, KEYS[key])
    document = {"profile": "local"}
    settings, before = parse(document, {variable(key): text}), parse(document, {})
    assert variable(key) == f"SIDECAR_{key.replace('.', '_').upper()}"
    assert value(settings, key) == expected != value(before, key)
    others = {other for other in KEYS if value(settings, other) != value(before, other)} - {key}
    follow = {
        "paths.application": ("paths.", "ready.lock", "prerender.command"),
        "paths.temporary": ("ready.lock",),
        "paths.state": ("store",),
        "profile": ("update.own_index", "databases.owns"),
    }
    assert all(other.startswith(follow.get(key, ())) for other in others)


@pytest.mark.parametrize("key", KEYS)
def test_the_variable_wins_over_the_file(key: str) -> None:
    """What the environment says replaces what the file says."""
    text, expected = sample(key, KEYS[key])
    file = masked(parse({}, {}))
    assert value(parse(file, {variable(key): text}), key) == expected


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_described(key: str) -> None:
    """`sidecar config` and the documentation have a sentence for each."""
    field = KEYS[key]
    assert get_origin(field.type) is Annotated
    assert any(isinstance(meta, msgspec.Meta) and meta.description for meta in field.type.__metadata__)


@pytest.mark.parametrize(
    ("environ", "key", "expected"),
    [
        ({"FLY_APP_NAME": "smooth", "FLY_REGION": "iad"}, "machine.app", "smooth"),
        ({"FLY_REGION": "syd"}, "machine.region", "syd"),
        ({"FLY_MACHINE_ID": "148e"}, "machine.id", "148e"),
        ({"FLY_REGION": "iad"}, "profile", "fly"),
        ({"KAMAL_CONTAINER_NAME": "showcase"}, "profile", "kamal"),
        ({"KAMAL_CONTAINER_NAME": "showcase", "FLY_REGION": "iad"}, "profile", "fly"),
        ({}, "profile", "local"),
        ({"RAILS_DB_VOLUME": "/data/db"}, "paths.databases", "/data/db"),
        ({"RAILS_STORAGE": "/data/storage"}, "paths.storage", "/data/storage"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "paths.state", "/var/lib/a"),
        ({"NAVIGATOR_PORT": "3000"}, "navigator.port", 3000),
        ({"AWS_ENDPOINT_URL": "http://a"}, "s3.endpoint", "http://a"),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}, "s3.endpoint", "http://b"),
        ({"AWS_ENDPOINT_URL_S3": "http://b", "AWS_ENDPOINT_URL": "http://a"}, "s3.endpoint", "http://b"),
        ({"AWS_REGION": "eu-west-1"}, "s3.region", "eu-west-1"),
        ({}, "s3.region", "auto"),
        ({"AWS_ACCESS_KEY_ID": "key"}, "s3.access_key_id", "key"),
        ({"AWS_SECRET_ACCESS_KEY": "secret"}, "s3.secret_access_key", "secret"),
        ({"AWS_ACCESS_KEY_ID": "key"}, "store", "s3://showcase"),
        ({"AWS_ACCESS_KEY_ID": "key", "BUCKET_NAME": "dances"}, "store", "s3://dances"),
        ({"BUCKET_NAME": "dances"}, "store", "file:///var/lib/sidecar/store"),
        ({"FLY_REGION": "", "NAVIGATOR_PORT": "", "RAILS_DB_VOLUME": ""}, "paths.databases", "/rails/db"),
    ],
)
def test_what_deployments_set_anyway_is_understood(environ: dict[str, str], key: str, expected: Any) -> None:
    """The variables of Fly, Kamal, Rails, AWS and systemd give the defaults; empty ones count as absent."""
    assert value(parse({}, environ), key) == expected


def test_file_and_variable_win_over_the_deployment() -> None:
    """Deployment, then file, then SIDECAR_ variable."""
    environ = {"NAVIGATOR_PORT": "1"}
    assert parse({}, environ).navigator.port == 1
    assert parse({"navigator": {"port": 2}}, environ).navigator.port == 2
    environ |= {"SIDECAR_NAVIGATOR_PORT": "3"}
    assert parse({"navigator": {"port": 2}}, environ).navigator.port == 3


@pytest.mark.parametrize(
    "name", ["SIDECAR_CONFIG", "SIDECAR_SOCKET", "SIDECAR_CGI_TIMEOUT", "PATH", "SIDECARX"]
)
def test_other_variables_are_left_alone(name: str) -> None:
    """Those of the forwarder and the command line, and whatever belongs to somebody else."""
    assert parse({}, {name: "x"}) == parse({}, {})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("SIDECAR_LISTEN_PORT", "many", "SIDECAR_LISTEN_PORT"),
        ("SIDECAR_LISTEN_PORT", "70000", "SIDECAR_LISTEN_PORT"),
        ("SIDECAR_UPDATE_TIMEOUT", "soon", "SIDECAR_UPDATE_TIMEOUT"),
        ("SIDECAR_LISTEN_TCP", "maybe", "SIDECAR_LISTEN_TCP"),
        ("SIDECAR_UPDATE_CHECK_COMMAND", "/bin/check", "SIDECAR_UPDATE_CHECK_COMMAND"),
        ("SIDECAR_VALUES", "[1]", "SIDECAR_VALUES"),
        ("NAVIGATOR_PORT", "abc", "NAVIGATOR_PORT"),
    ],
)
def test_a_wrong_variable_is_named(name: str, text: str, said: str) -> None:
    """The error names the variable, which is what has to be corrected."""
    assert said in error({}, {name: text}).message


def test_an_unknown_variable_is_a_warning() -> None:
    """It changes nothing, and is named: with a mistyped secret a machine still boots."""
    environ = {
        "SIDECAR_LISTEN_PRT": "1",
        "SIDECAR_": "1",
        "SIDECAR_CONFIG": "x",
        "SIDECAR_STORE": "file:///x",
    }
    assert parse({}, environ) == parse({}, {"SIDECAR_STORE": "file:///x"})
    first, second = unknown_variables(environ)
    assert "variable SIDECAR_ names no setting" in first
    assert "variable SIDECAR_LISTEN_PRT names no setting" in second


def test_unusable_variables_can_be_left_out() -> None:
    """Each by itself: the others hold, and what the file says does."""
    document = {"listen": {"port": 1}, "machine": {"region": "iad"}}
    environ = {"SIDECAR_LISTEN_PORT": "many", "SIDECAR_TRIGGER_SECRET": "short", "SIDECAR_LISTEN_HOST": "::1"}
    found = usable(document, {**environ, "FLY_REGION": "fra"})
    assert found == parse(document, {"SIDECAR_LISTEN_HOST": "::1", "FLY_REGION": "fra"})
    with pytest.raises(SettingsError):
        usable({"listen": {"port": "many"}}, environ)


# Values


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *((10, 10.0), (0.5, 0.5), ("10", 10.0), ("500ms", 0.5), ("30s", 30.0), ("1.5m", 90.0)),
        *(("2h", 7200.0), ("7d", 604800.0), (" 30 s ", 30.0), ("0", 0.0)),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    """A number of seconds, or one with a unit."""
    assert parse({"fetch": {"timeout": written}}, {}).fetch.timeout == seconds


@pytest.mark.parametrize(
    "written", ["", "soon", "-1s", -1, "1 week", "1m30s", "1,5s", True, None, [], "nan", "1e3s"]
)
def test_what_is_no_duration(written: object) -> None:
    """Anything else is refused with its place and examples of what would be right."""
    said = error({"fetch": {"timeout": written}}).message
    assert "sidecar.yml: fetch.timeout:" in said
    assert "30s" in said


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (65536, 65536),
        ("65536", 65536),
        ("12B", 12),
        ("64KiB", 65536),
        ("16 MiB", 16 << 20),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(written: object, number: int) -> None:
    """A number of bytes, or one with a binary unit."""
    assert parse({"fetch": {"max_bytes": written}}, {}).fetch.max_bytes == number


@pytest.mark.parametrize("written", ["", "big", "-1", "1.5MiB", "1MB", "1kib", True, None])
def test_what_is_no_size(written: object) -> None:
    """Anything else is refused with its place and examples."""
    said = error({"fetch": {"max_bytes": written}}).message
    assert "fetch.max_bytes" in said
    assert "MiB" in said


@pytest.mark.parametrize(("written", "mode"), [("0640", 0o640), ("640", 0o640), ("0777", 0o777), ("000", 0)])
def test_modes(written: object, mode: int) -> None:
    """Octal, as text."""
    assert parse({"files": {"mode": written}}, {}).files.mode == mode


@pytest.mark.parametrize("written", ["rw", "0999", "1777", 640, 0o640, -1, "", None, "u=rw"])
def test_what_is_no_mode(written: object) -> None:
    """Anything else is refused with its place and what would be right."""
    said = error({"files": {"mode": written}}).message
    assert "files.mode" in said
    assert "0640" in said


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("listen.port", -1),
        ("listen.port", 65536),
        ("listen.tcp", "maybe"),
        ("update.keep", 0),
        ("update.max_lost_users", 1.5),
        ("update.max_lost_users", -0.1),
        ("update.check_command", "/bin/check"),
        ("logging.format", "xml"),
        ("ready.nice", 20),
        ("databases.owns", "none"),
        ("prerender.renderer", "ruby"),
        ("logging.level", "loud"),
        ("machine.pool_size", -1),
        ("trigger.secret", 12345678901234567890),
        ("administrators", ["admin"]),
        ("values", "x"),
        ("listen", "here"),
    ],
)
def test_a_wrong_value_is_an_error_with_its_place(key: str, wrong: object) -> None:
    """The sentence begins with the file and the key."""
    assert error(document(key, wrong)).message.startswith(f"sidecar.yml: {key}: ")


@pytest.mark.parametrize("document", [[], "text", 5])
def test_a_file_that_is_no_mapping(document: object) -> None:
    """It is said what is expected."""
    assert "mapping" in error(document).message


@pytest.mark.parametrize(
    ("document", "place", "known"),
    [
        ({"listen": {"prt": 1}}, "listen", ["host", "port", "socket"]),
        ({"trigger": {"Secret": "x"}}, "trigger", ["secret", "window"]),
        ({"stor": "x"}, "the top", ["store", "profile"]),
        ({"lisen": {"port": 1}}, "the top", ["listen", "trigger", "update"]),
    ],
    ids=["in a section", "by case", "at the top", "a section"],
)
def test_an_unknown_key_is_an_error(document: dict[str, Any], place: str, known: list[str]) -> None:
    """The error names the key, its place and the keys that there are."""
    found = error(document)
    (wrong,) = document.get(place, document)
    assert found.message.startswith(f"sidecar.yml: {place}: ")
    assert repr(wrong) in found.message
    assert all(name in found.hint for name in known)


@pytest.mark.parametrize(
    ("document", "environ", "said"),
    [
        ({"store": "ftp://x"}, {}, "store"),
        ({"store": "file://relative"}, {}, "store"),
        ({"store": "s3://Bad_Bucket"}, {}, "store"),
        ({"paths": {"databases": "db"}}, {}, "paths.databases"),
        ({"profile": "fly"}, {}, "machine.region"),
        ({}, {"FLY_APP_NAME": "smooth"}, "machine.region"),
        ({"administrators": {"admin": "hunter2"}}, {}, "administrators.admin"),
        ({"trigger": {"secret": "hunter2"}}, {}, "trigger.secret"),
        ({"trigger": {"previous_secret": "hunter2"}}, {}, "trigger.previous_secret"),
    ],
)
def test_what_does_not_fit_together(document: dict[str, Any], environ: dict[str, str], said: str) -> None:
    """Each has its place, a hint, and shows no secret."""
    found = error(document, environ)
    assert found.message.startswith(said)
    assert found.hint
    assert "hunter2" not in str(found)


# Secrets


def test_secrets_never_show_themselves() -> None:
    """Not in a repr, not in what `sidecar config` prints; the code itself can read them."""
    environ = {variable(key): sample(key, field)[0] for key, field in KEYS.items()}
    environ |= {"SIDECAR_NAVIGATOR_PROBES": json.dumps([{"url": "/up", "user": "u", "password": SECRET}])}
    environ |= {"SIDECAR_PAGE_THROUGH_NAVIGATOR": "false"}  # which would want listen.tcp
    environ = {name: text for name, text in environ.items() if name in map(variable, KEYS)}
    settings = parse({}, environ)
    assert settings.trigger.secret == settings.s3.secret_access_key == SECRET
    for shown in (
        repr(settings),
        str(settings),
        f"{settings}",
        repr(settings.trigger),
        repr(masked(settings)),
    ):
        assert SECRET not in shown
        assert HASH not in shown
    assert "********" in repr(masked(settings))


def test_masked_tells_whether_a_secret_is_set() -> None:
    """An empty one is shown as empty, all else in the form in which it is written."""
    found = masked(parse({}, {}))
    assert found["trigger"]["secret"] == ""
    assert found["files"]["htpasswd_mode"] == "0640"
    assert found["fetch"]["timeout"] == 20.0
    assert json.dumps(found)
    assert masked(parse({"trigger": {"secret": SECRET}}, {}))["trigger"]["secret"] == "********"


def test_masked_settings_can_be_read_again() -> None:
    """What is printed, secrets apart, is a configuration file."""
    settings = parse({"files": {"mode": "0600"}, "update": {"keep": 3}}, {})
    assert parse(masked(settings), {}) == settings


@pytest.mark.parametrize(
    ("prerender", "place"),
    [
        ({"renderer": "http"}, "prerender.origin"),
        ({"renderer": "http", "origin": "localhost:3000"}, "prerender.origin"),
        ({"renderer": "http", "origin": "http://localhost:3000/showcase"}, "prerender.origin"),
        ({"docs": "/etc/*.md"}, "prerender.docs"),
        ({"docs": "../*.md"}, "prerender.docs"),
    ],
)
def test_a_renderer_knows_where_to_ask(prerender: dict[str, str], place: str) -> None:
    """The origin is a whole URL without a path, and documents come from the application's folder only."""
    assert error({"prerender": prerender}).message.startswith(f"{place}: ")


@pytest.mark.parametrize("key", ["", "/views/map", "views/", "views/../map", "views/*/map", "views//map"])
def test_an_extra_file_has_a_key(key: str) -> None:
    """Nothing that leads out of its folder, and a star in the last part only."""
    assert error({"files": {"extra": [{"key": key, "path": "map"}]}}).message.startswith("files.extra: ")


@pytest.mark.parametrize(
    "fleet", [{"before": [[]]}, {"after": [["true"], []]}, {"notify": ["example.com/hook"]}, {"notify": [""]}]
)
def test_what_runs_around_a_fleet_update_is_looked_at(fleet: dict[str, Any]) -> None:
    """A command has a word at least, a notice goes to a URL, which is never quoted: it may be a secret."""
    found = error({"fleet": fleet}).message
    assert found.startswith(f"fleet.{next(iter(fleet))}") or "fleet.after" in found
    assert "example.com" not in found
