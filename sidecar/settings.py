"""The configuration: sidecar.yml and the environment become `Settings`, or an error with its place.

Every key is optional and can be overridden by a variable: `listen.port` by `SIDECAR_LISTEN_PORT`.
Variables that deployments set anyway (`FLY_REGION`, `RAILS_DB_VOLUME`, `BUCKET_NAME`, ...) give the
defaults. Pure: nothing here reads a file or the environment by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta

from sidecar.errors import SettingsError

PREFIX = "SIDECAR_"
_SHORTEST_SECRET = 16

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\Z")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?\Z")
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, None: 1}


class Duration(float):
    """Seconds; written as a number or as `500ms`, `30s`, `5m`, `2h`, `7d`."""


class Bytes(int):
    """A number of bytes; written as a number or as `64KiB`, `16MiB`, `1GiB`."""


class Secret(str):
    """Text that never shows itself: not in a log, a repr or an answer."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'" if self else "''"


class Mode(int):
    """A file mode; written in octal and in quotes, as `"0640"`."""


Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the sections: immutable, and a wrong key is an error."""


def _doc(text: str) -> Any:
    return Meta(description=text)


class Listen(Section, frozen=True):
    """Where the daemon listens."""

    socket: Annotated[str, _doc("Unix socket; whoever may open it is trusted")] = "/run/sidecar/sidecar.sock"
    socket_mode: Annotated[Mode, _doc("file mode of the socket")] = Mode(0o660)
    host: Annotated[str, _doc("TCP address for people and Prometheus")] = "127.0.0.1"
    port: Annotated[Port, _doc("TCP port; 0 takes a free one")] = 9292
    tcp: Annotated[bool, _doc("whether to listen on TCP at all")] = True


class Machine(Section, frozen=True):
    """Which machine this is."""

    id: Annotated[
        str, _doc("this machine's id, as signed pokes name it; default FLY_MACHINE_ID, else the host's name")
    ] = ""
    app: Annotated[str, _doc("the Fly application; default FLY_APP_NAME")] = ""
    region: Annotated[
        str, _doc("the region whose events this machine serves; default FLY_REGION; empty: all")
    ] = ""
    pool_size: Annotated[
        int, Meta(ge=0, description="the web server's pool; 0: 6 and one for each GiB of memory")
    ] = 0


class Paths(Section, frozen=True):
    """Folders and files."""

    application: Annotated[str, _doc("the Rails application's folder")] = "/rails"
    databases: Annotated[
        str, _doc("the databases' folder; default RAILS_DB_VOLUME, else db in the application")
    ] = ""
    storage: Annotated[
        str, _doc("the storage folder; default RAILS_STORAGE, else storage in the application")
    ] = ""
    state: Annotated[str, _doc("the sidecar's own folder; default STATE_DIRECTORY")] = "/var/lib/sidecar"
    configuration: Annotated[str, _doc("folder of navigator.yml; default config in the application")] = ""
    temporary: Annotated[
        str, _doc("folder of tenants.list and prerender.txt; default tmp in the application")
    ] = ""
    public: Annotated[str, _doc("the web server's static files; default public in the application")] = ""
    deployed: Annotated[
        str, _doc("deployed.json, where one is kept; default tmp/deployed.json in the application")
    ] = ""
    regions: Annotated[
        str, _doc("regions.json, where one is kept; default tmp/regions.json in the application")
    ] = ""
    cgi: Annotated[
        str, _doc("the forwarder that navigator.yml names; default: the installed sidecar-cgi")
    ] = ""
    command: Annotated[
        str, _doc("the command that navigator.yml's hooks name; default: the installed sidecar")
    ] = ""


class Files(Section, frozen=True):
    """Owner and mode of the files that are published."""

    mode: Annotated[Mode, _doc("mode of all but htpasswd")] = Mode(0o644)
    htpasswd_mode: Annotated[Mode, _doc("mode of htpasswd; Navigator's user must be able to read it")] = Mode(
        0o640
    )
    owner: Annotated[str, _doc("user that shall own them; default: the daemon's")] = ""
    group: Annotated[str, _doc("group that shall own them; default: the daemon's")] = ""


class Probe(Section, frozen=True):
    """A request through Navigator after each load; a wrong answer rolls back."""

    url: Annotated[str, _doc("URL, or a path on Navigator's own port")]
    status: Annotated[int, Meta(ge=100, le=599, description="the status that it must answer")] = 200
    user: Annotated[str, _doc("user to sign in as: a login probe proves that htpasswd is in force")] = ""
    password: Annotated[Secret, _doc("that user's password")] = Secret("")
    timeout: Annotated[Duration, _doc("how long the answer may take")] = Duration(5)


class Navigator(Section, frozen=True):
    """The web server beside the sidecar."""

    port: Annotated[Port, _doc("the port it listens on; default NAVIGATOR_PORT")] = 9999
    reload_config: Annotated[str, _doc("navigator.yml's path as Navigator itself names it")] = (
        "config/navigator.yml"
    )
    cgi_user: Annotated[str, _doc("user that runs the forwarder; default: Navigator's own")] = ""
    cgi_group: Annotated[str, _doc("group that runs the forwarder; default: the user's")] = ""
    pid_file: Annotated[str, _doc("where it writes its process id")] = "/tmp/navigator.pid"  # noqa: S108 - its own choice
    process_names: Annotated[tuple[str, ...], _doc("program names that count as Navigator's")] = (
        "navigator",
    )
    reload_timeout: Annotated[
        Duration,
        _doc(
            "how long to wait for a load, before the signal and again before rolling back; "
            "Navigator's own can take 30 s while a tenant boots"
        ),
    ] = Duration(35)
    probes: Annotated[tuple[Probe, ...], _doc("requests that must succeed after each load")] = ()


class S3(Section, frozen=True):
    """How to reach an s3:// store; the AWS_* variables give the defaults."""

    endpoint: Annotated[str, _doc("endpoint's URL; default AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")] = ""
    region: Annotated[str, _doc("region to sign for; default AWS_REGION")] = "auto"
    access_key_id: Annotated[str, _doc("default AWS_ACCESS_KEY_ID")] = ""
    secret_access_key: Annotated[Secret, _doc("default AWS_SECRET_ACCESS_KEY")] = Secret("")
    path_style: Annotated[bool, _doc("bucket in the path instead of the host's name")] = True


