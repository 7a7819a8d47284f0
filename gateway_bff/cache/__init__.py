"""Repeat searches: answers that are kept as bytes until a change could make them others.

The gateway follows the owners' streams itself. An answer is used again while the owners have said
nothing about any flight that its question could find; a search instance that is asked anew waits
until it has read what the gateway has, as far as the question is concerned. So no answer is older
than the gateway's streams, nor than an earlier answer to the same question, unless the instance is
behind for longer than it waits: such an answer says so and is not kept.
"""
