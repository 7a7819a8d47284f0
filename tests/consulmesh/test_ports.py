"""Ports that tests give to servers."""

import socket

from consulmesh.testing.ports import FROM, TO, free_port, free_ports


def test_no_port_is_given_twice() -> None:
    """Who asks one by one, and binds later, has as many ports as he asked for."""
    given = [free_port() for _ in range(500)] + free_ports(500)

    assert len(set(given)) == len(given)
    assert all(FROM <= port < TO for port in given)


def test_a_port_that_is_taken_is_not_given() -> None:
    """Be it of TCP or of UDP: every other port is drawn before the round is over."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        taken = free_ports(2)
        tcp.bind(("127.0.0.1", taken[0]))
        udp.bind(("127.0.0.1", taken[1]))
        given = free_ports(TO - FROM - 2)

    assert not {*taken} & {*given}