class Fetch(Section, frozen=True):
    """Bounds of a transfer from the store."""

    timeout: Annotated[Duration, _doc("for one whole transfer, retries included")] = Duration(20)
    attempts: Annotated[Count, _doc("how often a request is tried")] = 3
    max_bytes: Annotated[Bytes, _doc("the largest index that is taken")] = Bytes(256 << 20)
    expect_timeout: Annotated[Duration, _doc("how long to wait for a store to serve an expected digest")] = (
        Duration(20)
    )


class Update(Section, frozen=True):
    """What an update may do."""

    timeout: Annotated[Duration, _doc("for one whole update")] = Duration(60)
    max_lost_tenants: Annotated[Share, _doc("share of the tenants that may disappear at once")] = 0.5
    max_lost_users: Annotated[Share, _doc("share of the users that may disappear at once")] = 0.5
    check_command: Annotated[
        list[str], _doc("command and arguments with a veto; it runs in a folder that holds the new set")
    ] = []
    check_timeout: Annotated[Duration, _doc("for the check command")] = Duration(20)
    keep: Annotated[Count, _doc("how many generations are kept")] = 10
    poll: Annotated[Duration, _doc("how often to look for changes that no poke announced; 0: never")] = (
        Duration(600)
    )
    own_index: Annotated[
        bool,
        _doc("this machine owns the index: it is read in its place and watched, never fetched or replaced"),
    ] = False
    waiting: Annotated[Count, _doc("how many pokes may wait at once")] = 2000
    at_start: Annotated[bool, _doc("fetch and update when the daemon starts")] = True


