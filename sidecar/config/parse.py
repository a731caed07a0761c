"""The configuration: sidecar.yml and the environment become `Settings`, or an error with its place.

Every key is optional and can be overridden by a variable: `listen.port` by `SIDECAR_LISTEN_PORT`.
Variables that deployments set anyway (`FLY_REGION`, `RAILS_DB_VOLUME`, `BUCKET_NAME`, ...) give the
defaults. Pure: nothing here reads a file or the environment by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec

from sidecar.config.settings import Bytes, Duration, Mode, PrerenderSettings, Secret, Section, Settings
from sidecar.errors import SettingsError

PREFIX = "SIDECAR_"
STORES = {"s3": re.compile(r"[a-z0-9][a-z0-9.-]+(/.*)?\Z"), "file": re.compile(r"/")}
"""The kinds of stores by their schemes, and how what follows `://` begins."""

_MIN_SECRET_CHARACTERS = 16

DURATION, SIZE, MODE = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", r"(\d+)\s*(B|KiB|MiB|GiB)?", r"0?[0-7]{3}"
"""How such a value is written, from its beginning to its end."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, None: 1}


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
            _merge(tree, overrides), "the environment", {variable(key): key for key in keys()}
        )
    return _completed(settings, environ)


def usable(document: Any, environ: Mapping[str, str], source: str = "sidecar.yml") -> Settings:
    """The same, but variables of the sidecar's own that cannot be used are left out, each by itself."""
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    settings = parse(document, kept, source)
    for name in sorted(environ.keys() - kept.keys()):
        with suppress(SettingsError):
            settings = parse(document, {**kept, name: environ[name]}, source)
            kept[name] = environ[name]
    return settings


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
            known = keys()
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
        match = re.fullmatch(DURATION, str(value).strip())
        if not match or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a duration such as 500ms, 30s, 5m or 2h")
        return Duration(float(match[1]) * _DURATION_UNITS[match[2]])
    if kind is Bytes:
        match = re.fullmatch(SIZE, str(value).strip())
        if not match or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a size such as 65536, 64KiB or 16MiB")
        return Bytes(int(match[1]) * _SIZE_UNITS[match[2]])
    if kind is Secret:
        if not isinstance(value, str):
            raise ValueError("text is expected (put it in quotes)")
        return Secret(value)
    if kind is Mode:
        # Without quotes 0640 is the number 416 already, and 640 another one: nobody could tell.
        if not isinstance(value, str) or not re.fullmatch(MODE, value):
            raise ValueError(f'{value!r} is not a file mode; write it in octal and in quotes, as "0640"')
        return Mode(int(value, 8))
    raise TypeError(f"no way to read a {kind.__name__}")


@cache
def keys() -> tuple[str, ...]:
    """The dotted name of every setting. Each has a default, and that of a section tells its fields."""
    found: list[str] = []
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        inner = (
            [f"{name}.{field}" for field in default.__struct_fields__]
            if isinstance(default, Section)
            else [name]
        )
        found += inner
    return tuple(found)


@cache
def fields() -> Mapping[str, msgspec.structs.FieldInfo]:
    """Every setting by its dotted name, with its type, which takes a while to find out."""
    found: dict[str, msgspec.structs.FieldInfo] = {}
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.default, Section):
            inner = msgspec.structs.fields(type(field.default))
            found |= {f"{field.name}.{one.name}": one for one in inner}
        else:
            found[field.name] = field
    return found


def variable(key: str) -> str:
    """The environment variable that overrides a setting."""
    return PREFIX + key.replace(".", "_").upper()


def _overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {variable(key): key for key in keys()}
    tree: dict[str, Any] = {}
    for name, value in environ.items():
        # SIDECAR_CONFIG names the file itself; SIDECAR_CGI_… belong to the forwarder.
        if not name.startswith(PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name not in known:
            continue
        parsed: Any = value
        if _is_structured(fields()[known[name]].type):
            parsed = _json_value(name, value)
        section, _, key = known[name].rpartition(".")
        if section:
            tree.setdefault(section, {})[key] = parsed
        else:
            tree[key] = parsed
    return tree


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """In sentences: variables that name no setting. They stop nothing: a mistyped secret is no outage."""
    known = {variable(key) for key in keys()} | _OTHER_VARIABLES
    return [
        f"the variable {name} names no setting and has no effect: correct or remove it"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]


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
    "KAMAL_HOST": "machine.id",
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
    """Both, the second one before the first: whole settings, never parts of one, be it a mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = key in _SECTIONS and isinstance(below, dict) and isinstance(value, dict)
        merged[key] = {**below, **value} if both and below is not None else value
    return merged


_SECTIONS = frozenset(key.partition(".")[0] for key in keys() if "." in key)


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
    # Without any store the index that a host under Kamal has can only be its own, and its databases, too.
    alone = profile == "kamal" and not store
    settings = msgspec.structs.replace(
        settings,
        store=store or f"file://{paths.state}/store",
        profile=profile,
        update=msgspec.structs.replace(settings.update, own_index=settings.update.own_index or alone),
        databases=msgspec.structs.replace(
            settings.databases, owns="all" if alone else settings.databases.owns
        ),
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
    scheme, parted, place = settings.store.partition("://")
    if not parted or scheme not in STORES or not STORES[scheme].match(place):
        raise SettingsError(
            f"store: {settings.store!r} is not a store", "s3://bucket, s3://bucket/prefix or file:///folder"
        )
    for key in keys():
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
    for extra in settings.files.extra:
        folder, _, name = extra.key.rpartition("/")
        if not name or "*" in folder or any(part in ("", ".", "..") for part in extra.key.split("/")):
            raise SettingsError(
                f"files.extra: {extra.key!r} is not a key",
                "such as views/map.html, or views/*.html for several",
            )
    _check_prerender(settings.prerender)
    _check_fleet(settings)
    for name, hashed in settings.administrators.items():
        if not re.match(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}\Z", hashed):
            raise SettingsError(
                f"administrators.{name}: that is not a bcrypt hash", "make one with `sidecar hash-password`"
            )
    for name in ("secret", "previous_secret", "webhook_token"):
        if 0 < len(getattr(settings.trigger, name)) < _MIN_SECRET_CHARACTERS:
            raise SettingsError(
                f"trigger.{name}: shorter than {_MIN_SECRET_CHARACTERS} characters",
                "make one with `openssl rand -hex 32`",
            )


def _check_prerender(prerender: PrerenderSettings) -> None:
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
    if not all(command for command in (*fleet.before, *fleet.after)):
        raise SettingsError("fleet.before, fleet.after: a command is empty", "list its words")
    for number, url in enumerate(fleet.notify, 1):
        # The URL itself may be the secret.
        if not re.match(r"https?://[^/?#\s]+(/\S*)?\Z", url):
            raise SettingsError(
                f"fleet.notify: entry {number} is not a URL", "such as https://example.com/hook"
            )
    # A password without its host would pass for a port, and be shown as a wrong one.
    one = r"(nats|tls)://([^/?#,\s]*@)?([^/?#,\s@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?"
    if fleet.bus and not re.match(rf"{one}(,{one})*\Z", fleet.bus):
        raise SettingsError(
            "fleet.bus: that is not the URL of a NATS server",
            "such as nats://bus.internal:4222, or tls://user:password@bus.example.com",
        )
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
