"""The settings as records: every section and key with its type, default and description.

Pure data. `parse` makes them from sidecar.yml and the environment.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


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


class ListenSettings(Section, frozen=True):
    """Where the daemon listens."""

    socket: Annotated[str, _doc("Unix socket; whoever may open it is trusted")] = "/run/sidecar/sidecar.sock"
    socket_mode: Annotated[Mode, _doc("file mode of the socket")] = Mode(0o660)
    host: Annotated[str, _doc("TCP address for people and Prometheus")] = "127.0.0.1"
    names: Annotated[
        list[str],
        _doc(
            "host names that requests on TCP may be for, besides addresses, names without a dot and names "
            "below .internal; with page.through_navigator that of the site"
        ),
    ] = []
    port: Annotated[Port, _doc("TCP port; 0 takes a free one")] = 9292
    tcp: Annotated[bool, _doc("whether to listen on TCP at all")] = True


class MachineSettings(Section, frozen=True):
    """Which machine this is."""

    id: Annotated[
        str,
        _doc(
            "this machine's id, as signed pokes name it; default FLY_MACHINE_ID or KAMAL_HOST, "
            "else the host's name"
        ),
    ] = ""
    app: Annotated[str, _doc("the Fly application; default FLY_APP_NAME")] = ""
    region: Annotated[
        str, _doc("the region whose events this machine serves; default FLY_REGION; empty: all")
    ] = ""
    pool_size: Annotated[
        int, Meta(ge=0, description="the web server's pool; 0: 6 and one for each GiB of memory")
    ] = 0


class PathSettings(Section, frozen=True):
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


class ExtraFile(Section, frozen=True):
    """A file of the application that the store holds, or several of one folder."""

    key: Annotated[str, _doc("the object's key; with `*` in its last part it means several")]
    path: Annotated[
        str, _doc("the file, or for several their folder; it may be relative to paths.application")
    ]
    mode: Annotated[Mode, _doc("mode of a file that is written")] = Mode(0o644)


class FileSettings(Section, frozen=True):
    """Owner and mode of the files that are published, and what else is fetched."""

    mode: Annotated[Mode, _doc("mode of all but htpasswd and the index")] = Mode(0o644)
    htpasswd_mode: Annotated[Mode, _doc("mode of htpasswd; Navigator's user must be able to read it")] = Mode(
        0o640
    )
    owner: Annotated[str, _doc("user that shall own them; default: the daemon's")] = ""
    group: Annotated[str, _doc("group that shall own them; default: the daemon's")] = ""
    extra: Annotated[
        tuple[ExtraFile, ...],
        _doc(
            "files that the ready work fetches before it renders; where update.own_index is set, fleet "
            "updates upload them instead, and what lies beside the index under their keys is put in place, "
            "where it is newer"
        ),
    ] = ()


class Probe(Section, frozen=True):
    """A request through Navigator after each load; a wrong answer rolls back."""

    url: Annotated[str, _doc("URL, or a path on Navigator's own port")]
    status: Annotated[int, Meta(ge=100, le=599, description="the status that it must answer")] = 200
    user: Annotated[str, _doc("user to sign in as: a login probe proves that htpasswd is in force")] = ""
    password: Annotated[Secret, _doc("that user's password")] = Secret("")
    timeout: Annotated[Duration, _doc("how long the answer may take")] = Duration(5)


class NavigatorSettings(Section, frozen=True):
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
    login_probe: Annotated[
        bool,
        _doc(
            "whether htpasswd gets an account of the sidecar's own, sidecar-probe, with which it signs in "
            "after each load: that proves that Navigator has read the file"
        ),
    ] = False


class S3Settings(Section, frozen=True):
    """How to reach an s3:// store; the AWS_* variables give the defaults."""

    endpoint: Annotated[str, _doc("endpoint's URL; default AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL")] = ""
    region: Annotated[str, _doc("region to sign for; default AWS_REGION")] = "auto"
    access_key_id: Annotated[str, _doc("default AWS_ACCESS_KEY_ID")] = ""
    secret_access_key: Annotated[Secret, _doc("default AWS_SECRET_ACCESS_KEY")] = Secret("")
    path_style: Annotated[bool, _doc("bucket in the path instead of the host's name")] = True


class FetchSettings(Section, frozen=True):
    """Bounds of a transfer from the store."""

    timeout: Annotated[Duration, _doc("for one whole transfer, retries included")] = Duration(20)
    attempts: Annotated[Count, _doc("how often a request is tried")] = 3
    max_bytes: Annotated[Bytes, _doc("the largest index that is taken")] = Bytes(256 << 20)
    expect_timeout: Annotated[Duration, _doc("how long to wait for a store to serve an expected digest")] = (
        Duration(20)
    )


class UpdateSettings(Section, frozen=True):
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
        _doc(
            "this machine owns the index: it is read in its place and watched, never fetched or replaced; "
            "so under Kamal without any store"
        ),
    ] = False
    waiting: Annotated[Count, _doc("how many pokes may wait at once")] = 2000
    at_start: Annotated[bool, _doc("fetch and update when the daemon starts")] = True


class TriggerSettings(Section, frozen=True):
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
    waiting: Annotated[Count, _doc("how many unsigned pokes may wait at once")] = 50
    burst: Annotated[Count, _doc("how many updates unsigned pokes may start at once after a quiet time")] = 5
    max_body: Annotated[Bytes, _doc("the largest body that is read")] = Bytes(64 << 20)
    max_inflated: Annotated[Bytes, _doc("the largest index that a body may inflate to")] = Bytes(256 << 20)
    window: Annotated[Duration, _doc("how far a signature's time may be from this machine's")] = Duration(300)