class Trigger(Section, frozen=True):
    """The public trigger, a CGI that anyone on the internet can call."""

    secret: Annotated[
        Secret, _doc("the fleet's secret for signed pokes; without one only unsigned pokes work")
    ] = Secret("")
    previous_secret: Annotated[Secret, _doc("the secret before, accepted too while it is being replaced")] = (
        Secret("")
    )
    webhook_token: Annotated[
        Secret, _doc("token for POST /webhook, as Bearer or as Basic password; without one it is off")
    ] = Secret("")
    interval: Annotated[
        Duration, _doc("unsigned pokes start at most one update in this time, after the burst")
    ] = Duration(2)
    burst: Annotated[Count, _doc("how many updates unsigned pokes may start at once after a quiet time")] = 5
    max_body: Annotated[Bytes, _doc("the largest body that is read")] = Bytes(64 << 20)
    max_inflated: Annotated[Bytes, _doc("the largest index that a body may inflate to")] = Bytes(256 << 20)
    window: Annotated[Duration, _doc("how far a signature's time may be from this machine's")] = Duration(300)


class Page(Section, frozen=True):
    """The operators' page."""

    through_navigator: Annotated[
        bool,
        _doc("whether navigator.yml passes <root>/sidecar/ on to the page, behind its login"),
    ] = False
    deployment_check: Annotated[
        list[str],
        _doc(
            "command and arguments that tell whether a full deployment is required: exit status 0 no, "
            "anything else yes, and what it prints says why; it runs in the application's folder"
        ),
    ] = []
    deployment_timeout: Annotated[Duration, _doc("for that command")] = Duration(20)


class Ready(Section, frozen=True):
    """The work in the background once a generation is loaded."""

    at_start: Annotated[bool, _doc("whether it runs when the daemon starts, too")] = True
    every: Annotated[Duration, _doc("how often it runs without any reason; 0: never")] = Duration(0)
    retry: Annotated[Duration, _doc("how long after a failure it runs again; 0: not by itself")] = Duration(
        300
    )
    supersede: Annotated[
        str,
        Meta(
            pattern="^(finish|cancel)$",
            description="what becomes of the work under way when a newer generation is loaded: "
            "`finish` ends it first, `cancel` stops it at the next safe point",
        ),
    ] = "finish"
    nice: Annotated[
        int,
        Meta(
            ge=0, le=19, description="niceness of its commands and threads, so that the web server goes first"
        ),
    ] = 10
    step_timeout: Annotated[Duration, _doc("for each of its steps")] = Duration(1800)
    lock: Annotated[str, _doc("its lock file; default .sidecar-ready.lock in paths.temporary")] = ""
    patience: Annotated[Duration, _doc("how long to wait for another process that holds the lock")] = (
        Duration(3600)
    )


class Databases(Section, frozen=True):
    """The databases of the events."""

    fetch: Annotated[bool, _doc("whether those that are missing, empty or older are fetched")] = True
    owns: Annotated[
        str,
        Meta(
            pattern="^(region|all)$",
            description="which events' databases are written here and so never overwritten: "
            "`region` those of the machine's own region, `all` every one",
        ),
    ] = "region"
    copies: Annotated[
        bool, _doc("whether copies of the databases that other regions serve are kept here")
    ] = False
    mode: Annotated[
        Mode, _doc("mode of a database that is new here; the application must be able to write to it")
    ] = Mode(0o660)
    owner: Annotated[str, _doc("user that shall own it: the application's; default files.owner")] = ""
    group: Annotated[str, _doc("group that shall own it; default files.group")] = ""
    parallel: Annotated[Count, _doc("how many are fetched at once")] = 8
    prepare_timeout: Annotated[
        Duration, _doc("how long a publication waits for the databases of new tenants")
    ] = Duration(10)
    create_command: Annotated[
        list[str],
        _doc(
            "command and arguments that make the database of a new event; its path is added as the last one"
        ),
    ] = []
    create_timeout: Annotated[Duration, _doc("for each of its calls")] = Duration(60)
    migrations: Annotated[str, _doc("folder of the migrations, in the application's folder")] = "db/migrate"
    migrate_command: Annotated[
        list[str],
        _doc("command and arguments that migrate databases; their paths are added, several a call"),
    ] = []
    migrate_batch: Annotated[Count, _doc("how many databases a call gets")] = 20
    migrate_timeout: Annotated[Duration, _doc("for each of its calls")] = Duration(600)
    remove_orphans: Annotated[
        bool,
        _doc("whether databases whose events left this machine are removed, once the store surely has them"),
    ] = False


