"""The watch over a canary: it goes back by itself when it is worse than what it is to replace."""

import time
from collections.abc import Callable
from typing import Final

from consul.exceptions import ConsulException
from consul.std import Consul
from requests import RequestException

from tools import announce
from tools.release.comparison import Comparison, Terms, is_worse
from tools.release.moves import processes, promote, rollback
from tools.release.rollout import Canary, RefusedError, read

GOOD: Final = 0
ROLLED_BACK: Final = 3
UNDECIDED: Final = 4
"""Exit statuses."""


def watch(
    client: Consul,
    service: str,
    terms: Terms,
    *,
    then_promote: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Compare a canary with the stable version until time is over; roll it back if it is worse.

    While Consul or the instances do not answer, nothing is judged. Returns the exit status.
    """
    if (trial := read(client, service).rollout.canary) is None:
        raise RefusedError(f"{service} has no canary")
    comparison = Comparison(terms.window)
    told = ""
    over = time.monotonic() + terms.lasting.total_seconds()
    announce.say(f"watching {service} {trial.version} beside {trial.stable} for {terms.lasting}")
    while time.monotonic() < over:
        try:
            if (ended := judged(client, service, trial, comparison, terms)) is not None:
                return ended
        except (ConsulException, RequestException, RefusedError) as error:
            if str(error) != told:
                told = str(error)
                announce.say(f"not judged: {told}")
        pause(terms.interval.total_seconds())
    seen = comparison.of(trial.version)
    announce.say(f"{trial.version} failed {seen}, {trial.stable} {comparison.of(trial.stable)}")
    if seen.calls < terms.min_calls:
        announce.say(f"fewer than {terms.min_calls}: undecided, the canary stays as it is")
        return UNDECIDED
    announce.say(promote(client, service) if then_promote else "it is no worse")
    return GOOD


def judged(
    client: Consul, service: str, trial: Canary, comparison: Comparison, terms: Terms
) -> int | None:
    """Look once; the exit status where that ends the watch."""
    now = read(client, service).rollout.canary
    if now is None or (now.version, now.stable) != (trial.version, trial.stable):
        announce.say("somebody else ended the canary")
        return UNDECIDED
    instances = processes(client, service)
    comparison.look(instances)
    new, old = comparison.of(trial.version), comparison.of(trial.stable)
    if not any(each.passing and each.version == trial.version for each in instances):
        reason = f"no instance of {trial.version} passes its checks"
    elif is_worse(new, old, terms):
        reason = f"{trial.version} failed {new}, {trial.stable} {old}"
    else:
        return None
    announce.say(f"{rollback(client, service)}: {reason}")
    return ROLLED_BACK
