"""What somebody on the way can do with what was recorded: read it, repeat it, damage it."""

import secrets

from twinhost.adversary.attack import Attack, Outcome, broken, held
from twinhost.adversary.relay import Conversation, Relay, is_message
from twinhost.adversary.target import GOOD_CALL_S, Target
from twinhost.adversary.zmtp import GREETING_BYTES, READY, HungUp, Silent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError, TwinhostError

_FIELD = "note"  # of no action; an agent passes over what it does not know
_WAIT_S = 3.0


def _plaintext(target: Target) -> Outcome:
    marker = secrets.token_hex(16)
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client, marker)
        session = _session(relay)
        seen = bytes(session.up) + bytes(session.down)
    found = [word for word in (marker, "request_id", "pong") if word.encode() in seen]
    if found:
        why = "" if target.secure else "; SECURE_ZMQ=0: set it to 1 on both hosts"
        return broken(f"whoever is on the way reads all of it: {', '.join(found)}{why}")
    return held(f"{len(seen)} bytes were recorded both ways, and no word of the request or the reply is in them")


def _replay_same_connection(target: Target) -> Outcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        conversation = _session(relay)
        mark = len(conversation.down)
        conversation.inject(conversation.requests()[-1])
        return _judge(conversation, mark, "a request that was said twice was answered twice")


def _replay_new_connection(target: Target) -> Outcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        recorded = bytes(_session(relay).up)
    with target.line() as line:
        try:
            line.send(recorded[:GREETING_BYTES])
            line.read(GREETING_BYTES)
            line.send(recorded[GREETING_BYTES:])
            while True:
                frame = line.read_frame(_WAIT_S)
                if frame.body.startswith(READY) or is_message(frame):
                    return broken("a recorded session was opened again by somebody who holds no key")
        except HungUp as end:
            return held(f"it hung up on the recorded handshake: {end}")
        except Silent:
            return held("the recorded handshake led to nothing")


def _flipped_bit(target: Target) -> Outcome:
    with _relay(target) as relay, target.client(relay.address) as client:
        _ask(client)
        conversation = _session(relay)
        mark = len(conversation.down)
        conversation.flip_next = True
        try:
            _ask(client)
        except RequestError as error:
            return broken(f"a request with a flipped bit was read, and answered: {error}")
        except TwinhostError as error:
            return broken(f"after a flipped bit the client got no answer any more: {error}")
        if conversation.flip_next:
            return broken("the relay found no request to damage, so nothing is proven")
        return _judge(conversation, mark, "a request with a flipped bit was answered")


def _session(relay: Relay) -> Conversation:
    """Return what was recorded; raises Silent where that is no request and its answer, and nothing can be proven."""
    for conversation in reversed(relay.conversations):
        if conversation.requests() and conversation.answers_after(GREETING_BYTES):
            return conversation
    raise Silent("the relay recorded no request and no answer, so nothing is proven")


def _judge(conversation: Conversation, mark: int, complaint: str) -> Outcome:
    """Wait for an answer that must not come, or the end that must."""
    conversation.wait_until(lambda: conversation.over.is_set() or conversation.answers_after(mark) > 0, _WAIT_S)
    if conversation.answers_after(mark):
        return broken(complaint)
    ended = conversation.over.is_set()
    return held("it ended the connection and answered nothing" if ended else "it answered nothing")


def _relay(target: Target) -> Relay:
    return Relay(target.agent.host.address, target.agent.zmq_port)


def _ask(client: Client, marker: str = "") -> None:
    """Make one request that is longer than a heartbeat and changes nothing."""
    client.call("ping", deadline_s=3 * GOOD_CALL_S, **{_FIELD: marker or secrets.token_hex(32)})


ATTACKS = (
    Attack("capture on the wire", "what goes over the wire can't be read on the way", _plaintext),
    Attack("replay, same connection", "a recorded request is good once", _replay_same_connection),
    Attack("replay, new connection", "a recorded session can't be opened again", _replay_new_connection),
    Attack("flipped bit", "what was changed on the way is not answered", _flipped_bit),
)