class Prerender(Section, frozen=True):
    """The public pages, rendered ahead of time."""

    renderer: Annotated[
        str,
        Meta(
            pattern="^(none|command|http)$",
            description="`command` runs the application's own, `http` asks the application for each page",
        ),
    ] = "none"
    command: Annotated[
        list[str],
        _doc("command and arguments that render all pages; default the application's bin/prerender"),
    ] = []
    timeout: Annotated[Duration, _doc("for that command")] = Duration(600)
    origin: Annotated[str, _doc("URL of the application itself, not of Navigator's static files")] = ""
    root: Annotated[str, _doc("what comes before each page's path there, such as /showcase")] = "/showcase"
    page_timeout: Annotated[Duration, _doc("for each page")] = Duration(30)
    parallel: Annotated[Count, _doc("how many pages are asked for at once")] = 4
    incremental: Annotated[bool, _doc("whether pages that cannot have changed are skipped")] = True
    remove: Annotated[
        bool, _doc("whether pages that were rendered here and no longer belong are removed")
    ] = False
    docs: Annotated[
        str,
        _doc("documents that are pages too, as a glob in the application's folder: app/views/docs/**/*.md"),
    ] = ""


class FleetMachine(Section, frozen=True):
    """A machine of a fleet that no platform can list."""

    id: Annotated[str, _doc("its own id: `machine.id` there, else its host's name")]
    url: Annotated[str, _doc("the base URL that leads to its web server, without a path")]
    region: Annotated[str, _doc("its region, for people and for --only")] = ""


class Fleet(Section, frozen=True):
    """All machines that serve the same index, and how to reach them."""

    machines: Annotated[
        tuple[FleetMachine, ...], _doc("the machines, where no platform lists them: Kamal, plain hosts")
    ] = ()
    source: Annotated[
        str,
        Meta(
            pattern="^(auto|machines|api|flyctl|dns)$",
            description="who lists the machines; auto: fleet.machines, else the API with a token, else "
            "flyctl where it is installed, else DNS",
        ),
    ] = "auto"
    app: Annotated[str, _doc("the Fly application; default machine.app")] = ""
    url: Annotated[str, _doc("base URL of the Fly application; default https://<app>.fly.dev")] = ""
    root: Annotated[str, _doc("the web server's root path: the pokes go to <root>/update_config")] = (
        "/showcase"
    )
    groups: Annotated[
        list[str], _doc("process groups that count; none: all but those of single commands")
    ] = []
    api: Annotated[str, _doc("Fly's Machines API; inside Fly also http://_api.internal:4280")] = (
        "https://api.machines.dev"
    )
    token: Annotated[Secret, _doc("token for that API; default FLY_API_TOKEN")] = Secret("")
    flyctl: Annotated[str, _doc("the command that lists machines without a token")] = "flyctl"
    resolver: Annotated[
        str, _doc("address and port of the DNS server; default: the first in /etc/resolv.conf")
    ] = ""
    parallel: Annotated[Count, _doc("how many requests to machines may be under way at once")] = 200
    attempts: Annotated[Count, _doc("how often a machine is poked before it counts as failed")] = 5
    pause: Annotated[Duration, _doc("after a first failure; it doubles with each further one")] = Duration(1)
    answer_timeout: Annotated[Duration, _doc("how long one answer of a machine may take")] = Duration(60)
    timeout: Annotated[Duration, _doc("how long a machine may take until it is loaded, retries included")] = (
        Duration(180)
    )
    ready_timeout: Annotated[
        Duration, _doc("how much longer until it is ready, where that is waited for")
    ] = Duration(1200)
    send: Annotated[
        str,
        Meta(
            pattern="^(digest|index)$",
            description="what a poke carries: the digest to fetch until it comes, or the index itself",
        ),
    ] = "digest"
    follow_local_index: Annotated[
        bool, _doc("with update.own_index: a changed index starts a fleet update by itself")
    ] = False
    quiet: Annotated[Duration, _doc("how long the index must have been left alone before that")] = Duration(
        30
    )
    longest: Annotated[Duration, _doc("after this time it starts even if the index keeps changing")] = (
        Duration(300)
    )
    relay_webhook: Annotated[
        bool, _doc("pass a webhook's poke on to the other machines: buckets notify one address only")
    ] = False


