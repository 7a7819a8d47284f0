"""A live stream: what one client is sent, from where it left off or from the state as it is now.

A new client subscribes first and then asks the owner for the state: the owner has one database, so
the state is at least as new as the position of the subscription, and a change that the state has
already is known by its version.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Final, Generic

import orjson

from gateway_bff.live.hub import Hub, Missed
from gateway_bff.live.subscription import Subscription
from gateway_bff.live.topic import E, View
from gateway_bff.sse import event, retry

_RECONNECT: Final = timedelta(seconds=2)


class LiveStream(Generic[E]):
    """The events of one client; ends when it is cancelled.

    `first` is what it is told before any news; `budget` are the seconds that a question to the
    owner may take.
    """

    def __init__(
        self, hub: Hub[E], subscription: Subscription[E], *, first: bytes, budget: float
    ) -> None:
        self._hub = hub
        self._subscription = subscription
        self._first = first
        self._budget = budget

    async def events(self) -> AsyncIterator[bytes]:
        """What to send, as it comes."""
        yield self._first
        while await self._subscription.changed():
            if self._subscription.lost:
                yield await _state(self._hub, self._subscription, self._budget, Missed.SOURCE)
            elif chunk := self._subscription.take():
                yield chunk

    def bookmark(self) -> bytes:
        """What to send when there was nothing for long: how far the client is, where it is."""
        return self._hub.bookmark(self._subscription)

    def cancel(self) -> None:
        """End the events; nothing of the stream is left in the hub."""
        self._subscription.close()


async def begin(
    hub: Hub[E],
    flight_ids: Sequence[str],
    view: View,
    *,
    last_event_id: str | None,
    budget: float,
    jitter: Callable[[], float] = random.random,
) -> LiveStream[E]:
    """A stream that goes on after an event, or tells the state first.

    Raises UPSTREAM_UNAVAILABLE while the owner was never reached, and what the owner answers:
    NOT_FOUND for a flight that it does not know, unless the client comes back. Such a one could not
    leave that flight out: an EventSource gives up for ever on any answer but 200.
    """
    # so that the clients of a gateway that stops don't come to the others in one instant
    first = retry(_RECONNECT * (0.5 + jitter()))
    reason = None
    if last_event_id:
        found = await hub.resume(flight_ids, view, last_event_id)
        if isinstance(found, Subscription):
            first += found.take() or hub.bookmark(found)
            return LiveStream(hub, found, first=first, budget=budget)
        reason = found
    subscription = hub.subscribe(flight_ids, view)
    try:
        first += await _state(hub, subscription, budget, reason)
    except BaseException:
        subscription.close()
        raise
    return LiveStream(hub, subscription, first=first, budget=budget)


async def _state(
    hub: Hub[E], subscription: Subscription[E], budget: float, reason: Missed | None
) -> bytes:
    """The state of a client's flights; for one that comes back, that it is the state, and why."""
    origin = subscription.origin
    state = await hub.state(subscription, forgiving=reason is not None, budget=budget)
    shown = subscription.begin(origin, state)
    if reason is None:
        return shown
    hub.metrics.resets(reason).inc()
    return event("reset", orjson.dumps({"reason": reason})) + shown
