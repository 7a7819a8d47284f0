"""Live prices and flights: one stream from each owner, shared by every client of this gateway.

A hub follows an owner's changes and keeps the newest of each flight; a client's subscription takes
from it what it has not seen; a live stream makes server-sent events of that, with ids that any
gateway continues at.
"""
