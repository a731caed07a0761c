"""Every failure the sidecar can name, each with what an operator needs to act on it."""

from __future__ import annotations

# A sentence may quote what somebody sent: the name of a table can have a million letters.
_MAX_CHARACTERS = 1000


class SidecarError(Exception):
    """A failure with a stable code, a sentence and a hint.

    `code` is for machines (metrics, JSON), `message` says what happened and to what, `hint` says what
    to do about it (it may be empty), `detail` is for administrators only. `status` is the HTTP status
    that fits. The message is bounded in length, whatever it quotes.
    """

    code = "error"
    status = 500
    retry_after = 5
    """Seconds after which it is worth trying again, where it is at all."""

    def __init__(self, message: str, hint: str = "", *, code: str | None = None, detail: str = "") -> None:
        if len(message) > _MAX_CHARACTERS:
            message = f"{message[:_MAX_CHARACTERS]} …"
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SettingsError(SidecarError):
    """The configuration file or an environment variable is wrong."""

    code = "settings"
    status = 500


class StoreError(SidecarError):
    """The object store did not give what was asked for; the current configuration stays."""

    code = "store_failed"
    status = 502


class Rejected(SidecarError):
    """The content itself is unfit: the same bytes will be refused again."""

    code = "rejected"
    status = 422


class BadRequest(SidecarError):
    """What the caller sent cannot be used."""

    code = "bad_request"
    status = 400


class Unauthorized(SidecarError):
    """No, or a wrong, proof of who is asking."""

    code = "unauthorized"
    status = 401


class Forbidden(SidecarError):
    """Known, or not worth knowing: not allowed."""

    code = "forbidden"
    status = 403


class TooManyAttempts(SidecarError):
    """Too many wrong passwords from one address, or for one name."""

    code = "too_many_attempts"
    status = 429

    def __init__(self, seconds: int) -> None:
        super().__init__(
            "too many wrong passwords came from this address, or for this name",
            f"wait {seconds} s and try again",
        )
        self.retry_after = seconds


class NotFound(SidecarError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class PreconditionFailed(SidecarError):
    """What would be applied is not what the caller looked at."""

    code = "precondition_failed"
    status = 412


class TooLarge(SidecarError):
    """More bytes than allowed, before or after inflation."""

    code = "too_large"
    status = 413


class Busy(SidecarError):
    """Too much is waiting already, or another process holds the lock; try again later."""

    code = "busy"
    status = 503


class ReadError(SidecarError):
    """A file could not be read by this machine just now, which says nothing about its content."""

    code = "read_failed"
    status = 503


class PublishError(SidecarError):
    """The new set could not be put in place; the old set still is."""

    code = "publish_failed"
    status = 500


class CommandError(SidecarError):
    """A configured command failed or ran into its time limit."""

    code = "command_failed"
    status = 500
