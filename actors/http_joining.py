"""Joining over HTTP, where libp2p does not get through: the same challenge in two requests.

No connection proves a PeerId here, so that both sides sign the transcript and what they send with their keys besides
proving the secret, the hub its challenge too: before that the node proves nothing, since passwords could be tried
against a proof. Who reads along could try them as well, so that an address beyond this machine has to be HTTPS.
Numbers, texts and lists travel as JSON, bytes as base64.
"""

from __future__ import annotations

import base64
import json
from ipaddress import ip_address
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import httpx
import trio
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from actors.joining import Application, Attempt
from actors.remote.identity import is_signed_by
from actors.remote.proof import body_digest, http_statement, json_text
from syndb_common.errors import ConfigError, DeadlineExceeded, ErrorBody, JoinRefused, PeerUnavailable, SynDBError
from syndb_common.messages import JoinChallenge, Registered
from syndb_common.proxies import named_proxies

PATH = "/v1/federation/register"
STEP_SECONDS = 10.0
"""Deadline of one request with everything that belongs to it."""
MAX_ANSWER_BYTES = 64 * 1024

T = TypeVar("T", bound=BaseModel)


def _bytes(value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


class _Challenge(JoinChallenge):
    hub_nonce: Annotated[bytes, BeforeValidator(_bytes)] = Field(min_length=32, max_length=32)
    signature: Annotated[bytes, BeforeValidator(_bytes)] = Field(min_length=64, max_length=64)


class _Registered(Registered):
    hub_proof: Annotated[bytes, BeforeValidator(_bytes)] = Field(min_length=32, max_length=32)
    signature: Annotated[bytes, BeforeValidator(_bytes)] = Field(min_length=64, max_length=64)


async def join_over_http(url: str, hub_peer_id: str, key: bytes, application: Application) -> Registered:
    """Join the pinned hub at the address of its REST API.

    Args:
        url: of the hub, without the path; may lead through proxies (``HTTPS_PROXY`` is heeded).
        hub_peer_id: whose signature must stand under the acceptance.
        key: what :class:`actors.joining.FederationSecret` gives for it.
        application: what the node says.

    Returns:
        The acceptance, all of it signed by the hub.

    Raises:
        ConfigError: the address is plain HTTP and leads beyond this machine, or the proxy named for it cannot be used.
        PeerUnavailable: nobody answers there, or not as a hub does.
        DeadlineExceeded: not in time.
        JoinRefused: the password, the name, or the hub's proof or signature is not what it should be.
        SynDBError: what the hub answered.
    """
    if not _is_private(url):
        raise ConfigError(
            f"{url} is not encrypted: who reads along could try passwords against the node's proof",
            hint="Set federation.hub_url to the hub's https:// address; http:// is for a hub on this machine.",
        )
    attempt = Attempt(application, hub_peer_id, key)
    identity = application.identity
    impostor = JoinRefused(
        f"what answers at {url} is not the hub {hub_peer_id}",
        hint="Check federation.hub_url and federation.hub_peer_id with the hub's operator.",
    )
    with named_proxies():
        # What is not encrypted stays on this machine: no proxy sees it.
        proxied = url.lower().startswith("https:")
        client = httpx.AsyncClient(follow_redirects=False, timeout=STEP_SECONDS, trust_env=proxied)
    async with client:
        place = url.rstrip("/") + PATH
        first = {"peer_id": identity.peer_id, **attempt.request().model_dump()}
        challenge, digest = await _post(client, place, first, _Challenge)
        promised = http_statement(b"challenge", attempt.challenged(challenge), digest)
        if not is_signed_by(hub_peer_id, challenge.signature, promised):
            raise impostor
        second = {"peer_id": identity.peer_id, **attempt.registration(challenge).model_dump(exclude_none=True)}
        second["signature"] = identity.sign(http_statement(b"node", attempt.transcript, body_digest(second)))
        registered, digest = await _post(client, place, second, _Registered)
    if not is_signed_by(hub_peer_id, registered.signature, http_statement(b"hub", attempt.transcript, digest)):
        raise impostor
    attempt.check(registered)
    return registered


def _is_private(url: str) -> bool:
    """Whether nobody on the way can read what is sent there; what is no address says so itself when it is used."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return True
    if parts.scheme != "http" or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, Any], kind: type[T]) -> tuple[T, bytes]:
    """One request; its answer as ``kind``, and the digest that the answer's signature covers."""
    try:
        with trio.fail_after(STEP_SECONDS):
            # A compressed answer could be small on the way and without end here.
            headers = {"content-type": "application/json", "accept-encoding": "identity"}
            content = json.dumps(body, default=json_text)
            async with client.stream("POST", url, content=content, headers=headers) as response:
                answer = await _bounded(response)
    except (trio.TooSlowError, httpx.TimeoutException):
        raise DeadlineExceeded(f"{url} did not answer within {STEP_SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PeerUnavailable(
            f"{url} cannot be reached: {error or type(error).__name__}", hint="Check federation.hub_url."
        ) from None
    try:
        if response.status_code != 200:
            raise SynDBError.from_body(ErrorBody.model_validate_json(answer))
        value = json.loads(answer)
        return kind.model_validate(value), body_digest(value)
    except (ValidationError, ValueError, RecursionError):
        raise PeerUnavailable(
            f"{url} answered {response.status_code} and not as a hub does", hint="Check federation.hub_url."
        ) from None


async def _bounded(response: httpx.Response) -> bytes:
    """The whole body.

    Raises:
        PeerUnavailable: it is longer than any answer of a hub.
    """
    parts = bytearray()
    async for part in response.aiter_raw():
        parts += part
        if len(parts) > MAX_ANSWER_BYTES:
            raise PeerUnavailable(f"{response.url} answers without end, and not as a hub does")
    return bytes(parts)