class History(Section, frozen=True):
    """How much of the past is remembered."""

    keep: Annotated[Count, _doc("how many runs")] = 1000
    max_age: Annotated[Duration, _doc("for how long")] = Duration(90 * 86400)


class Logging(Section, frozen=True):
    """What is logged, and how."""

    format: Annotated[
        str, Meta(pattern="^(auto|text|json)$", description="auto: text on a terminal, JSON lines elsewhere")
    ] = "auto"
    level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$", description="the least level that is logged")
    ] = "info"


class Settings(Section, frozen=True):
    """The whole configuration, with every default in place."""

    store: Annotated[
        str,
        _doc("`s3://bucket[/prefix]` or `file:///folder`; default s3://$BUCKET_NAME with AWS variables"),
    ] = ""
    index_key: Annotated[str, _doc("the index database's key in the store")] = "db/index.sqlite3"
    profile: Annotated[
        str, _doc("fly, kamal, local, or the path of a profile; default: by the environment")
    ] = ""
    values: Annotated[dict[str, Any], _doc("values that win over the profile's own")] = {}
    administrators: Annotated[
        dict[str, Secret], _doc("name -> bcrypt hash, as `sidecar hash-password` prints it")
    ] = {}
    listen: Annotated[Listen, _doc("where the daemon listens")] = Listen()
    machine: Annotated[Machine, _doc("which machine this is")] = Machine()
    paths: Annotated[Paths, _doc("folders and files")] = Paths()
    files: Annotated[Files, _doc("owner and mode of what is published")] = Files()
    navigator: Annotated[Navigator, _doc("the web server")] = Navigator()
    s3: Annotated[S3, _doc("how to reach an s3:// store")] = S3()
    fetch: Annotated[Fetch, _doc("bounds of a transfer from the store")] = Fetch()
    update: Annotated[Update, _doc("what an update may do")] = Update()
    trigger: Annotated[Trigger, _doc("the public trigger")] = Trigger()
    ready: Annotated[Ready, _doc("the work in the background")] = Ready()
    databases: Annotated[Databases, _doc("the databases of the events")] = Databases()
    prerender: Annotated[Prerender, _doc("the pages that are rendered ahead of time")] = Prerender()
    page: Annotated[Page, _doc("the operators' page")] = Page()
    fleet: Annotated[Fleet, _doc("all machines that serve the same index")] = Fleet()
    history: Annotated[History, _doc("how much of the past is remembered")] = History()
    logging: Annotated[Logging, _doc("what is logged, and how")] = Logging()


def parse(document: Any, environ: Mapping[str, str], source: str = "sidecar.yml") -> Settings:
    """Settings from a parsed configuration file and the environment; `SettingsError` names the place."""
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise SettingsError(f"{source}: a mapping of settings is expected, not {type(document).__name__}")
    deployment = _from_deployment(environ)
    _convert(deployment, "the environment", _DEPLOYMENT)
    tree = _merge(deployment, document)
    settings = _convert(tree, source)
    overrides = _overrides(environ)
    if overrides:
        settings = _convert(
            _merge(tree, overrides), "the environment", {variable(key): key for key, _ in keys()}
        )
    return _completed(settings, environ)