class PageSettings(Section, frozen=True):
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


class ReadySettings(Section, frozen=True):
    """The work in the background once a generation is loaded."""

    at_start: Annotated[bool, _doc("whether it runs when the daemon starts, too")] = True
    retry: Annotated[Duration, _doc("how long after a failure it runs again; 0: not by itself")] = Duration(
        300
    )
    nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="niceness of its commands and threads, so that the web server goes first; "
            "the renderer gets only processor time and disk that nobody else wants, unless it is 0",
        ),
    ] = 10
    step_timeout: Annotated[Duration, _doc("for each of its steps")] = Duration(1800)
    lock: Annotated[str, _doc("its lock file; default .sidecar-ready.lock in paths.temporary")] = ""


class DatabaseSettings(Section, frozen=True):
    """The databases of the events."""

    fetch: Annotated[bool, _doc("whether those that are missing, empty or older are fetched")] = True
    owns: Annotated[
        str,
        Meta(
            pattern="^(region|all)$",
            description="which events' databases are written here and so never overwritten: "
            "`region` those of the machine's own region, `all` every one, as under Kamal without any store",
        ),
    ] = "region"
    copies: Annotated[
        bool, _doc("whether copies of the databases that other regions serve are kept here")
    ] = False
    mode: Annotated[
        Mode,
        _doc(
            "mode of a database that is new here, the index too; the application must be able to write to it"
        ),
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
        _doc("command and arguments that migrate databases; their paths are added, 20 a call"),
    ] = []
    migrate_timeout: Annotated[Duration, _doc("for each of its calls")] = Duration(600)
    remove_orphans: Annotated[
        bool,
        _doc("whether databases whose events left this machine are removed, once the store surely has them"),
    ] = False


class PrerenderSettings(Section, frozen=True):
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


class FleetSettings(Section, frozen=True):
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
    flyctl: Annotated[
        str, _doc("the command that lists machines without a token; on the PATH, in ~/bin or in ~/.fly/bin")
    ] = "flyctl"
    resolver: Annotated[
        str, _doc("address and port of the DNS server; default: the first in /etc/resolv.conf")
    ] = ""
    parallel: Annotated[Count, _doc("how many requests to machines may be under way at once")] = 500
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
    strategy: Annotated[
        str,
        Meta(
            pattern="^(immediate|canary)$",
            description="how a new index reaches the machines; immediate: all at once; canary: one machine "
            "before the store has it, then a quarter, then the store and all others; taken back by itself "
            "where a machine refuses it",
        ),
    ] = "immediate"
    canary_soak: Annotated[
        Duration, _doc("how long the first machines of a rollout are watched before others follow")
    ] = Duration(10)
    before: Annotated[
        list[list[str]],
        _doc(
            "commands, each a list of words, that run in the application's folder before an update uploads "
            "anything: one that fails ends the update"
        ),
    ] = []
    after: Annotated[
        list[list[str]],
        _doc("commands that run there after a good update: one that fails makes the update count as failed"),
    ] = []
    command_timeout: Annotated[Duration, _doc("for each of these commands")] = Duration(600)
    notify: Annotated[
        list[Secret],
        _doc("URLs that are told of a good update, by a POST of JSON; a failure is told of, no more"),
    ] = []
    follow_local_index: Annotated[
        bool, _doc("with update.own_index: a changed index starts fleet updates until all machines have it")
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
    bus: Annotated[
        Secret,
        _doc(
            "NATS server with JetStream that tells all machines of a new index, as nats:// or tls://, with "
            "`user:password@` or `token@` where it wants them; several of a cluster, separated by commas; "
            "it needs the package's extra `nats`; empty: none"
        ),
    ] = Secret("")


class HistorySettings(Section, frozen=True):
    """How much of the past is remembered."""

    keep: Annotated[Count, _doc("how many runs; those of kept generations stay, however old")] = 1000
    max_age: Annotated[Duration, _doc("for how long, counted from the newest runs")] = Duration(90 * 86400)


class LoggingSettings(Section, frozen=True):
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
    listen: Annotated[ListenSettings, _doc("where the daemon listens")] = ListenSettings()
    machine: Annotated[MachineSettings, _doc("which machine this is")] = MachineSettings()
    paths: Annotated[PathSettings, _doc("folders and files")] = PathSettings()
    files: Annotated[FileSettings, _doc("owner and mode of what is published")] = FileSettings()
    navigator: Annotated[NavigatorSettings, _doc("the web server")] = NavigatorSettings()
    s3: Annotated[S3Settings, _doc("how to reach an s3:// store")] = S3Settings()
    fetch: Annotated[FetchSettings, _doc("bounds of a transfer from the store")] = FetchSettings()
    update: Annotated[UpdateSettings, _doc("what an update may do")] = UpdateSettings()
    trigger: Annotated[TriggerSettings, _doc("the public trigger")] = TriggerSettings()
    ready: Annotated[ReadySettings, _doc("the work in the background")] = ReadySettings()
    databases: Annotated[DatabaseSettings, _doc("the databases of the events")] = DatabaseSettings()
    prerender: Annotated[PrerenderSettings, _doc("the pages that are rendered ahead of time")] = (
        PrerenderSettings()
    )
    page: Annotated[PageSettings, _doc("the operators' page")] = PageSettings()
    fleet: Annotated[FleetSettings, _doc("all machines that serve the same index")] = FleetSettings()
    history: Annotated[HistorySettings, _doc("how much of the past is remembered")] = HistorySettings()
    logging: Annotated[LoggingSettings, _doc("what is logged, and how")] = LoggingSettings()