def _convert(tree: dict[str, Any], source: str, variables: Mapping[str, str] | None = None) -> Settings:
    try:
        return msgspec.convert(tree, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `$")
        place = path.strip("`.") or "the top"
        if variables is not None:
            place = next((name for name, key in variables.items() if place.startswith(key)), place)
        hint = ""
        if unknown := re.search(r"unknown field `(.+?)`", sentence):
            known = dict(keys())
            section = path.strip("`.")
            names = {
                key[len(section) :].strip(".").partition(".")[0] for key in known if key.startswith(section)
            }
            hint = f"known here: {', '.join(sorted(names))}"
            sentence = f"there is no setting {unknown[1]!r}"
        raise SettingsError(f"{source}: {place}: {sentence}", hint) from None


def _decode(kind: type, value: Any) -> Any:
    """Values that are written in more than one way."""
    if kind is Duration:
        match = _DURATION.fullmatch(str(value).strip())
        if not match or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a duration such as 500ms, 30s, 5m or 2h")
        return Duration(float(match[1]) * _DURATION_UNITS[match[2]])
    if kind is Bytes:
        match = _SIZE.fullmatch(str(value).strip())
        if not match or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a size such as 65536, 64KiB or 16MiB")
        return Bytes(int(match[1]) * _SIZE_UNITS[match[2]])
    if kind is Secret:
        if not isinstance(value, str):
            raise ValueError("text is expected (put it in quotes)")
        return Secret(value)
    if kind is Mode:
        # Without quotes 0640 is the number 416 already, and 640 another one: nobody could tell.
        if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
            raise ValueError(f'{value!r} is not a file mode; write it in octal and in quotes, as "0640"')
        return Mode(int(value, 8))
    raise TypeError(f"no way to read a {kind.__name__}")


def keys() -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every setting by its dotted name, sections resolved."""
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.default, Section):
            for inner in msgspec.structs.fields(type(field.default)):
                yield f"{field.name}.{inner.name}", inner
        else:
            yield field.name, field


def variable(key: str) -> str:
    """The environment variable that overrides a setting."""
    return PREFIX + key.replace(".", "_").upper()


def _overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {variable(key): key for key, _ in keys()}
    structured = {key for key, field in keys() if _is_structured(field.type)}
    tree: dict[str, Any] = {}
    for name, value in environ.items():
        # SIDECAR_CONFIG names the file itself; SIDECAR_CGI_… belong to the forwarder.
        if not name.startswith(PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name not in known:
            raise SettingsError(
                f"the environment: {name} names no setting",
                "`sidecar config` lists the settings and their variables",
            )
        parsed: Any = value
        if known[name] in structured:
            parsed = _json_value(name, value)
        section, _, key = known[name].rpartition(".")
        if section:
            tree.setdefault(section, {})[key] = parsed
        else:
            tree[key] = parsed
    return tree


def _is_structured(kind: Any) -> bool:
    """Whether a setting is a list or a mapping, which a variable holds as JSON."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(kind) in (dict, list, tuple)


_OTHER_VARIABLES = frozenset({"SIDECAR_CONFIG", "SIDECAR_SOCKET", "SIDECAR_CGI_TIMEOUT"})


def _json_value(name: str, value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise SettingsError(f"the environment: {name} is not JSON: {error}") from None


_DEPLOYMENT = {
    "FLY_MACHINE_ID": "machine.id",
    "FLY_APP_NAME": "machine.app",
    "FLY_REGION": "machine.region",
    "FLY_API_TOKEN": "fleet.token",
    "RAILS_DB_VOLUME": "paths.databases",
    "RAILS_STORAGE": "paths.storage",
    "NAVIGATOR_PORT": "navigator.port",
    "AWS_ENDPOINT_URL": "s3.endpoint",
    "AWS_ENDPOINT_URL_S3": "s3.endpoint",
    "AWS_REGION": "s3.region",
    "AWS_ACCESS_KEY_ID": "s3.access_key_id",
    "AWS_SECRET_ACCESS_KEY": "s3.secret_access_key",
}


def _from_deployment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the variables that deployments set anyway say."""
    tree: dict[str, Any] = {}
    for name, place in _DEPLOYMENT.items():
        section, _, key = place.partition(".")
        if value := environ.get(name):
            tree.setdefault(section, {})[key] = value
    if state := environ.get("STATE_DIRECTORY"):
        # systemd may name several, separated by colons.
        tree.setdefault("paths", {})["state"] = state.partition(":")[0]
    return tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _completed(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The defaults that follow from other settings or from the environment."""
    paths = settings.paths
    application = paths.application.rstrip("/")
    below = {
        "databases": "db",
        "storage": "storage",
        "configuration": "config",
        "temporary": "tmp",
        "public": "public",
        "deployed": "tmp/deployed.json",
        "regions": "tmp/regions.json",
    }
    filled = {name: getattr(paths, name) or f"{application}/{default}" for name, default in below.items()}
    store = settings.store
    if not store and environ.get("AWS_ACCESS_KEY_ID"):
        store = f"s3://{environ.get('BUCKET_NAME') or 'showcase'}"
    profile = settings.profile
    if not profile:
        on_kamal = "KAMAL_CONTAINER_NAME" in environ
        profile = (
            "fly" if settings.machine.region or settings.machine.app else "kamal" if on_kamal else "local"
        )
    settings = msgspec.structs.replace(
        settings,
        store=store or f"file://{paths.state}/store",
        profile=profile,
        ready=msgspec.structs.replace(
            settings.ready, lock=settings.ready.lock or f"{filled['temporary']}/.sidecar-ready.lock"
        ),
        prerender=msgspec.structs.replace(
            settings.prerender, command=settings.prerender.command or [f"{application}/bin/prerender"]
        ),
        paths=msgspec.structs.replace(paths, application=application or "/", **filled),
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if not re.match(r"s3://[a-z0-9][a-z0-9.-]+(/.*)?\Z|file:///", settings.store):
        raise SettingsError(
            f"store: {settings.store!r} is not a store", "s3://bucket, s3://bucket/prefix or file:///folder"
        )
    for key, _ in keys():
        if key.startswith("paths.") and key not in ("paths.cgi", "paths.command"):
            value = getattr(settings.paths, key.partition(".")[2])
            if not value.startswith("/"):
                raise SettingsError(f"{key}: {value!r} is not an absolute path", "start it with a slash")
    if settings.profile == "fly" and not settings.machine.region:
        raise SettingsError(
            "machine.region: the profile fly needs a region", "set FLY_REGION, or choose another profile"
        )
    if settings.page.through_navigator and not (settings.listen.tcp and settings.listen.port):
        raise SettingsError(
            "page.through_navigator: Navigator reaches the page on TCP only",
            "set listen.tcp to true and listen.port to a number",
        )
    _check_prerender(settings.prerender)
    _check_fleet(settings)
    for name, hashed in settings.administrators.items():
        if not re.match(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}\Z", hashed):
            raise SettingsError(
                f"administrators.{name}: that is not a bcrypt hash", "make one with `sidecar hash-password`"
            )
    for name in ("secret", "previous_secret", "webhook_token"):
        if 0 < len(getattr(settings.trigger, name)) < _SHORTEST_SECRET:
            raise SettingsError(
                f"trigger.{name}: shorter than {_SHORTEST_SECRET} characters",
                "make one with `openssl rand -hex 32`",
            )


def _check_prerender(prerender: Prerender) -> None:
    if prerender.renderer == "http" and not re.match(r"https?://[^/]+/?\Z", prerender.origin):
        raise SettingsError(
            f"prerender.origin: {prerender.origin!r} is not the URL of the application",
            "name scheme, host and port: http://127.0.0.1:3000",
        )
    if prerender.docs.startswith("/") or ".." in prerender.docs:
        raise SettingsError(
            "prerender.docs: it must stay inside the application's folder", "leave out / and .."
        )


def _check_fleet(settings: Settings) -> None:
    fleet = settings.fleet
    named = {f"fleet.machines: {one.id}": one.url for one in fleet.machines}
    for key, url in {"fleet.url": fleet.url, "fleet.api": fleet.api, **named}.items():
        if url and not re.match(r"https?://[^/?#\s]+/?\Z", url):
            raise SettingsError(f"{key}: {url!r} is not a base URL", "such as https://example.com")
    if not re.match(r"(/[^?#\s]*[^/?#\s])?\Z", fleet.root):
        raise SettingsError(f"fleet.root: {fleet.root!r} is not a path", "such as /showcase, or nothing")
    if len({one.id for one in fleet.machines}) != len(fleet.machines):
        raise SettingsError("fleet.machines: two have the same id", "each machine has an id of its own")


def masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain data for people, secrets masked."""
    tree: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=_shown)
    return tree


def _shown(value: Any) -> Any:
    if isinstance(value, Secret):
        return "********" if value else ""
    if isinstance(value, Mode):
        return f"{value:04o}"
    return float(value) if isinstance(value, Duration) else int(value)
